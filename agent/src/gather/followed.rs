//! One followed log: its tail, its parser, what became of its bytes, what `status` says of it.
//!
//! Invariant: bytes handed out by the tail = bytes counted + bytes rejected; with those that
//! vanished they are all the bytes there were to see.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use wire::UnixMillis;

use crate::discover::{LogKind, LogSource, SiteRule};
use crate::logs::checkpoint::{FileKey, Position};
use crate::logs::file::Chunk;
use crate::logs::join::{Judge, Verdict};
use crate::logs::parse::Parser;
use crate::logs::scan::{Plain, Sink};
use crate::logs::slow::SlowLog;
use crate::logs::tail::{Start, Tail, TailError, Vanished};
use crate::logs::watch::{FileWatch, Watch};
use crate::logs::{Line, Rejected};
use crate::window::{LogEvidence, Loss, Observation, Windows};

use super::FileStatus;
use super::cells::Cells;
use super::rejects::Rejects;

/// Lines that decide a format at first sight.
const FIRST_LINES_MAX: usize = 32;
/// A log with something new in so many rounds, each so soon after the one before, is hot.
const HOT_ROUNDS: u8 = 5;
const HOT_GAP: Duration = Duration::from_millis(50);
/// A log that rotates may be missing for a moment.
const MISSING_GRACE: Duration = Duration::from_secs(5);
/// Requests older than this are a backlog, and none of those that ask now.
const SHARES_AGE_S_MAX: u64 = 60;

pub(super) struct Followed {
    pub(super) tail: Tail,
    pub(super) source: LogSource,
    /// The judge's index.
    pub(super) ix: Option<usize>,
    pub(super) parser: Option<Parser>,
    /// The line that names the columns where reading began; empty when there is none, `None` until
    /// it was looked for.
    fields: Option<Vec<u8>>,
    pub(super) start: Start,
    /// When configuration or globs named it last.
    pub(super) named_at: Instant,
    /// It was let go: nothing of it is left, and another log may take its place.
    pub(super) is_released: bool,
    pub(super) is_marked: bool,
    pub(super) wants_look: bool,
    /// Watched directories are those of this file.
    pub(super) watched: Option<FileKey>,
    pub(super) is_watched: bool,
    /// Of the file at the path and, before it, of those that rotated away.
    pub(super) watches: Vec<FileWatch>,
    /// Read in every round, without a watch.
    pub(super) is_hot: bool,
    /// When it had something last, and in how many rounds without a pause.
    data_at: Option<Instant>,
    n_rounds: u8,
    pub(super) missing_since: Option<Instant>,
    pub(super) problem: Option<String>,
    /// Whether it could be read at the last look; `None` before the first.
    pub(super) is_readable: Option<bool>,
    pub(super) spooled: u64,
    pub(super) acked: u64,
    /// Bytes the tail handed out.
    n_bytes_read: u64,
    tally: Tally,
    rejects: Rejects,
    vanished: Vanished,
    /// Of a slow log.
    slow: Option<Box<SlowLog>>,
}

/// What became of lines.
#[expect(clippy::struct_field_names, reason = "counts are named n_")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    n_lines: u64,
    n_rejected: u64,
    n_too_long: u64,
    n_bytes: u64,
    n_bytes_rejected: u64,
}

impl Tally {
    fn add(&mut self, more: &Self) {
        self.n_lines += more.n_lines;
        self.n_rejected += more.n_rejected;
        self.n_too_long += more.n_too_long;
        self.n_bytes += more.n_bytes;
        self.n_bytes_rejected += more.n_bytes_rejected;
    }
}

impl Followed {
    pub(super) fn new(
        source: LogSource,
        own: Vec<Position>,
        start: Start,
        saved_at: UnixMillis,
        now: Instant,
    ) -> Self {
        Self {
            tail: Tail::new(&source.path, own, saved_at),
            slow: (source.kind == LogKind::PhpSlow).then(Box::default),
            source,
            ix: None,
            parser: None,
            fields: None,
            start,
            named_at: now,
            is_released: false,
            is_marked: true,
            wants_look: true,
            watched: None,
            is_watched: false,
            watches: Vec::new(),
            is_hot: false,
            data_at: None,
            n_rounds: 0,
            missing_since: None,
            problem: None,
            is_readable: None,
            spooled: 0,
            acked: 0,
            n_bytes_read: 0,
            tally: Tally::default(),
            rejects: Rejects::default(),
            vanished: Vanished::default(),
        }
    }

    pub(super) fn source_ix(&mut self, judge: &mut Judge) -> usize {
        *self.ix.get_or_insert_with(|| judge.add_source(&self.source))
    }

    /// Takes over what a newer configuration says of the log.
    pub(super) fn renew(&mut self, source: LogSource) {
        self.slow = (source.kind == LogKind::PhpSlow).then(Box::default);
        self.source = source;
        self.parser = None;
        self.fields = None;
        self.ix = None;
    }

    /// Lets it go: its files are closed, and nothing is remembered of them.
    pub(super) fn release(&mut self) {
        let source = LogSource { path: PathBuf::new(), ..self.source.clone() };
        *self = Self::new(source, Vec::new(), Start::End, UnixMillis::default(), self.named_at);
        (self.is_released, self.is_marked, self.wants_look) = (true, false, false);
    }

    /// Before a first read that begins inside the file: finds what names its columns.
    pub(super) fn look_for_fields(&mut self) {
        let is_wanted = self.parser.is_none() && self.source.kind == LogKind::Access;
        if is_wanted && self.fields.is_none() {
            self.fields = Some(self.tail.fields_line().unwrap_or_default());
        }
    }

    pub(super) fn found(&mut self) {
        self.start = Start::Beginning;
        self.missing_since = None;
        self.is_readable = Some(true);
        if self.problem.take().is_some() {
            tracing::info!(path = %self.source.path.display(), "log can be read now");
        }
    }

    pub(super) fn not_found(&mut self, error: &TailError, now: Instant) {
        if matches!(error, TailError::Missing { .. }) {
            self.start = Start::Beginning;
            let was_there = self.tally.n_lines > 0 || self.tail.is_open();
            let since = *self.missing_since.get_or_insert(now);
            if was_there && now < since + MISSING_GRACE {
                return;
            }
        }
        self.is_readable = Some(false);
        let problem = error.to_string();
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!(path = %self.source.path.display(), %error, "log is not read");
            self.problem = Some(problem);
        }
    }

    /// Whether it could be read at the last look.
    pub(super) fn is_readable(&self) -> bool {
        self.is_readable == Some(true)
    }

    /// True for a log that is open or that nobody has looked at yet.
    pub(super) fn takes_room(&self) -> bool {
        self.tail.is_open() || self.wants_look
    }

    /// Notes that there was something to read; true when that is so all the time and it has watches.
    pub(super) fn note_data(&mut self, now: Instant) -> bool {
        match self.data_at.replace(now) {
            Some(last) if last == now => return false, // the same round
            Some(last) if now < last + HOT_GAP => self.n_rounds = self.n_rounds.saturating_add(1),
            _ => self.n_rounds = 1,
        }
        self.n_rounds >= HOT_ROUNDS && !self.watches.is_empty()
    }

    /// There was something to read within `age`.
    pub(super) fn had_data_since(&self, now: Instant, age: Duration) -> bool {
        self.data_at.is_some_and(|last| now < last + age)
    }

    /// Watches the file at the path for writes. A directory has another watch, which this one would
    /// replace: call it for a log only.
    pub(super) fn watch_file(&mut self, ix: usize, watch: &mut Watch) {
        let Some(new) = watch.add_file(&self.source.path, ix) else { return };
        self.watches.retain(|known| *known != new); // renamed back: the last one is the current one
        self.watches.push(new);
    }

    /// Takes its watches away; false when one serves another log too.
    pub(super) fn take_watches(&mut self, ix: usize, watch: &mut Watch) -> bool {
        let is_own = self.watches.iter().all(|one| watch.is_own(one));
        if is_own {
            self.watches.drain(..).for_each(|one| watch.remove_file(one, ix));
        }
        is_own
    }

    /// What vanished since the last call, noted for the status.
    pub(super) fn take_vanished(&mut self) -> Vanished {
        let vanished = self.tail.take_vanished();
        self.vanished.add(&vanished);
        vanished
    }

    /// Folds whole lines; true when there was a gateway error among them.
    pub(super) fn fold(
        &mut self,
        chunk: &Chunk,
        buffer: &[u8],
        judge: &mut Judge,
        cells: &mut Cells,
        windows: &mut Windows,
        at: UnixMillis,
    ) -> bool {
        let source = self.source_ix(judge);
        let lines = &buffer[chunk.lines.clone()];
        let parser = self.parser.get_or_insert_with(|| {
            let first: Vec<&[u8]> = split(lines).take(FIRST_LINES_MAX).collect();
            let mut parser = Parser::for_source(&self.source, &first);
            // Also where the columns change among the first lines: those before keep theirs.
            if let Some(line) = &self.fields {
                parser.teach_header(line);
            }
            parser.set_zone(judge.zone_of(source));
            parser
        });
        let tally = Tally {
            n_lines: u64::from(chunk.n_too_long),
            n_rejected: u64::from(chunk.n_too_long),
            n_too_long: u64::from(chunk.n_too_long),
            n_bytes: chunk.n_bytes_too_long,
            n_bytes_rejected: chunk.n_bytes_too_long,
        };
        self.rejects.count(Rejected::TooLong, chunk.n_too_long.into());
        let (rejects, slow) = (&mut self.rejects, self.slow.as_deref_mut());
        let mut fold = Fold {
            source,
            judge,
            windows,
            at,
            cells,
            tally,
            rejects,
            slow,
            has_error: false,
            is_sampled: false,
        };
        parser.scan(lines, &mut fold);
        fold.tell_slow(SlowLog::end);
        let Fold { cells, windows, tally, has_error, .. } = fold;
        cells.spill(windows);
        windows.read(tally.n_lines as u32, tally.n_bytes);
        if tally.n_rejected > 0 {
            windows.lose(&Loss {
                n_lines_rejected: tally.n_rejected,
                n_lines_too_long: tally.n_too_long,
                n_bytes_rejected: tally.n_bytes_rejected,
                ..Loss::default()
            });
        }
        self.n_bytes_read += lines.len() as u64 + chunk.n_bytes_too_long;
        self.tally.add(&tally);
        has_error
    }

    pub(super) fn status(&self) -> FileStatus {
        FileStatus {
            path: self.source.path.clone(),
            site: match &self.source.site {
                SiteRule::Fixed(site) => site.clone(),
                SiteRule::Host => "host".to_owned(),
            },
            format: self
                .parser
                .as_ref()
                .map_or(self.source.format.as_str(), |parser| parser.format())
                .to_owned(),
            read: self.tail.offset(),
            size: self.tail.size(),
            spooled: self.spooled,
            acked: self.acked,
            n_lines: self.tally.n_lines,
            n_rejected: self.tally.n_rejected,
            rejects: self.rejects.clone(),
            n_bytes_seen: self.n_bytes_read + self.vanished.n_bytes,
            n_bytes_counted: self.tally.n_bytes - self.tally.n_bytes_rejected,
            n_bytes_rejected: self.tally.n_bytes_rejected,
            n_bytes_lost: self.vanished.n_bytes,
            n_bytes_recovered: self.vanished.n_bytes_recovered,
            n_truncations: self.vanished.n_truncations + self.vanished.n_gone,
            problem: self.problem.clone(),
            note: self.tail.note().map(str::to_owned),
        }
    }
}

/// Takes the lines of one chunk to the judge and the windows.
struct Fold<'a> {
    source: usize,
    judge: &'a mut Judge,
    windows: &'a mut Windows,
    at: UnixMillis,
    cells: &'a mut Cells,
    tally: Tally,
    rejects: &'a mut Rejects,
    slow: Option<&'a mut SlowLog>,
    has_error: bool,
    /// The next line is one that is looked at more closely.
    is_sampled: bool,
}

impl Fold<'_> {
    fn seen(&mut self, raw: &[u8]) {
        self.tally.n_lines += 1;
        self.tally.n_bytes += raw.len() as u64 + 1;
    }

    /// True for a request of now: shares are told of the time of reading, and a backlog is older.
    fn is_fresh(&self, second: i64) -> bool {
        self.at.second().abs_diff(second) <= SHARES_AGE_S_MAX
    }

    /// Sends what a slow log has to say after this step.
    fn tell_slow(&mut self, step: impl FnOnce(&mut SlowLog) -> Option<LogEvidence>) {
        if let Some(evidence) = self.slow.as_deref_mut().and_then(step) {
            let evidence = self.judge.private(evidence, self.at);
            self.windows.observe(Observation::Log(evidence));
        }
    }
}

impl Sink for Fold<'_> {
    fn plain(&mut self, plain: &Plain<'_>) -> bool {
        match self.judge.plain(self.source, plain, self.at) {
            Verdict::Unsure => return false,
            Verdict::Inner => {}
            Verdict::Counted { second, .. }
                if self.is_fresh(second) && self.cells.clients.count() =>
            {
                self.is_sampled = true;
                return false;
            }
            Verdict::Counted { site, second, other } => {
                self.cells.count(second, site, plain.status, other, self.windows);
            }
        }
        self.seen(plain.raw);
        true
    }

    fn line(&mut self, raw: &[u8], line: Line<'_>) {
        self.seen(raw);
        match &line {
            Line::Error(record) if self.slow.is_some() => {
                let at = self.judge.time_of(self.source, record, self.at);
                return self.tell_slow(|slow| slow.begin(record.pool.as_deref()?, at));
            }
            Line::Rejected(Rejected::Continuation) => {
                if let Some(slow) = &mut self.slow {
                    slow.go_on(raw);
                }
            }
            _ => {}
        }
        let Self { windows, has_error, .. } = self;
        match line {
            Line::Access(record) if self.judge.is_own_page(&record) => {
                self.rejects.skip(Rejected::OwnRequest, self.at, || None);
            }
            Line::Access(record) => {
                let counted = self.judge.access(self.source, &record, self.at, &mut |request| {
                    *has_error |= request.exemplar.is_some() && !request.own;
                    windows.fold(request);
                });
                let is_sampled = std::mem::take(&mut self.is_sampled);
                if let Some((site, second)) = counted
                    && (is_sampled || self.is_fresh(second) && self.cells.clients.count())
                {
                    self.cells.clients.take(self.judge.visit(site, &record));
                }
            }
            Line::Error(record) => {
                if let Some(evidence) = self.judge.error(self.source, &record, self.at) {
                    windows.observe(Observation::Log(evidence));
                }
                if let Some((second, site)) = self.judge.take_blocked() {
                    windows.count_blocked(second, site);
                }
            }
            Line::Rejected(reason) if is_loss(reason) => {
                self.tally.n_rejected += 1;
                self.tally.n_too_long += u64::from(reason == Rejected::TooLong);
                self.tally.n_bytes_rejected += raw.len() as u64 + 1;
                let (judge, at) = (&mut *self.judge, self.at);
                self.rejects.add(reason, at, || judge.sample(raw, at));
            }
            Line::Rejected(reason) => {
                let (judge, at) = (&mut *self.judge, self.at);
                self.rejects.skip(reason, at, || judge.sample(raw, at));
            }
        }
    }
}

/// The lines of a chunk without their ends.
fn split(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', lines).map(move |end| {
        let line = &lines[start..end];
        start = end + 1;
        line.strip_suffix(b"\r").unwrap_or(line)
    })
}

/// Blank lines, comments and the further lines of a stack trace are part of a sound log.
fn is_loss(reason: Rejected) -> bool {
    !matches!(reason, Rejected::Blank | Rejected::Directive | Rejected::Continuation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let lines: Vec<&[u8]> = split(b"a\r\n\n\0\xff\r\r\nlast\n").collect();
        assert_eq!(lines, [&b"a"[..], b"", b"\0\xff\r", b"last"]);
        assert_eq!(split(b"").count(), 0);
    }
}
