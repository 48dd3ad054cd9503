//! One server as the detector knows it: its clock, its watermark and the facts around its sites.
//!
//! Facts (services, log lines, changes, resource levels) are kept ten minutes or so, in corrected
//! time, for corroboration, cause and change; they are bounded, and the oldest go first.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use wire::v1::Signal;

use super::change;
pub use super::levels::{Level, Span, Spell};
use super::silence::Presence;
use crate::model::ServerId;

/// Time over which the smallest difference of the clocks is taken, ms.
const CLOCK_MS: i64 = 300_000;
/// No message is under way for so long, ms: a difference that grew by more is a clock that was set.
const CLOCK_SET_MS: i64 = 60_000;
/// Nothing is known of later than this after the last arrival, ms: the rest of a second that began,
/// and what correction in whole seconds leaves.
const KNOWN_AHEAD_MS: i64 = 2_000;
/// Facts older than this are dropped, ms.
pub(super) const FACTS_MS: i64 = 900_000;
/// Log lines kept.
const LINES_MAX: usize = 200;
/// Changes kept.
const CHANGES_MAX: usize = 100;
/// A unit that went down longer ago than this has nothing to do with failures that begin now, unless
/// it serves them, ms.
const UNIT_MS: i64 = 900_000;
/// The same for a unit that nobody saw running, ms.
const UNSEEN_MS: i64 = 300_000;
/// Seconds of answers kept.
const ANSWERS_S: i64 = 12;
/// Units kept.
const UNITS_MAX: usize = 500;
/// An announced restart excuses failures for so long, ms.
const ANNOUNCED_MS: i64 = 6_000;
/// A restart announced within this of the last one extends nothing: it does not recover, ms.
const ANNOUNCED_AGAIN_MS: i64 = 60_000;
/// Age up to which a line of the kernel or about a full disk corroborates, ms.
pub(super) const LINE_FRESH_MS: i64 = 60_000;

/// Words in the name of a unit that stands between a visitor and a page.
const UNIT_WORDS: [&str; 29] = [
    "php",
    "fpm",
    "nginx",
    "apache",
    "httpd",
    "haproxy",
    "varnish",
    "lighttpd",
    "lsws",
    "lshttpd",
    "caddy",
    "traefik",
    "mysql",
    "mariadb",
    "postgres",
    "redis",
    "memcached",
    "node",
    "gunicorn",
    "uwsgi",
    "puma",
    "tomcat",
    "unicorn",
    "pm2",
    "keydb",
    "dragonfly",
    "valkey",
    "pgbouncer",
    "proxysql",
];

/// Words in the name of a unit that takes new settings without turning a request away: failures after
/// a reload of it are of what it reloaded.
const GRACEFUL_WORDS: [&str; 6] = ["nginx", "apache", "httpd", "haproxy", "caddy", "traefik"];

/// A unit and its last change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// `active`, `failed`, ...
    pub state: String,
    /// Since when, corrected.
    pub since: i64,
    /// Pool it serves.
    pub pool: Option<String>,
    /// It has been seen to run before.
    pub ran: bool,
    /// When it went down or began to restart by itself; `None` while it runs well.
    pub down_at: Option<i64>,
    /// Why it is in its state, where the agent could tell: `oom-kill`, `exit code 1`.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it came back, of a unit that was down.
    #[serde(default)]
    up_at: Option<i64>,
    /// How it was when it was down last.
    #[serde(default)]
    before: Option<Box<Unit>>,
}

impl Unit {
    /// Its state with its reason: `failed (oom-kill)`.
    #[must_use]
    pub fn state_in_words(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{} ({reason})", self.state),
            None => self.state.clone(),
        }
    }

    /// True when the kernel killed it for want of memory.
    #[must_use]
    pub fn is_oom(&self) -> bool {
        self.reason.as_ref().is_some_and(|reason| reason.starts_with("oom-kill"))
    }

    /// It comes back: what it was like until now explains failures of that time for good.
    fn rise(&mut self, at: i64) {
        if self.down_at.is_some() {
            // Restarting by itself it was down because it had failed.
            let state =
                if self.state == "activating" { "failed" } else { self.state.as_str() }.to_owned();
            let before = Self { state, up_at: Some(at), before: None, ..self.clone() };
            self.before = Some(Box::new(before));
            self.down_at = None;
        }
    }

    /// Whether it stands between a visitor and a page: by its name, or because sites name it.
    #[must_use]
    pub fn is_gateway(&self, name: &str) -> bool {
        self.pool.is_some() || is_gateway_unit(name)
    }
}

/// A log line worth evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When, corrected.
    pub at: i64,
    /// `kernel`, `php_fpm`, ...
    pub source: String,
    /// The line.
    pub text: String,
    /// What it says, by number.
    pub signal: i32,
    /// Pool it names.
    pub pool: Option<String>,
}

impl Line {
    /// Whether it says this.
    #[must_use]
    pub fn says(&self, signal: Signal) -> bool {
        self.signal == signal as i32
    }

    /// Whether it tells of a worker that broke memory rules or aborted.
    #[must_use]
    pub fn is_segfault(&self) -> bool {
        const SIGNALS: [&str; 4] = ["signal 11", "SIGSEGV", "signal 6", "signal 7"];
        self.says(Signal::Segfault)
            || (self.says(Signal::WorkerSignal) && SIGNALS.iter().any(|s| self.text.contains(s)))
    }

    /// Whether it tells of a worker killed outright.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.says(Signal::WorkerSignal)
            && (self.text.contains("signal 9") || self.text.contains("SIGKILL"))
    }

    /// Whether it tells of a worker ended because its request took too long.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.says(Signal::WorkerSignal) && self.text.contains("execution timed out")
    }
}

/// Something that was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// When, corrected.
    pub at: i64,
    /// `package`, `config`, ...
    pub kind: String,
    /// In words.
    pub what: String,
    /// Only site it touches.
    pub site: Option<String>,
    /// Only pool it touches.
    pub pool: Option<String>,
    /// What the same change is called on every server; empty until somebody asks.
    #[serde(default)]
    pub(crate) key: String,
    /// Whether it touches what serves the pages of the whole server; known with the key.
    #[serde(default)]
    pub(crate) of_stack: bool,
}

/// When a test of a server's own sites, pools or of itself held, on the collector's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// First, in this spell.
    pub first: i64,
    /// Last.
    pub last: i64,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its id.
    pub id: ServerId,
    /// Its name.
    pub name: String,
    /// Effective labels.
    pub labels: BTreeMap<String, String>,
    /// Logical processors; 0 unknown.
    pub n_cpu: u32,
    /// Its sites, by position in the fleet.
    pub sites: Vec<u32>,
    /// Nothing older than this is unsent, corrected; `None` until a watermark came.
    pub complete: Option<i64>,
    /// Newest event, corrected.
    pub newest: i64,
    /// When anything of it arrived last.
    pub arrived: i64,
    /// It has left the fleet for good.
    #[serde(default)]
    pub forgotten: bool,
    /// Records of it that were refused because of their time.
    #[serde(default)]
    pub n_misdated: u64,
    /// Whether it talks.
    #[serde(default)]
    pub presence: Presence,
    /// When its first site turned suspect, on the collector's clock; `None` while none is.
    pub suspect_since: Option<i64>,
    /// Units by name.
    pub units: BTreeMap<String, Unit>,
    /// Log lines, oldest first.
    pub lines: VecDeque<Line>,
    /// Changes, oldest first.
    pub changes: VecDeque<Changed>,
    /// Time of the newest change of the whole server, corrected; 0 none.
    #[serde(default)]
    pub(crate) changed_at: i64,
    /// Resource levels.
    pub levels: BTreeMap<Level, Span>,
    /// Times in which levels held, oldest first.
    #[serde(default)]
    pub(super) spells: BTreeMap<Level, VecDeque<Spell>>,
    /// Last values of what commands and words are made of: (when, corrected; value).
    #[serde(default)]
    pub(super) gauges: BTreeMap<String, (i64, f64)>,
    pub(super) counters: BTreeMap<String, f64>,
    /// When one of its own tests held.
    #[serde(default)]
    pub verdict: Option<Held>,
    /// What its sites answered well in the newest seconds, nats.
    #[serde(default)]
    answers: VecDeque<(i64, f64)>,
    /// Requests of the newest seconds, of sites whose norm is known.
    #[serde(default)]
    pub(super) requests: BTreeMap<i64, u64>,
    /// First second of them, and what their rate usually is: as of which second, requests a second.
    #[serde(default)]
    pub(super) requests_since: Option<i64>,
    #[serde(default)]
    pub(super) pace: Option<(i64, f64)>,
    announced: VecDeque<(i64, i64)>,
    clock: VecDeque<(i64, i64)>,
}

impl Server {
    pub(crate) fn new(id: ServerId) -> Self {
        Self {
            id,
            name: format!("server {}", id.0),
            labels: BTreeMap::new(),
            n_cpu: 0,
            sites: Vec::new(),
            complete: None,
            newest: 0,
            arrived: 0,
            forgotten: false,
            n_misdated: 0,
            presence: Presence::default(),
            suspect_since: None,
            units: BTreeMap::new(),
            lines: VecDeque::new(),
            changes: VecDeque::new(),
            changed_at: 0,
            levels: BTreeMap::new(),
            spells: BTreeMap::new(),
            gauges: BTreeMap::new(),
            verdict: None,
            answers: VecDeque::new(),
            counters: BTreeMap::new(),
            requests: BTreeMap::new(),
            requests_since: None,
            pace: None,
            announced: VecDeque::new(),
            clock: VecDeque::new(),
        }
    }

    /// How far the server's clock is behind the collector's, ms; the least of 5 minutes, because
    /// the way of a message only adds to it.
    #[must_use]
    pub fn clock_offset(&self) -> i64 {
        self.clock.front().map_or(0, |(_, offset)| *offset)
    }

    /// An instant of the server's clock on the collector's: whole seconds, when over one.
    #[must_use]
    pub fn corrected(&self, at: i64) -> i64 {
        at.saturating_add(self.clock_offset() / 1000 * 1000)
    }

    pub(crate) fn knows_clock(&self) -> bool {
        !self.clock.is_empty()
    }

    pub(crate) fn fold_clock(&mut self, arrived: i64, clock: i64) {
        let offset = arrived.saturating_sub(clock);
        // Rising offsets in the queue: the front is the least of the window.
        while self.clock.back().is_some_and(|(_, last)| *last >= offset) {
            self.clock.pop_back();
        }
        // Of one second the least is enough: a flood of heartbeats takes no more room than a few.
        if self.clock.back().is_none_or(|(at, _)| at.div_euclid(1000) != arrived.div_euclid(1000)) {
            self.clock.push_back((arrived, offset));
        }
        while self.clock.front().is_some_and(|(at, _)| *at < arrived.saturating_sub(CLOCK_MS)) {
            self.clock.pop_front();
        }
        // Two heartbeats in a row, not sent in one burst, say that the clock was set back.
        while let (Some((_, least)), Some((at, next))) = (self.clock.front(), self.clock.get(1))
            && next.saturating_sub(*least) > CLOCK_SET_MS
            && arrived - at >= 1000
        {
            self.clock.pop_front();
        }
    }

    pub(crate) fn fold_complete(&mut self, at: i64) {
        self.complete = Some(self.complete.map_or(at, |complete| complete.max(at)));
    }

    /// Up to when its events are known, ms: its watermark, else its newest event. Nobody knows
    /// anything of the time to come, whatever a server says.
    #[must_use]
    pub fn known_until(&self) -> i64 {
        let said = self.complete.unwrap_or(i64::MIN).max(self.newest);
        said.min(self.arrived.saturating_add(KNOWN_AHEAD_MS))
    }

    /// Takes a unit from elsewhere than its records, unless they told of it.
    pub(crate) fn restore_unit(&mut self, name: &str, unit: &Unit) {
        if self.units.len() < UNITS_MAX {
            self.units.entry(name.to_owned()).or_insert_with(|| unit.clone());
        }
    }

    pub(crate) fn fold_service(
        &mut self,
        at: i64,
        name: &str,
        state: &str,
        pool: Option<&str>,
        reason: Option<&str>,
    ) {
        if self.units.len() >= UNITS_MAX && !self.units.contains_key(name) {
            // Containers come and go: one that stopped gives way.
            let stopped = self.units.iter().filter(|(_, unit)| unit.state == "inactive");
            let first = stopped.min_by_key(|(_, unit)| unit.since).map(|(name, _)| name.clone());
            let Some(first) = first else { return };
            self.units.remove(&first);
        }
        let unit = self.units.entry(name.to_owned()).or_insert_with(|| Unit {
            state: String::new(),
            since: at,
            pool: None,
            ran: false,
            down_at: None,
            reason: None,
            up_at: None,
            before: None,
        });
        let failed_before = unit.state == "failed";
        let announces = match state {
            "reloading" => !reloads_gracefully(name),
            "activating" => unit.ran && !failed_before,
            _ => false,
        };
        match state {
            "active" | "reloading" => {
                unit.rise(at);
                unit.ran = true;
            }
            // Restarting by itself after a failure is still being down.
            "activating" if failed_before => {}
            "activating" => unit.rise(at),
            _ => unit.down_at = unit.down_at.or(Some(at)),
        }
        if unit.state != state {
            unit.since = at;
        }
        state.clone_into(&mut unit.state);
        unit.reason = reason.map(str::to_owned);
        // What stopped for good serves no pool any more: a container that another one replaced.
        if pool.is_some() || state == "inactive" {
            unit.pool = pool.map(str::to_owned);
        }
        let is_gateway = unit.is_gateway(name);
        if announces && is_gateway {
            self.announce(at);
        }
        if state == "failed" && is_gateway {
            // It does not come back: what fails from here on is no part of a restart.
            for (_, until) in &mut self.announced {
                *until = (*until).min(at - 1);
            }
        }
    }

    /// Whether a restart, told as `UNIT reloaded` and the like, keeps visitors from pages.
    fn interrupts(&self, restart: &Changed) -> bool {
        let (name, word) = restart.what.rsplit_once(' ').unwrap_or((&restart.what, ""));
        let serves = self.units.get(name).is_some_and(|unit| unit.is_gateway(name));
        (serves || restart.pool.is_some() || is_gateway_unit(name))
            && !(word == "reloaded" && reloads_gracefully(name))
    }

    /// Something restarts on purpose.
    fn announce(&mut self, at: i64) {
        if self.announced.back().is_some_and(|(from, _)| (at - from).abs() < ANNOUNCED_AGAIN_MS) {
            return;
        }
        self.announced.push_back((at, at + ANNOUNCED_MS));
        if self.announced.len() > 8 {
            self.announced.pop_front();
        }
    }

    /// Whether an announced restart excuses what fails in this second. All of it has this one reason:
    /// however many requests fail, they tell no more than one.
    #[must_use]
    pub fn is_restarting(&self, second: i64) -> bool {
        let at = second * 1000;
        let announced = |(from, until): &(i64, i64)| at + 999 >= *from && at <= *until;
        self.announced.iter().any(announced)
    }

    pub(crate) fn fold_line(&mut self, line: Line) {
        let at = line.at;
        let after = self.lines.iter().rposition(|l| l.at <= at).map_or(0, |ix| ix + 1);
        self.lines.insert(after, line);
        let oldest = self.lines.back().map_or(at, |l| l.at) - FACTS_MS;
        while self.lines.len() > LINES_MAX || self.lines.front().is_some_and(|l| l.at < oldest) {
            self.lines.pop_front();
        }
    }

    /// The server has another name: what its changes are called depends on it.
    pub(crate) fn rename(&mut self, name: &str) {
        if self.name != name {
            name.clone_into(&mut self.name);
            self.changes.iter_mut().for_each(|change| change.key.clear());
        }
    }

    pub(crate) fn fold_change(&mut self, mut change: Changed) {
        change.key = change::key_of(&self.name, &change);
        change.of_stack = change::is_of_stack(&change);
        if change.kind == "restart" && self.interrupts(&change) {
            self.announce(change.at);
        }
        let oldest = change.at - FACTS_MS;
        if change.site.is_none() {
            self.changed_at = self.changed_at.max(change.at);
        }
        self.changes.push_back(change);
        while self.changes.len() > CHANGES_MAX
            || self.changes.front().is_some_and(|c| c.at < oldest)
        {
            self.changes.pop_front();
        }
    }

    /// Adds what a site answered well in one second, nats.
    pub(crate) fn fold_ok(&mut self, second: i64, nats: f64) {
        let newest = self.answers.back().map_or(second, |(newest, _)| *newest);
        if second < newest - ANSWERS_S {
            return;
        }
        match self.answers.iter().rposition(|(known, _)| *known <= second) {
            Some(ix) if self.answers[ix].0 == second => self.answers[ix].1 += nats,
            Some(ix) => self.answers.insert(ix + 1, (second, nats)),
            None => self.answers.push_front((second, nats)),
        }
        while self.answers.front().is_some_and(|(known, _)| *known < newest.max(second) - ANSWERS_S)
        {
            self.answers.pop_front();
        }
    }

    /// What its sites answered well in the seconds `from..until`, nats.
    #[must_use]
    pub fn ok_between(&self, from: i64, until: i64) -> f64 {
        let inside = |(second, _): &&(i64, f64)| (from..until).contains(second);
        self.answers.iter().filter(inside).map(|(_, nats)| nats).sum()
    }

    /// A unit between visitors and pages of this pool (or of all) that went down at most `slack`
    /// ms after `first` and not long before it; no container whose pool another unit serves that
    /// runs. A unit that nobody saw running must have gone down just before. One that came back is
    /// as it was when it was down, if it was so at the first failure.
    #[must_use]
    pub fn unit_down(&self, pool: Option<&str>, first: i64, slack: i64) -> Option<(&str, &Unit)> {
        // Only what never comes back under its name: two versions of PHP may each serve a pool `www`.
        let replaced = |name: &str, unit: &Unit| {
            let of_pool = |other: &&Unit| unit.pool.is_some() && other.pool == unit.pool;
            let is_transient = name.rsplit_once('.').is_some_and(|(_, kind)| kind == "scope")
                || name.starts_with("run-");
            is_transient && self.units.values().filter(of_pool).any(|o| o.state == "active")
        };
        let now_or_before = self.units.iter().flat_map(|(name, unit)| {
            let before = unit.before.as_deref().filter(|u| u.up_at.is_some_and(|at| at >= first));
            [Some(unit), before].into_iter().flatten().map(move |unit| (name, unit))
        });
        let candidates = now_or_before.filter(|(name, unit)| {
            let own = unit.pool.is_some() && unit.pool.as_deref() == pool;
            let serves = own || unit.pool.is_none() || pool.is_none();
            let down = unit.down_at.is_some_and(|at| {
                let recent = at >= first - if unit.ran { UNIT_MS } else { UNSEEN_MS };
                at <= first + slack && (recent || (own && unit.ran))
            });
            down && serves && unit.is_gateway(name) && !replaced(name, unit)
        });
        // What serves the pool by name says more than what only may; then what went down first.
        let found = candidates.min_by_key(|(_, unit)| {
            (unit.pool.is_none() || unit.pool.as_deref() != pool, unit.down_at)
        });
        found.map(|(name, unit)| (name.as_str(), unit))
    }

    /// Nats that other facts add to the failures of this pool (or of all): a failed unit, a killed
    /// or crashed process, a full disk.
    #[must_use]
    pub fn corroboration(&self, pool: Option<&str>, first: i64) -> f64 {
        let until = self.known_until();
        let unit = self.unit_down(pool, until, 0).is_some_and(|(_, unit)| {
            let is_down = unit.down_at.is_some_and(|at| at >= first - FACTS_MS);
            is_down && unit.up_at.is_none() && unit.state == "failed"
        });
        let line = self.lines.iter().rev().take_while(|line| line.at > until - LINE_FRESH_MS).any(
            |line| {
                line.says(Signal::Oom) || line.says(Signal::Segfault) || line.says(Signal::DiskFull)
            },
        );
        f64::from(u8::from(unit)) * 2.0 + f64::from(u8::from(line)) * 1.5
    }
}

/// Whether a unit stands between a visitor and a page; others fail without hurting anyone here.
#[must_use]
pub fn is_gateway_unit(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    UNIT_WORDS.iter().any(|word| name.contains(word))
}

fn reloads_gracefully(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    GRACEFUL_WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_another_one_replaced_is_no_cause_for_ever() {
        let mut server = Server::new(ServerId(1));
        let shop = Some("127.0.0.1:3000");
        let cause = |server: &Server| {
            server.unit_down(shop, 90_000, 0).map(|(name, unit)| format!("{name} {}", unit.state))
        };
        server.fold_service(1_000, "docker-0a.scope", "active", shop, None);
        assert_eq!(cause(&server), None);
        server.fold_service(2_000, "docker-0a.scope", "failed", shop, Some("oom-kill"));
        assert_eq!(cause(&server).as_deref(), Some("docker-0a.scope failed"));
        server.fold_service(3_000, "docker-0b.scope", "active", shop, None);
        assert_eq!(cause(&server), None, "another one serves the pool");
        server.fold_service(4_000, "docker-0b.scope", "failed", shop, None);
        assert!(cause(&server).is_some(), "none serves it");
        server.fold_service(5_000, "docker-0a.scope", "inactive", None, None);
        server.fold_service(5_000, "docker-0b.scope", "inactive", None, None);
        assert_eq!(cause(&server), None, "gone for good, and nothing says that they serve it");
        // Two versions of PHP have a pool `www` each: one that runs replaces no other.
        server.fold_service(5_500, "php8.1-fpm.service", "active", Some("www"), None);
        // A service that was stopped is one still: it comes again under its name.
        server.fold_service(6_000, "php8.2-fpm.service", "active", Some("www"), None);
        server.fold_service(7_000, "php8.2-fpm.service", "inactive", Some("www"), None);
        assert!(server.unit_down(Some("www"), 8_000, 0).is_some());
    }

    #[test]
    fn a_unit_that_runs_again_still_explains_what_failed_while_it_was_down() {
        let mut server = Server::new(ServerId(1));
        let shop = Some("127.0.0.1:3001");
        server.fold_service(135_671, "app-shop.service", "failed", shop, None);
        server.fold_service(232_730, "app-shop.service", "activating", shop, None);
        server.fold_service(233_130, "app-shop.service", "active", shop, None);
        let down = |first| {
            let down = server.unit_down(shop, first, 2_000);
            down.map(|(name, unit)| format!("{name} {}", unit.state_in_words()))
        };
        assert_eq!(down(140_142).as_deref(), Some("app-shop.service failed"));
        assert_eq!(down(120_000), None, "it ran when that began");
        assert_eq!(down(240_000), None, "it runs when this begins");
        assert!(server.corroboration(shop, 140_142).abs() < 1e-9, "it is no news any more");
        let saved = serde_json::to_string(&server.units["app-shop.service"]).unwrap();
        let old = r#"{"state":"active","since":0,"pool":null,"ran":true,"down_at":null}"#;
        assert!(serde_json::from_str::<Unit>(old).is_ok(), "{saved}");
    }

    #[test]
    fn dead_containers_leave_room_for_units_that_come_later() {
        let mut server = Server::new(ServerId(1));
        for ix in 0..2 * UNITS_MAX as i64 {
            let name = format!("docker-{ix}.scope");
            server.fold_service(ix, &name, "active", Some("127.0.0.1:3000"), None);
            server.fold_service(ix, &name, "inactive", None, None);
        }
        server.fold_service(9_000, "nginx.service", "active", None, None);
        assert!(server.units.contains_key("nginx.service") && server.units.len() <= UNITS_MAX);
    }

    #[test]
    fn a_unit_that_went_down_long_ago_or_never_ran_explains_nothing_today() {
        let mut server = Server::new(ServerId(1));
        server.fold_service(0, "php7.4-fpm.service", "active", None, None);
        server.fold_service(1_000, "php7.4-fpm.service", "inactive", None, None);
        server.fold_service(1_000_000, "mariadb.service", "failed", None, None);
        let down = |first| server.unit_down(Some("www"), first, 0).map(|(name, _)| name);
        assert_eq!(down(2_000), Some("php7.4-fpm.service"));
        assert_eq!(down(950_000), None, "another version of PHP was retired a quarter ago");
        assert_eq!(down(1_001_000), Some("mariadb.service"), "it was seen to fail, not to run");
        assert_eq!(down(1_400_000), None);
    }
}
