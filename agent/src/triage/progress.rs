//! How far a scan is, on a terminal: bytes of the files, rate, and the time left.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr; nothing when that is no terminal.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// Bytes of the files that are read.
    n_done: u64,
}

impl Progress {
    /// `n_bytes` is what there is to read, `None` when nobody knows.
    pub(super) fn new(n_bytes: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(n_bytes));
        Self { bar, n_done: 0 }
    }

    /// The file that is read now.
    pub(super) fn file(&self, name: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(name);
        }
    }

    /// Bytes of it read so far, packed as they are.
    pub(super) fn read(&self, n_bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.n_done + n_bytes);
        }
    }

    /// The file is read.
    pub(super) fn done(&mut self, n_bytes: u64) {
        self.n_done += n_bytes;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(n_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match n_bytes {
        Some(n) => (
            ProgressBar::new(n),
            "{bar:30} {percent:>3}% {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left  {wide_msg}",
        ),
        None => (ProgressBar::no_length(), "{binary_bytes}  {binary_bytes_per_sec}  {wide_msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is sound");
    bar.with_style(style)
}
