//! The figures of an outage report, each computed in one place. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use wire::UnixMillis;

use super::minutes::{Minutes, minute_after, minute_of};
use super::{Happened, Input, Server, Site, Spell};
use crate::model::{ServerId, SiteId};
use crate::report::ask::Ask;
use crate::report::settings::Settings;

/// In these incidents a few of many requests failed, for long.
const SLOW: &str = "slow_burn";
const SILENCE: &str = "silence";
/// Label by which sites without a known owner are put together.
const CUSTOMER: &str = "customer";

/// Everything that tables, charts and findings are made of.
pub(super) struct Figures<'i> {
    pub(super) input: &'i Input,
    /// Share of the minutes that may not be lost.
    pub(super) slo: f64,
    /// Sites that existed in the time of the report.
    pub(super) sites: BTreeMap<SiteId, OfSite<'i>>,
    /// Incidents that were not merged into another one, by id.
    pub(super) incidents: BTreeMap<&'i str, OfIncident<'i>>,
    /// Minutes in which the agent of a server was silent.
    pub(super) silent: BTreeMap<ServerId, Minutes>,
    /// The minutes of the report until now.
    pub(super) within: Range<i64>,
}

/// A site's time.
pub(super) struct OfSite<'i> {
    pub(super) site: &'i Site,
    pub(super) server: &'i Server,
    /// Whose it is, as people are told.
    pub(super) owner: Option<&'i str>,
    pub(super) time: Time,
    /// Its minutes inside of incidents.
    pub(super) lost: Minutes,
    /// How many incidents.
    pub(super) n_incidents: u64,
}

/// An incident's share.
pub(super) struct OfIncident<'i> {
    pub(super) happened: &'i Happened,
    pub(super) sites: BTreeSet<SiteId>,
    pub(super) owners: BTreeSet<&'i str>,
    pub(super) servers: BTreeSet<ServerId>,
    /// Lost minutes of all these sites.
    pub(super) n_lost: u64,
}

/// Minutes of one site, or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Time {
    /// In which it existed.
    pub(super) n: u64,
    /// Of these, those inside of an incident.
    pub(super) n_lost: u64,
    /// Of those, those that were in slow burns alone.
    pub(super) n_slow: u64,
}

impl Time {
    pub(super) fn add(&mut self, other: Self) {
        self.n += other.n;
        self.n_lost += other.n_lost;
        self.n_slow += other.n_slow;
    }

    /// Share of its minutes outside of incidents; `None`: it had none.
    pub(super) fn availability(&self) -> Option<f64> {
        (self.n > 0).then(|| 1.0 - self.n_lost as f64 / self.n as f64)
    }

    /// Minutes that may be lost.
    pub(super) fn budget(&self, slo: f64) -> f64 {
        (1.0 - slo).max(0.0) * self.n as f64
    }

    /// Lost minutes by those that may be lost; above 1: more. `None`: none may.
    pub(super) fn budget_used(&self, slo: f64) -> Option<f64> {
        let budget = self.budget(slo);
        (budget > 0.0).then(|| self.n_lost as f64 / budget)
    }

    /// Whether more was lost than may be.
    pub(super) fn is_over(&self, slo: f64) -> bool {
        self.n_lost as f64 > self.budget(slo)
    }
}

impl<'i> Figures<'i> {
    pub(super) fn of(input: &'i Input, settings: &Settings, ask: &Ask) -> Self {
        let within = minute_of(ask.from)..minute_after(ask.to.min(ask.now));
        let mut by_site: BTreeMap<SiteId, Vec<&Spell>> = BTreeMap::new();
        for spell in &input.spells {
            by_site.entry(spell.site).or_default().push(spell);
        }
        let mut figures = Self {
            input,
            slo: settings.slo,
            sites: BTreeMap::new(),
            incidents: BTreeMap::new(),
            silent: BTreeMap::new(),
            within,
        };
        for (id, site) in &input.sites {
            let spells = by_site.remove(id).unwrap_or_default();
            figures.add_site(*id, site, &spells);
        }
        figures.add_down();
        figures
    }

    fn add_site(&mut self, id: SiteId, site: &'i Site, spells: &[&'i Spell]) {
        let Some(server) = self.input.servers.get(&site.server) else { return };
        let existed = existed(site, server, spells, &self.within);
        if existed.is_empty() {
            return;
        }
        let owner = site.owner.as_deref();
        let owner = owner.or_else(|| server.labels.get(CUSTOMER).map(String::as_str));
        let mut of_incident: BTreeMap<&str, Vec<&Spell>> = BTreeMap::new();
        for spell in spells {
            of_incident.entry(self.root(&spell.incident)).or_default().push(spell);
        }
        let mut n_incidents = 0;
        let (mut all, mut hard) = (Vec::new(), Vec::new());
        for (incident, spells) in of_incident {
            let lost = Minutes::of(spells.iter().map(|spell| span(spell)), &existed);
            if lost.n() == 0 {
                continue;
            }
            let Some(of) = self.incident(incident) else { continue };
            n_incidents += 1;
            of.n_lost += lost.n();
            of.sites.insert(id);
            of.servers.insert(site.server);
            of.owners.extend(owner);
            if of.happened.kind != SLOW {
                hard.push(lost.clone());
            }
            all.push(lost);
        }
        let lost = Minutes::union(&all);
        let n_slow = lost.n() - Minutes::union(&hard).n();
        let n = (existed.end - existed.start).unsigned_abs();
        let time = Time { n, n_lost: lost.n(), n_slow };
        self.sites.insert(id, OfSite { site, server, owner, time, lost, n_incidents });
    }

    fn add_down(&mut self) {
        let mut silent: BTreeMap<ServerId, Vec<Minutes>> = BTreeMap::new();
        let input = self.input;
        for down in input.down.iter().filter(|down| input.servers.contains_key(&down.server)) {
            let until = down.until.unwrap_or(UnixMillis(i64::MAX));
            let minutes = Minutes::of([(down.since, until)], &self.within);
            let incident = self.root(&down.incident);
            if minutes.n() == 0 {
                continue;
            }
            let Some(of) = self.incident(incident) else { continue };
            of.servers.insert(down.server);
            if of.happened.kind == SILENCE {
                silent.entry(down.server).or_default().push(minutes);
            }
        }
        self.silent = silent.iter().map(|(id, all)| (*id, Minutes::union(all))).collect();
    }

    /// The incident that one was merged into, or itself.
    fn root(&self, id: &'i str) -> &'i str {
        let mut root = id;
        // A chain that is longer is a circle.
        for _ in 0..32 {
            let parent = self.input.incidents.get(root).and_then(|known| known.parent.as_deref());
            match parent.filter(|parent| self.input.incidents.contains_key(*parent)) {
                Some(parent) => root = parent,
                None => return root,
            }
        }
        id
    }

    fn incident(&mut self, id: &'i str) -> Option<&mut OfIncident<'i>> {
        let happened = self.input.incidents.get(id)?;
        Some(self.incidents.entry(id).or_insert_with(|| OfIncident {
            happened,
            sites: BTreeSet::new(),
            owners: BTreeSet::new(),
            servers: BTreeSet::new(),
            n_lost: 0,
        }))
    }

    /// All sites together.
    pub(super) fn total(&self) -> Time {
        let mut total = Time::default();
        self.sites.values().for_each(|of| total.add(of.time));
        total
    }

    /// Sites by what they lost, the most first.
    pub(super) fn worst(&self) -> Vec<&OfSite<'i>> {
        let mut sites: Vec<&OfSite<'i>> = self.sites.values().collect();
        let rank = |of: &&OfSite<'i>| {
            let most = std::cmp::Reverse((of.time.n_lost, of.site.n_errors));
            (most, of.site.name.as_str(), of.server.name.as_str())
        };
        sites.sort_by(|a, b| rank(a).cmp(&rank(b)));
        sites
    }
}

/// The minutes of the report in which a site was known.
fn existed(site: &Site, server: &Server, spells: &[&Spell], within: &Range<i64>) -> Range<i64> {
    let since = site.since.unwrap_or(server.first_seen);
    let hour = |second: i64| minute_of(UnixMillis::from_second(second));
    let first = site.hours.map(|(first, _)| hour(first));
    let failed = spells.iter().map(|spell| minute_of(spell.since)).min();
    let begin = [Some(minute_of(since)), first, failed].into_iter().flatten().min();
    let end = server.heard_until.map(|heard| {
        let last = site.hours.map(|(_, last)| hour(last) + 60);
        let over = spells.iter().filter_map(|spell| spell.until).map(minute_after).max();
        [Some(minute_after(heard)), last, over].into_iter().flatten().max().unwrap_or(within.end)
    });
    let begin = begin.unwrap_or(within.start).max(within.start);
    begin..end.unwrap_or(within.end).min(within.end)
}

fn span(spell: &Spell) -> (UnixMillis, UnixMillis) {
    (spell.since, spell.until.unwrap_or(UnixMillis(i64::MAX)))
}
