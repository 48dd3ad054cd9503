//! A past for reports to look at: `past DIR [until=RFC3339] [days=45] [step=300] [raw=14]
//! [truth=FILE]`.
//!
//! Makes a data directory in which ten servers that do not exist have sampled and counted for weeks, each
//! with its own trouble. Everything takes the way that real batches take: packed as agents pack them,
//! ingest, store, keeper; incidents are what the real detector makes of it, minute by minute around the
//! times at which something goes wrong. With `truth=` servers are added to which odd things happened, the
//! last hours are not packed, and every sample and count is written to a file as well, for tests that
//! compute again what reports say. Nothing here is ever part of gatewatch itself.

mod feeder;
mod fleet;
mod machine;
mod odd;
mod traffic;
mod truth;

use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use gatewatch_collector::clock;
use gatewatch_collector::config::RetentionConfig;
use wire::UnixMillis;
use wire::units::Span;
use wire::v1::BatchBody;

use feeder::{Failed, Feeder, Joins};
use fleet::{Episode, Kind, SERVERS, Server};
use machine::Machine;
use odd::Odd;
use truth::Truth;

const HOUR_S: i64 = 3600;
/// Seconds between batches of a server that fails, and of the others meanwhile.
const CLOSE_S: i64 = 10;
const NEAR_S: i64 = 60;
/// Seconds that the detector watches before and after something goes wrong.
const BEFORE_S: i64 = 600;
const AFTER_S: i64 = 900;
/// What is not packed at the end of a past with a truth, seconds.
const UNPACKED_S: i64 = 3 * HOUR_S;
/// How long a batch is on its way, ms.
const WAY_MS: i64 = 300;

/// The fleet while its past is made.
struct Past {
    feeder: Feeder,
    machines: Vec<Machine>,
    episodes: Vec<Episode>,
    /// What each server has sent everything up to, a second.
    sent: Vec<i64>,
    /// First second of each server.
    from: Vec<i64>,
    end: i64,
    /// Seconds between samples when nothing happens.
    step: i64,
}

fn main() -> Result<(), Failed> {
    let mut words = std::env::args().skip(1);
    let usage = "usage: past DIR [until=RFC3339] [days=45] [step=300] [raw=14] [truth=FILE]";
    let dir: PathBuf = words.next().ok_or(usage)?.into();
    let (mut until, mut days, mut step) = (clock::now().0 / 1000, 45, 300);
    let (mut truth, mut retention) = (None, RetentionConfig::default());
    for word in words {
        match word.split_once('=') {
            Some(("until", at)) => until = at.parse::<jiff::Timestamp>()?.as_second(),
            Some(("days", n)) => days = n.parse()?,
            Some(("step", n)) => step = n.parse()?,
            Some(("raw", n)) => retention.raw = Span(Duration::from_hours(24 * n.parse::<u64>()?)),
            Some(("truth", file)) => truth = Some(Truth::create(file.as_ref())?),
            _ => return Err(format!("{word:?} makes no sense").into()),
        }
    }
    if !(1..=400).contains(&days) || ![60, 120, 300, 600].contains(&step) {
        return Err("days are 1 to 400, step is 60, 120, 300 or 600".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(make(dir, until.div_euclid(HOUR_S) * HOUR_S, (days, step), retention, truth))
}

async fn make(
    dir: PathBuf,
    end: i64,
    (days, step): (i64, i64),
    retention: RetentionConfig,
    truth: Option<Truth>,
) -> Result<(), Failed> {
    std::fs::create_dir_all(&dir)?;
    let is_odd = truth.is_some();
    let mut feeder = Feeder::open(&dir, retention, truth)?;
    let begin = end - days * 86_400;
    let mut from = Vec::new();
    for server in &SERVERS {
        let age = server.age_days * 86_400;
        let first = if age == 0 { begin } else { (end - age).max(begin) };
        let labels = server.labels.split(' ').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let name = server.name.to_owned();
        let (n_cpu, n_sites) = (server.vcpu as u32, server.sites.len() as u32);
        feeder.join(Joins { name, labels, n_cpu, n_sites, at: UnixMillis(first * 1000) }).await?;
        from.push(first);
    }
    let mut episodes = fleet::episodes(end);
    episodes.retain(|episode| episode.from - BEFORE_S > from[episode.server]);
    let mut odd = if is_odd { Some(Odd::join(&mut feeder, begin, end).await?) } else { None };
    let machines = vec![Machine::default(); SERVERS.len()];
    let mut past = Past { feeder, machines, episodes, sent: from.clone(), from, end, step };
    for hour in (begin..end).step_by(HOUR_S as usize) {
        past.hour(hour).await?;
        if let Some(odd) = &mut odd {
            odd.hour(&mut past.feeder, hour).await?;
        }
        let is_packed = !is_odd || hour + HOUR_S < end - UNPACKED_S;
        if (hour + HOUR_S - begin) % (12 * HOUR_S) == 0 && is_packed {
            past.feeder.pack(UnixMillis((hour + HOUR_S + 1200) * 1000)).await?;
        }
    }
    let packed = if is_odd { end - UNPACKED_S } else { end + 1200 };
    past.feeder.pack(UnixMillis(packed * 1000)).await?;
    let (n_batches, n_incidents) = (past.feeder.n_batches, past.feeder.n_incidents);
    past.feeder.close(UnixMillis(end * 1000)).await?;
    let end = UnixMillis(end * 1000).to_rfc3339();
    let said = format!("{days} days up to {end}: {n_batches} batches, {n_incidents} incidents");
    Ok(writeln!(std::io::stdout(), "{said}")?)
}

impl Past {
    /// Lives one hour: calm time in one batch of each server, the rest step by step.
    async fn hour(&mut self, hour: i64) -> Result<(), Failed> {
        let mut at = hour;
        while at < hour + HOUR_S {
            let Some(window) = self.window(at) else {
                let starts = self.episodes.iter().map(|episode| episode.from - BEFORE_S);
                let next = starts.filter(|start| *start > at).min().unwrap_or(i64::MAX);
                at = next.min(hour + HOUR_S);
                self.send_all(at).await?;
                continue;
            };
            if at == window.start {
                let there: Vec<usize> =
                    (0..SERVERS.len()).filter(|no| self.is_on(*no, at)).collect();
                self.feeder.watch(UnixMillis(at * 1000), &there).await?;
            }
            at += CLOSE_S;
            self.step(at).await?;
            if at >= window.end {
                self.feeder.unwatch(UnixMillis(at * 1000 + 500)).await?;
            }
        }
        Ok(())
    }

    /// The time around episodes that a second is in.
    fn window(&self, at: i64) -> Option<Range<i64>> {
        let around = |episode: &Episode| episode.from - BEFORE_S..episode.to + AFTER_S;
        let mut window: Option<Range<i64>> = None;
        // Oldest first: one that touches the window before makes it longer.
        for next in self.episodes.iter().map(around) {
            match &mut window {
                Some(window) if next.start <= window.end => window.end = window.end.max(next.end),
                Some(window) if window.contains(&at) => break,
                _ => window = Some(next),
            }
        }
        window.filter(|window| window.contains(&at))
    }

    async fn step(&mut self, at: i64) -> Result<(), Failed> {
        for no in 0..SERVERS.len() {
            if !self.is_on(no, at) {
                self.sent[no] = self.sent[no].max(at);
                continue;
            }
            if self.is_close(no, at) || at % NEAR_S == 0 {
                self.send(no, at).await?;
            }
            self.feeder.beat(no, UnixMillis(at * 1000 + WAY_MS));
        }
        Ok(())
    }

    async fn send_all(&mut self, at: i64) -> Result<(), Failed> {
        for no in 0..SERVERS.len() {
            self.send(no, at).await?;
        }
        Ok(())
    }

    /// Whether it runs and reaches the collector.
    fn is_on(&self, no: usize, at: i64) -> bool {
        let is_silent = |episode: &Episode| {
            episode.server == no
                && episode.kind == Kind::Silence
                && (episode.from..episode.to).contains(&at)
        };
        at > self.from[no] && !self.episodes.iter().any(is_silent)
    }

    /// Whether something is wrong with it, or soon or lately was.
    fn is_close(&self, no: usize, at: i64) -> bool {
        self.episodes.iter().any(|episode| {
            let around = episode.from - BEFORE_S..episode.to + AFTER_S;
            episode.server == no && around.contains(&at)
        })
    }

    /// Sends what a server sampled and counted since its last batch.
    async fn send(&mut self, no: usize, until: i64) -> Result<(), Failed> {
        let (first, server) = (self.sent[no], &SERVERS[no]);
        if first >= until {
            return Ok(());
        }
        self.sent[no] = until;
        let body = self.body((no, server), first..until);
        self.feeder.send(no, &body, until, UnixMillis(until * 1000 + WAY_MS)).await
    }

    fn body(&mut self, (no, server): (usize, &Server), span: Range<i64>) -> BatchBody {
        let mut body = BatchBody { sites: traffic::sites(server), ..BatchBody::default() };
        let mut at = span.start;
        while at < span.end {
            let own: Vec<Episode> =
                self.episodes.iter().filter(|episode| episode.server == no).copied().collect();
            let now = own.iter().find(|episode| (episode.from..episode.to).contains(&at));
            let is_close = self.is_close(no, at);
            let step = match (now, is_close) {
                (Some(_), _) => 1,
                (_, true) => CLOSE_S,
                _ => self.step,
            };
            let next = (at.div_euclid(step) + 1) * step;
            let next = next.min(span.end);
            let samples = if is_close { CLOSE_S } else { self.step };
            if at % samples == 0 {
                let sampled = self.machines[no].sample((no, server), at, self.end, now);
                body.ticks.push(machine::tick(&mut body.series, at, sampled));
            }
            traffic::count(&mut body, (no, server), (at, next - at), now);
            if at == self.from[no] {
                traffic::begin(&mut body, server, at);
            }
            let mut n_restarts = 0;
            for episode in &own {
                let is_service = matches!(episode.kind, Kind::Service(_));
                n_restarts += u32::from(is_service && episode.to <= at);
                traffic::say(&mut body, server, at, (episode, n_restarts));
            }
            at = next;
        }
        body
    }
}
