//! `replay`: a recorded fleet stream through the real detector, on simulated time.
//!
//! The clock is the arrival of the records and nothing else: it never goes back, and it stops with
//! the last record, because a recording that ends says nothing about what came after it; it goes far
//! ahead only where more than one server says so, or the stream itself (see `ahead.rs`). Records
//! that arrived at one instant are one batch, as they were when the collector read them; so the
//! same stream gives the same lines, to the byte, however it is cut into files.

mod ahead;
pub mod input;
mod line;
mod names;
mod quick;
mod scalar;
pub mod render;
pub mod report;
pub mod write;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod time_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;

use wire::UnixMillis;
use wire::units::Span;

use crate::config::DetectConfig;
use crate::detect::Engine;
use crate::detect::trail::Weighed;
use crate::model::{Record, Transition};
use ahead::{Ahead, Turn, arrival};
use input::{End, Lines, OpenError, Step};
use line::{Kind, Line, Problem};
use names::Names;
use render::{Left, Told, Trail};
use report::{Skipped, shown};

/// Records of one instant that are taken together; of more the rest follows at the same instant.
const BATCH_MAX: usize = 1 << 18;

/// Scopes whose weighing is remembered for the end of an explained replay.
const SCOPES_MAX: usize = 10_000;
/// Times told one by one of which a stream says that it lacks them.
const HOLES_SHOWN: usize = 20;

/// Until when the clock runs on after the last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// An instant.
    At(UnixMillis),
    /// So long after the last record.
    After(Span),
}

/// What is wanted of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Only the last state of each incident, by id.
    pub only_final: bool,
    /// With the decision trail.
    pub explain: bool,
    /// Until when the clock runs on; `None`: it stops with the last record.
    pub until: Option<Until>,
}

/// What became of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records taken.
    pub n_records: u64,
    /// What was skipped or odd.
    pub skipped: Skipped,
    /// An input could not be read to its end: its file or its packing is at fault, or cut short.
    pub is_unreadable: bool,
    /// Streams whose header promises an `end` that did not come.
    pub n_cut: u64,
    /// Times of which streams say that they lack history.
    pub n_holes: u64,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file cannot be opened: nothing was replayed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// stdout is gone.
    #[error("the incidents cannot be written")]
    Write(#[source] io::Error),
}

/// Replays the files one after the other; incidents go to `out`, what is odd to `talk`.
pub fn run(
    files: &[PathBuf],
    config: &DetectConfig,
    options: Options,
    out: &mut dyn Write,
    talk: &mut dyn Write,
) -> Result<Outcome, ReplayError> {
    // Before anything is replayed: the third of four files may be missing.
    for path in files {
        input::probe(path).map_err(|source| OpenError { path: path.clone(), source })?;
    }
    let mut replay = Replay::new(config, options, out, talk);
    for path in files {
        let lines = input::open(path);
        let lines = lines.map_err(|source| OpenError { path: path.clone(), source })?;
        replay.read(&path.display().to_string(), lines)?;
    }
    replay.end()
}

/// A replay going on.
pub struct Replay<'o> {
    engine: Engine,
    names: Names,
    options: Options,
    /// Arrival of the newest record, ms; `None` before the first that has one.
    clock: Option<i64>,
    first: Option<i64>,
    /// Lines that wait until it is plain whether the stream went on to their time.
    ahead: Ahead,
    /// Input whose header promised an `end` that did not come yet.
    unended: Option<Box<str>>,
    /// Records that arrived at `clock` and are not folded yet.
    batch: Vec<Record>,
    outcome: Outcome,
    last: BTreeMap<String, Told>,
    incidents: BTreeSet<String>,
    /// Scopes that were weighed and never taken, at their best; and those that were.
    left: BTreeMap<String, Weighed>,
    taken: BTreeSet<String>,
    out: &'o mut dyn Write,
    talk: &'o mut dyn Write,
}

impl<'o> Replay<'o> {
    /// A replay that has read nothing yet.
    pub fn new(
        config: &DetectConfig,
        options: Options,
        out: &'o mut dyn Write,
        talk: &'o mut dyn Write,
    ) -> Self {
        let mut engine = Engine::new(config);
        if options.explain {
            engine.explain();
        }
        Self {
            engine,
            names: Names::default(),
            options,
            clock: None,
            first: None,
            ahead: Ahead::default(),
            unended: None,
            batch: Vec::new(),
            outcome: Outcome::default(),
            last: BTreeMap::new(),
            incidents: BTreeSet::new(),
            left: BTreeMap::new(),
            taken: BTreeSet::new(),
            out,
            talk,
        }
    }

    /// Reads one input to its end.
    pub fn read(&mut self, name: &str, mut lines: Lines) -> Result<(), ReplayError> {
        let name = shown(name);
        loop {
            match lines.step() {
                Step::Line(n, text) => self.take(&name, n, text, false)?,
                Step::Rest(n, text) => self.take(&name, n, text, true)?,
                Step::TooLong(n) => {
                    let what = format!("it has more than {} bytes", input::LINE_BYTES_MAX);
                    self.broken(&name, n, &what);
                }
                Step::End(End::Whole) => return Ok(()),
                Step::End(End::CutShort) => {
                    self.outcome.is_unreadable = true;
                    self.say(&format!(
                        "{name}: the stream stops in the middle of its packing; what came before is replayed"
                    ));
                    return Ok(());
                }
                Step::End(End::Broken(why)) => {
                    self.outcome.is_unreadable = true;
                    self.say(&format!("{name}: it cannot be read on: {}", shown(&why)));
                    return Ok(());
                }
            }
        }
    }

    /// Takes one line; `is_rest` when no newline ends it.
    fn take(&mut self, name: &str, n: u64, text: &[u8], is_rest: bool) -> Result<(), ReplayError> {
        let text = if n == 1 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
        match line::decode(text) {
            Ok(line) => self.place(name, n, text, line)?,
            Err(Problem::UnknownType(kind)) => self.outcome.skipped.types.add(&kind, 1),
            Err(Problem::Broken(_)) if text.trim_ascii().is_empty() => {}
            Err(Problem::Broken(why)) if is_rest => {
                self.broken(name, n, &format!("the stream stops in the middle of a record: {why}"));
            }
            Err(Problem::Broken(why)) => self.broken(name, n, &why),
        }
        Ok(())
    }

    /// Takes a record, or lets it wait where it is far ahead of the others.
    fn place(
        &mut self,
        name: &str,
        n: u64,
        text: &[u8],
        mut line: Line<'_>,
    ) -> Result<(), ReplayError> {
        match self.ahead.turn(&line, self.clock) {
            Turn::Now if self.ahead.is_empty() => return self.fold(name, n, &mut line, true),
            Turn::Now => {
                self.ahead.vote(&line);
                self.fold(name, n, &mut line, true)?;
            }
            Turn::Wait => self.ahead.hold(name, n, text, &line),
            Turn::Settles(until) => {
                self.settle(until)?;
                return self.fold(name, n, &mut line, true);
            }
        }
        match self.ahead.verdict(self.clock, self.names.n_servers(), false) {
            Some(until) => self.settle(until),
            None => Ok(()),
        }
    }

    /// Takes what waits; the clock follows it up to `until`.
    fn settle(&mut self, until: i64) -> Result<(), ReplayError> {
        for held in self.ahead.take() {
            let Ok(mut line) = line::decode(&held.text) else { continue };
            let is_ahead = arrival(&line).is_some_and(|at| at > until);
            self.outcome.skipped.n_ahead += u64::from(is_ahead);
            self.fold(&held.name, held.n, &mut line, !is_ahead)?;
        }
        Ok(())
    }

    /// Puts a record into its batch; the clock follows it if it `moves`.
    fn fold(
        &mut self,
        name: &str,
        n: u64,
        line: &mut Line<'_>,
        moves: bool,
    ) -> Result<(), ReplayError> {
        match line.kind {
            Kind::Header => self.header(name, line),
            Kind::End => {
                self.unended = None;
                self.lacks(name, line);
            }
            Kind::Server | Kind::Site => {}
            _ if line.at.is_none() => {
                self.broken(name, n, "it has no `at`");
                return Ok(());
            }
            _ if arrival(line).is_none() => {
                self.outcome.skipped.n_ancient += 1;
                return Ok(());
            }
            _ => {}
        }
        self.count_unknown(line);
        if matches!(line.kind, Kind::Header | Kind::End) {
            return Ok(());
        }
        if !moves && self.clock.is_none() {
            return Ok(());
        }
        if let Some(arrived) = arrival(line).filter(|_| moves) {
            match self.clock {
                Some(clock) if arrived < clock => self.outcome.skipped.n_out_of_order += 1,
                Some(clock) if arrived == clock => {}
                _ => {
                    self.fold_batch()?;
                    self.clock = Some(arrived);
                    self.first = self.first.or(Some(arrived));
                }
            }
        }
        match self.names.records(line, &mut self.outcome.skipped, &mut self.batch) {
            Ok(()) => self.outcome.n_records += 1,
            Err(why) => self.broken(name, n, why),
        }
        if self.batch.len() >= BATCH_MAX { self.fold_batch() } else { Ok(()) }
    }

    fn header(&mut self, name: &str, line: &Line<'_>) {
        self.see_end_missing();
        self.unended = line.ends.then(|| name.into());
        if let Some(version) = line.version.filter(|version| *version != 1) {
            self.say(&format!(
                "the stream is of version {version}: it is read as version 1, and what that does not have is skipped"
            ));
        }
    }

    /// Says that a stream was cut off, when it promised an end and ended without.
    fn see_end_missing(&mut self) {
        if let Some(name) = self.unended.take() {
            self.outcome.n_cut += 1;
            self.say(&format!(
                "{name}: the stream was cut off: it lacks the `end` that its header promises, and what came behind; export it again to replay it whole"
            ));
        }
    }

    /// Says what the stream says that it lacks.
    fn lacks(&mut self, name: &str, line: &Line<'_>) {
        if let Some(to) = line.packed_to {
            let to = UnixMillis(to).to_rfc3339();
            self.say(&format!(
                "{name}: up to {to} the stream is of packed hours, which do not say when batches came: of servers whose logs were read later than they were written silence may be told that was none, and of those that could not send for a while none"
            ));
        }
        for hole in line.holes.iter().take(HOLES_SHOWN) {
            let (from, to) = (UnixMillis(hole.from).to_rfc3339(), UnixMillis(hole.to).to_rfc3339());
            let of = hole.server.as_deref().map_or_else(|| "all servers".to_owned(), shown);
            let why = shown(&hole.why);
            self.say(&format!(
                "{name}: the stream lacks history of {of} from {from} to {to} ({why}): what began then may be missing, or told as silence"
            ));
        }
        let n_more = line.holes.len().saturating_sub(HOLES_SHOWN);
        if n_more > 0 {
            self.say(&format!("{name}: and {n_more} further times"));
        }
        self.outcome.n_holes += line.holes.len() as u64;
    }

    fn count_unknown(&mut self, line: &Line<'_>) {
        let skipped = &mut self.outcome.skipped;
        for name in &line.unknown {
            skipped.fields.add(name, 1);
        }
        skipped.fields.n += line.n_unknown - line.unknown.len() as u64;
        skipped.n_values_unknown += line.n_values_unknown;
        skipped.n_labels_dropped += line.n_labels_dropped;
    }

    /// Folds the records of the instant that is over, as the detective folds a batch.
    fn fold_batch(&mut self) -> Result<(), ReplayError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let Some(clock) = self.clock else {
            // The fleet, before the first record that has a time.
            for record in self.batch.drain(..) {
                self.engine.fold(UnixMillis(0), &record);
            }
            return Ok(());
        };
        let transitions = self.engine.advance(UnixMillis(clock - 1));
        self.tell(transitions)?;
        let batch = std::mem::take(&mut self.batch);
        let transitions = self.engine.fold_batch(UnixMillis(clock), batch.iter());
        self.batch = batch;
        self.batch.clear();
        self.tell(transitions)
    }

    /// Folds what waits, runs the clock to its end and sums up.
    pub fn end(mut self) -> Result<Outcome, ReplayError> {
        if let Some(until) = self.ahead.verdict(self.clock, self.names.n_servers(), true) {
            self.settle(until)?;
        }
        self.fold_batch()?;
        if let Some(clock) = self.clock {
            let until = match self.options.until {
                None => clock,
                Some(Until::At(at)) => at.0.max(clock),
                Some(Until::After(span)) => UnixMillis(clock).plus(span.0).0,
            };
            let transitions = self.engine.advance(UnixMillis(until));
            self.tell(transitions)?;
        }
        for told in std::mem::take(&mut self.last).values() {
            render::write(self.out, told).map_err(ReplayError::Write)?;
        }
        for weighed in self.left.values() {
            let left = Left { at: UnixMillis(weighed.at), event: "left", weighed };
            render::write(self.out, &left).map_err(ReplayError::Write)?;
        }
        self.out.flush().map_err(ReplayError::Write)?;
        self.outcome.skipped.n_misdated = self.engine.refused().n_misdated;
        for line in self.outcome.skipped.lines() {
            self.say(&line);
        }
        self.see_end_missing();
        self.say(&self.summary());
        Ok(self.outcome)
    }

    fn summary(&self) -> String {
        let (Some(first), Some(last)) = (self.first, self.clock) else {
            return format!("replayed {} records, none with a time", self.outcome.n_records);
        };
        format!(
            "replayed {} records of {} servers and {} sites from {} to {}: {} incidents",
            self.outcome.n_records,
            self.names.n_servers(),
            self.names.n_sites(),
            UnixMillis(first),
            UnixMillis(last),
            self.incidents.len()
        )
    }

    fn tell(&mut self, transitions: Vec<Transition>) -> Result<(), ReplayError> {
        let trail = self.options.explain.then(|| (self.engine.trail(), self.engine.stood()));
        for transition in transitions {
            self.incidents.insert(transition.incident.id.clone());
            let why = trail.as_ref().map(|(weighed, stood)| {
                let (id, at) = (&transition.incident.id, transition.at.0);
                let of_it = stood.iter().rfind(|stood| stood.id == *id && stood.at == at);
                Trail {
                    weighed: weighed.iter().filter(|weighed| weighed.at == at).cloned().collect(),
                    sites: of_it.map_or_else(Vec::new, |stood| stood.sites.clone()),
                }
            });
            let told = Told::new(transition, why);
            if self.options.only_final {
                self.last.insert(told.incident.id.clone(), told);
            } else {
                render::write(self.out, &told).map_err(ReplayError::Write)?;
            }
        }
        for weighed in trail.into_iter().flat_map(|(weighed, _)| weighed) {
            self.keep(weighed);
        }
        Ok(())
    }

    /// Keeps of each scope that was never taken the moment when it came closest.
    fn keep(&mut self, weighed: Weighed) {
        if weighed.rejected.is_none() {
            self.left.remove(&weighed.scope);
            if self.taken.len() < SCOPES_MAX {
                self.taken.insert(weighed.scope);
            }
        } else if !self.taken.contains(&weighed.scope) {
            let is_closer =
                self.left.get(&weighed.scope).map(|before| weighed.score > before.score);
            if is_closer.unwrap_or(self.left.len() < SCOPES_MAX) {
                self.left.insert(weighed.scope.clone(), weighed);
            }
        }
    }

    fn broken(&mut self, name: &str, n: u64, why: &str) {
        self.outcome.skipped.n_broken += 1;
        match self.outcome.skipped.n_broken {
            n_broken if n_broken <= report::TOLD_MAX => {
                self.say(&format!("{name}: line {n} is skipped: {}", shown(why)));
            }
            n_broken if n_broken == report::TOLD_MAX + 1 => {
                self.say("further broken lines are only counted");
            }
            _ => {}
        }
    }

    /// Talk that nobody can hear is no reason to stop.
    fn say(&mut self, text: &str) {
        drop(writeln!(self.talk, "gatewatch-collector: {text}"));
    }
}
