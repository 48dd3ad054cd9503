//! One small file of /proc or /sys, kept open and read again from its start each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Longest text taken; the longest of these files is /proc/stat with some 100 KiB on huge machines.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// First size of the buffer: most of these files fit, and one read takes them whole.
const TEXT_BYTES_MIN: usize = 4096;

/// Readings left out after a failed one: opening what is not there costs as much as reading it. Not
/// for good, since a module of the kernel may bring the file later.
const N_READS_LEFT_OUT: u8 = 9;

/// A file whose absence is told once, then is simply no value.
#[derive(Debug)]
pub(crate) struct ProcFile {
    path: PathBuf,
    file: Option<File>,
    /// Never shrinks, so that reading again allocates nothing; the first `len` bytes are the text.
    buffer: Vec<u8>,
    len: usize,
    told: bool,
    n_left_out: u8,
}

impl ProcFile {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            file: None,
            buffer: Vec::new(),
            len: 0,
            told: false,
            n_left_out: 0,
        }
    }

    /// A file that most machines do not have and do not miss: its absence is not worth a word.
    pub(crate) fn optional(path: impl Into<PathBuf>) -> Self {
        Self { told: true, ..Self::new(path) }
    }

    /// The text now; `None` when the kernel does not have it.
    pub(crate) fn read(&mut self) -> Option<&str> {
        if self.n_left_out > 0 {
            self.n_left_out -= 1;
            return None;
        }
        if let Err(error) = self.refill() {
            (self.file, self.n_left_out) = (None, N_READS_LEFT_OUT);
            if !std::mem::replace(&mut self.told, true) {
                let path = self.path.display();
                if error.kind() == io::ErrorKind::PermissionDenied {
                    tracing::info!(%path, "only root may read it: its metrics are absent");
                } else {
                    tracing::info!(%path, %error, "not offered by this kernel: its metrics are absent");
                }
            }
            return None;
        }
        std::str::from_utf8(&self.buffer[..self.len]).ok()
    }

    /// The text as one number; `None` also for words such as `max`.
    pub(crate) fn read_number(&mut self) -> Option<u64> {
        self.read()?.trim().parse().ok()
    }

    fn refill(&mut self) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        self.len = 0;
        while self.len < TEXT_BYTES_MAX {
            if self.len == self.buffer.len() {
                let size = (self.buffer.len() * 2).clamp(TEXT_BYTES_MIN, TEXT_BYTES_MAX);
                self.buffer.resize(size, 0);
            }
            match file.read_at(&mut self.buffer[self.len..], self.len as u64) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_from_its_start_and_a_missing_one_is_absent() {
        let mut uptime = ProcFile::new("/proc/uptime");
        let first = uptime.read().expect("linux has it").to_owned();
        assert!(first.contains('.'));
        assert!(uptime.read().is_some_and(|text| text.len().abs_diff(first.len()) < 8));
        let mut none = ProcFile::new("/proc/no-such-file");
        assert_eq!(none.read(), None);
        assert_eq!(none.read(), None);
        assert!(none.told);
    }

    #[test]
    fn a_text_that_grows_shrinks_and_comes_late_is_the_one_of_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = ProcFile::optional(&path);
        assert_eq!(file.read(), None);
        let long = "x".repeat(3 * TEXT_BYTES_MIN);
        std::fs::write(&path, &long).unwrap();
        for _ in 0..N_READS_LEFT_OUT {
            assert_eq!(file.read(), None, "a missing file is not tried each time");
        }
        assert_eq!(file.read(), Some(long.as_str()));
        std::fs::write(&path, "17\n").unwrap();
        assert_eq!(file.read(), Some("17\n"));
        assert_eq!(file.read_number(), Some(17));
        std::fs::write(&path, "max\n").unwrap();
        assert_eq!(file.read_number(), None);
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(file.read(), None, "no text");
    }
}
