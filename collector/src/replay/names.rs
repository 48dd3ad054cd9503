//! Names of servers and sites to the ids of the detector, and decoded lines to its records.
//!
//! Ids are given in order of first appearance. Bounds: [`SERVERS_MAX`] servers, [`SITES_MAX`] sites
//! of one, [`SITES_ALL_MAX`] of all; what lies beyond is counted and left out, so no stream takes more
//! memory than that.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use wire::UnixMillis;
use wire::said;
use wire::v1::Signal;

use super::line::{Kind, Line};
use super::report::Skipped;
use crate::ingest::convert::{NAME_BYTES_MAX, TEXT_BYTES_MAX, clip, name};
use crate::model::{Baseline, CollectorEvent, Counts, Exemplar, Record, ServerId, SiteId};

/// Most servers of one replay.
pub(crate) const SERVERS_MAX: usize = 100_000;
/// Most sites of one server: so many may one batch of a live server name.
pub(crate) const SITES_MAX: usize = 20_000;
/// Most sites of all servers together.
pub(crate) const SITES_ALL_MAX: i64 = 4_000_000;
/// Heartbeats of a server that does not say how often they come.
const HEARTBEAT_MS: i64 = 5_000;

/// A hasher for short names that strangers cannot make millions of: eight bytes at a time, mixed as
/// in Fx (the hash of rustc and Firefox).
#[derive(Clone, Copy, Default)]
pub(crate) struct NameHasher(u64);

impl NameHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(last));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(byte.into());
    }

    fn finish(&self) -> u64 {
        // The table takes its place from the low bits, the multiplication leaves the best ones high.
        self.0.rotate_left(26)
    }
}

type ByName<T> = HashMap<Box<str>, T, BuildHasherDefault<NameHasher>>;

#[derive(Debug)]
struct Known {
    name: Box<str>,
    id: ServerId,
    sites: ByName<SiteId>,
}

/// Every name so far.
#[derive(Debug)]
pub(crate) struct Names {
    servers: Vec<Known>,
    by_name: ByName<usize>,
    /// Server of the last line: most often also that of the next one.
    last: usize,
    n_sites: i64,
    n_sites_max: i64,
}

impl Default for Names {
    fn default() -> Self {
        Self::with_most(SITES_ALL_MAX)
    }
}

impl Names {
    /// None so far, and at most so many sites.
    fn with_most(n_sites_max: i64) -> Self {
        let (servers, by_name) = (Vec::new(), ByName::default());
        Self { servers, by_name, last: 0, n_sites: 0, n_sites_max }
    }

    pub(crate) fn n_servers(&self) -> usize {
        self.servers.len()
    }

    pub(crate) fn n_sites(&self) -> i64 {
        self.n_sites
    }

    /// Adds the records of one line. `Err` says why there are none; what is odd and taken all the
    /// same is counted in `skipped`. A record that needs a time has one.
    pub(crate) fn records(
        &mut self,
        line: &mut Line<'_>,
        skipped: &mut Skipped,
        out: &mut Vec<Record>,
    ) -> Result<(), &'static str> {
        let at = UnixMillis(line.at.unwrap_or_default());
        match line.kind {
            Kind::Header | Kind::End => return Ok(()),
            Kind::Collector => {
                let event = line.said.as_deref().and_then(collector_event);
                let event = event.ok_or("its `event` is none of a collector")?;
                out.push(Record::Collector { at, event });
                return Ok(());
            }
            _ => {}
        }
        let Some(ix) = self.server(line, skipped, out)? else { return Ok(()) };
        let server = self.servers[ix].id;
        match line.kind {
            Kind::Requests => {
                let Some(site) = self.site(ix, line, skipped, out)? else { return Ok(()) };
                out.push(Record::Requests { site, at, counts: counts(line) });
            }
            Kind::Exemplar => {
                let Some(site) = self.site(ix, line, skipped, out)? else { return Ok(()) };
                out.push(exemplar(line, site, at)?);
            }
            Kind::Site => {
                let Some(site) = self.site(ix, line, skipped, out)? else { return Ok(()) };
                out.push(known_site(line, site, server));
            }
            Kind::Server => out.push(known_server(line, server)),
            Kind::Heartbeat => {
                let clock = UnixMillis(line.clock.unwrap_or(at.0));
                out.push(Record::Heartbeat { server, at, clock });
                // All is sent that lies before it: what a batch says at its end.
                out.push(Record::Complete { server, at });
            }
            Kind::Hello => out.push(Record::Hello { server, at }),
            Kind::Goodbye => out.push(Record::Goodbye { server, at }),
            _ => out.extend(context(line, server, at)?),
        }
        Ok(())
    }

    /// Position of the line's server. One that no `server` record names is taken without labels.
    fn server(
        &mut self,
        line: &Line<'_>,
        skipped: &mut Skipped,
        out: &mut Vec<Record>,
    ) -> Result<Option<usize>, &'static str> {
        let text = line.server.as_deref().unwrap_or_default();
        if let Some(known) = self.servers.get(self.last)
            && *known.name == *text
        {
            return Ok(Some(self.last));
        }
        if let Some(ix) = self.by_name.get(text) {
            self.last = *ix;
            return Ok(Some(*ix));
        }
        let name = name(text).ok_or("it names no server")?;
        let ix = match self.by_name.get(name.as_str()) {
            Some(ix) => *ix,
            None if self.servers.len() >= SERVERS_MAX => {
                skipped.n_servers_refused += 1;
                return Ok(None);
            }
            None => {
                let ix = self.servers.len();
                let id = ServerId(ix as i64 + 1);
                if line.kind != Kind::Server {
                    skipped.unnamed_server(&name);
                    let heartbeat = Duration::from_millis(HEARTBEAT_MS as u64);
                    let (name, labels) = (name.clone(), std::collections::BTreeMap::new());
                    out.push(Record::Server { server: id, name, labels, n_cpu: 0, heartbeat });
                }
                let name: Box<str> = name.into();
                self.by_name.insert(name.clone(), ix);
                self.servers.push(Known { name, id, sites: ByName::default() });
                ix
            }
        };
        self.last = ix;
        Ok(Some(ix))
    }

    /// Id of the line's site. One that no `site` record names is taken without a pool.
    fn site(
        &mut self,
        ix: usize,
        line: &Line<'_>,
        skipped: &mut Skipped,
        out: &mut Vec<Record>,
    ) -> Result<Option<SiteId>, &'static str> {
        let text = line.site.as_deref().unwrap_or_default();
        let known = &mut self.servers[ix];
        if let Some(id) = known.sites.get(text) {
            return Ok(Some(*id));
        }
        let name = name(text).ok_or("it names no site")?.to_lowercase();
        if let Some(id) = known.sites.get(name.as_str()) {
            return Ok(Some(*id));
        }
        if known.sites.len() >= SITES_MAX {
            skipped.n_sites_refused += 1;
            return Ok(None);
        }
        if self.n_sites >= self.n_sites_max {
            skipped.n_sites_over += 1;
            return Ok(None);
        }
        self.n_sites += 1;
        let site = SiteId(self.n_sites);
        known.sites.insert(name.clone().into(), site);
        if line.kind != Kind::Site {
            skipped.n_sites_unnamed += 1;
            let (server, pool, upstream) = (known.id, None, None);
            out.push(Record::Site { site, server, name, pool, upstream, baseline: None });
        }
        Ok(Some(site))
    }
}

fn counts(line: &Line<'_>) -> Counts {
    let n_failed = line.n_502.saturating_add(line.n_503).saturating_add(line.n_504);
    Counts {
        n: line.n,
        n_502: line.n_502,
        n_503: line.n_503,
        n_504: line.n_504,
        n_5xx_app: line.n_5xx_app,
        n_499: line.n_499,
        n_retried: line.n_retried,
        n_crawler: line.n_crawler.min(n_failed),
    }
}

fn exemplar(line: &Line<'_>, site: SiteId, at: UnixMillis) -> Result<Record, &'static str> {
    if !(502..=504).contains(&line.status) {
        return Err("its status is none of a gateway error");
    }
    let message = line.message.as_deref().map(|text| clip(text, TEXT_BYTES_MAX));
    let said = || message.as_deref().and_then(said::of_error_log);
    let signal = line.signal.as_deref().map_or_else(said, signal_named);
    Ok(Record::Exemplar(Exemplar {
        site,
        at,
        status: line.status as u16,
        pool: line.pool.as_deref().and_then(name),
        client: line.client,
        path: line.path,
        upstream: line.upstream.as_deref().and_then(name),
        signal,
        message,
    }))
}

/// A signal by its name; one of a later release is something that was said all the same.
fn signal_named(name: &str) -> Option<Signal> {
    (!name.is_empty()).then(|| Signal::from_name(name).unwrap_or(Signal::Other))
}

fn known_server(line: &mut Line<'_>, server: ServerId) -> Record {
    let heartbeat = line.heartbeat_ms.filter(|ms| *ms > 0).unwrap_or(HEARTBEAT_MS);
    let labels = std::mem::take(&mut line.labels).into_iter();
    let labels = labels.filter_map(|(k, v)| Some((name(&k)?, name(&v)?)));
    Record::Server {
        server,
        name: line.server.as_deref().and_then(name).unwrap_or_default(),
        labels: labels.collect(),
        n_cpu: line.n_cpu,
        heartbeat: Duration::from_millis(heartbeat.cast_unsigned()),
    }
}

fn known_site(line: &Line<'_>, site: SiteId, server: ServerId) -> Record {
    let n = |n: f64| if n.is_finite() && n > 0.0 { n as u64 } else { 0 };
    let baseline = line.baseline.filter(|past| past.days.is_finite() && past.days >= 0.0);
    Record::Site {
        site,
        server,
        name: line.site.as_deref().and_then(name).unwrap_or_default().to_lowercase(),
        pool: line.pool.as_deref().and_then(name),
        upstream: line.upstream.as_deref().and_then(name),
        baseline: baseline.map(|past| Baseline {
            days: past.days.min(28.0),
            n_requests: n(past.n_requests),
            n_gateway_errors: n(past.n_gateway_errors),
        }),
    }
}

/// Samples, services, log lines and changes.
fn context(
    line: &Line<'_>,
    server: ServerId,
    at: UnixMillis,
) -> Result<Option<Record>, &'static str> {
    let pool = line.pool.as_deref().and_then(name);
    let subject = |bytes_max| {
        let text = line.subject.as_deref().filter(|text| !text.is_empty());
        text.map(|text| clip(text, bytes_max))
    };
    let said = |bytes_max| clip(line.said.as_deref().unwrap_or_default(), bytes_max);
    Ok(match line.kind {
        Kind::Sample => {
            let attribute = clip(line.attribute.as_deref().unwrap_or_default(), NAME_BYTES_MAX);
            let values = line.values.iter();
            let values: Vec<_> =
                values.map(|(metric, value)| (*metric, attribute.clone(), *value)).collect();
            (!values.is_empty()).then_some(Record::Sample { server, at, values })
        }
        Kind::Service => {
            let unit = subject(NAME_BYTES_MAX).ok_or("it names no unit")?;
            let reason = line.reason.as_deref().map(|text| clip(text, NAME_BYTES_MAX));
            Some(Record::Service { server, at, unit, state: said(32), pool, reason })
        }
        Kind::Log => {
            let source = subject(32).unwrap_or_default();
            let message = clip(line.message.as_deref().unwrap_or_default(), TEXT_BYTES_MAX);
            let read = said::of_line(&source, &message);
            let signal = line.signal.as_deref().map_or(read.signal, signal_named);
            let pool = pool.or_else(|| read.pool.and_then(name));
            Some(Record::Log { server, at, source, message, signal, pool })
        }
        Kind::Change => {
            let kind = subject(32).ok_or("it has no `kind`")?;
            let site = line.site.as_deref().and_then(name).map(|site| site.to_lowercase());
            Some(Record::Change { server, at, kind, what: said(TEXT_BYTES_MAX), site, pool })
        }
        _ => None,
    })
}

fn collector_event(name: &str) -> Option<CollectorEvent> {
    Some(match name {
        "started" => CollectorEvent::Started,
        "stopping" => CollectorEvent::Stopping,
        "disk_full" => CollectorEvent::DiskFull,
        "disk_free" => CollectorEvent::DiskFree,
        "uplink_lost" => CollectorEvent::UplinkLost,
        "uplink_back" => CollectorEvent::UplinkBack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::line;
    use super::*;

    #[test]
    fn many_servers_with_many_sites_each_take_a_bound_of_memory_together() {
        let (mut names, mut skipped, mut out) =
            (Names::with_most(250), Skipped::default(), Vec::new());
        let mut take = |server: usize, site: usize| {
            let text = format!(
                r#"{{"type":"requests","at":1,"server":"web-{server}","site":"{site}.example","n":1}}"#
            );
            let mut line = line::decode(text.as_bytes()).unwrap();
            names.records(&mut line, &mut skipped, &mut out).unwrap();
        };
        for server in 0..3 {
            for site in 0..100 {
                take(server, site);
            }
        }
        // Those that are known go on.
        take(0, 7);
        assert_eq!((names.n_sites(), names.n_servers()), (250, 3));
        assert_eq!((skipped.n_sites_over, skipped.n_sites_refused), (50, 0));
        let n_requests = out.iter().filter(|one| matches!(one, Record::Requests { .. })).count();
        assert_eq!(n_requests, 251);
        assert!(
            skipped
                .lines()
                .iter()
                .any(|line| line.contains("50 records of sites beyond 4,000,000")),
            "{skipped:?}"
        );
    }
}
