//! Keys, tokens, passwords and URLs that are secrets: read for each use, never shown.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A secret text; `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself: only for what is sent to its receiver.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Reads a secret; `Err` names the file and the fix. White space at the end is no part of it: editors
/// add a newline.
pub fn read(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        format!("{shown}: {error}: write the secret there, mode 0640, readable by the collector")
    };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!("{shown}: everybody can use it: `chmod o= {shown}`"));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let text = text.trim_ascii_end();
    if text.is_empty() {
        return Err(format!("{shown}: is empty: write the secret there"));
    }
    Ok(Secret(text.to_owned()))
}
