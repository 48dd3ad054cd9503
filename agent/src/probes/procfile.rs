//! One small file of /proc, kept open and read again from its start each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Longest text taken; the longest of these files is /proc/stat with some 100 KiB on huge machines.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// A file whose absence is told once, then is simply no value.
#[derive(Debug)]
pub(crate) struct ProcFile {
    path: &'static str,
    /// Stop reading here: only the first bytes are wanted.
    head: usize,
    file: Option<File>,
    text: Vec<u8>,
    told: bool,
}

impl ProcFile {
    pub(crate) fn new(path: &'static str) -> Self {
        Self { path, head: TEXT_BYTES_MAX, file: None, text: Vec::new(), told: false }
    }

    /// Reads only the first `head` bytes, for a long file whose first lines matter.
    pub(crate) fn head(path: &'static str, head: usize) -> Self {
        Self { head, ..Self::new(path) }
    }

    /// The text now; `None` when the kernel does not have it.
    pub(crate) fn read(&mut self) -> Option<&str> {
        match self.refill() {
            Ok(()) => self.told = false,
            Err(error) => {
                self.file = None;
                if !self.told {
                    self.told = true;
                    tracing::info!(path = self.path, %error, "not offered by this kernel: its metrics are absent");
                }
                return None;
            }
        }
        std::str::from_utf8(&self.text).ok()
    }

    fn refill(&mut self) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(self.path)?,
        };
        self.text.clear();
        let mut chunk = [0_u8; 4096];
        while self.text.len() < self.head {
            let room = chunk.len().min(self.head - self.text.len());
            match file.read_at(&mut chunk[..room], self.text.len() as u64) {
                Ok(0) => break,
                Ok(n) => self.text.extend_from_slice(&chunk[..n]),
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
        assert_eq!(ProcFile::head("/proc/stat", 3).read(), Some("cpu"));
        let mut none = ProcFile::new("/proc/no-such-file");
        assert_eq!(none.read(), None);
        assert_eq!(none.read(), None);
        assert!(none.told);
    }
}
