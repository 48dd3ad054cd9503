//! What really happened: the label of each outage, written beside its stream.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::fleet::Server;

/// Failing requests below which nobody could tell an outage from chance.
const N_FAILED_SURE: u64 = 8;
/// Clients below which nobody could tell it from one client's broken address.
const N_CLIENTS_SURE: usize = 4;

/// How far a fault reaches, as it was injected.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reach {
    Site(usize, usize),
    /// A pool of one server.
    Pool(usize, String),
    /// A backend machine that several servers use.
    Upstream(String),
    Servers(Vec<usize>),
}

/// A scope that says the truth: it has to name all of `must` and nothing beyond `may`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Answer {
    pub(crate) scope: String,
    pub(crate) must: BTreeSet<String>,
    pub(crate) may: BTreeSet<String>,
}

impl Answer {
    fn exact(scope: &str, members: BTreeSet<String>) -> Self {
        Self { scope: scope.to_owned(), must: members.clone(), may: members }
    }

    pub(crate) fn is(&self, scope: &str, members: &BTreeSet<String>) -> bool {
        scope == self.scope && self.must.is_subset(members) && members.is_subset(&self.may)
    }
}

/// The label of one outage. Times are true time, ms since the epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Outage {
    pub(crate) name: String,
    /// Kinds of incident that tell it.
    pub(crate) kinds: Vec<String>,
    /// Any of these is right. The first is the fault as it was injected.
    pub(crate) answers: Vec<Answer>,
    /// Any of these causes is right; none when the stream cannot tell.
    pub(crate) causes: Vec<String>,
    /// False for what may be told or not: a blip, or too little evidence for anybody.
    pub(crate) required: bool,
    /// False where the stream comes too late, or the failure is too slow, to be told in seconds.
    pub(crate) timed: bool,
    /// What is left of it when a wider one ends: an incident of that one may go on as this.
    pub(crate) remains: bool,
    /// It comes and goes, and is one outage.
    pub(crate) flaps: bool,
    /// A collector restart falls into it.
    pub(crate) restarted: bool,
    /// When the fault was injected, and when it was repaired.
    pub(crate) from: i64,
    pub(crate) until: i64,
    /// Kind of the change that caused it.
    pub(crate) change: Option<String>,
    pub(crate) servers: BTreeSet<String>,
    /// Sites with a request that failed by it.
    pub(crate) sites: BTreeSet<String>,
    pub(crate) n_failed: u64,
    pub(crate) first_at: Option<i64>,
    pub(crate) third_at: Option<i64>,
    /// When the third different client had failed.
    pub(crate) third_client_at: Option<i64>,
    pub(crate) last_at: Option<i64>,
    /// When a server-wide fault had shown itself on three sites, or all there are.
    pub(crate) identifiable_at: Option<i64>,
}

/// An outage while its world is being built.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) label: Outage,
    pub(crate) reach: Reach,
}

/// What the traffic showed of one outage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// (time, server, site) of each failed request.
    pub(crate) failed: Vec<(i64, usize, usize)>,
    /// When each client failed first.
    pub(crate) clients: BTreeMap<u64, i64>,
}

/// Requests of each (server, site) while an outage lasted.
pub(crate) type Active = BTreeMap<(usize, usize), u64>;

/// Completes the label with what the requests really did.
pub(crate) fn complete(
    fault: &Fault,
    seen: &mut Seen,
    active: &Active,
    fleet: &[Server],
) -> Outage {
    let mut label = fault.label.clone();
    seen.failed.sort_unstable();
    let places: BTreeSet<(usize, usize)> = seen.failed.iter().map(|f| (f.1, f.2)).collect();
    label.n_failed = seen.failed.len() as u64;
    label.first_at = seen.failed.first().map(|f| f.0);
    label.third_at = seen.failed.get(2).map(|f| f.0);
    let mut clients: Vec<i64> = seen.clients.values().copied().collect();
    clients.sort_unstable();
    label.third_client_at = clients.get(2).copied();
    label.last_at = seen.failed.last().map(|f| f.0);
    label.sites = places.iter().map(|(s, i)| fleet[*s].sites[*i].name.clone()).collect();
    let told_by_requests = label.kinds.iter().any(|kind| kind == "gateway_errors");
    if told_by_requests {
        label.servers = places.iter().map(|(s, _)| fleet[*s].name.clone()).collect();
        label.required &= label.n_failed >= N_FAILED_SURE && seen.clients.len() >= N_CLIENTS_SURE;
        label.answers = answers(&fault.reach, &places, active, fleet);
        if let Reach::Servers(servers) = &fault.reach
            && let [server] = servers[..]
        {
            label.identifiable_at = identifiable(seen, server, active);
        }
    } else if let Reach::Servers(servers) = &fault.reach {
        let names: BTreeSet<String> = servers.iter().map(|s| fleet[*s].name.clone()).collect();
        label.servers.clone_from(&names);
        let scope = if names.len() > 1 { "group" } else { "server" };
        label.answers = vec![Answer::exact(scope, names)];
    }
    label
}

fn site_name(fleet: &[Server], (server, ix): (usize, usize)) -> String {
    format!("{}/{}", fleet[server].name, fleet[server].sites[ix].name)
}

/// Every scope that the requests cannot tell from the one that was injected.
fn answers(
    reach: &Reach,
    failed: &BTreeSet<(usize, usize)>,
    active: &Active,
    fleet: &[Server],
) -> Vec<Answer> {
    let mut all = match reach {
        Reach::Site(server, ix) => {
            vec![Answer::exact("site", [site_name(fleet, (*server, *ix))].into())]
        }
        Reach::Pool(server, pool) => {
            vec![Answer::exact("pool", [format!("{}/{pool}", fleet[*server].name)].into())]
        }
        Reach::Upstream(address) => vec![upstream(address, failed, fleet)],
        Reach::Servers(servers) => vec![by_servers(servers, failed, active, fleet)],
    };
    let servers: BTreeSet<usize> = failed.iter().map(|(server, _)| *server).collect();
    let (Some(&server), 1) = (servers.first(), servers.len()) else { return all };
    if let (Some(&only), 1) = (failed.first(), failed.len()) {
        all.push(Answer::exact("site", [site_name(fleet, only)].into()));
    }
    // A pool or server none of whose other sites had a request looks the same.
    let place = |ix: usize| fleet[server].sites[ix].place();
    let on_server = || active.keys().filter(|(s, _)| *s == server);
    if let Some(&(_, first)) = failed.first()
        && failed.iter().all(|(_, ix)| place(*ix) == place(first))
        && on_server().filter(|(_, ix)| place(*ix) == place(first)).all(|key| failed.contains(key))
    {
        let name = format!("{}/{}", fleet[server].name, place(first));
        all.push(Answer::exact("pool", [name].into()));
    }
    if on_server().all(|key| failed.contains(key)) {
        all.push(Answer::exact("server", [fleet[server].name.clone()].into()));
    }
    all.dedup();
    all
}

/// The users of a backend machine; one without a request may be named or not.
fn upstream(address: &str, failed: &BTreeSet<(usize, usize)>, fleet: &[Server]) -> Answer {
    let name = |server: usize| format!("{}/{address}", fleet[server].name);
    let uses = |server: &usize| fleet[*server].sites.iter().any(|site| site.place() == address);
    Answer {
        scope: "pool".to_owned(),
        must: failed.iter().map(|(server, _)| name(*server)).collect(),
        may: (0..fleet.len()).filter(uses).map(name).collect(),
    }
}

/// The servers a fault reached; one without a request may be named or not.
fn by_servers(
    servers: &[usize],
    failed: &BTreeSet<(usize, usize)>,
    active: &Active,
    fleet: &[Server],
) -> Answer {
    let name = |server: &usize| fleet[*server].name.clone();
    let with_failures: BTreeSet<usize> = failed.iter().map(|(server, _)| *server).collect();
    if let (Some(only), 1) = (with_failures.first(), with_failures.len()) {
        return Answer::exact("server", [name(only)].into());
    }
    let heard = |server: &&usize| {
        with_failures.contains(server) || active.keys().any(|(s, _)| s == *server)
    };
    Answer {
        scope: "group".to_owned(),
        must: servers.iter().filter(heard).map(name).collect(),
        may: servers.iter().map(name).collect(),
    }
}

fn identifiable(seen: &Seen, server: usize, active: &Active) -> Option<i64> {
    let n_active = active.keys().filter(|(s, _)| *s == server).count();
    let mut sites = BTreeSet::new();
    for (n, (at, _, ix)) in seen.failed.iter().enumerate() {
        sites.insert(*ix);
        if sites.len() >= n_active.min(3) && n >= 3 {
            return Some(*at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Backing, Plan, build};
    use crate::random::Random;

    fn fleet() -> Vec<Server> {
        let plan =
            Plan { n_servers: 4, sites: (6, 6), backing: Some(Backing::Mixed), ..Plan::default() };
        build(&plan, &mut Random::new(1, "truth"))
    }

    fn scopes(reach: &Reach, failed: &[(usize, usize)], healthy: &[(usize, usize)]) -> Vec<String> {
        let active = failed.iter().chain(healthy).map(|key| (*key, 1)).collect();
        let failed = failed.iter().copied().collect();
        answers(reach, &failed, &active, &fleet()).into_iter().map(|a| a.scope).collect()
    }

    #[test]
    fn a_pool_with_healthy_sites_beside_it_is_only_that_pool() {
        let reach = Reach::Pool(0, "www".to_owned());
        assert_eq!(scopes(&reach, &[(0, 0), (0, 1)], &[(0, 4)]), ["pool"]);
    }

    #[test]
    fn a_pool_whose_neighbours_were_never_asked_may_be_called_the_server() {
        let reach = Reach::Pool(0, "www".to_owned());
        assert!(scopes(&reach, &[(0, 0), (0, 1)], &[]).contains(&"server".to_owned()));
    }

    #[test]
    fn a_group_has_to_name_every_member_that_was_heard() {
        let failed = [(0, 0), (1, 0), (2, 0)].into();
        let active = [((0, 0), 1), ((1, 0), 1), ((2, 0), 1)].into();
        let all = answers(&Reach::Servers(vec![0, 1, 2, 3]), &failed, &active, &fleet());
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
        assert!(all[0].is("group", &names(&["web-00", "web-01", "web-02"])));
        assert!(all[0].is("group", &names(&["web-00", "web-01", "web-02", "web-03"])));
        assert!(!all[0].is("group", &names(&["web-00", "web-01"])));
    }
}
