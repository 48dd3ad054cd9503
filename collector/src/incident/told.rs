//! What people know of an incident, and how long the word of it waits. Pure.
//!
//! Of one incident at most one page waits at a time. It tells the incident as it stands when it is due,
//! so while it waits nothing is asked for again; while the outage still spreads it is put off, at most
//! [`GROWING_MAX_MS`]: pool, server and hypervisor within seconds are one page.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::case::{Case, Member};
use super::{WAIT_MS, WAIT_WIDE_MS, WIDE_MS};
use crate::detect::scope::Scope;
use crate::detect::server::Server;
use crate::detect::site::Site;
use crate::detect::table::Class;
use crate::detect::{Fleet, Settings, TICK_MS};
use crate::model::{Notify, NotifyEvent, ServerId};
use crate::store::incidents::severity_rank;

/// A page is put off for so long at most, ms.
pub(super) const GROWING_MAX_MS: i64 = 5_000;
/// A page is put off only so shortly before it is due, ms: once for many signs.
const LAST_LOOK_MS: i64 = 2 * TICK_MS;
/// Pools of a server that begin to fail so long after each other fail one after the other, ms.
const STAGE_MS: i64 = 500;
/// De-duplicated failures beside an incident that one client alone never makes.
const SERIOUS: f64 = 2.0;
/// Nats from which a cause is worth telling.
const SURE_NATS: f64 = 1.0;
/// How often a new cause, and growth, is told at most, ms.
pub(super) const TOLD_AGAIN_MS: i64 = 30_000;
/// How much more is growth.
pub(super) const GROWN: usize = 2;
/// A site that nobody asked for in this time after the start was well then, ms.
const UNHEARD_MS: i64 = 300_000;
/// Growth is looked for this often, ms.
const GROWTH_EVERY_MS: i64 = 1_000;

/// What people were told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Worst severity they know.
    pub severity: String,
    /// When they hear of it first.
    pub due: i64,
    /// When they hear of it last; up to then a page waits.
    at: i64,
    /// The cause they know.
    class: Option<Class>,
    /// When the page that tells it last was asked for.
    #[serde(default)]
    asked_at: i64,
    /// Failing sites and servers they know; 0: not counted yet.
    #[serde(default)]
    n_sites: u64,
    #[serde(default)]
    n_servers: u64,
    /// When those were counted.
    #[serde(default)]
    counted_at: i64,
    /// What those know who heard an earlier page and, since it was not critical before or not twice as
    /// much, none after it.
    #[serde(default)]
    earlier: Vec<Counted>,
}

/// How much a page told to fail, and when that was counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    at: i64,
    n_sites: u64,
    n_servers: u64,
}

impl Told {
    /// When the page that tells it last is due.
    #[must_use]
    pub fn at(&self) -> i64 {
        self.at
    }

    /// What the last page told, once that is counted, and earlier ones that some know alone.
    fn counted(&self) -> impl Iterator<Item = Counted> {
        let last =
            Counted { at: self.counted_at, n_sites: self.n_sites, n_servers: self.n_servers };
        self.earlier.iter().cloned().chain([last]).filter(|counted| counted.n_sites > 0)
    }
}

impl Case {
    /// Decides whether an event is told, and remembers it.
    pub(crate) fn tell(&mut self, event: NotifyEvent, now: i64, due: i64) -> Option<Notify> {
        let severity = self.severity();
        let before = self.told.as_ref().map(|told| (told.severity.clone(), told.due));
        // Who knows a cause learns none from one that is in doubt again.
        let known_class = self.told.as_ref().and_then(|told| told.class);
        if event == NotifyEvent::Resolved {
            self.told.take()?;
            return Some(Notify { event, due: UnixMillis(due) });
        }
        // A child keeps quiet while its parent is open.
        if self.retroactive || self.parent.is_some() {
            return None;
        }
        let (event, severity, first_due) = match before {
            None => (NotifyEvent::Opened, severity.to_owned(), due),
            Some((known, first)) => (event, worst(&known, severity), first),
        };
        self.told = Some(Told {
            severity,
            due: first_due,
            at: due,
            class: self.verdict.class.or(known_class),
            asked_at: now,
            n_sites: 0,
            n_servers: 0,
            counted_at: 0,
            earlier: Vec::new(),
        });
        Some(Notify { event, due: UnixMillis(due) })
    }

    /// Tells a new scope. A page that waits tells it as well, a little later when it is a wide one.
    pub(crate) fn tell_change(&mut self, now: i64, due: i64) -> Option<Notify> {
        match &self.told {
            Some(told) if now <= told.at => match self.scope {
                Scope::Server(_) | Scope::Group(_) => self.put_off(now, due),
                Scope::Pool(_) | Scope::Site(_) => None,
            },
            _ => self.tell(NotifyEvent::Updated, now, due),
        }
    }

    /// Notes what the page that waits will tell, and puts it off while the outage spreads.
    pub(crate) fn wait(&mut self, fleet: &Fleet, settings: &Settings, now: i64) -> Option<Notify> {
        let (severity, class) = (self.severity(), self.verdict.class);
        let n_sites = self.members.len() as u64;
        let told = self.told.as_mut()?;
        if told.n_sites == 0 && now >= told.at - TICK_MS {
            told.n_sites = n_sites;
            let n_servers = self.servers(fleet).len() as u64;
            let told = self.told.as_mut()?;
            (told.n_servers, told.counted_at) = (n_servers, now);
        }
        let told = self.told.as_mut().filter(|told| now <= told.at)?;
        told.class = class.or(told.class);
        told.severity =
            if now <= told.due { severity.to_owned() } else { worst(&told.severity, severity) };
        if told.at - now > LAST_LOOK_MS {
            return None;
        }
        let until = self.spreads_until(fleet, settings, now)?;
        self.put_off(now, until)
    }

    fn put_off(&mut self, now: i64, until: i64) -> Option<Notify> {
        let told = self.told.as_mut().filter(|told| now <= told.at)?;
        let at = until.min(told.asked_at + GROWING_MAX_MS);
        if at <= told.at {
            return None;
        }
        let is_first = now <= told.due;
        if is_first {
            told.due = at;
        }
        (told.at, told.n_sites, told.n_servers) = (at, 0, 0);
        let event = if is_first { NotifyEvent::Opened } else { NotifyEvent::Updated };
        Some(Notify { event, due: UnixMillis(at) })
    }

    /// When the last sign that it spreads beyond its scope will have been followed by none for long
    /// enough; `None` without a sign. Sites of its own pool, and servers of its own group, are none.
    fn spreads_until(&self, fleet: &Fleet, settings: &Settings, now: i64) -> Option<i64> {
        let own = self.servers(fleet);
        let beside = self.fails_beside(fleet, &own, now).map(|at| at + WAIT_MS);
        let around = self.fails_around(fleet, settings, &own, now);
        let wide = around.max(self.came_in_stages(fleet, now)).map(|at| at + WAIT_WIDE_MS);
        beside.max(wide)
    }

    /// Of a server whose pools failed one after the other, not at once: when it was found.
    fn came_in_stages(&self, fleet: &Fleet, now: i64) -> Option<i64> {
        let Scope::Server(_) = self.scope else { return None };
        let start = self.started_at.div_euclid(1000);
        let sites: Vec<&Site> =
            self.positions(fleet).into_iter().map(|ix| fleet.site(ix)).collect();
        let arrival = |site: &Site| site.episode.as_ref().map(|episode| episode.first_arrival);
        let (first, site) = sites
            .iter()
            .filter_map(|site| Some((arrival(site)?, *site)))
            .min_by_key(|(first, _)| *first)?;
        // One that nobody had asked for may have failed with the first.
        let is_late = |late: &&&Site| {
            late.place != site.place
                && arrival(late).is_some_and(|at| at - first >= STAGE_MS)
                && late.ok_between(start, now.div_euclid(1000)) > 0
        };
        began(sites.iter().filter(is_late).copied(), now).map(|_| self.scope_since)
    }

    /// When the last of other pools of its servers began to fail.
    fn fails_beside(&self, fleet: &Fleet, own: &BTreeSet<ServerId>, now: i64) -> Option<i64> {
        let pool = match &self.scope {
            Scope::Server(_) | Scope::Group(_) => return None,
            Scope::Site(id) => fleet.find(*id).and_then(|ix| fleet.site(ix).place.clone()),
            Scope::Pool(pool) => Some(pool.clone()),
        };
        let is_beside = |ix: &u32| {
            let site = fleet.site(*ix);
            !self.members.contains_key(&site.id) && (pool.is_none() || site.place != pool)
        };
        let sites = own.iter().flat_map(|id| fleet.suspects(*id)).filter(is_beside);
        began(sites.map(|ix| fleet.site(ix)), now)
    }

    /// When the last of other servers turned suspect: one that has a label in common with a server of
    /// this incident, or two of the rest.
    fn fails_around(
        &self,
        fleet: &Fleet,
        settings: &Settings,
        own: &BTreeSet<ServerId>,
        now: i64,
    ) -> Option<i64> {
        let mine: Vec<&Server> = own.iter().filter_map(|id| fleet.server(*id)).collect();
        let since = mine.iter().filter_map(|server| server.suspect_since).max().unwrap_or(now);
        let is_known = |id: ServerId| match &self.scope {
            Scope::Group(group) => fleet.is_in(group, id),
            _ => own.contains(&id),
        };
        let turned = |server: &&Server| {
            server.suspect_since.is_some_and(|at| at >= since.min(now) - WIDE_MS)
                && !is_known(server.id)
                && began(fleet.suspects(server.id).map(|ix| fleet.site(ix)), now).is_some()
        };
        let others: Vec<&Server> = fleet.servers.values().filter(turned).collect();
        let is_near = |server: &&Server| {
            settings.group_labels.iter().any(|label| {
                let value = server.labels.get(label);
                value.is_some() && mine.iter().any(|own| own.labels.get(label) == value)
            })
        };
        if others.len() < 2 && !others.iter().any(is_near) {
            return None;
        }
        let last = others.iter().filter_map(|server| server.suspect_since).max()?;
        // One that followed another in a moment may be followed itself.
        Some(last.max(since.min(now)))
    }

    /// Tells a higher severity, or a cause or so much more that people do not know yet.
    pub(crate) fn tell_news(&mut self, fleet: &Fleet, now: i64) -> Option<Notify> {
        let told = self.told.as_ref().filter(|told| now >= told.at)?;
        let rises = severity_rank(self.severity()) > severity_rank(&told.severity);
        let rested = now - told.at >= TOLD_AGAIN_MS;
        let is_other = self.verdict.class.is_some() && self.verdict.class != told.class;
        let learned = rested && is_other && self.verdict.margin >= SURE_NATS;
        let looks = rested && now.rem_euclid(GROWTH_EVERY_MS) == 0;
        let has_grown = |counted: &Counted| self.has_grown(fleet, counted);
        let grows = looks && told.counted().any(|counted| has_grown(&counted));
        if !rises && !learned && !grows {
            return None;
        }
        // A cause is news to all. Else a receiver tells no more than is news to it: who wants critical
        // ones alone hears when it is one, all others when it is twice what they know.
        let is_for_all = learned || rises && is_other;
        let mut earlier: Vec<Counted> = told.counted().filter(|one| !has_grown(one)).collect();
        if is_for_all {
            earlier.clear();
        }
        let page = self.tell(NotifyEvent::Updated, now, now)?;
        self.told.as_mut()?.earlier = earlier;
        Some(page)
    }

    /// Whether twice as much fails as a page told. A site that was not asked for before it failed may
    /// have failed all the time: that it does is no growth.
    fn has_grown(&self, fleet: &Fleet, told: &Counted) -> bool {
        if (self.members.len() as u64) < told.n_sites + told.n_servers.min(told.n_sites) {
            return false;
        }
        let was_well =
            |member: &Member| member.was_well || member.since - self.started_at >= UNHEARD_MS;
        let (mut known, mut fresh, mut n_fresh) = (BTreeSet::new(), BTreeSet::new(), 0);
        for (id, member) in &self.members {
            let Some(site) = fleet.find(*id).map(|ix| fleet.site(ix)) else { continue };
            // Not by its first failure: that may be of the second in which they were counted.
            if member.joined_at <= told.at {
                known.insert(site.server);
            } else if was_well(member) {
                n_fresh += 1;
                fresh.insert(site.server);
            }
        }
        let n_servers = told.n_servers + fresh.difference(&known).count() as u64;
        let times = GROWN as u64;
        told.n_sites + n_fresh >= times * told.n_sites || n_servers >= times * told.n_servers
    }
}

/// When the last of these sites began to fail, when they do in earnest and since a moment ago.
fn began<'a>(sites: impl Iterator<Item = &'a Site>, now: i64) -> Option<i64> {
    let (mut n_failed, mut last) = (0.0, None);
    for site in sites.filter(|site| !site.is_chronic()) {
        let Some(episode) = &site.episode else { continue };
        if now - episode.first_arrival <= WIDE_MS {
            n_failed += episode.n_failed;
            last = last.max(Some(episode.first_arrival));
        }
    }
    last.filter(|_| n_failed >= SERIOUS - 1e-9)
}

fn worst(known: &str, now: &str) -> String {
    let worse = severity_rank(known) >= severity_rank(now);
    if worse { known } else { now }.to_owned()
}
