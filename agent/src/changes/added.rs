//! What was added to a log that only changes are read from, since it was read last.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// Read at most this much of a log in one look; the rest follows in the next.
const READ_BYTES_MAX: u64 = 1 << 20;

/// How far one log was read, and which file that was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Mark {
    inode: u64,
    offset: u64,
}

/// The whole lines after `known`; none on the first look. A replaced or shrunk file is read from its
/// start.
pub(super) fn read_added(path: &Path, known: Option<Mark>) -> io::Result<(Mark, String)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (inode, size) = (metadata.ino(), metadata.len());
    let Some(known) = known else {
        open(path)?; // one that may not be read is refused now, not when it grows
        return Ok((Mark { inode, offset: size }, String::new()));
    };
    let mut mark = known;
    if known.inode != inode || known.offset > size {
        mark = Mark { inode, offset: 0 };
    }
    if mark.offset == size {
        return Ok((mark, String::new()));
    }
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(mark.offset))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
    let whole = match bytes.iter().rposition(|&byte| byte == b'\n') {
        Some(end) => end + 1,
        // One line of a megabyte is no such log: step over it.
        None if bytes.len() as u64 == READ_BYTES_MAX => bytes.len(),
        None => 0,
    };
    mark.offset += whole as u64;
    Ok((mark, String::from_utf8_lossy(&bytes[..whole]).into_owned()))
}

fn open(path: &Path) -> io::Result<File> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(nonblocking).open(path)
}

impl Mark {
    /// The log was renamed and is not there anew yet: the next file is read from its start.
    pub(super) fn rotated() -> Self {
        Self::default()
    }
}
