//! Streams of records for tests: a fleet, its traffic and its faults, second by second.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::UnixMillis;

use super::Engine;
use crate::config::DetectConfig;
use crate::model::{
    Baseline, Counts, Exemplar, Incident, NotifyEvent, Record, ServerId, SiteId, Transition,
    TransitionEvent,
};

/// 2026-11-20T12:00:00Z.
pub(crate) const NOON: i64 = 1_795_176_000_000;
/// Slices of a second in which batches arrive while errors flow.
const SLICES: i64 = 4;
/// Way of a batch, ms.
const WAY_MS: i64 = 60;

pub(crate) const REFUSED: &str = "connect() to unix:/run/php/php8.2-fpm-www.sock failed (111: Connection refused) while connecting to upstream, client: 203.0.113.4, server: shop01.test, request: \"GET / HTTP/1.1\", upstream: \"fastcgi://unix:/run/php/php8.2-fpm-www.sock:\", host: \"shop01.test\"";
pub(crate) const NO_SOCKET: &str = "connect() to unix:/run/php/php8.2-fpm-www.sock failed (2: No such file or directory) while connecting to upstream, client: 203.0.113.5, server: shop03.test, request: \"GET /product/3774 HTTP/1.1\", upstream: \"fastcgi://unix:/run/php/php8.2-fpm-www.sock:\", host: \"shop03.test\"";
pub(crate) const EAGAIN: &str = "connect() to unix:/run/php/php8.2-fpm-www.sock failed (11: Resource temporarily unavailable) while connecting to upstream, client: 203.0.113.5, server: shop07.test, request: \"GET /shop/ HTTP/1.1\", upstream: \"fastcgi://unix:/run/php/php8.2-fpm-www.sock:\", host: \"shop07.test\"";
pub(crate) const RESET: &str = "recv() failed (104: Connection reset by peer) while reading response header from upstream, client: 203.0.113.6, server: shop11.test, request: \"GET /cart HTTP/1.1\", upstream: \"fastcgi://unix:/run/php/php8.2-fpm-shop11.sock:\", host: \"shop11.test\"";

/// What happens to the requests of one site in one second.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// All answered.
    Ok,
    /// All fail: status, error-log text ("" none was written).
    Fail(u16, &'static str),
    /// This many of ten fail.
    Partly(u32, u16, &'static str),
    /// No request at all.
    Idle,
    /// Other counts, no gateway error.
    Other(fn(u32) -> Counts),
}

/// A site of the script.
#[derive(Clone)]
pub(crate) struct Def {
    pub(crate) site: SiteId,
    /// Number of its server, from 1.
    pub(crate) server: i64,
    pub(crate) name: String,
    pub(crate) pool: Option<String>,
}

/// A stream in the making: (arrival, record).
#[derive(Clone, Default)]
pub(crate) struct Script {
    pub(crate) records: Vec<(i64, Record)>,
    pub(crate) sites: Vec<Def>,
    n_servers: i64,
    client: u64,
    /// What each text says: the same few are written thousands of times.
    said: BTreeMap<&'static str, Option<wire::v1::Signal>>,
    /// Every failure comes from this client.
    pub(crate) only_client: Option<u64>,
    /// Way of the batches, ms.
    pub(crate) delay_ms: i64,
}

/// Milliseconds of a second of the script.
pub(crate) fn at(second: i64) -> i64 {
    NOON + second * 1000
}

impl Script {
    /// A server with pools and so many sites in each; pool "" means unknown.
    pub(crate) fn server(mut self, name: &str, pools: &[(&str, usize)]) -> Self {
        self.n_servers += 1;
        let server = ServerId(self.n_servers);
        let arrived = at(-60);
        // Scripts end before they are played to their end: nobody is silent for that.
        let heartbeat = Duration::from_secs(600);
        let labels = BTreeMap::new();
        let record = Record::Server { server, name: name.into(), labels, n_cpu: 4, heartbeat };
        self.records.push((arrived, record));
        for (pool, n) in pools {
            for _ in 0..*n {
                let ix = self.sites.len() as i64 + 1;
                let (site, name) = (SiteId(ix), format!("shop{ix:02}.test"));
                let remote = pool.contains(':');
                let upstream = remote.then(|| (*pool).to_owned());
                let pool = (!remote && !pool.is_empty()).then(|| (*pool).to_owned());
                let (server_no, of_pool) = (self.n_servers, pool.clone());
                let def = Def { site, server: server_no, name: name.clone(), pool: of_pool };
                self.sites.push(def);
                let baseline =
                    Some(Baseline { days: 28.0, n_requests: 2_000_000, n_gateway_errors: 20 });
                let record = Record::Site { site, server, name, pool, upstream, baseline };
                self.records.push((arrived, record));
            }
        }
        self
    }

    /// Labels of the last server, as in "rack=r1 region=eu".
    pub(crate) fn labelled(mut self, words: &str) -> Self {
        let server = ServerId(self.n_servers);
        for (_, record) in &mut self.records {
            if let Record::Server { server: id, labels, .. } = record
                && *id == server
            {
                let words = words.split_whitespace().filter_map(|word| word.split_once('='));
                labels.extend(words.map(|(k, v)| (k.to_owned(), v.to_owned())));
            }
        }
        self
    }

    /// So many servers with one pool of so many sites each; `labels` by their number, from 1.
    pub(crate) fn fleet(
        mut self,
        n_servers: i64,
        n_sites: usize,
        labels: impl Fn(i64) -> String,
    ) -> Self {
        for n in 1..=n_servers {
            let name = format!("web-{n:03}");
            self = self.server(&name, &[("www", n_sites)]).labelled(&labels(n));
        }
        self
    }

    /// Seconds `from..until`: `rate` requests a second and site, `fate` decides.
    pub(crate) fn run(
        mut self,
        from: i64,
        until: i64,
        rate: u32,
        fate: impl Fn(&Def, i64) -> Fate,
    ) -> Self {
        for second in from..until {
            for def in self.sites.clone() {
                self.second(&def, second, rate, fate(&def, second));
            }
            self.complete(second);
        }
        self
    }

    /// One request every `every` seconds and site, the sites one after the other.
    pub(crate) fn slowly(
        mut self,
        from: i64,
        until: i64,
        every: i64,
        fate: impl Fn(&Def, i64) -> Fate,
    ) -> Self {
        for second in from..until {
            for def in self.sites.clone() {
                if (second + def.site.0 * 7) % every == 0 {
                    self.second(&def, second, 1, fate(&def, second));
                }
            }
            self.complete(second);
        }
        self
    }

    fn complete(&mut self, second: i64) {
        for n in 1..=self.n_servers {
            let (server, at) = (ServerId(n), UnixMillis(at(second + 1)));
            let arrived = at.0 + WAY_MS + self.delay_ms;
            self.records
                .push((arrived, Record::Heartbeat { server, at, clock: UnixMillis(arrived - 20) }));
        }
    }

    fn second(&mut self, def: &Def, second: i64, rate: u32, fate: Fate) {
        for slice in 0..SLICES {
            let n = (rate + slice as u32) / SLICES as u32;
            if n > 0 {
                let arrived = at(second) + (slice + 1) * 1000 / SLICES + WAY_MS + self.delay_ms;
                self.slice(def, second, n, fate, arrived);
            }
        }
    }

    fn slice(&mut self, def: &Def, second: i64, n: u32, fate: Fate, arrived: i64) {
        let when = UnixMillis(at(second));
        let (failed, status, text) = match fate {
            Fate::Idle => return,
            Fate::Ok => (0, 0, ""),
            Fate::Fail(status, text) => (n, status, text),
            Fate::Partly(tenths, status, text) => {
                let roll = (self.client.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 10;
                self.client += 1;
                (if roll < u64::from(tenths) { n } else { 0 }, status, text)
            }
            Fate::Other(counts) => {
                let record = Record::Requests { site: def.site, at: when, counts: counts(n) };
                self.records.push((arrived, record));
                return;
            }
        };
        let classified = self.said.entry(text);
        let signal = *classified.or_insert_with(|| wire::signal::classify(text));
        for _ in 0..failed.min(5) {
            self.client += 1;
            let client = self.only_client.unwrap_or(self.client);
            let message = Some(text.to_owned());
            let upstream = text.split("upstream: \"").nth(1).and_then(|t| t.split('"').next());
            let record = Record::Exemplar(Exemplar {
                site: def.site,
                at: when,
                status,
                pool: None,
                client,
                path: 1,
                upstream: upstream.map(str::to_owned),
                message,
                signal,
            });
            self.records.push((arrived, record));
        }
        let mut counts = Counts { n, ..Counts::default() };
        match status {
            503 => counts.n_503 = failed,
            504 => counts.n_504 = failed,
            _ => counts.n_502 = failed,
        }
        self.records.push((arrived, Record::Requests { site: def.site, at: when, counts }));
    }

    /// A unit changes state.
    pub(crate) fn unit(mut self, second: i64, server: i64, unit: &str, state: &str) -> Self {
        let record = Record::Service {
            server: ServerId(server),
            at: UnixMillis(at(second)),
            unit: unit.into(),
            // "failed (oom-kill)" in one word of the script.
            state: state.split(' ').next().unwrap_or_default().into(),
            pool: None,
            reason: state.split_once('(').map(|(_, why)| why.trim_end_matches(')').to_owned()),
        };
        self.records.push((at(second) + WAY_MS, record));
        self
    }

    /// A system log line, read by the same words as the agent reads it.
    pub(crate) fn line(mut self, second: i64, server: i64, source: &str, text: &str) -> Self {
        let pool = text.split("[pool ").nth(1).and_then(|t| t.split(']').next());
        let record = Record::Log {
            server: ServerId(server),
            at: UnixMillis(at(second)),
            source: source.into(),
            message: text.into(),
            signal: wire::signal::classify(text),
            pool: pool.map(str::to_owned),
        };
        self.records.push((at(second) + WAY_MS, record));
        self
    }

    /// A change on a server.
    pub(crate) fn change(mut self, second: i64, server: i64, kind: &str, what: &str) -> Self {
        let record = Record::Change {
            server: ServerId(server),
            at: UnixMillis(at(second)),
            kind: kind.into(),
            what: what.into(),
            site: None,
            pool: None,
        };
        self.records.push((at(second) + WAY_MS, record));
        self
    }

    /// A change that touches one site alone.
    pub(crate) fn change_of(mut self, second: i64, site: &str, kind: &str, what: &str) -> Self {
        self = self.change(second, 1, kind, what);
        if let Some((_, Record::Change { site: of, .. })) = self.records.last_mut() {
            *of = Some(site.to_owned());
        }
        self
    }

    /// A resource sample.
    pub(crate) fn sample(
        mut self,
        second: i64,
        server: i64,
        values: &[(&'static str, f64)],
    ) -> Self {
        let values = values.iter().map(|(k, v)| (*k, String::new(), *v)).collect();
        let at = UnixMillis(at(second));
        let record = Record::Sample { server: ServerId(server), at, values };
        self.records.push((at.0 + WAY_MS, record));
        self
    }

    /// Records in order of arrival.
    pub(crate) fn in_order(&self) -> Vec<(i64, Record)> {
        let mut records = self.records.clone();
        records.sort_by_key(|(arrived, _)| *arrived);
        records
    }

    /// Plays everything to an engine and gives what it decides, up to `until` seconds.
    pub(crate) fn play(&self, until: i64) -> Played {
        let mut engine = Engine::new(&DetectConfig::default());
        let mut transitions = Vec::new();
        for (arrived, record) in self.in_order() {
            if arrived > at(until) {
                break;
            }
            transitions.extend(engine.advance(UnixMillis(arrived - 1)));
            engine.fold(UnixMillis(arrived), &record);
        }
        transitions.extend(engine.advance(UnixMillis(at(until))));
        let played = Played { transitions };
        played.check();
        played
    }
}

/// What an engine decided.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) transitions: Vec<Transition>,
}

impl Played {
    /// What holds of every incident: no id is given twice, its revisions rise, and what opens is of
    /// somebody.
    pub(crate) fn check(&self) {
        let mut revs: BTreeMap<&str, u64> = BTreeMap::new();
        for transition in &self.transitions {
            let (incident, rev) = (&transition.incident, transition.rev);
            let before = revs.insert(&incident.id, rev);
            let (id, title) = (&incident.id, &incident.title);
            assert!(before.is_none_or(|before| before < rev), "{id} {before:?} to {rev}: {title}");
            let opens =
                [TransitionEvent::Open, TransitionEvent::Reopen].contains(&transition.event);
            let n_affected = incident.affected.n_sites + incident.affected.n_servers;
            assert!(!opens || n_affected > 0, "{id} opens without members: {title}");
        }
    }

    /// The last state of every incident, merged ones apart.
    pub(crate) fn last(&self) -> Vec<Incident> {
        self.check();
        let mut last: BTreeMap<&str, &Incident> = BTreeMap::new();
        for transition in &self.transitions {
            last.insert(&transition.incident.id, &transition.incident);
        }
        last.into_values().filter(|incident| incident.parent.is_none()).cloned().collect()
    }

    /// The only incident there is.
    pub(crate) fn only(&self) -> Incident {
        let last = self.last();
        assert_eq!(last.len(), 1, "{:#?}", last.iter().map(|i| &i.title).collect::<Vec<_>>());
        last.into_iter().next().expect("there is one")
    }

    /// The only incident that is open.
    pub(crate) fn only_open(&self) -> Incident {
        let mut open: Vec<_> = self.last().into_iter().filter(|i| i.state == "open").collect();
        assert_eq!(open.len(), 1, "{:#?}", open.iter().map(|i| &i.title).collect::<Vec<_>>());
        open.remove(0)
    }

    /// Events of the incidents in order, with seconds since noon.
    pub(crate) fn events(&self, event: TransitionEvent) -> Vec<(f64, String)> {
        let found = self.transitions.iter().filter(|t| t.event == event);
        found.map(|t| ((t.at.0 - NOON) as f64 / 1000.0, t.incident.title.clone())).collect()
    }

    /// What was told: event, when. A page that waited and was put off is one, as in the outbox.
    pub(crate) fn told(&self) -> Vec<(NotifyEvent, f64)> {
        let mut told: Vec<(&str, NotifyEvent, UnixMillis)> = Vec::new();
        for (transition, notify) in self.transitions.iter().filter_map(|t| Some((t, t.notify?))) {
            let id = transition.incident.id.as_str();
            let last = told.iter_mut().rev().find(|(of, ..)| *of == id);
            match last.filter(|(_, event, due)| {
                let ends = [*event, notify.event].contains(&NotifyEvent::Resolved);
                !ends && *due >= transition.at
            }) {
                Some((_, _, due)) => *due = notify.due,
                None => told.push((id, notify.event, notify.due)),
            }
        }
        told.into_iter().map(|(_, event, due)| (event, (due.0 - NOON) as f64 / 1000.0)).collect()
    }
}

/// Whether a site is of a pool, has this name, or "*".
pub(crate) fn is_in(def: &Def, pool: &str) -> bool {
    pool == "*" || def.pool.as_deref() == Some(pool) || def.name == pool
}

/// Sites of `pool` (or the site of that name, or "*" all) fail with `text` in `from..until`.
pub(crate) fn outage(
    script: Script,
    pool: &'static str,
    (from, until, end): (i64, i64, i64),
    text: &'static str,
) -> Script {
    script.run(0, end, 5, move |def, second| {
        let hit = is_in(def, pool) && (from..until).contains(&second);
        if hit { Fate::Fail(502, text) } else { Fate::Ok }
    })
}

/// One server with two pools of 8 and 4 sites.
pub(crate) fn two_pools() -> Script {
    Script::default().server("web-07", &[("www", 8), ("shop", 4)])
}
