//! Candidate groups: the sets of servers that one shared fault may hit.
//!
//! Every value of a group label that three servers share, every pair of values that is smaller than
//! both of its parts, and all servers. Sets with the same members are one candidate under its most
//! physical label. Members are sorted positions, never a bit per server: a server is in one value of
//! each label, so all lists together hold at most a few dozen numbers per server, however many
//! values there are, and the search reads only the lists of servers that fail.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Fleet;
use super::scope::Group;
use crate::model::ServerId;

/// Servers that a candidate has at least.
pub const SERVERS_MIN: usize = 3;
/// Group labels that are looked at, the most physical ones.
const LABELS_MAX: usize = 16;
/// Candidates kept, the largest pairs first.
const CANDIDATES_MAX: usize = 20_000;
/// Longest label value that names a group, bytes.
const VALUE_BYTES_MAX: usize = 256;
/// What a pair pays on top of its share of all candidates, nats.
const PAIR_NATS: f64 = 2.0;

/// One set of servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What they share.
    pub group: Group,
    /// Their positions in `Candidates::servers`, rising.
    pub members: Vec<u32>,
    /// Log prior, nats.
    pub prior: f64,
}

impl Candidate {
    /// Labels that name it: 0 for all servers.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        match &self.group {
            Group::Labels(labels) => labels.len(),
            Group::All | Group::Cohort(..) => 0,
        }
    }
}

/// All candidates of a fleet.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    servers: Vec<ServerId>,
    list: Vec<Candidate>,
    /// Candidates that hold the server at a position.
    of_server: Vec<Vec<u32>>,
    n_singles: usize,
    n_left_out: u64,
    /// Revision of the fleet that it was built from.
    built: Option<u64>,
}

impl Candidates {
    /// The candidates of a fleet. Costs O(servers x labels squared).
    #[must_use]
    pub fn of(fleet: &Fleet, group_labels: &[String]) -> Self {
        let known = fleet.servers.iter().filter(|(_, server)| !server.forgotten);
        let servers: Vec<ServerId> = known.clone().map(|(id, _)| *id).collect();
        let labels: Vec<&String> = group_labels.iter().take(LABELS_MAX).collect();
        let mut draft = Draft::default();
        let mut values: Vec<Vec<Option<u32>>> = Vec::new();
        let mut sizes: Vec<Vec<(&str, usize)>> = Vec::new();
        for label in &labels {
            let value = known.clone().map(|(_, server)| server.labels.get(*label));
            let column: Vec<Option<&str>> = value.map(|v| v.map(String::as_str)).collect();
            let (numbers, names) = draft.singles(label, &column);
            values.push(numbers);
            sizes.push(names);
        }
        let n_singles = draft.list.len();
        if servers.len() >= SERVERS_MIN {
            draft.add(Group::All, (0..servers.len() as u32).collect());
        }
        draft.pairs(&labels, &values, &sizes);
        let mut list = draft.list;
        let n_left_out = draft.n_left_out;
        let single = -(n_singles.max(1) as f64).ln();
        let pair = -(list.len().max(1) as f64).ln() - PAIR_NATS;
        let mut of_server = vec![Vec::new(); servers.len()];
        for (no, candidate) in (0_u32..).zip(&mut list) {
            candidate.prior = if candidate.n_labels() == 2 { pair } else { single };
            candidate.members.iter().for_each(|place| of_server[*place as usize].push(no));
        }
        Self { servers, list, of_server, n_singles, n_left_out, built: Some(fleet.revision()) }
    }

    /// Builds them anew when servers or labels have changed.
    pub fn refresh(&mut self, fleet: &Fleet, group_labels: &[String]) {
        if self.built != Some(fleet.revision()) {
            *self = Self::of(fleet, group_labels);
        }
    }

    /// Servers by position, rising.
    #[must_use]
    pub fn servers(&self) -> &[ServerId] {
        &self.servers
    }

    /// Position of a server; `None` when it is forgotten or came later.
    #[must_use]
    pub fn place(&self, server: ServerId) -> Option<u32> {
        self.servers.binary_search(&server).ok().map(|place| place as u32)
    }

    /// All of them.
    #[must_use]
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// Those that hold the server at a position, by number in `list`.
    #[must_use]
    pub fn holding(&self, place: u32) -> &[u32] {
        self.of_server.get(place as usize).map_or(&[], Vec::as_slice)
    }

    /// Log prior of a group that one label names, or none, nats.
    #[must_use]
    pub fn prior(&self) -> f64 {
        -(self.n_singles.max(1) as f64).ln()
    }

    /// Positions of the members of any group, rising: those of its candidate when it is one.
    #[must_use]
    pub fn members(&self, fleet: &Fleet, group: &Group) -> Vec<u32> {
        let places = (0_u32..).zip(&self.servers);
        places.filter(|(_, id)| fleet.is_in(group, **id)).map(|(place, _)| place).collect()
    }

    /// Evidence of every server by position, as `search` wants it.
    pub fn evidence(&self, of: impl FnMut(ServerId) -> f64) -> Vec<f64> {
        self.servers.iter().copied().map(of).collect()
    }

    /// Candidates and label values left out: more of them, or longer, than any honest fleet has.
    #[must_use]
    pub fn n_left_out(&self) -> u64 {
        self.n_left_out
    }
}

/// Candidates in the making.
#[derive(Default)]
struct Draft {
    list: Vec<Candidate>,
    known: HashSet<Vec<u32>>,
    n_left_out: u64,
}

impl Draft {
    /// Takes a set that is no other's; the first to come has the most physical label.
    fn add(&mut self, group: Group, members: Vec<u32>) {
        if self.list.len() >= CANDIDATES_MAX {
            self.n_left_out += 1;
        } else if self.known.insert(members.clone()) {
            self.list.push(Candidate { group, members, prior: 0.0 });
        }
    }

    /// Every value of one label that is common enough. Gives the number of each server's value and,
    /// by number, the value and how many servers have it.
    fn singles<'a>(
        &mut self,
        label: &str,
        column: &[Option<&'a str>],
    ) -> (Vec<Option<u32>>, Vec<(&'a str, usize)>) {
        let mut members: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (place, value) in (0_u32..).zip(column) {
            let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
            if value.len() > VALUE_BYTES_MAX {
                self.n_left_out += 1;
                continue;
            }
            members.entry(value).or_default().push(place);
        }
        members.retain(|_, members| members.len() >= SERVERS_MIN);
        let mut numbers = vec![None; column.len()];
        let mut names = Vec::new();
        for (no, (value, members)) in (0_u32..).zip(members) {
            for place in &members {
                numbers[*place as usize] = Some(no);
            }
            names.push((value, members.len()));
            let labels = BTreeMap::from([(label.to_owned(), value.to_owned())]);
            self.add(Group::Labels(labels), members);
        }
        (numbers, names)
    }

    /// Every pair of values of two labels that fewer servers have than either value.
    fn pairs(
        &mut self,
        labels: &[&String],
        values: &[Vec<Option<u32>>],
        sizes: &[Vec<(&str, usize)>],
    ) {
        let mut found = Vec::new();
        for first in 0..labels.len() {
            for second in first + 1..labels.len() {
                let mut members: HashMap<(u32, u32), Vec<u32>> = HashMap::new();
                let rows = values[first].iter().zip(&values[second]);
                for (place, row) in (0_u32..).zip(rows) {
                    if let (Some(a), Some(b)) = row {
                        members.entry((*a, *b)).or_default().push(place);
                    }
                }
                members.retain(|(a, b), members| {
                    let parts = [sizes[first][*a as usize].1, sizes[second][*b as usize].1];
                    (SERVERS_MIN..parts[0].min(parts[1])).contains(&members.len())
                });
                let named = |((a, b), members)| ((first, second, a, b), members);
                found.extend(members.into_iter().map(named));
            }
        }
        let room = CANDIDATES_MAX.saturating_sub(self.list.len());
        if found.len() > room {
            found
                .sort_by_key(|(name, members): &(_, Vec<u32>)| (usize::MAX - members.len(), *name));
            self.n_left_out += (found.len() - room) as u64;
            found.truncate(room);
        }
        found.sort_by_key(|(name, _)| *name);
        for ((first, second, a, b), members) in found {
            let part = |label: usize, value: u32| {
                (labels[label].clone(), sizes[label][value as usize].0.to_owned())
            };
            let pair = BTreeMap::from([part(first, a), part(second, b)]);
            self.add(Group::Labels(pair), members);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::server::Server;

    const LABELS: [&str; 4] = ["hypervisor", "rack", "region", "image"];

    /// A fleet of servers with labels, each as "hypervisor=hv-1 region=eu".
    fn fleet(servers: impl IntoIterator<Item = String>) -> Fleet {
        let mut fleet = Fleet::default();
        for (id, labels) in (1..).zip(servers) {
            let mut server = Server::new(ServerId(id));
            let parts = labels.split_whitespace().filter_map(|label| label.split_once('='));
            server.labels = parts.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            fleet.servers.insert(ServerId(id), server);
        }
        fleet
    }

    fn of(fleet: &Fleet) -> Candidates {
        Candidates::of(fleet, &LABELS.map(str::to_owned))
    }

    fn names(candidates: &Candidates) -> Vec<String> {
        let name = |c: &Candidate| {
            format!("{}: {}", crate::incident::story::group_name(&c.group), c.members.len())
        };
        candidates.list().iter().map(name).collect()
    }

    #[test]
    fn values_of_three_servers_and_all_servers_are_candidates() {
        let servers = ["region=eu", "region=eu", "region=eu rack=r1", "region=us", "rack=r1"];
        let candidates = of(&fleet(servers.map(str::to_owned)));
        assert_eq!(names(&candidates), ["region=eu: 3", "all: 5"]);
        assert!((candidates.list()[0].prior - 0.0).abs() < 1e-9, "one value, no choice");
    }

    #[test]
    fn two_servers_or_none_have_no_candidate() {
        for n in 0..3 {
            let fleet = fleet((0..n).map(|_| "region=eu".to_owned()));
            assert_eq!(of(&fleet).list(), [], "{n} servers");
        }
    }

    #[test]
    fn the_same_servers_under_several_labels_are_one_candidate_of_the_most_physical() {
        let hosts = |n: usize, of: &str| (0..n).map(|_| of.to_owned()).collect::<Vec<_>>();
        let mut servers = hosts(4, "hypervisor=hv-1 rack=r1 region=eu image=deb");
        servers.extend(hosts(4, "hypervisor=hv-2 rack=r2 region=eu image=deb"));
        let candidates = of(&fleet(servers));
        assert_eq!(
            names(&candidates),
            ["hypervisor=hv-1: 4", "hypervisor=hv-2: 4", "region=eu: 8"]
        );
        let prior = candidates.list()[0].prior;
        assert!((prior + 3_f64.ln()).abs() < 1e-9, "{prior}");
    }

    #[test]
    fn a_pair_is_a_candidate_only_where_it_is_smaller_than_both_parts() {
        let kinds = ["eu deb", "eu alma", "us deb", "us alma"];
        let servers = kinds.iter().flat_map(|kind| {
            let (region, image) = kind.split_once(' ').unwrap();
            (0..4).map(move |n| {
                format!("region={region} image={image} hypervisor={region}-{image}-{n}")
            })
        });
        // The hypervisors are of one server each, so they are no part of anything.
        let candidates = of(&fleet(servers));
        let names = names(&candidates);
        assert_eq!(names.iter().filter(|name| name.ends_with(": 4")).count(), 4, "{names:?}");
        assert!(names.contains(&"image=deb region=eu: 4".to_owned()), "{names:?}");
        let pair = candidates.list().last().unwrap().prior;
        assert!((pair + 9_f64.ln() + 2.0).abs() < 1e-9, "{pair} of {}", candidates.list().len());
    }

    #[test]
    fn forgotten_servers_are_in_no_candidate_and_a_change_of_labels_builds_anew() {
        let mut fleet = fleet((0..6).map(|_| "region=eu".to_owned()));
        let mut candidates = Candidates::default();
        candidates.refresh(&fleet, &LABELS.map(str::to_owned));
        assert_eq!(names(&candidates), ["region=eu: 6"]);
        fleet.servers.get_mut(&ServerId(2)).unwrap().forgotten = true;
        candidates.refresh(&fleet, &LABELS.map(str::to_owned));
        assert_eq!(names(&candidates), ["region=eu: 6"], "nobody said that something changed");
        fleet.changed();
        candidates.refresh(&fleet, &LABELS.map(str::to_owned));
        assert_eq!(names(&candidates), ["region=eu: 5"]);
        assert_eq!((candidates.place(ServerId(2)), candidates.place(ServerId(3))), (None, Some(1)));
    }

    #[test]
    fn a_million_labels_cost_bounded_memory_and_what_is_left_out_is_counted() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        let mut fleet = fleet((0..10).map(|_| "region=eu".to_owned()));
        let liar = fleet.servers.get_mut(&ServerId(3)).unwrap();
        liar.labels.extend((0..200_000).map(|n| (format!("label{n}"), n.to_string())));
        liar.labels.insert("rack".to_owned(), long);
        let candidates = of(&fleet);
        assert_eq!((candidates.list().len(), candidates.n_left_out()), (1, 1));

        // Pairs of two labels of 300 values each that are all different: 90,000 of 3 servers.
        let servers =
            (0..3 * 90_000).map(|n| format!("rack=r{} image=i{}", n % 300, n / 300 % 300));
        let candidates = of(&self::fleet(servers));
        assert_eq!(candidates.list().len(), CANDIDATES_MAX);
        assert_eq!(candidates.n_left_out() as usize, 90_000 + 601 - CANDIDATES_MAX);
    }
}
