//! Writes access-log and error-log lines as a web server would.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::clock;

/// One access log in nginx's `combined` format with the host in front (`vhost_combined`).
#[derive(Debug)]
pub struct LogFeed {
    path: PathBuf,
    file: File,
    n_lines: u64,
    clock_offset_s: i64,
}

impl LogFeed {
    /// Opens or makes the log.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let file = File::options().create(true).append(true).open(path);
        let file = file.unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
        Self { path: path.to_owned(), file, n_lines: 0, clock_offset_s: 0 }
    }

    /// Appends `n` requests of `site` that ended just now with `status`, each from another client.
    pub fn requests(&mut self, site: &str, n: u64, status: u16) {
        let mut text = String::new();
        for _ in 0..n {
            self.n_lines += 1;
            text.push_str(&line(site, self.n_lines, status, clock::now_s() + self.clock_offset_s));
        }
        self.raw(text.as_bytes());
    }

    /// Dates all further lines by a clock that is wrong by this much.
    pub fn shift_clock(&mut self, offset_s: i64) {
        self.clock_offset_s = offset_s;
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).expect("the log is writable");
    }

    /// Rename rotation: the old file keeps its bytes as `<name>.1`, a new one takes its place.
    pub fn rotate(&mut self) {
        fs::rename(&self.path, self.rotated()).expect("the log can be renamed");
        self.file = Self::open(&self.path).file;
    }

    /// `copytruncate`: copies the file to `<name>.1`, then truncates it in place.
    pub fn copytruncate(&mut self) {
        fs::copy(&self.path, self.rotated()).expect("the log can be copied");
        self.file.set_len(0).expect("the log can be truncated");
    }

    /// Deletes the log and makes a new one under its name.
    pub fn recreate(&mut self) {
        fs::remove_file(&self.path).expect("the log can be deleted");
        self.file = Self::open(&self.path).file;
    }

    /// Where the log is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn rotated(&self) -> PathBuf {
        PathBuf::from(format!("{}.1", self.path.display()))
    }
}

/// One line of `vhost_combined`. `n` makes client and path differ from line to line.
fn line(site: &str, n: u64, status: u16, second: i64) -> String {
    let at = jiff::Timestamp::from_second(second).expect("now is in range");
    format!(
        "{site}:80 {} - - [{}] \"GET /page/{n} HTTP/1.1\" {status} 157 \"-\" \"feed\"\n",
        client(n),
        at.strftime("%d/%b/%Y:%H:%M:%S +0000"),
    )
}

/// The client of the n-th request: 25,000 different ones.
pub(crate) fn client(n: u64) -> String {
    format!("203.0.{}.{}", 113 + n / 250 % 100, n % 250 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_vhost_combined() {
        assert_eq!(
            line("a.example", 7, 502, 1_795_176_067),
            "a.example:80 203.0.113.8 - - [20/Nov/2026:12:01:07 +0000] \"GET /page/7 HTTP/1.1\" \
             502 157 \"-\" \"feed\"\n"
        );
    }
}
