//! Lines far ahead of the stream: they wait until others confirm that it went on to their time, so
//! that one server whose clock lies does not end the time of all. Pure.
//!
//! Needed only where a line does not say when it arrived: then its time is that of its server's clock.
//! While lines wait, each server votes with the time it spoke of last. The lower median of the votes
//! is where the stream is: up to half of the voters may lie, and a legitimate gap of hours is passed
//! as soon as the servers behind it have spoken.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::line::{Kind, Line};

/// How far a line may be ahead of the stream without being doubted, ms.
pub(super) const AHEAD_MS: i64 = 600_000;
/// Before it nothing was recorded, ms: the year 2000.
pub(super) const ANCIENT_MS: i64 = 946_684_800_000;
/// Servers whose votes are enough.
const VOTERS_MAX: usize = 8;
/// Lines that wait, and their bytes; with more the votes there are must do.
const LINES_MAX: usize = 50_000;
const BYTES_MAX: usize = 32 << 20;
/// A server that goes on for so long while no other says a word is believed alone at the end, ms.
const ALONE_MS: i64 = 60_000;

/// A line that waits.
pub(super) struct Held {
    pub(super) name: Rc<str>,
    pub(super) n: u64,
    pub(super) text: Box<[u8]>,
}

/// What is to be done with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is taken at once.
    Now,
    /// It waits.
    Wait,
    /// It says itself when it arrived: what waits is taken first, up to that time.
    Settles(i64),
}

/// The lines that wait.
#[derive(Default)]
pub(super) struct Ahead {
    held: Vec<Held>,
    n_bytes: usize,
    /// Of each server the time it spoke of last, since lines wait.
    votes: BTreeMap<Box<str>, i64>,
    n_votes: usize,
    /// Earliest and latest time of those that wait.
    span: Option<(i64, i64)>,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// When it is the turn of a line, by the clock of the stream.
    pub(super) fn turn(&self, line: &Line<'_>, clock: Option<i64>) -> Turn {
        let Some(at) = arrival(line) else {
            // What waits may be of the servers and sites that this one names, or the other way round.
            return if self.is_empty() { Turn::Now } else { Turn::Wait };
        };
        if clock.is_some_and(|clock| at <= clock.saturating_add(AHEAD_MS)) {
            return Turn::Now;
        }
        // The collector's own records are dated by its own clock.
        let is_sure = line.arrived_at.is_some() || line.kind == Kind::Collector;
        match is_sure {
            false => Turn::Wait,
            true if self.is_empty() => Turn::Now,
            true => Turn::Settles(at.saturating_add(AHEAD_MS)),
        }
    }

    /// Counts the vote of a line, if it has a time.
    pub(super) fn vote(&mut self, line: &Line<'_>) {
        let Some(at) = arrival(line) else { return };
        self.n_votes += 1;
        let server = line.server.as_deref().unwrap_or_default();
        match self.votes.get_mut(server) {
            Some(vote) => *vote = at,
            None => drop(self.votes.insert(server.into(), at)),
        }
    }

    /// Lets a line wait, and counts its vote.
    pub(super) fn hold(&mut self, name: &str, n: u64, text: &[u8], line: &Line<'_>) {
        self.vote(line);
        if let Some(at) = arrival(line) {
            let (first, last) = self.span.unwrap_or((at, at));
            self.span = Some((first.min(at), last.max(at)));
        }
        let name = match self.held.last() {
            Some(last) if *last.name == *name => last.name.clone(),
            _ => name.into(),
        };
        self.n_bytes += text.len();
        self.held.push(Held { name, n, text: text.into() });
    }

    /// Up to which time the waiting lines are believed, once that is plain: of a stream of so many
    /// servers, which ends here or not.
    pub(super) fn verdict(
        &self,
        clock: Option<i64>,
        n_servers: usize,
        is_end: bool,
    ) -> Option<i64> {
        if self.is_empty() {
            return None;
        }
        let is_full = self.held.len() >= LINES_MAX || self.n_bytes >= BYTES_MAX;
        let is_voted = self.n_votes >= 2 && self.votes.len() >= n_servers.clamp(1, VOTERS_MAX);
        if !(is_full || is_voted || is_end) {
            return None;
        }
        let mut votes: Vec<i64> = self.votes.values().copied().collect();
        votes.sort_unstable();
        let middle = votes.get(votes.len().saturating_sub(1) / 2).copied();
        let confirmed = middle.map_or(i64::MIN, |at| at.saturating_add(AHEAD_MS));
        let Some(clock) = clock else { return Some(confirmed) };
        let lasts = self.span.map_or(0, |(first, last)| last - first);
        let is_alone = n_servers > 1 && self.votes.len() == 1 && lasts < ALONE_MS;
        let is_doubted = is_end && (self.n_votes < 2 || is_alone);
        let unmoved = clock.saturating_add(AHEAD_MS);
        Some(if is_doubted { unmoved } else { confirmed.max(unmoved) })
    }

    /// Gives out what waits, in order.
    pub(super) fn take(&mut self) -> Vec<Held> {
        std::mem::take(self).held
    }
}

/// When a line arrived, as far as that is said and no nonsense.
pub(super) fn arrival(line: &Line<'_>) -> Option<i64> {
    line.arrived_at.or(line.at).filter(|at| *at >= ANCIENT_MS)
}
