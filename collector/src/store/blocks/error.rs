//! Why day and month files, or what is in them, cannot be used.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why a day file, or a row of it, cannot be used. Texts are for people.
#[derive(Debug)]
pub(crate) enum BlockError {
    /// What is there is not what was written.
    Bad(String),
    /// The disk is full or does not write.
    Full(rusqlite::Error),
    /// Anything else SQLite said.
    Sqlite(rusqlite::Error),
    /// A folder or file cannot be used.
    File(PathBuf, io::Error),
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(why) => write!(f, "it is damaged: {why}"),
            Self::Full(_) => write!(f, "the disk is full or does not write; free space on it"),
            Self::Sqlite(_) => write!(f, "the file cannot be used"),
            Self::File(path, _) => write!(f, "{} cannot be used", path.display()),
        }
    }
}

impl std::error::Error for BlockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bad(_) => None,
            Self::Full(error) | Self::Sqlite(error) => Some(error),
            Self::File(_, error) => Some(error),
        }
    }
}

impl BlockError {
    /// Whether no other file can be written either.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Self::Bad(_) | Self::Sqlite(_) => false,
            // An error of the device may be one of this file alone.
            Self::Full(error) => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::File(_, error) => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
        }
    }
}

impl From<rusqlite::Error> for BlockError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Bad(error.to_string())
            }
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => Self::Full(error),
            _ => Self::Sqlite(error),
        }
    }
}
