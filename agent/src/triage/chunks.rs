//! Bytes -> chunks of whole lines, in one buffer that is used again and again.

use std::io::{self, Read};

use crate::logs::parse::LINE_BYTES_MAX;

/// Bytes asked for at once: they stay in the cache until they are scanned.
const READ_BYTES: usize = 64 << 10;
/// The longest line, its newline, and a byte to see that a line is longer.
const BUFFER_BYTES: usize = LINE_BYTES_MAX + READ_BYTES + 2;

/// See the module.
pub(super) struct Chunks {
    buffer: Vec<u8>,
    /// Bytes of a line whose end was not read yet.
    partial: std::ops::Range<usize>,
    /// In a line that is too long.
    is_skipping: bool,
    is_at_end: bool,
    /// Lines longer than the limit; they are in no chunk.
    pub(super) n_too_long: u64,
    /// Bytes read.
    pub(super) n_bytes: u64,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES],
            partial: 0..0,
            is_skipping: false,
            is_at_end: false,
            n_too_long: 0,
            n_bytes: 0,
        }
    }

    /// Begins another file.
    pub(super) fn reset(&mut self) {
        self.partial = 0..0;
        (self.is_skipping, self.is_at_end) = (false, false);
        (self.n_too_long, self.n_bytes) = (0, 0);
    }

    /// The next whole lines; the last line of a file is given a newline if it has none. `None` at
    /// the end. After an error the lines read so far can be had by asking again.
    pub(super) fn next(&mut self, input: &mut impl Read) -> io::Result<Option<&[u8]>> {
        loop {
            self.buffer.copy_within(self.partial.clone(), 0);
            self.partial = 0..self.partial.len();
            let from = self.partial.end;
            if self.is_at_end {
                return Ok(self.last_line());
            }
            let n = match input.read(&mut self.buffer[from..][..READ_BYTES]) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.is_at_end = true;
                    return Err(error);
                }
            };
            self.is_at_end = n == 0;
            self.n_bytes += n as u64;
            let upto = from + n;
            let new = &self.buffer[from..upto];
            if self.is_skipping {
                let Some(end) = memchr::memchr(b'\n', new) else { continue };
                self.is_skipping = false;
                self.partial = from + end + 1..upto;
                // What follows is looked at like freshly read.
                if let Some(lines) = self.whole_lines(self.partial.clone()) {
                    return Ok(Some(&self.buffer[lines]));
                }
                continue;
            }
            self.partial = 0..upto;
            if let Some(lines) = self.whole_lines(from..upto) {
                return Ok(Some(&self.buffer[lines]));
            }
            if self.partial.len() > LINE_BYTES_MAX + 1 {
                self.n_too_long += 1;
                self.is_skipping = true;
                self.partial = 0..0;
            }
        }
    }

    /// Cuts the whole lines off the front of `partial`, of which only `new` may hold a newline.
    fn whole_lines(&mut self, new: std::ops::Range<usize>) -> Option<std::ops::Range<usize>> {
        let end = new.start + memchr::memrchr(b'\n', &self.buffer[new])? + 1;
        let lines = self.partial.start..end;
        self.partial = end..self.partial.end;
        Some(lines)
    }

    fn last_line(&mut self) -> Option<&[u8]> {
        let len = self.partial.len();
        self.partial = 0..0;
        if len == 0 {
            return None;
        }
        self.buffer[len] = b'\n';
        Some(&self.buffer[..=len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives at most `step` bytes at once.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(self.1).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn check(text: &[u8], n_too_long: u64) {
        for step in [1, 7, 4096, READ_BYTES, usize::MAX] {
            if step < 100 && text.len() > 10_000 {
                continue; // the same, only slower
            }
            let mut chunks = Chunks::new();
            let mut input = Slow(text, step);
            let mut got = Vec::new();
            while let Some(chunk) = chunks.next(&mut input).unwrap() {
                assert!(chunk.ends_with(b"\n"));
                got.extend_from_slice(chunk);
            }
            let mut want: Vec<u8> = Vec::new();
            for line in text.split_inclusive(|b| *b == b'\n') {
                if line.len() <= LINE_BYTES_MAX + 1 {
                    want.extend_from_slice(line);
                }
            }
            if !want.is_empty() && !want.ends_with(b"\n") {
                want.push(b'\n');
            }
            assert!(got == want, "step {step}: {} bytes, not {}", got.len(), want.len());
            assert_eq!((chunks.n_too_long, chunks.n_bytes), (n_too_long, text.len() as u64));
        }
    }

    #[test]
    fn every_line_comes_once_and_whole() {
        check(b"", 0);
        check(b"a", 0);
        check(b"a\nbb\n\nccc", 0);
        check(b"\n\n", 0);
        let many: Vec<u8> = (0..200_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        check(&many, 0);
    }

    #[test]
    fn lines_over_the_limit_are_counted_and_the_others_come() {
        let long = |n: usize| [vec![b'x'; n], b"\n".to_vec()].concat();
        check(&[&b"a\n"[..], &long(LINE_BYTES_MAX), b"b\n"].concat(), 0);
        check(&[&b"a\n"[..], &long(1 << 20), b"b\nc\n", &long(1 << 21), b"d"].concat(), 2);
        check(&vec![b'x'; 1 << 20], 1);
        check(&[long(1 << 20), long(1 << 20)].concat(), 2);
    }
}
