//! A slow burn as people see it: the incident object, its place, numbers and title.

use std::collections::BTreeSet;

use wire::UnixMillis;

use super::{SEVERITY, Step, Ticket};
use crate::detect::Fleet;
use crate::detect::scope::{Pool, Scope};
use crate::detect::site::Totals;
use crate::incident::case::Kind;
use crate::model::{Action, Affected, Cause, Evidence, Incident, Place, ServerId};

/// Failing sites listed at most; their number is always whole.
const SITES_MAX: usize = 1_000;

impl Ticket {
    /// The object of the contract.
    pub(super) fn incident(&self, step: &Step<'_>) -> Incident {
        let (fleet, now) = (&*step.fleet, step.now);
        let members: Vec<u32> = self.members.keys().filter_map(|site| fleet.find(*site)).collect();
        let is_open = self.resolved_at.is_none();
        Incident {
            id: self.id.clone(),
            kind: Kind::SlowBurn.name().to_owned(),
            state: if is_open { "open" } else { "resolved" }.to_owned(),
            severity: SEVERITY.to_owned(),
            scope: self.scope.name().to_owned(),
            place: self.place(fleet, &members),
            title: self.title(fleet, members.len(), 1.0 - step.settings.slo),
            started_at: UnixMillis(self.started_at),
            detected_at: UnixMillis(self.detected_at),
            resolved_at: self.resolved_at.map(UnixMillis),
            updated_at: UnixMillis(now),
            retroactive: false,
            affected: self.affected(fleet, &members),
            cause: Self::cause(fleet, &members),
            change: None,
            actions: vec![Action {
                text: "See what the failing requests have in common".to_owned(),
                command: Some(format!(
                    "gatewatch-collector localize --from {}",
                    UnixMillis(self.started_at)
                )),
            }],
            parent: self.parent.clone(),
            children: self.children.clone(),
            acked_by: None,
            silenced: false,
            timeline: self.timeline.clone(),
        }
    }

    fn place(&self, fleet: &Fleet, members: &[u32]) -> Place {
        let server_of =
            |ix: &u32| fleet.server(fleet.site(*ix).server).map(|server| server.name.as_str());
        let servers: BTreeSet<&str> = members.iter().filter_map(server_of).collect();
        let (pool, members_named) = match &self.scope {
            Scope::Pool(pool) => {
                let named = servers.iter().map(|server| format!("{server}/{}", pool.name()));
                (Some(pool.name().to_owned()), named.collect())
            }
            Scope::Site(_) => {
                let named = |ix: &u32| Some(format!("{}/{}", server_of(ix)?, fleet.site(*ix).name));
                (None, members.iter().filter_map(named).collect())
            }
            _ => (None, servers.iter().map(|&server| server.to_owned()).collect()),
        };
        let mut sites: Vec<String> =
            members.iter().map(|ix| fleet.site(*ix).name.clone()).collect();
        sites.sort();
        sites.truncate(SITES_MAX);
        let only = if servers.len() == 1 { servers.first() } else { None };
        let server = only.map(|&server| server.to_owned());
        Place { server, pool, members: members_named, sites, ..Place::default() }
    }

    fn affected(&self, fleet: &Fleet, members: &[u32]) -> Affected {
        let servers: BTreeSet<ServerId> = members.iter().map(|ix| fleet.site(*ix).server).collect();
        let mut totals = Totals::default();
        self.members.values().for_each(|member| totals.add(member.totals));
        let n_sites = self.members.len() as u64;
        Affected {
            n_sites,
            n_sites_active: n_sites,
            n_servers: servers.len() as u64,
            n_requests: totals.n,
            n_gateway_errors: totals.failed(),
            n_502: totals.n_502,
            n_503: totals.n_503,
            n_504: totals.n_504,
            n_crawler: totals.n_crawler,
        }
    }

    /// Unknown: so few failures among so many requests name none. The newest error line is shown.
    fn cause(fleet: &Fleet, members: &[u32]) -> Cause {
        let line = |ix: &u32| {
            let site = fleet.site(*ix);
            let (at, text) = site.burn.as_ref()?.line()?;
            let server = fleet.server(site.server).map(|server| server.name.clone());
            Some((at, text.to_owned(), server))
        };
        let newest = members.iter().filter_map(line).max();
        let evidence = newest.map(|(at, text, server)| Evidence {
            kind: "log".to_owned(),
            text,
            at: UnixMillis(at),
            server,
            weight: 0.0,
        });
        Cause {
            class: "unknown".to_owned(),
            confidence: 0.0,
            evidence: evidence.into_iter().collect(),
            alternatives: Vec::new(),
        }
    }

    /// "shop.example on web-07 fails 1.2 % of requests for 1 h (error budget of 30 days burns 12x
    /// too fast)".
    fn title(&self, fleet: &Fleet, n_sites: usize, budget: f64) -> String {
        let server = |id| fleet.server(id).map_or("", |server| server.name.as_str());
        let who = match &self.scope {
            Scope::Site(id) => fleet.find(*id).map_or_else(String::new, |ix| {
                let site = fleet.site(ix);
                format!("{} on {}", site.name, server(site.server))
            }),
            Scope::Pool(Pool::Local(id, pool)) => {
                format!("{n_sites} sites of pool {pool} on {}", server(*id))
            }
            Scope::Pool(Pool::Upstream(address)) => format!("{n_sites} sites that use {address}"),
            Scope::Server(id) => format!("{n_sites} sites on {}", server(*id)),
            Scope::Group(_) => format!("{n_sites} sites"),
        };
        let is_one = matches!(self.scope, Scope::Site(_)) || n_sites == 1;
        let verb = match (self.resolved_at, is_one) {
            (Some(_), _) => "failed",
            (None, true) => "fails",
            (None, false) => "fail",
        };
        let (pace, burns) =
            if self.resolved_at.is_none() { (self.pace, "burns") } else { (self.peak, "burned") };
        format!(
            "{who} {verb} {:.1} % of requests for {} h (error budget of 30 days {burns} {:.0}x too fast)",
            pace.share * 100.0,
            pace.long_s / 3600,
            pace.share / budget
        )
    }
}
