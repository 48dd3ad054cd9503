//! A chunk of whole lines -> a [`Sink`]: the kernel first, the parser for what it leaves.

use std::sync::Arc;

use crate::logs::LineTime;
use crate::logs::parse::log_format::{self, LogFormat, TimeStyle};
use crate::logs::parse::{Format, Mode, Parser, access};
use crate::logs::scan::second::Seconds;
use crate::logs::scan::shape::Shape;
use crate::logs::scan::{Lines, Plain, Sink};

/// What the kernel runs for one format.
#[derive(Clone, Debug)]
pub(super) struct Quick {
    /// Which candidate of `auto` this is.
    chosen: Option<usize>,
    shapes: Arc<[Shape]>,
    time: TimeStyle,
    seconds: Seconds,
}

impl Parser {
    /// Hands every line of a chunk that ends with a newline to the sink, in order.
    ///
    /// What is said of a line does not depend on how the lines are cut into chunks. Cost: no
    /// allocation for a plain line.
    pub fn scan(&mut self, chunk: &[u8], sink: &mut impl Sink) {
        let mut at = 0;
        while at < chunk.len() {
            let mut quick = self.quick();
            let (shapes, chosen) = (Arc::clone(&quick.shapes), quick.chosen);
            let mut seconds = quick.seconds;
            let (time, kernel) = (&quick.time, self.kernel);
            let mut lines = Scanned { parser: self, sink, time, chosen };
            let n = if shapes.is_empty() {
                lines.all_in_full(&chunk[at..])
            } else {
                kernel.run(&shapes, &mut seconds, &chunk[at..], &mut lines)
            };
            quick.seconds = seconds;
            self.quick = Some(quick);
            at += n;
            if n == 0 {
                return;
            }
        }
    }

    /// What the kernel runs for the format in use.
    fn quick(&mut self) -> Quick {
        let chosen = self.chosen();
        if let Some(quick) = self.quick.take().filter(|quick| quick.chosen == chosen) {
            return quick;
        }
        let format = match (&self.mode, chosen) {
            (Mode::One(format) | Mode::Told { format, .. }, _) => Some(format),
            (Mode::Auto(auto), Some(at)) => Some(&auto.candidates[at].1),
            (Mode::Auto(_), None) => None,
        };
        let (shapes, time) = format.map_or((Vec::new(), TimeStyle::Clf), shapes);
        Quick { chosen, shapes: shapes.into(), time, seconds: Seconds::default() }
    }

    fn chosen(&self) -> Option<usize> {
        match &self.mode {
            Mode::Auto(auto) => auto.chosen,
            Mode::One(_) | Mode::Told { .. } => None,
        }
    }
}

/// The forms that plain lines of a format have, none for some, and how their time is written.
fn shapes(format: &Format) -> (Vec<Shape>, TimeStyle) {
    let shape = |format: &LogFormat| {
        let per_s = format.time_is_start.then_some(format.request_time_per_s);
        Shape::of(&format.program, per_s)
    };
    match format {
        Format::Program(format) => (shape(format).into_iter().collect(), format.time.clone()),
        Format::Npm(formats) => {
            (formats.iter().filter_map(shape).collect(), formats[0].time.clone())
        }
        Format::Clf => {
            let with_more = format!("{} \"$more\"", log_format::COMBINED);
            let forms =
                [log_format::COMBINED, &with_more, log_format::VHOST_COMBINED, log_format::COMMON];
            let shapes = forms
                .iter()
                .filter_map(|form| Shape::of_clf(&log_format::compile(form)?.program))
                .collect();
            (shapes, TimeStyle::Clf)
        }
        _ => (Vec::new(), TimeStyle::Clf),
    }
}

/// The lines of one chunk on their way to the sink.
struct Scanned<'a, S> {
    parser: &'a mut Parser,
    sink: &'a mut S,
    time: &'a TimeStyle,
    chosen: Option<usize>,
}

impl<S: Sink> Scanned<'_, S> {
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
        match &mut self.parser.mode {
            Mode::Told { n_rejected, .. } => *n_rejected = 0,
            Mode::Auto(auto) => auto.n_rejected = 0,
            Mode::One(_) => {}
        }
        self.sink.plain(plain)
    }

    fn time(&mut self, text: &[u8]) -> Option<(i64, bool)> {
        match access::read_time(self.time, text).filter(|_| text != b"-")? {
            LineTime::Instant { at, .. } => {
                let is_usual =
                    !matches!(self.time, TimeStyle::EpochUnits(_) | TimeStyle::Custom(_));
                Some((at.0, is_usual))
            }
            LineTime::Wall(_) | LineTime::WallNoYear(_) => None,
        }
    }

    fn full(&mut self, raw: &[u8]) -> bool {
        let line = self.parser.parse(raw);
        self.sink.line(raw, line);
        self.parser.chosen() == self.chosen
    }
}

#[cfg(test)]
mod tests;
