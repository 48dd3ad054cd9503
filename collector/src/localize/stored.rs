//! Stored counts as a table: requests by server, label, site and pool, and by signal and first path
//! segment as far as exemplars tell.
//!
//! Requests are counted for each site and second; what a request failed with, and on which path, is
//! known of exemplars only. So the failures of a site are split by its exemplars, and its other
//! requests by how often each signal and path stood in exemplars before: one that is as common as
//! ever fails no more than the rest of its site. All sums stay exact.

use std::collections::BTreeMap;

use wire::signal::counter;
use wire::v1::{BatchBody, Signal};

use super::{DIMENSIONS_MAX, LEAVES_MAX, Refusal, Table};

/// Most combinations of server, site and pool that are told apart; later ones are `other`.
const GROUPS_MAX: usize = 100_000;
/// Most combinations of signal and path, over all groups while reading and in the table.
const MARKS_READ_MAX: usize = 200_000;
const MARKS_MAX: usize = 40;
/// Longest path segment kept, in characters.
const PATH_CHARS_MAX: usize = 80;
const OTHER: &str = "other";
const UNKNOWN: &str = "unknown";

/// A dimension of stored requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Name of the server.
    Server,
    /// Name of the site.
    Site,
    /// Its pool or upstream.
    Pool,
    /// What the error log said.
    Signal,
    /// First segment of the path.
    Path,
    /// A label of the server.
    Label(String),
}

impl By {
    /// The dimension called `name`: whatever is none of the fixed ones is a label.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "server" => Self::Server,
            "site" => Self::Site,
            "pool" => Self::Pool,
            "signal" => Self::Signal,
            "path" => Self::Path,
            label => Self::Label(label.to_owned()),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Server => "server",
            Self::Site => "site",
            Self::Pool => "pool",
            Self::Signal => "signal",
            Self::Path => "path",
            Self::Label(label) => label,
        }
    }
}

/// Seconds in question, and those before that they are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First second of the past.
    pub before_s: i64,
    /// First second in question.
    pub from_s: i64,
    /// First second that no longer is.
    pub to_s: i64,
}

impl Window {
    /// Whether a second is of the past; `None` when it is of neither.
    fn is_before(self, second: i64) -> Option<bool> {
        (self.before_s..self.to_s).contains(&second).then_some(second < self.from_s)
    }
}

/// A server as requests are named after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its clock minus the collector's, ms.
    pub clock_offset_ms: i64,
}

impl Owner {
    /// How many seconds its clock is ahead: whole ones when over one, as the detector has it.
    #[must_use]
    pub fn ahead_s(&self) -> i64 {
        self.clock_offset_ms / 1000
    }
}

/// Something counted now and before.
type Pair = [u64; 2];
/// Signal and path; empty where not asked for.
type Mark = (&'static str, String);

#[derive(Debug, Default)]
struct Group {
    n: Pair,
    n_failed: Pair,
    marks: BTreeMap<Mark, Pair>,
}

/// Stored batches, added up.
#[derive(Debug)]
pub struct Stored {
    by: Vec<By>,
    window: Window,
    groups: BTreeMap<Vec<String>, Group>,
    n_marks: usize,
}

impl Stored {
    /// Nothing yet. `by` names each dimension once.
    pub fn new(by: Vec<By>, window: Window) -> Result<Self, Refusal> {
        // The table's own check, before anything is read.
        Table::new(by.iter().map(|by| by.name().to_owned()).collect())?;
        Ok(Self { by, window, groups: BTreeMap::new(), n_marks: 0 })
    }

    /// Adds one body of `owner`, whose times are moved to the collector's clock.
    pub fn add(&mut self, owner: &Owner, body: &BatchBody) {
        for second in &body.seconds {
            let at = second.second.saturating_sub(owner.ahead_s());
            let Some(is_before) = self.window.is_before(at) else { continue };
            let Some(site) = body.sites.get(second.site as usize) else { continue };
            let at = usize::from(is_before);
            let group = self.group(owner, &site.name, pool_of(site));
            for (status, count) in second.status.iter().zip(&second.count) {
                let count = u64::from(*count);
                match *status {
                    counter::GATEWAY_503 => group.n_failed[at] += count,
                    502 | 504 => {
                        group.n[at] += count;
                        group.n_failed[at] += count;
                    }
                    100..=599 => group.n[at] += count,
                    _ => {}
                }
            }
        }
        if self.has_marks() {
            self.add_exemplars(owner, body);
        }
    }

    fn add_exemplars(&mut self, owner: &Owner, body: &BatchBody) {
        let (has_signal, has_path) = (self.by.contains(&By::Signal), self.by.contains(&By::Path));
        for exemplar in &body.exemplars {
            let second = exemplar.at_unix_ms.div_euclid(1000).saturating_sub(owner.ahead_s());
            let Some(is_before) = self.window.is_before(second) else { continue };
            let Some(site) = body.sites.get(exemplar.site as usize) else { continue };
            let signal = Signal::try_from(exemplar.signal).ok().and_then(Signal::name);
            let signal = if has_signal { signal.unwrap_or(UNKNOWN) } else { "" };
            let path = if has_path { first_segment(&exemplar.path) } else { String::new() };
            let mut mark = (signal, path);
            let is_full = self.n_marks >= MARKS_READ_MAX;
            let group = self.group(owner, &site.name, pool_of(site));
            let is_new = !group.marks.contains_key(&mark);
            if is_new && is_full {
                mark = other_mark(has_signal, has_path);
            }
            group.marks.entry(mark).or_default()[usize::from(is_before)] += 1;
            self.n_marks += usize::from(is_new && !is_full);
        }
    }

    /// Requests and failures in question.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let sum = |count: fn(&Group) -> u64| self.groups.values().map(count).sum();
        (sum(|group| group.n[0]), sum(|group| group.n_failed[0].min(group.n[0])))
    }

    /// The counts as a table.
    pub fn table(&self) -> Result<Table, Refusal> {
        let mut table = Table::new(self.by.iter().map(|by| by.name().to_owned()).collect())?;
        let kept = self.kept_marks();
        // One of each is believed to have been seen, so that a new one is not impossible.
        let usual: Vec<u64> = kept.iter().map(|(_, pair)| pair[1] + 1).collect();
        for (values, group) in &self.groups {
            for (at, n) in group.n.iter().enumerate() {
                let n_failed = group.n_failed[at].min(*n);
                if !self.has_marks() {
                    let values: Vec<&str> = values.iter().map(String::as_str).collect();
                    table.add(&values, at == 1, *n, n_failed)?;
                    continue;
                }
                let seen = seen_marks(group, &kept, at);
                let failed = apportion(n_failed, &seen);
                let good = apportion(n - n_failed, &usual);
                for (m, (mark, _)) in kept.iter().enumerate() {
                    let n = failed[m] + good[m];
                    table.add(&self.marked(values, mark), at == 1, n, failed[m])?;
                }
            }
        }
        Ok(table)
    }

    fn has_marks(&self) -> bool {
        self.by.iter().any(|by| matches!(by, By::Signal | By::Path))
    }

    /// The most common marks and how often each was seen; the last stands for all others.
    fn kept_marks(&self) -> Vec<(Mark, Pair)> {
        let (has_signal, has_path) = (self.by.contains(&By::Signal), self.by.contains(&By::Path));
        let rest = other_mark(has_signal, has_path);
        let mut all: BTreeMap<&Mark, Pair> = BTreeMap::new();
        for (mark, pair) in self.groups.values().flat_map(|group| &group.marks) {
            let sum = all.entry(mark).or_default();
            *sum = [sum[0] + pair[0], sum[1] + pair[1]];
        }
        let mut kept: Vec<(Mark, Pair)> =
            all.into_iter().map(|(mark, pair)| (mark.clone(), pair)).collect();
        kept.retain(|(mark, _)| *mark != rest);
        kept.sort_by(|a, b| (b.1[0] + b.1[1]).cmp(&(a.1[0] + a.1[1])).then(a.0.cmp(&b.0)));
        let room = (LEAVES_MAX / self.groups.len().max(1)).saturating_sub(1).clamp(1, MARKS_MAX);
        let mut others = [0, 0];
        for (_, pair) in kept.iter().skip(room) {
            others = [others[0] + pair[0], others[1] + pair[1]];
        }
        kept.truncate(room);
        kept.push((rest, others));
        kept
    }

    /// Values of a leaf: those of its group with its mark at the places of signal and path.
    fn marked<'a>(&'a self, values: &'a [String], mark: &'a Mark) -> Vec<&'a str> {
        let value = |(by, value): (&By, &'a String)| match by {
            By::Signal => mark.0,
            By::Path => mark.1.as_str(),
            _ => value.as_str(),
        };
        self.by.iter().zip(values).map(value).collect()
    }

    fn group(&mut self, owner: &Owner, site: &str, pool: &str) -> &mut Group {
        let of = |by: &By, site: &str, pool: &str| match by {
            By::Server => owner.name.clone(),
            By::Site => site.to_owned(),
            By::Pool => pool.to_owned(),
            By::Signal | By::Path => String::new(),
            By::Label(label) => owner.labels.get(label).cloned().unwrap_or_default(),
        };
        let mut key: Vec<String> = self.by.iter().map(|by| of(by, site, pool)).collect();
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            key = self.by.iter().map(|by| of(by, OTHER, OTHER)).collect();
        }
        self.groups.entry(key).or_default()
    }
}

fn pool_of(site: &wire::v1::Site) -> &str {
    if site.pool.is_empty() { &site.upstream } else { &site.pool }
}

fn other_mark(has_signal: bool, has_path: bool) -> Mark {
    let text = |is_asked: bool| if is_asked { OTHER } else { "" };
    (text(has_signal), text(has_path).to_owned())
}

/// How often a group's exemplars had each of `kept`; all 0 becomes one of the last, the others.
fn seen_marks(group: &Group, kept: &[(Mark, Pair)], at: usize) -> Vec<u64> {
    let mut seen: Vec<u64> =
        kept.iter().map(|(mark, _)| group.marks.get(mark).map_or(0, |pair| pair[at])).collect();
    let all: u64 = group.marks.values().map(|pair| pair[at]).sum();
    let named: u64 = seen.iter().sum();
    if let Some(last) = seen.last_mut() {
        *last += all - named;
        *last = if all == 0 { 1 } else { *last };
    }
    seen
}

/// Splits `n` in the proportion of `shares`, exactly: what rounding leaves over goes to the largest
/// remainders, the first of equals.
fn apportion(n: u64, shares: &[u64]) -> Vec<u64> {
    let all: u128 = shares.iter().map(|share| u128::from(*share)).sum::<u128>().max(1);
    let mut parts = Vec::with_capacity(shares.len());
    let mut rests: Vec<(u128, usize)> = Vec::with_capacity(shares.len());
    for (at, share) in shares.iter().enumerate() {
        let exact = u128::from(n) * u128::from(*share);
        parts.push((exact / all) as u64);
        rests.push((exact % all, at));
    }
    rests.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let left = n - parts.iter().sum::<u64>();
    for (_, at) in rests.into_iter().take(left as usize) {
        parts[at] += 1;
    }
    parts
}

/// `/wp-admin/` of `/wp-admin/admin-ajax.php?x=1`, `/index.php` of itself.
fn first_segment(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if path.is_empty() {
        return UNKNOWN.to_owned();
    }
    // The second slash is the end, where there is one.
    let end = path.match_indices('/').find(|(at, _)| *at > 0).map_or(path.len(), |(at, _)| at + 1);
    path[..end].chars().take(PATH_CHARS_MAX).collect()
}

/// Dimensions asked by when none are named: labels that tell servers apart, then server, site, pool.
#[must_use]
pub fn usual_dimensions<'a>(owners: impl Iterator<Item = &'a Owner>) -> Vec<By> {
    /// Physical ones first, as in the default of `[detect] group_labels`.
    const LABELS: [&str; 7] =
        ["hypervisor", "rack", "network", "region", "provider", "image", "plan"];
    let mut values: BTreeMap<(usize, &str), Vec<&str>> = BTreeMap::new();
    for (label, value) in owners.flat_map(|owner| &owner.labels) {
        let rank = LABELS.iter().position(|known| known == label).unwrap_or(LABELS.len());
        let seen = values.entry((rank, label)).or_default();
        if seen.len() < 2 && !seen.contains(&value.as_str()) {
            seen.push(value);
        }
    }
    let telling = values.into_iter().filter(|(_, seen)| seen.len() > 1);
    let mut by: Vec<By> = telling
        .take(DIMENSIONS_MAX - 3)
        .map(|((_, label), _)| By::named(label))
        .filter(|by| matches!(by, By::Label(_)))
        .collect();
    by.extend([By::Server, By::Site, By::Pool]);
    by
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::localize::{Common, localize};
    use wire::v1::{Exemplar, Site, SiteSecond};

    const WINDOW: Window = Window { before_s: 0, from_s: 100, to_s: 200 };

    fn owner(name: &str, rack: &str) -> Owner {
        let labels = [("rack".to_owned(), rack.to_owned())].into();
        Owner { name: name.into(), labels, clock_offset_ms: 0 }
    }

    fn site(name: &str) -> Site {
        Site { name: name.into(), pool: format!("pool-{name}"), ..Site::default() }
    }

    fn second(site: u32, second: i64, good: u32, bad: u32) -> SiteSecond {
        SiteSecond { site, second, status: vec![200, 502], count: vec![good, bad] }
    }

    fn exemplar(site: u32, second: i64, signal: Signal, path: &str) -> Exemplar {
        let at_unix_ms = second * 1000 + 999;
        Exemplar {
            site,
            at_unix_ms,
            signal: signal.into(),
            path: path.into(),
            ..Exemplar::default()
        }
    }

    fn found(by: &[&str], bodies: &[(Owner, BatchBody)]) -> Vec<Common> {
        let by = by.iter().map(|name| By::named(name)).collect();
        let mut stored = Stored::new(by, WINDOW).unwrap();
        for (owner, body) in bodies {
            stored.add(owner, body);
        }
        let table = stored.table().unwrap();
        let found = localize(&table).common;
        let (n, n_failed) = stored.totals();
        assert!(
            found.iter().all(|common| common.n <= n && common.n_failed <= n_failed),
            "{found:?}"
        );
        found
    }

    fn fleet() -> Vec<(Owner, BatchBody)> {
        let body = |bad: u32| BatchBody {
            sites: vec![site("a.example"), site("b.example")],
            seconds: vec![
                second(0, 50, 100, 0),
                second(1, 50, 100, 1),
                second(0, 150, 100 - bad, bad),
                second(1, 150, 100 - bad, bad),
                second(0, 250, 0, 1000),
                second(9, 150, 0, 1000),
                SiteSecond {
                    site: 0,
                    second: 150,
                    status: vec![503, counter::GATEWAY_503, counter::RETRIED],
                    count: vec![5, 1, 9],
                },
            ],
            ..BatchBody::default()
        };
        vec![
            (owner("web-1", "r1"), body(0)),
            (owner("web-2", "r1"), body(1)),
            (owner("web-3", "r2"), body(80)),
            (owner("web-4", "r2"), body(75)),
        ]
    }

    #[test]
    fn a_rack_is_named_when_all_its_servers_fail() {
        let found = found(&["site", "server", "rack", "pool"], &fleet());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].values, [("rack".to_owned(), "r2".to_owned())].into());
        assert_eq!((found[0].n, found[0].n_failed), (410, 312), "503 of the application are none");
    }

    #[test]
    fn a_server_whose_clock_is_wrong_fails_when_the_others_do() {
        let mut bodies = fleet();
        for (owner, body) in &mut bodies[2..] {
            // 90.4 s ahead or behind: 50 s of it would be failures of the past, or of nothing.
            owner.clock_offset_ms = if owner.name == "web-3" { 90_400 } else { -90_400 };
            let ahead_s = if owner.name == "web-3" { 90 } else { -90 };
            for second in &mut body.seconds {
                second.second += ahead_s;
            }
        }
        let by = ["site", "server", "rack", "pool"];
        assert_eq!(found(&by, &bodies), found(&by, &fleet()));
        let mut stored = Stored::new(vec![By::Path], WINDOW).unwrap();
        let mut early = owner("web-1", "r1");
        early.clock_offset_ms = 60_999;
        let body = BatchBody {
            sites: vec![site("a.example")],
            exemplars: vec![exemplar(0, 160, Signal::ConnectRefused, "/x/")],
            ..BatchBody::default()
        };
        stored.add(&early, &body);
        let marks = stored.groups.into_values().flat_map(|group| group.marks);
        let counts: Vec<Pair> = marks.map(|(_, pair)| pair).collect();
        assert_eq!(
            counts,
            [[1, 0]],
            "second 160 of a clock 60 s ahead is 100, the first in question"
        );
    }

    #[test]
    fn a_signal_and_a_path_that_are_new_are_named() {
        let mut exemplars: Vec<Exemplar> =
            (0..30).map(|i| exemplar(i % 2, 50, Signal::TimeoutRead, "/shop/x?y=1")).collect();
        exemplars.extend((0..4).map(|_| exemplar(0, 150, Signal::TimeoutRead, "/shop/z")));
        exemplars.extend((0..20).map(|_| exemplar(0, 150, Signal::ConnectRefused, "/api/v1/q")));
        exemplars.extend((0..20).map(|_| exemplar(1, 150, Signal::ConnectRefused, "/api/v2/q")));
        let body = BatchBody {
            sites: vec![site("a.example"), site("b.example")],
            seconds: vec![
                second(0, 50, 1000, 15),
                second(1, 50, 1000, 15),
                second(0, 150, 1000, 120),
                second(1, 150, 1000, 100),
            ],
            exemplars,
            ..BatchBody::default()
        };
        let found = found(&["site", "signal", "path"], &[(owner("web-1", "r1"), body)]);
        let values = &found[0].values;
        // Both always come together here; one of them says it.
        assert_eq!(values.len(), 1, "{found:?}");
        let is_named = values.get("signal").is_some_and(|signal| signal == "connect_refused")
            || values.get("path").is_some_and(|path| path == "/api/");
        assert!(is_named, "{found:?}");
        assert_eq!(found[0].n_failed, 200);
    }

    #[test]
    fn paths_are_cut_to_their_first_segment() {
        for (path, expected) in [
            ("", "unknown"),
            ("?x", "unknown"),
            ("/", "/"),
            ("/index.php?a=/b/", "/index.php"),
            ("/wp-admin/admin-ajax.php", "/wp-admin/"),
            ("//x/y", "//"),
            ("ü/ö", "ü/"),
        ] {
            assert_eq!(first_segment(path), expected, "{path}");
        }
        assert_eq!(first_segment(&format!("/{}", "ä".repeat(500))).chars().count(), PATH_CHARS_MAX);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        for (n, shares, expected) in [
            (10, &[1, 1, 1][..], &[4, 3, 3][..]),
            (0, &[1, 2], &[0, 0]),
            (7, &[0, 0, 5], &[0, 0, 7]),
            (u64::from(u32::MAX) * 9, &[1, 2], &[12_884_901_885, 25_769_803_770]),
        ] {
            assert_eq!(apportion(n, shares), expected, "{n} {shares:?}");
        }
    }

    #[test]
    fn a_fleet_of_more_sites_than_are_told_apart_keeps_its_sums() {
        let mut stored = Stored::new(vec![By::Site, By::Server], WINDOW).unwrap();
        for at in 0..GROUPS_MAX + 500 {
            let body = BatchBody {
                sites: vec![site(&format!("s{at}"))],
                seconds: vec![second(0, 150, 1, 1)],
                ..BatchBody::default()
            };
            stored.add(&owner("web-1", "r1"), &body);
        }
        assert!(stored.groups.len() <= GROUPS_MAX + 1);
        let n = 2 * (GROUPS_MAX as u64 + 500);
        assert_eq!(stored.totals(), (n, n / 2));
    }

    #[test]
    fn without_a_wish_labels_that_tell_servers_apart_are_taken() {
        let mut fleet = vec![owner("web-1", "r1"), owner("web-2", "r2")];
        for server in &mut fleet {
            server.labels.insert("image".into(), "debian-12".into());
            server.labels.insert("owner".into(), server.name.clone());
            server.labels.insert("site".into(), server.name.clone());
        }
        let names: Vec<String> =
            usual_dimensions(fleet.iter()).iter().map(|by| by.name().to_owned()).collect();
        assert_eq!(names, ["rack", "owner", "server", "site", "pool"]);
    }
}
