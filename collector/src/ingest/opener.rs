//! An unpacker for each thread that reads bodies.

use std::cell::RefCell;

use wire::v1::BatchBody;

use super::convert::{Reason, Unpacker};

thread_local! {
    static UNPACKER: RefCell<Unpacker> = RefCell::default();
}

/// Does something with this thread's unpacker; `work` must not ask for it again.
pub(super) fn with<T>(work: impl FnOnce(&mut Unpacker) -> T) -> T {
    UNPACKER.with_borrow_mut(work)
}

/// Opens a body within fixed bounds of memory.
pub fn unpack(codec: u32, packed: &[u8]) -> Result<BatchBody, Reason> {
    with(|unpacker| unpacker.unpack(codec, packed))
}
