//! A file of the command line -> its bytes, unpacked. Packed files are told by their first bytes.
//!
//! The beginning of each file is read before any file is read whole: what a file is decides when it
//! is its turn. A pipe cannot be read twice, so its beginning is kept.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

/// Beginning of a file that is read to learn what it is.
const HEAD_BYTES: u64 = 16 << 10;
/// The same for zstd, which gives nothing out before a block of up to 128 KiB is whole.
const ZSTD_HEAD_BYTES: u64 = 192 << 10;
/// The same, unpacked.
const UNPACKED_BYTES_MAX: u64 = 64 << 10;

/// Packed or binary formats that are not read, and what to do.
const STRANGERS: [(&[u8], &str); 5] = [
    (b"BZh", "bzip2: run `bzip2 -dc FILE | gatewatch-agent scan -`"),
    (b"\xfd7zXZ\0", "xz: run `xz -dc FILE | gatewatch-agent scan -`"),
    (b"\x04\x22\x4d\x18", "lz4: run `lz4 -dc FILE | gatewatch-agent scan -`"),
    (b"PK\x03\x04", "zip: run `unzip -p FILE | gatewatch-agent scan -`"),
    (b"LPKSHHRH", "a journal: run `journalctl --file FILE -o cat | gatewatch-agent scan -`"),
];

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("is a directory: name its logs, like {}/*.log", .0.display())]
    Directory(PathBuf),
    #[error("there is no such file: check the path; ls shows what is there")]
    Missing,
    #[error("permission denied: run this with sudo, or as a member of the group that owns it")]
    Denied,
    #[error("is packed with {0}")]
    Stranger(&'static str),
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// A packed file that is cut off or damaged, or a disk that fails.
    #[error("counted only up to byte {n_bytes} unpacked, where it is cut off or damaged: {error}")]
    Damaged { n_bytes: u64, error: io::Error },
}

impl From<io::Error> for InputError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Io(error),
        }
    }
}

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A file that can be read, and how it begins.
pub(super) struct Input {
    pub(super) path: PathBuf,
    /// Device and inode of a file that can be opened again.
    pub(super) key: Option<(u64, u64)>,
    /// Bytes on disk; `None` = nobody knows.
    pub(super) bytes: Option<u64>,
    pub(super) packing: Packing,
    /// A pipe, and what was read of it.
    held: Option<(Source, Vec<u8>)>,
}

enum Source {
    File(File),
    Stdin(io::Stdin),
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Stdin(stdin) => stdin.lock().read(buffer),
        }
    }
}

impl Input {
    /// Opens a file and reads its beginning, which it returns unpacked; `-` is standard input.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<u8>), InputError> {
        let (mut source, key, bytes) = if path == Path::new("-") {
            (Source::Stdin(io::stdin()), None, None)
        } else {
            let file = File::open(path)?;
            let meta = file.metadata()?;
            if meta.is_dir() {
                return Err(InputError::Directory(path.to_owned()));
            }
            let is_file = meta.is_file();
            let key = is_file.then(|| (meta.dev(), meta.ino()));
            (Source::File(file), key, is_file.then_some(meta.len()))
        };
        let mut raw = Vec::new();
        source.by_ref().take(HEAD_BYTES).read_to_end(&mut raw)?;
        if let Some((_, how)) = STRANGERS.iter().find(|(magic, _)| raw.starts_with(magic)) {
            return Err(InputError::Stranger(how));
        }
        let packing = packing(&raw);
        if packing == Packing::Zstd {
            source.by_ref().take(ZSTD_HEAD_BYTES - HEAD_BYTES).read_to_end(&mut raw)?;
        }
        let mut head = Vec::new();
        // A beginning ends within a block: what came out until then is enough.
        let unpacked = unpack(&raw[..], packing)
            .and_then(|unpacked| unpacked.take(UNPACKED_BYTES_MAX).read_to_end(&mut head));
        if unpacked.is_err() {
            tracing::debug!(path = %path.display(), "the beginning of a file ends within a block");
        }
        let held = key.is_none().then_some((source, raw));
        Ok((Self { path: path.to_owned(), key, bytes, packing, held }, head))
    }

    /// The whole file from its start. Once only for a pipe.
    pub(super) fn reader(&mut self) -> Result<Reader, InputError> {
        let raw = if let Some((source, head)) = self.held.take() {
            Raw::new(source, head, None)
        } else {
            let file = File::open(&self.path)?;
            Raw::new(Source::File(file), Vec::new(), self.bytes.filter(|bytes| *bytes > 0))
        };
        Ok(match self.packing {
            Packing::Plain => Reader::Plain(raw),
            Packing::Gzip => Reader::Gzip(Box::new(MultiGzDecoder::new(raw))),
            Packing::Zstd => Reader::Zstd(Box::new(zstd::Decoder::new(raw)?)),
        })
    }
}

fn packing(head: &[u8]) -> Packing {
    match head {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        // A frame, or one to be skipped before the first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
        _ => Packing::Plain,
    }
}

fn unpack<'r>(raw: &'r [u8], packing: Packing) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match packing {
        Packing::Plain => Box::new(raw),
        Packing::Gzip => Box::new(MultiGzDecoder::new(raw)),
        Packing::Zstd => Box::new(zstd::Decoder::new(raw)?),
    })
}

/// The bytes of a file, unpacked.
pub(super) enum Reader {
    Plain(Raw),
    Gzip(Box<MultiGzDecoder<Raw>>),
    Zstd(Box<zstd::Decoder<'static, io::BufReader<Raw>>>),
}

impl Reader {
    /// Bytes taken from the file so far, packed as they are.
    pub(super) fn n_raw(&self) -> u64 {
        match self {
            Self::Plain(raw) => raw.n,
            Self::Gzip(decoder) => decoder.get_ref().n,
            Self::Zstd(decoder) => decoder.get_ref().get_ref().n,
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(raw) => raw.read_lines(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// The bytes as they are on disk, counted.
pub(super) struct Raw {
    source: Source,
    /// What was read of a pipe before.
    head: io::Cursor<Vec<u8>>,
    n: u64,
    /// Length of the file when it was opened: a log that grows faster than it is read ends as well.
    limit: Option<u64>,
    is_line_end: bool,
}

impl Raw {
    fn new(source: Source, head: Vec<u8>, limit: Option<u64>) -> Self {
        Self { source, head: io::Cursor::new(head), n: 0, limit, is_line_end: true }
    }

    /// Reads up to the limit, and on to the end of the line that goes on there.
    fn read_lines(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.limit.map(|limit| limit.saturating_sub(self.n));
        let n = match left {
            Some(0) if self.is_line_end => return Ok(0),
            Some(0) => self.read(&mut buffer[..1])?,
            Some(left) => {
                let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.read(&mut buffer[..room])?
            }
            None => self.read(buffer)?,
        };
        self.is_line_end = n > 0 && buffer[n - 1] == b'\n';
        Ok(n)
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut n = self.head.read(buffer)?;
        if n == 0 {
            n = self.source.read(buffer)?;
        }
        self.n += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_log_that_grows_while_it_is_read_ends_with_the_line_it_had() {
        let dir = tempfile::tempdir().unwrap();
        for (before, after, want) in [
            ("a\nhalf", " line\nmore\n", "a\nhalf line\n"),
            ("a\nb\n", "more\n", "a\nb\n"),
            ("a\nhalf", "", "a\nhalf"),
            ("", "", ""),
        ] {
            let path = dir.path().join("log");
            std::fs::write(&path, before).unwrap();
            let (mut input, head) = Input::open(&path).unwrap();
            assert_eq!(head, before.as_bytes());
            let mut file = File::options().append(true).open(&path).unwrap();
            file.write_all(after.as_bytes()).unwrap();
            let mut reader = input.reader().unwrap();
            let mut got = String::new();
            reader.read_to_string(&mut got).unwrap();
            assert_eq!((&*got, reader.n_raw()), (want, want.len() as u64));
        }
    }

    #[test]
    fn a_packed_file_shows_its_beginning_however_badly_it_packs() {
        let dir = tempfile::tempdir().unwrap();
        let mut n = 1_u64;
        let mut text = String::new();
        for _ in 0..40_000 {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text += &n.to_string();
            text.push('\n');
        }
        let path = dir.path().join("log");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        for packed in [zstd::encode_all(text.as_bytes(), 3).unwrap(), gzip.finish().unwrap()] {
            assert!(packed.len() as u64 > ZSTD_HEAD_BYTES);
            std::fs::write(&path, packed).unwrap();
            let (mut input, head) = Input::open(&path).unwrap();
            assert!(head.len() > 10_000 && text.as_bytes().starts_with(&head), "{}", head.len());
            let mut got = String::new();
            input.reader().unwrap().read_to_string(&mut got).unwrap();
            assert!(got == text);
        }
    }

    #[test]
    fn files_are_told_by_their_first_bytes() {
        for (head, want) in [
            (&b"\x1f\x8b\x08"[..], Packing::Gzip),
            (b"\x28\xb5\x2f\xfd\0", Packing::Zstd),
            (b"\x50\x2a\x4d\x18", Packing::Zstd),
            (b"\x5f\x2a\x4d\x18", Packing::Zstd),
            (b"P*M", Packing::Plain),
            (b"", Packing::Plain),
        ] {
            assert_eq!(packing(head), want, "{head:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let why = |path: &Path| match Input::open(path) {
            Ok(_) => "opened".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(why(dir.path()).contains("/*.log"));
        assert!(why(&dir.path().join("none")).contains("no such file"));
        for (magic, how) in STRANGERS {
            let path = dir.path().join("log");
            std::fs::write(&path, magic).unwrap();
            assert!(why(&path).contains(how) && how.contains("gatewatch-agent scan -"), "{how}");
        }
    }
}
