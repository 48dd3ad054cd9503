//! What may not be looked at: said once each, with the command that grants it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::logs::sources::permission_fix;

/// Of an odd configuration so many things are told that may not be looked at.
const PATHS_MAX: usize = 1_000;

/// What was refused, and the commands that were told.
#[derive(Debug, Default)]
pub(super) struct Refused {
    paths: BTreeSet<PathBuf>,
    fixes: BTreeSet<String>,
}

impl Refused {
    /// Says what is not told because of this error, if it is a refusal that was not said yet.
    pub(super) fn say(&mut self, path: &Path, error: &io::Error, what: &'static str) {
        let is_news = error.kind() == io::ErrorKind::PermissionDenied
            && !self.paths.contains(path)
            && self.paths.len() < PATHS_MAX;
        if !is_news {
            return;
        }
        self.paths.insert(path.to_owned());
        let fix = permission_fix(path);
        if self.fixes.insert(fix.clone()) {
            tracing::info!(path = %path.display(), fix, "may not be read: {what} not told");
        }
    }
}
