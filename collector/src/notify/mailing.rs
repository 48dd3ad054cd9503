//! A report on its way to people: its mail as the outbox keeps it, rendered once. Pure.
//!
//! Files are packed (zstd, base64), because pages with pictures are long and the outbox is read often.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// How hard files are packed.
const LEVEL: i32 = 6;
/// Largest file that is taken out of a row, bytes.
const FILE_BYTES_MAX: usize = 64 << 20;

/// A mail with a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailing {
    /// Who gets it; empty: the receivers of the route.
    #[serde(default)]
    pub to: Vec<String>,
    /// One line.
    pub subject: String,
    /// Complete in itself, for programs that show no HTML.
    pub text: String,
    /// The same for eyes.
    pub html: String,
    /// The whole report.
    pub files: Vec<Attached>,
}

/// A file of a mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// What it is called.
    pub name: String,
    /// Its content type.
    pub kind: String,
    packed: String,
}

impl Attached {
    /// Packs a file.
    #[must_use]
    pub fn new(name: String, kind: &str, text: &str) -> Self {
        let packed = zstd::bulk::compress(text.as_bytes(), LEVEL).unwrap_or_default();
        Self { name, kind: kind.to_owned(), packed: STANDARD.encode(packed) }
    }

    /// What is in it; `Err`: in words, why that is not known.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        let broken = |error: &dyn std::fmt::Display| format!("{}: {error}", self.name);
        let packed = STANDARD.decode(&self.packed).map_err(|error| broken(&error))?;
        let size = zstd::bulk::Decompressor::upper_bound(&packed).unwrap_or(FILE_BYTES_MAX);
        zstd::bulk::decompress(&packed, size.min(FILE_BYTES_MAX)).map_err(|error| broken(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_out_as_it_went_in() {
        for text in ["", "x", &"<p>läuft</p>\n".repeat(10_000)] {
            let file = Attached::new("a.html".into(), "text/html", text);
            let row = serde_json::to_string(&file).unwrap();
            assert!(row.len() < 200 + text.len() / 20, "{}", row.len());
            let read: Attached = serde_json::from_str(&row).unwrap();
            assert_eq!(read.bytes().unwrap(), text.as_bytes());
        }
        let file = Attached { packed: "!".into(), ..Attached::new("a".into(), "b", "c") };
        assert!(file.bytes().is_err());
        let file = Attached { packed: "AAAA".into(), ..file };
        assert!(file.bytes().unwrap_err().starts_with("a: "));
    }
}
