//! Records in, in the order of their arrival: what each of them changes of sites, servers and hosts.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::server::{Changed, Line, Server};
use super::site::Site;
use super::{
    AGE_MAX_MS, AHEAD_MAX_MS, ATTENTION_MS, Engine, Fleet, LOOK_SITES_MAX, SITES_MAX, SLICE_MS,
    TICK_MS,
};
use crate::model::{Counts, Record, ServerId, Transition};

impl Engine {
    /// Takes one record that arrived at `arrived_at` on the collector's clock. Records come in
    /// order of arrival; `advance` acts on them.
    pub fn fold(&mut self, arrived_at: UnixMillis, record: &Record) {
        let arrived = arrived_at.0;
        if let Record::Collector { event, .. } = record {
            self.hosts.fold_collector(arrived, *event);
            return;
        }
        if let Record::Requests { site, at, counts } = record {
            return match self.fleet.find(*site) {
                Some(ix) => drop(self.fold_requests(ix, arrived, at.0, counts, i64::MIN)),
                None => self.refused.n_unknown += 1,
            };
        }
        if let Some(id) = self.server_of(record) {
            let Fleet { servers, revision, .. } = &mut self.fleet;
            let server = servers.entry(id).or_insert_with(|| {
                *revision += 1;
                Server::new(id)
            });
            if !matches!(record, Record::Server { .. } | Record::Site { .. }) {
                self.hosts.heard(server, arrived, record);
            }
            if is_misdated(server, arrived, record) {
                server.n_misdated += 1;
                self.refused.n_misdated += 1;
                return;
            }
            self.fold_into(id, arrived, record);
            self.fold_host(id, record);
        } else {
            self.refused.n_unknown += 1;
        }
    }

    /// Takes the records of one batch, all arrived at `arrived_at`.
    ///
    /// Old data comes in lumps: hours of a log, or of a spool, within one second. What is too old to
    /// be told goes in by event time with a decision after each slice, so that an outage that began
    /// and ended inside the lump is found, as it would have been then.
    pub fn fold_batch<'a>(
        &mut self,
        arrived_at: UnixMillis,
        records: impl Iterator<Item = &'a Record>,
    ) -> Vec<Transition> {
        let mut slices: BTreeMap<ServerId, BTreeMap<i64, Vec<&Record>>> = BTreeMap::new();
        let mut put = |server: ServerId, at: i64, record: &'a Record| {
            let of = slices.entry(server).or_default();
            of.entry(at.div_euclid(SLICE_MS)).or_default().push(record);
        };
        let mut complete = Vec::new();
        let old = arrived_at.0 - self.settings.retroactive_ms;
        for record in records {
            match record {
                Record::Requests { at, site, counts } => match self.fleet.find(*site) {
                    None => self.refused.n_unknown += 1,
                    Some(ix) => {
                        if let Some(at) = self.fold_requests(ix, arrived_at.0, at.0, counts, old) {
                            put(self.fleet.site(ix).server, at, record);
                        }
                    }
                },
                Record::Exemplar(exemplar) => {
                    let ix = self.fleet.find(exemplar.site);
                    let server = ix.map(|ix| self.fleet.site(ix).server);
                    let server = server.and_then(|id| self.fleet.servers.get(&id));
                    let at = server.map(|server| (server.id, server.corrected(exemplar.at.0)));
                    match at.filter(|(_, at)| *at < old) {
                        Some((server, at)) => put(server, at, record),
                        None => self.fold(arrived_at, record),
                    }
                }
                Record::Complete { .. } => complete.push(record),
                _ => self.fold(arrived_at, record),
            }
        }
        let mut transitions = Vec::new();
        for (server, slices) in slices {
            let slices: Vec<Vec<&Record>> = slices.into_values().collect();
            self.fold_old(server, arrived_at, &slices, &mut transitions);
        }
        for record in complete {
            self.fold(arrived_at, record);
        }
        transitions
    }

    /// Takes old data of one server, slice by slice.
    fn fold_old(
        &mut self,
        id: ServerId,
        arrived_at: UnixMillis,
        slices: &[Vec<&Record>],
        transitions: &mut Vec<Transition>,
    ) {
        let n_looks = self.looks_left(id, arrived_at.0, slices.len());
        let n_joined = slices.len().div_ceil(n_looks.max(1)).max(1);
        for slices in slices.chunks(n_joined) {
            for record in slices.iter().flatten() {
                self.fold(arrived_at, record);
            }
            if let (Some(tick), true) = (self.tick, n_looks > 0) {
                let located = self.look(tick, Some(id));
                let (fleet, settings) = (&mut self.fleet, &self.settings);
                let first = transitions.len();
                self.book.place(fleet, &located, settings, tick, transitions);
                self.note_standing(&transitions[first..]);
            }
        }
    }

    /// How often old data of a server may be looked at now, of `n` times: each look costs as much as
    /// the server has sites, and others wait meanwhile.
    pub(super) fn looks_left(&mut self, id: ServerId, arrived: i64, n: usize) -> usize {
        let n_sites = self.fleet.server(id).map_or(1, |server| server.sites.len().max(1));
        let tick = arrived.div_euclid(TICK_MS);
        self.looked.retain(|_, (at, _)| *at >= tick);
        let (_, used) = self.looked.entry(id).or_insert((tick, 0));
        let n_looks = n.min(LOOK_SITES_MAX.saturating_sub(*used) / n_sites);
        *used += n_looks * n_sites;
        n_looks
    }

    fn server_of(&self, record: &Record) -> Option<ServerId> {
        match record {
            Record::Server { server, .. }
            | Record::Site { server, .. }
            | Record::Sample { server, .. }
            | Record::Service { server, .. }
            | Record::Log { server, .. }
            | Record::Change { server, .. }
            | Record::Heartbeat { server, .. }
            | Record::Complete { server, .. }
            | Record::Goodbye { server, .. }
            | Record::Hello { server, .. } => Some(*server),
            Record::Requests { site, .. } => Some(self.fleet.site(self.fleet.find(*site)?).server),
            Record::Exemplar(e) => Some(self.fleet.site(self.fleet.find(e.site)?).server),
            Record::Collector { .. } => None,
        }
    }

    /// Takes counts of one second of one site: nearly all records are such, so each thing is looked up
    /// once. Counts from before `old` are left alone: returns their instant, corrected.
    fn fold_requests(
        &mut self,
        ix: u32,
        arrived: i64,
        at: i64,
        counts: &Counts,
        old: i64,
    ) -> Option<i64> {
        let site = &mut self.fleet.sites[ix as usize];
        let id = site.server;
        let server = self.fleet.servers.get_mut(&id)?;
        let at = server.corrected(at);
        if at < old {
            return Some(at);
        }
        self.hosts.sent(server, arrived);
        if is_nonsense(arrived, at) || at < arrived.saturating_sub(AGE_MAX_MS) {
            server.n_misdated += 1;
            self.refused.n_misdated += 1;
            return None;
        }
        let second = at.div_euclid(1000);
        server.newest = server.newest.max(second * 1000 + 999);
        if site.past.norm(second) > 0.0 || site.past.mean() > 0.0 {
            server.fold_requests(second, counts.n);
        }
        fold_answers(server, site, second, counts);
        if let Some(case) = site.case {
            self.book.count(case, site.id, second, counts);
        }
        if site.fold_counts(arrived, second, counts) {
            self.touched.insert(ix);
        }
        if counts.has_failed() {
            self.burns.failed(ix);
        }
        None
    }

    fn fold_into(&mut self, id: ServerId, arrived: i64, record: &Record) {
        let Some(server) = self.fleet.servers.get_mut(&id) else { return };
        match record {
            Record::Server { name, labels, n_cpu, .. } => {
                server.rename(name);
                if server.labels != *labels {
                    server.labels.clone_from(labels);
                    self.fleet.revision += 1;
                }
                server.n_cpu = *n_cpu;
            }
            Record::Site { .. } => self.fold_site(record),
            Record::Exemplar(exemplar) => {
                let at = server.corrected(exemplar.at.0);
                let Some(ix) = self.fleet.find(exemplar.site) else { return };
                self.fold_exemplar(ix, arrived, at, exemplar);
            }
            Record::Sample { at, values, .. } => {
                let at = server.corrected(at.0);
                for (metric, attribute, value) in values {
                    server.fold_value(at, metric, attribute, *value);
                }
            }
            Record::Service { at, unit, state, pool, reason, .. } => {
                let at = server.corrected(at.0);
                server.fold_service(at, unit, state, pool.as_deref(), reason.as_deref());
                self.look_again(id, arrived);
            }
            Record::Log { at, source, message, signal, pool, .. } => {
                let (at, source) = (server.corrected(at.0), source.clone());
                let (text, pool) = (message.clone(), pool.clone());
                let signal = signal.map_or(0, |signal| signal as i32);
                server.fold_line(Line { at, source, text, signal, pool });
            }
            Record::Change { at, kind, what, site, pool, .. } => {
                let (at, kind, what) = (server.corrected(at.0), kind.clone(), what.clone());
                let (site, pool) = (site.clone(), pool.clone());
                let (key, of_stack) = (String::new(), false);
                server.fold_change(Changed { at, kind, what, site, pool, key, of_stack });
                self.look_again(id, arrived);
            }
            Record::Heartbeat { at, clock, .. } => {
                server.fold_clock(arrived, clock.0);
                self.fold_watermark(id, arrived, at.0);
                self.weigh_requests(id);
            }
            Record::Complete { at, .. } => {
                let at = server.corrected(at.0);
                server.fold_complete(at);
                self.weigh_requests(id);
            }
            Record::Hello { at, .. } => server.fold_clock(arrived, at.0),
            // Counts have a way of their own.
            Record::Requests { .. } | Record::Goodbye { .. } | Record::Collector { .. } => {}
        }
    }

    /// The end of a batch: all of its requests are here.
    fn weigh_requests(&mut self, id: ServerId) {
        let Some(server) = self.fleet.servers.get_mut(&id) else { return };
        let Some(second) = server.requested() else { return };
        let (mut norm, mut is_mean) = (0.0, false);
        for past in server.sites.iter().map(|ix| &self.fleet.sites[*ix as usize].past) {
            let own = past.norm(second);
            is_mean |= own == 0.0 && past.mean() > 0.0;
            norm += if own > 0.0 { own } else { past.mean() };
        }
        server.weigh_requests(norm, is_mean);
    }

    /// A watermark of the time to come is refused.
    fn fold_watermark(&mut self, id: ServerId, arrived: i64, at: i64) {
        let Some(server) = self.fleet.servers.get_mut(&id) else { return };
        let at = server.corrected(at);
        if at <= arrived.saturating_add(AHEAD_MAX_MS) {
            server.fold_complete(at);
        } else {
            server.n_misdated += 1;
            self.refused.n_misdated += 1;
        }
    }

    /// What the whole server shows by a record that was just taken.
    fn fold_host(&mut self, id: ServerId, record: &Record) {
        if !matches!(record, Record::Server { .. } | Record::Sample { .. } | Record::Service { .. })
        {
            return;
        }
        let Some(server) = self.fleet.servers.get_mut(&id) else { return };
        match record {
            Record::Server { heartbeat, .. } => {
                server.presence.heartbeat_ms =
                    i64::try_from(heartbeat.as_millis()).unwrap_or(i64::MAX);
            }
            Record::Sample { .. } => self.hosts.sampled(server),
            _ => self.hosts.changed(server),
        }
    }

    /// An announced restart or a failed unit changes what failures count: sites with some are
    /// weighed anew.
    /// Once a tick, however many facts came.
    fn look_again(&mut self, id: ServerId, arrived: i64) {
        if self.fleet.suspects(id).next().is_some() {
            self.stirred.insert(id, arrived);
        }
    }

    pub(super) fn stir(&mut self) {
        for (id, arrived) in std::mem::take(&mut self.stirred) {
            let Some(server) = self.fleet.servers.get(&id) else { continue };
            for ix in &server.sites {
                if self.fleet.sites[*ix as usize].episode.is_some() {
                    self.fleet.sites[*ix as usize].soil(i64::MIN);
                    self.touched.insert(*ix);
                    self.attention.insert(id, arrived + ATTENTION_MS);
                }
            }
        }
    }

    fn fold_site(&mut self, record: &Record) {
        let Record::Site { site: id, server, name, pool, upstream, baseline } = record else {
            return;
        };
        let ix = if let Some(ix) = self.fleet.find(*id) {
            ix
        } else {
            let n_sites = self.fleet.server(*server).map_or(0, |server| server.sites.len());
            if n_sites >= SITES_MAX {
                self.refused.n_sites += 1;
                return;
            }
            let ix = self.fleet.sites.len() as u32;
            self.fleet.sites.push(Site::new(*id, *server, name.clone(), &self.settings));
            self.fleet.index.insert(*id, ix);
            if let Some(server) = self.fleet.servers.get_mut(server) {
                server.sites.push(ix);
            }
            ix
        };
        let site = &mut self.fleet.sites[ix as usize];
        if pool.is_some() || upstream.is_some() {
            site.pool.clone_from(pool);
            site.upstream.clone_from(upstream);
        }
        if let Some(baseline) = baseline {
            site.set_baseline(*baseline, &self.settings);
        }
        self.fleet.place(ix);
    }

    fn fold_exemplar(&mut self, ix: u32, arrived: i64, at: i64, e: &crate::model::Exemplar) {
        let renames = e.upstream.is_some()
            && e.upstream != self.fleet.site(ix).upstream_named
            && self.fleet.site(ix).pool.is_none()
            && self.fleet.site(ix).upstream.is_none();
        self.fleet.site_mut(ix).fold_exemplar(arrived, at, e);
        if renames {
            self.fleet.place(ix);
        }
        self.touched.insert(ix);
    }
}

/// Adds what a site answered well, in nats, to what its server did.
fn fold_answers(server: &mut Server, site: &Site, second: i64, counts: &Counts) {
    let failed = counts.n_502.saturating_add(counts.n_503).saturating_add(counts.n_504);
    let n_ok = counts.n.saturating_sub(failed).saturating_sub(counts.n_499);
    if n_ok > 0 {
        server.fold_ok(second, f64::from(n_ok) * site.rates.loss());
    }
}

/// Whether a record lies more than five minutes ahead, or before 1970: its time is nonsense. Counts
/// from before all that the detector remembers are as useless.
fn is_misdated(server: &Server, arrived: i64, record: &Record) -> bool {
    let latest = arrived.saturating_add(AHEAD_MAX_MS);
    let at = match record {
        Record::Sample { at, .. }
        | Record::Service { at, .. }
        | Record::Log { at, .. }
        | Record::Change { at, .. } => at.0,
        // An agent that has read nothing yet says 0.
        Record::Complete { at, .. } => return server.corrected(at.0) > latest,
        Record::Exemplar(exemplar) => exemplar.at.0,
        // Hello and heartbeat set the clock right, so they are never ahead of it.
        _ => return false,
    };
    let at = server.corrected(at);
    let counts = matches!(record, Record::Exemplar(_));
    let is_old = counts && at < arrived.saturating_sub(AGE_MAX_MS);
    is_nonsense(arrived, at) || is_old
}

fn is_nonsense(arrived: i64, at: i64) -> bool {
    at < 0 || at > arrived.saturating_add(AHEAD_MAX_MS)
}
