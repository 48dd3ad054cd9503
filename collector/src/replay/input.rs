//! Where recorded streams come from: files or stdin, plain, gzip or zstd, line by line.
//!
//! The packing is told by the first bytes, never by the name. One buffer serves all lines; a line
//! longer than [`LINE_BYTES_MAX`] is passed over and reported, so memory has a bound.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use memchr::memchr;

/// Longest line that is read.
pub const LINE_BYTES_MAX: usize = 4 << 20;
/// What is read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Base-2 logarithm of the largest window a zstd frame may ask memory for: that of `zstd --long`.
const WINDOW_LOG_MAX: u32 = 27;

/// Whether a path can be opened, without taking anything from a pipe.
pub fn probe(path: &Path) -> io::Result<()> {
    if path == Path::new("-") {
        return Ok(());
    }
    let kind = std::fs::metadata(path)?.file_type();
    match () {
        () if kind.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        () if kind.is_file() => File::open(path).map(drop),
        () => Ok(()),
    }
}

/// Opens a file, or stdin for `-`.
pub fn open(path: &Path) -> io::Result<Lines> {
    if path == Path::new("-") {
        return unpacked(Box::new(io::stdin()));
    }
    unpacked(Box::new(File::open(path)?))
}

/// Reads whatever packing the bytes have.
pub fn unpacked(bytes: Box<dyn Read>) -> io::Result<Lines> {
    let mut bytes = BufReader::with_capacity(CHUNK_BYTES, bytes);
    let mut head = [0; 4];
    let mut n = 0;
    // A pipe may give its first bytes one by one.
    while n < head.len() {
        match bytes.get_mut().read(&mut head[n..])? {
            0 => break,
            more => n += more,
        }
    }
    let whole = io::Cursor::new(head).take(n as u64).chain(bytes);
    let reader: Box<dyn Read> = match &head[..n] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        // A frame, or one that carries no content before it.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    };
    Ok(Lines { reader, buffer: Vec::new(), from: 0, to: 0, n_read: 0, ended: None })
}

/// The lines of one input.
pub struct Lines {
    reader: Box<dyn Read>,
    buffer: Vec<u8>,
    /// What of the buffer is read and not given out yet.
    from: usize,
    to: usize,
    n_read: u64,
    ended: Option<End>,
}

/// One step through an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// A line, by its number from 1.
    Line(u64, &'b [u8]),
    /// What stands after the last newline.
    Rest(u64, &'b [u8]),
    /// A line too long to be read.
    TooLong(u64),
    /// Nothing more.
    End(End),
}

/// How an input ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it should.
    Whole,
    /// In the middle of its packing.
    CutShort,
    /// It cannot be read on.
    Broken(String),
}

impl Lines {
    /// The next line, without its newline.
    pub fn step(&mut self) -> Step<'_> {
        let mut searched = 0;
        loop {
            let waiting = &self.buffer[self.from..self.to];
            if let Some(at) = memchr(b'\n', &waiting[searched..]) {
                let (from, end) = (self.from, self.from + searched + at);
                self.from = end + 1;
                self.n_read += 1;
                return Step::Line(self.n_read, &self.buffer[from..end]);
            }
            searched = waiting.len();
            if let Some(ended) = &self.ended {
                if searched == 0 {
                    return Step::End(ended.clone());
                }
                let from = std::mem::replace(&mut self.from, self.to);
                self.n_read += 1;
                return Step::Rest(self.n_read, &self.buffer[from..self.to]);
            }
            if searched > LINE_BYTES_MAX {
                self.pass_over();
                self.n_read += 1;
                return Step::TooLong(self.n_read);
            }
            self.fill();
        }
    }

    /// Reads on behind what waits.
    fn fill(&mut self) {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        if self.buffer.len() < self.to + CHUNK_BYTES {
            self.buffer.resize(self.to + CHUNK_BYTES, 0);
        }
        match self.reader.read(&mut self.buffer[self.to..]) {
            Ok(0) => self.ended = Some(End::Whole),
            Ok(n) => self.to += n,
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::UnexpectedEof => self.ended = Some(End::CutShort),
                _ => self.ended = Some(End::Broken(error.to_string())),
            },
        }
    }

    /// Drops everything up to the next newline.
    fn pass_over(&mut self) {
        loop {
            if let Some(at) = memchr(b'\n', &self.buffer[self.from..self.to]) {
                self.from += at + 1;
                return;
            }
            self.from = self.to;
            if self.ended.is_some() {
                return;
            }
            self.fill();
        }
    }
}

/// A path that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", path.display(), why(source))]
pub struct OpenError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory; name the files in it".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Gives its bytes one at a time.
    struct Trickle(io::Cursor<Vec<u8>>);

    impl Read for Trickle {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = into.len().min(1);
            self.0.read(&mut into[..n])
        }
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    fn zst(text: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(text, 1).unwrap()
    }

    /// Every step of an input as text.
    fn steps(bytes: Vec<u8>) -> Vec<String> {
        let mut lines = unpacked(Box::new(Trickle(io::Cursor::new(bytes)))).unwrap();
        let mut seen = Vec::new();
        loop {
            let text = |text: &[u8]| {
                let text = String::from_utf8_lossy(text).into_owned();
                if text.len() > 20 { format!("{} bytes", text.len()) } else { text }
            };
            match lines.step() {
                Step::Line(n, line) => seen.push(format!("{n} {}", text(line))),
                Step::Rest(n, line) => seen.push(format!("{n} rest {}", text(line))),
                Step::TooLong(n) => seen.push(format!("{n} too long")),
                Step::End(end) => {
                    seen.push(match end {
                        End::Broken(_) => "broken".to_owned(),
                        end => format!("{end:?}"),
                    });
                    return seen;
                }
            }
        }
    }

    #[test]
    fn every_packing_is_told_by_its_first_bytes() {
        let text = b"a\n\nlast";
        let want = ["1 a", "2 ", "3 rest last", "Whole"];
        let skippable =
            [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, b'x', b'y'], &zst(text)[..]].concat();
        for bytes in [text.to_vec(), gzip(text), zst(text), skippable] {
            assert_eq!(steps(bytes), want);
        }
        let two = [&b"a\n"[..], b"b\n"];
        for pack in [gzip as fn(&[u8]) -> Vec<u8>, zst] {
            assert_eq!(steps(two.map(pack).concat()), ["1 a", "2 b", "Whole"], "written on");
        }
        assert_eq!(steps(Vec::new()), ["Whole"]);
        assert_eq!(steps(b"\n".to_vec()), ["1 ", "Whole"]);
    }

    #[test]
    fn an_end_in_the_middle_of_the_packing_is_told() {
        let text: Vec<u8> = (0..20_000_u32)
            .flat_map(|n| format!("{:x}\n", n.wrapping_mul(0x9e37)).into_bytes())
            .collect();
        for pack in [gzip as fn(&[u8]) -> Vec<u8>, zst] {
            let mut cut = pack(&text);
            cut.truncate(cut.len() / 2);
            assert_eq!(steps(cut).last().map(String::as_str), Some("CutShort"));
        }
        // zstd as it is packed here has no checksum; gzip always has one.
        let mut bent = gzip(&text);
        let middle = bent.len() / 2;
        bent[middle..middle + 40].fill(0xff);
        assert_eq!(steps(bent).last().map(String::as_str), Some("broken"));
    }

    #[test]
    fn a_line_without_end_is_passed_over_within_a_bound_of_memory() {
        let long = vec![b'x'; 2 * LINE_BYTES_MAX];
        let text = [b"a\n", &long[..], b"\nb\n", &long[..]].concat();
        let mut lines = unpacked(Box::new(io::Cursor::new(text))).unwrap();
        assert_eq!(lines.step(), Step::Line(1, b"a"));
        assert_eq!(lines.step(), Step::TooLong(2));
        assert_eq!(lines.step(), Step::Line(3, b"b"));
        assert_eq!(lines.step(), Step::TooLong(4));
        assert_eq!(lines.step(), Step::End(End::Whole));
        assert!(lines.buffer.len() <= LINE_BYTES_MAX + 2 * CHUNK_BYTES + 1);
    }
}
