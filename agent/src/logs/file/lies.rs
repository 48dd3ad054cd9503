//! A file system that lies about inodes, for tests: what files of this thread have instead.

use std::cell::Cell;

/// What every file of this thread has instead of its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs) enum Lie {
    /// Another one each time it is asked for.
    Changing(u64),
    /// The same one.
    Same,
}

thread_local! {
    pub(in crate::logs) static LIE: Cell<Option<Lie>> = const { Cell::new(None) };
}

pub(super) fn inode() -> Option<u64> {
    match LIE.get()? {
        Lie::Same => Some(1),
        Lie::Changing(last) => {
            LIE.set(Some(Lie::Changing(last + 1)));
            Some(u64::MAX / 2 + last)
        }
    }
}
