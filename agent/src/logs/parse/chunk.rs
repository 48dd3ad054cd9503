//! A chunk of whole lines -> a [`Sink`]: the kernel first, the parser for what it leaves.

mod forms;

use std::sync::Arc;

use crate::logs::parse::log_format::TimeStyle;
use crate::logs::parse::{Format, Mode, Parser, access, brief, caddy, clf, envoy, json, traefik};
use crate::logs::scan::shape::Shape;
use crate::logs::scan::{Habit, Lines, Plain, Sink};
use crate::logs::{Line, LineTime};

/// What the kernel runs for one format.
#[derive(Clone, Debug)]
pub(super) struct Quick {
    in_use: InUse,
    shapes: Arc<[Shape]>,
    time: TimeStyle,
    habit: Habit,
    /// Shapes that are there before any is learned, and stay.
    n_given: usize,
    learns: Learns,
    /// Requests since the last one that fitted a shape.
    n_missed: u32,
    /// Good lines fit no shape of the format, or not all of them do.
    may_be_brief: bool,
}

/// Which format the shapes are of.
#[derive(Clone, Copy, Debug, PartialEq)]
struct InUse {
    /// Which candidate of `auto` it is.
    chosen: Option<usize>,
    /// How often its own lines changed what it reads.
    n_changes: u32,
}

/// What the form of the lines is learned from, if it is.
#[derive(Clone, Debug)]
enum Learns {
    Nothing,
    /// From the keys of JSON.
    Json(Arc<json::Keys>),
    /// From those that a server always writes.
    Server(&'static json::form::Server),
    /// From the pairs behind the Common Log Format.
    Clf,
}

impl Learns {
    /// The form of a line that was read as a request.
    fn learn(&self, line: &[u8]) -> Option<(Shape, TimeStyle)> {
        match self {
            Self::Nothing => None,
            Self::Json(keys) => json::form::learn(keys, line.trim_ascii_end()),
            Self::Server(server) => json::form::learn_of(server, line.trim_ascii_end()),
            Self::Clf => clf::form::learn(line.strip_suffix(b"\r").unwrap_or(line)),
        }
    }
}

/// Learned forms that are kept; a file that has more loses the oldest.
const LEARNED_MAX: usize = 4;
/// Requests in a row that fit no learned form before one of them is learned from.
const MISSED_MAX: u32 = 16;

impl Quick {
    fn take_in(&mut self, (shape, time): (Shape, TimeStyle)) {
        let known = if time == self.time { &self.shapes[..] } else { &[] };
        if known.contains(&shape) {
            return;
        }
        let (given, learned) = known.split_at(self.n_given.min(known.len()));
        let n_old = learned.len().saturating_sub(LEARNED_MAX - 1);
        // The habit names a shape by its place, and remembers what stands behind its time.
        if n_old > 0 || time != self.time {
            self.habit = Habit::default();
        }
        let kept = given.iter().chain(&learned[n_old..]).cloned();
        self.shapes = kept.chain([shape]).collect();
        self.time = time;
    }
}

impl Parser {
    /// Hands every line of a chunk that ends with a newline to the sink, in order.
    ///
    /// What is said of a line does not depend on how the lines are cut into chunks. What follows the
    /// last newline is no line yet and not handed on. Cost: no allocation for a plain line.
    pub fn scan(&mut self, chunk: &[u8], sink: &mut impl Sink) {
        let mut at = 0;
        while at < chunk.len() {
            let mut quick = self.quick();
            let (shapes, in_use) = (Arc::clone(&quick.shapes), quick.in_use);
            let mut habit = quick.habit;
            let (time, kernel) = (&quick.time, self.kernel);
            let (learns, may_be_brief) = (&quick.learns, quick.may_be_brief);
            let mut lines = Scanned {
                parser: self,
                sink,
                time,
                in_use,
                learns,
                may_be_brief,
                any_plain: false,
                any_fits: false,
                is_refused: false,
                n_missed: quick.n_missed,
                learned: None,
            };
            let n = if shapes.is_empty() {
                lines.all_in_full(&chunk[at..])
            } else {
                kernel.run(&shapes, &mut habit, &chunk[at..], &mut lines)
            };
            quick.habit = habit;
            lines.note_plain();
            quick.n_missed = lines.n_missed;
            if let Some(learned) = lines.learned.take() {
                quick.take_in(learned);
            }
            self.quick = Some(quick);
            at += n;
            if n == 0 {
                return; // no newline is left
            }
        }
    }

    /// What the kernel runs for the format in use.
    fn quick(&mut self) -> Quick {
        let in_use = self.in_use();
        if let Some(quick) = self.quick.take().filter(|quick| quick.in_use == in_use) {
            return quick;
        }
        let format = self.format_in_use();
        let (shapes, time) = format.map_or((Vec::new(), TimeStyle::Clf), forms::of);
        let may_be_brief = match format {
            Some(Format::Clf | Format::Haproxy(_)) => true,
            Some(Format::Program(_)) => shapes.is_empty(),
            _ => false,
        };
        let learns = match format {
            Some(Format::Json(keys)) => Learns::Json(Arc::clone(keys)),
            Some(Format::Caddy) => Learns::Server(&caddy::FORM),
            Some(Format::Traefik) => Learns::Server(&traefik::FORM),
            Some(Format::Envoy) => Learns::Server(&envoy::FORM),
            Some(Format::Clf) => Learns::Clf,
            _ => Learns::Nothing,
        };
        Quick {
            in_use,
            n_given: shapes.len(),
            shapes: shapes.into(),
            time,
            habit: Habit::default(),
            learns,
            n_missed: MISSED_MAX,
            may_be_brief,
        }
    }

    fn format_in_use(&self) -> Option<&Format> {
        match &self.mode {
            Mode::One(format) | Mode::Told { format, .. } => Some(format),
            Mode::Auto(auto) => Some(&auto.candidates.get(auto.chosen?)?.1),
        }
    }

    fn in_use(&self) -> InUse {
        let chosen = match &self.mode {
            Mode::Auto(auto) => auto.chosen,
            Mode::One(_) | Mode::Told { .. } => None,
        };
        let n_changes = match self.format_in_use() {
            Some(Format::W3c(log)) => log.n_changes,
            _ => 0,
        };
        InUse { chosen, n_changes }
    }
}

/// The lines of one chunk on their way to the sink.
struct Scanned<'a, S> {
    parser: &'a mut Parser,
    sink: &'a mut S,
    time: &'a TimeStyle,
    in_use: InUse,
    learns: &'a Learns,
    may_be_brief: bool,
    /// Since the last line parsed in full.
    any_plain: bool,
    /// One of them fitted a shape.
    any_fits: bool,
    /// The sink wants the next line in full.
    is_refused: bool,
    n_missed: u32,
    learned: Option<(Shape, TimeStyle)>,
}

impl<S: Sink> Scanned<'_, S> {
    /// Plain lines fit the format: those rejected before them were not the first of another one.
    fn note_plain(&mut self) {
        if std::mem::take(&mut self.any_fits) {
            self.n_missed = 0;
        }
        if !std::mem::take(&mut self.any_plain) {
            return;
        }
        match &mut self.parser.mode {
            Mode::Told { n_rejected, .. } => *n_rejected = 0,
            Mode::Auto(auto) => auto.n_rejected = 0,
            Mode::One(_) => {}
        }
    }

    /// Hands on a plain line without making its record; false = that it takes the whole parser.
    fn brief(&mut self, raw: &[u8]) -> bool {
        if std::mem::take(&mut self.is_refused) || !self.may_be_brief {
            return false;
        }
        let Parser { mode, times, clock, .. } = &mut *self.parser;
        let format = match mode {
            Mode::One(format) | Mode::Told { format, .. } => &*format,
            Mode::Auto(auto) => match auto.chosen {
                Some(at) => &auto.candidates[at].1,
                None => return false,
            },
        };
        let plain = brief::plain(format, raw, times, clock.as_mut());
        let is_taken = plain.is_some_and(|plain| self.sink.plain(&plain));
        self.any_plain |= is_taken;
        is_taken
    }

    /// The lines of a chunk without the kernel; returns the bytes of those handed on.
    fn all_in_full(&mut self, chunk: &[u8]) -> usize {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', chunk) {
            let same = self.full(&chunk[start..end]);
            start = end + 1;
            if !same {
                break;
            }
        }
        start
    }
}

impl<S: Sink> Lines for Scanned<'_, S> {
    #[expect(clippy::inline_always, reason = "one call a line, inside the kernel")]
    #[inline(always)]
    fn plain(&mut self, plain: &Plain<'_>) -> bool {
        (self.any_plain, self.any_fits) = (true, true);
        self.is_refused = !self.sink.plain(plain);
        !self.is_refused
    }

    fn time(&mut self, text: &[u8]) -> Option<(i64, bool)> {
        // As a number of JSON, the full parser would round it.
        let is_rounded = text.len() > 16 && memchr::memmem::find(text, b"999999").is_some();
        if matches!(self.learns, Learns::Json(_) | Learns::Server(_)) && is_rounded {
            return None;
        }
        match access::read_time(self.time, text).filter(|_| text != b"-")? {
            LineTime::Instant { at, .. } => {
                let is_usual =
                    !matches!(self.time, TimeStyle::EpochUnits(_) | TimeStyle::Custom(_));
                Some((at.0, is_usual))
            }
            LineTime::Wall(wall) => {
                let clock = self.parser.clock.as_mut()?;
                Some((clock.instant_at_any_time(wall)?, false))
            }
            LineTime::WallNoYear(_) => None,
        }
    }

    fn full(&mut self, raw: &[u8]) -> bool {
        let mut is_request = self.brief(raw);
        if !is_request {
            self.note_plain();
            let line = self.parser.parse(raw);
            is_request = matches!(line, Line::Access(_));
            self.sink.line(raw, line);
        }
        if is_request && !matches!(self.learns, Learns::Nothing) {
            self.n_missed += 1;
            if self.n_missed > MISSED_MAX {
                self.n_missed = 0;
                self.learned = self.learns.learn(raw);
            }
        }
        self.learned.is_none() && self.parser.in_use() == self.in_use
    }
}

#[cfg(test)]
mod tests;
