//! The file in which a watch keeps what it saw last.
//!
//! JSON with a version. Another version, or a file that is torn, is none: the next look is then the
//! first, which tells nothing. A missing field is one that nothing was seen of.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock;

const VERSION: u32 = 2;
/// A file that grew beyond this is none of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// What was seen and told nobody anything is written at most so often.
const WRITE_EVERY: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Content<T> {
    version: u32,
    seen: T,
}

/// Reads and writes one file.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// Time between two writes of what was told.
    write_told_every: Duration,
    is_moved: bool,
    is_told: bool,
    written: Option<Instant>,
    has_warned: bool,
}

impl Kept {
    pub(super) fn new(path: PathBuf, write_told_every: Duration) -> Self {
        Self {
            path,
            write_told_every,
            is_moved: false,
            is_told: false,
            written: None,
            has_warned: false,
        }
    }

    /// What was kept; nothing when there is none.
    pub(super) fn load<T: DeserializeOwned + Default>(&self) -> T {
        // An older version has other fields, so its number is read first.
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            version: u32,
        }
        let read = || -> io::Result<Option<T>> {
            if fs::metadata(&self.path)?.len() > FILE_BYTES_MAX {
                return Ok(None);
            }
            let open = || Ok::<_, io::Error>(BufReader::new(File::open(&self.path)?));
            let head: Head = serde_json::from_reader(open()?)?;
            if head.version != VERSION {
                return Ok(None);
            }
            let content: Content<T> = serde_json::from_reader(open()?)?;
            Ok(Some(content.seen))
        };
        match read() {
            Ok(seen) => seen.unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => T::default(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read what was seen: starting anew");
                T::default()
            }
        }
    }

    /// Notes that `seen` is another now. It is written soon when it was told of, lest a crash tell that
    /// twice, else now and then.
    pub(super) fn keep(&mut self, seen: &impl Serialize, is_moved: bool, is_told: bool) {
        self.is_moved |= is_moved;
        self.is_told |= is_told;
        let every = if self.is_told { self.write_told_every } else { WRITE_EVERY };
        let now = clock::instant();
        let is_due = self.written.is_none_or(|at| now.saturating_duration_since(at) >= every);
        if self.is_moved && is_due {
            self.write(seen);
        }
    }

    /// Writes it whatever was told. No fsync: after a power cut an older state only tells a change twice.
    pub(super) fn write(&mut self, seen: &impl Serialize) {
        (self.is_moved, self.is_told) = (false, false);
        self.written = Some(clock::instant());
        let temporary = self.path.with_extension("json.tmp");
        let write = || -> io::Result<()> {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            let mut file = BufWriter::new(file);
            serde_json::to_writer(&mut file, &Content { version: VERSION, seen })?;
            file.flush()?;
            fs::rename(&temporary, &self.path)
        };
        if let Err(error) = write()
            && !self.has_warned
        {
            self.has_warned = true;
            tracing::warn!(path = %self.path.display(), %error, "cannot keep what was seen: changes made while the agent is stopped will be missed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Seen {
        a: u32,
        b: String,
    }

    #[test]
    fn what_is_torn_or_of_another_version_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("changes.json");
        let mut kept = Kept::new(path.clone(), Duration::ZERO);
        assert_eq!(kept.load::<Seen>(), Seen::default());
        let seen = Seen { a: 7, b: "x".to_owned() };
        kept.keep(&seen, true, false);
        assert_eq!(kept.load::<Seen>(), seen);
        for (text, want) in [
            ("{\"version\":2,\"seen\":{\"a\":7}}", 7),
            ("{\"version\":2,\"seen\":{}}", 0),
            ("{\"version\":2,\"seen\":{\"a\":", 0),
            ("{\"version\":3,\"seen\":{\"a\":7}}", 0),
            // The first one had no number.
            ("{\"packages\":{},\"configs\":{\"/a\":{\"hash\":1}}}", 0),
            ("", 0),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(kept.load::<Seen>().a, want, "{text}");
        }
    }

    #[test]
    fn what_told_nobody_anything_is_written_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Kept::new(dir.path().join("changes.json"), Duration::ZERO);
        let seen = |a| Seen { a, ..Seen::default() };
        kept.keep(&seen(1), true, false);
        kept.keep(&seen(2), true, false);
        assert_eq!(kept.load::<Seen>().a, 1);
        kept.keep(&seen(3), false, true);
        assert_eq!(kept.load::<Seen>().a, 3);
        kept.write(&seen(4));
        assert_eq!(kept.load::<Seen>().a, 4);
        // A large one is not written for each change.
        let mut kept = Kept::new(dir.path().join("large.json"), WRITE_EVERY);
        kept.keep(&seen(5), true, true);
        kept.keep(&seen(6), true, true);
        assert_eq!(kept.load::<Seen>().a, 5);
    }
}
