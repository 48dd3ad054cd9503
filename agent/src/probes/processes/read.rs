//! Files read to learn of processes: those of /proc, and those that processes name or leave behind.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Longest command line read, and any other text of /proc.
const TEXT_BYTES_MAX: u64 = 4096;

/// The first bytes of a file of /proc; `None` for a process that is gone, or that may not be looked at.
pub(super) fn read_proc(path: &Path) -> io::Result<Option<String>> {
    match File::open(path).and_then(read_head(TEXT_BYTES_MAX)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if says_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn says_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// The first bytes of a file that somebody else may have put there: a pipe or device in its place is not
/// waited for.
pub(super) fn read_regular(path: &Path, bytes_max: u64, more: OFlags) -> Option<String> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | more).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    read_head(bytes_max)(file).ok()
}

fn read_head(bytes_max: u64) -> impl Fn(File) -> io::Result<String> {
    move |file| {
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The command line with blanks between its arguments.
pub(super) fn read_cmdline(path: &Path) -> String {
    with_blanks(&read_proc(path).ok().flatten().unwrap_or_default())
}

pub(super) fn with_blanks(cmdline: &str) -> String {
    cmdline.replace('\0', " ").trim_end().to_owned()
}
