//! What changed just before: a change is suspected by its kind, its age and whom it touched.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use wire::UnixMillis;

use super::Fleet;
use super::server::{Changed, Server, is_gateway_unit};
use super::site::Site;
use super::table::{self, Class};
use crate::model::{ChangeBefore, ServerId};

/// Time over which the suspicion of a change fades to a third, seconds.
pub const FADE_S: f64 = 120.0;
/// Changes older than this before the first failure are not suspected, ms.
const AGE_MAX_MS: i64 = 600_000;
/// The same for packages, ms.
const PACKAGE_AGE_MAX_MS: i64 = 300_000;
/// A change this close after the first failure counts as before it, ms.
const SLACK_MS: i64 = 2_000;
/// What counts of a package that serves no pages.
const ASIDE: f64 = 0.5;
/// Share of the affected servers that must have had a change.
const SHARED_MIN: f64 = 0.4;
/// Suspicion at which a change is named.
const NAMED: f64 = 0.5;

/// Cohorts given at most, the largest first.
const COHORTS_MAX: usize = 64;

/// Servers that had the same change of their stack lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cohort {
    /// Kind and text without what differs from server to server.
    pub key: String,
    /// `package`, `config` or `firewall`.
    pub kind: String,
    /// The change in the words of the first server.
    pub what: String,
    /// When each server was changed first, corrected, ms.
    pub servers: BTreeMap<ServerId, i64>,
}

/// Servers with the same change in the ten minutes before `now` (corrected, ms), of two or more.
///
/// Of the whole server and of what serves pages: its web server, PHP, proxy, database, their
/// configuration, the packet filter, the resolver. The same change is one of the same kind with the
/// same text, paths and versions included, but for the server's own names and addresses.
/// Costs one comparison a server while nothing changes.
#[must_use]
pub fn cohorts(fleet: &Fleet, now: i64) -> Vec<Cohort> {
    let mut found: BTreeMap<Cow<'_, str>, Cohort> = BTreeMap::new();
    let recent = |at: i64| at >= now - AGE_MAX_MS && at <= now + SLACK_MS;
    let servers = fleet.servers.values().filter(|server| !server.forgotten);
    for server in servers.filter(|server| server.changed_at >= now - AGE_MAX_MS) {
        for change in server.changes.iter().filter(|c| recent(c.at) && known_of_stack(c)) {
            let key = key(server, change);
            let cohort = found.entry(key).or_insert_with_key(|key| Cohort {
                key: key.clone().into_owned(),
                kind: change.kind.clone(),
                what: change.what.clone(),
                servers: BTreeMap::new(),
            });
            let at = cohort.servers.entry(server.id).or_insert(change.at);
            *at = change.at.min(*at);
        }
    }
    let mut cohorts: Vec<Cohort> = found.into_values().filter(|c| c.servers.len() > 1).collect();
    cohorts.sort_by_key(|cohort| std::cmp::Reverse(cohort.servers.len()));
    cohorts.truncate(COHORTS_MAX);
    cohorts
}

/// What the same change is called on every server: as noted when it came, which servers with many
/// changes are asked for on every tick.
fn key<'a>(server: &Server, change: &'a Changed) -> Cow<'a, str> {
    if change.key.is_empty() {
        return Cow::Owned(key_of(&server.name, change));
    }
    Cow::Borrowed(&change.key)
}

/// The same, noted with the key.
fn known_of_stack(change: &Changed) -> bool {
    if change.key.is_empty() { is_of_stack(change) } else { change.of_stack }
}

/// What the same change is called on every server, made out of its text and the server's name.
pub(super) fn key_of(server: &str, change: &Changed) -> String {
    let mut text = change.what.to_lowercase();
    let name = server.to_lowercase();
    let short = name.split('.').next().unwrap_or_default();
    for own in [name.as_str(), short].into_iter().filter(|own| own.len() > 2) {
        text = text.replace(own, "(server)");
    }
    let is_address = |word: &str| word.parse::<std::net::IpAddr>().is_ok();
    let separates = |c: char| !(c.is_ascii_alphanumeric() || ".:-_".contains(c));
    let mut plain = String::with_capacity(text.len());
    for part in text.split_inclusive(separates) {
        let word = part.trim_end_matches(separates);
        plain.push_str(if is_address(word) { "(address)" } else { word });
        plain.push_str(&part[word.len()..]);
    }
    format!("{} {}", change.kind, plain.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether a change touches what serves the pages of a whole server.
#[must_use]
pub fn is_of_stack(change: &Changed) -> bool {
    if change.site.is_some() {
        return false;
    }
    match change.kind.as_str() {
        "firewall" => true,
        "package" | "config" => is_stack_text(&change.what),
        _ => false,
    }
}

/// Whether a text names a part of what serves pages.
fn is_stack_text(what: &str) -> bool {
    /// What these stand on and are configured by, beside the services themselves.
    const WORDS: [&str; 22] = [
        "openssl",
        "libssl",
        "libc6",
        "glibc",
        "libcurl",
        "resolv",
        "nsswitch",
        "/etc/hosts",
        "unbound",
        "dnsmasq",
        "named",
        "bind9",
        "nscd",
        "iptables",
        "nftables",
        "firewalld",
        "ufw",
        "csf",
        "systemd",
        "sysctl",
        "limits.conf",
        "docker",
    ];
    let what = what.to_ascii_lowercase();
    is_gateway_unit(&what) || WORDS.iter().any(|word| what.contains(word))
}

/// Name of the row of a change and how much of it counts; `None` for what breaks nothing.
fn row(change: &Changed) -> Option<(&'static str, f64)> {
    let key = table::change(&change.kind)?;
    let serves = change.pool.is_some() || is_stack_text(&change.what);
    match change.kind.as_str() {
        // Somebody restarts a printer's daemon: no page waits for it.
        "restart" if !serves => None,
        "package" if !serves => Some((key, ASIDE)),
        // Owners, and plugins of theirs, write these all the time.
        "config" if change.site.is_some() && !change.what.contains(".htaccess") => {
            Some(("change_config_own", 1.0))
        }
        _ => Some((key, 1.0)),
    }
}

/// Nats of a change for the cause it is known for.
fn nats(key: &str) -> f64 {
    let nats = &table::row(key).nats;
    Class::ALL.into_iter().map(|class| nats.of(class)).fold(0.0, f64::max)
}

/// A change in words.
#[must_use]
pub fn words(change: &Changed) -> String {
    match change.kind.as_str() {
        // These say what happened by themselves: "nginx.service reloaded".
        "restart" | "boot" | "clock" if change.what.contains(' ') => change.what.clone(),
        "restart" => format!("{} restarted", change.what),
        "boot" => format!("machine booted: {}", change.what),
        kind => format!("{kind}: {}", change.what),
    }
}

/// First failure of each server of these sites, corrected, ms. Servers of a rollout fail one by one.
#[must_use]
pub fn firsts(fleet: &Fleet, members: &[u32], first: i64) -> BTreeMap<ServerId, i64> {
    let mut firsts: BTreeMap<ServerId, Option<i64>> = BTreeMap::new();
    for site in members.iter().map(|ix| fleet.site(*ix)) {
        let known = firsts.entry(site.server).or_default();
        if let Some(episode) = &site.episode {
            let at = episode.first_at.max(first);
            *known = Some(known.map_or(at, |known| known.min(at)));
        }
    }
    if firsts.len() == 1 {
        return firsts.into_keys().map(|id| (id, first)).collect();
    }
    firsts.into_iter().map(|(id, at)| (id, at.unwrap_or(first))).collect()
}

/// A change that may explain failures.
pub struct Suspect<'a> {
    /// Name of its row.
    pub key: &'static str,
    /// The change, where it came first.
    pub change: &'a Changed,
    /// How much of the row counts: fades with the age of the change.
    pub weight: f64,
    /// The server of that change.
    pub server: &'a str,
    /// On how many of the affected servers it was made.
    pub n_servers: usize,
    servers: BTreeSet<ServerId>,
    /// What the change is called on every server.
    name: Cow<'a, str>,
}

/// Changes that may explain failures of these sites since `first`, one of each kind: the newest of a
/// server; of several servers the one that most of them share.
#[must_use]
pub fn rows<'a>(fleet: &'a Fleet, scope: &str, members: &[u32], first: i64) -> Vec<Suspect<'a>> {
    let mut best: BTreeMap<&str, Suspect> = BTreeMap::new();
    for suspect in suspects(fleet, scope, members, first) {
        let known = best.get(suspect.key).map(|known| (known.n_servers, known.weight));
        if known.is_none_or(|known| (suspect.n_servers, suspect.weight) > known) {
            best.insert(suspect.key, suspect);
        }
    }
    best.into_values().collect()
}

/// Every change that may explain the failures; the same change of several servers is one.
fn suspects<'a>(fleet: &'a Fleet, scope: &str, members: &[u32], first: i64) -> Vec<Suspect<'a>> {
    let firsts = firsts(fleet, members, first);
    let mut found: BTreeMap<Cow<'_, str>, (Suspect, f64)> = BTreeMap::new();
    for (id, first) in &firsts {
        let Some(server) = fleet.server(*id) else { continue };
        let mut seen = BTreeSet::new();
        for change in server.changes.iter().rev().filter(|change| is_before(change, *first)) {
            let Some((key, part)) = row(change) else { continue };
            let wide = scope != "group" || change.site.is_none();
            if !wide || !explains(fleet, server, change, members) {
                continue;
            }
            let name = self::key(server, change);
            if !seen.insert(name.clone()) {
                continue;
            }
            let weight = part * (-age_s(change, *first) / FADE_S).exp();
            let (suspect, sum) = found.entry(name).or_insert_with_key(|name| {
                let (server, servers, name) = (server.name.as_str(), BTreeSet::new(), name.clone());
                (Suspect { key, change, weight: 0.0, server, n_servers: 0, servers, name }, 0.0)
            });
            if change.at < suspect.change.at {
                (suspect.change, suspect.server) = (change, server.name.as_str());
            }
            suspect.servers.insert(*id);
            *sum += weight;
        }
    }
    let settled = |(mut suspect, sum): (Suspect<'a>, f64)| {
        suspect.n_servers = suspect.servers.len();
        suspect.weight = sum / suspect.n_servers as f64;
        suspect
    };
    found.into_values().map(settled).collect()
}

fn age_s(change: &Changed, first: i64) -> f64 {
    (first - change.at).max(0) as f64 / 1000.0
}

/// The most suspicious change before the failures of these sites.
///
/// Nats of its row, plus the log of how much more often what it touched fails than the rest: sites
/// of the server, or servers of the fleet when several fail; times its freshness. Of several servers
/// the change that most of them share wins. A change after the first failure is never accused.
#[must_use]
pub fn before(fleet: &Fleet, scope: &str, members: &[u32], first: i64) -> Option<ChangeBefore> {
    let affected = firsts(fleet, members, first);
    let mut best: Option<(f64, &Changed)> = None;
    let suspects = suspects(fleet, scope, members, first);
    let several = affected.len() > 1;
    let changed = several.then(|| changed_servers(fleet, &suspects, &affected));
    for suspect in suspects {
        let shared = suspect.n_servers as f64 / affected.len().max(1) as f64;
        if shared < SHARED_MIN {
            continue;
        }
        let lift = match &changed {
            Some(changed) => lift_of_servers(fleet, &suspect, changed, &affected) + shared.ln(),
            None => lift_of_sites(fleet, &suspect, members),
        };
        let score = (nats(suspect.key) + lift) * suspect.weight;
        if best.is_none_or(|(known, _)| score > known) {
            best = Some((score, suspect.change));
        }
    }
    let (nats, change) = best?;
    let score = 1.0 / (1.0 + (-nats).exp());
    let text = match change.kind.as_str() {
        "restart" | "boot" => words(change),
        _ => change.what.clone(),
    };
    (nats > 0.0 && score > NAMED).then(|| ChangeBefore {
        kind: change.kind.clone(),
        text,
        at: UnixMillis(change.at),
        score: (score * 1000.0).round() / 1000.0,
    })
}

/// Log of how much more often the sites that a change touched fail than the others of its server.
fn lift_of_sites(fleet: &Fleet, suspect: &Suspect, members: &[u32]) -> f64 {
    let Some(server) = suspect.servers.first().and_then(|id| fleet.server(*id)) else { return 0.0 };
    let at_once = at_once(server, suspect.change);
    let (mut n, mut n_failed) = ([0.0, 0.0], [0.0, 0.0]);
    for ix in &server.sites {
        let group = usize::from(at_once.iter().any(|change| touched(change, fleet.site(*ix))));
        n[group] += 1.0;
        n_failed[group] += f64::from(u8::from(members.contains(ix)));
    }
    lift(n, n_failed)
}

/// Servers of the fleet that had one of these changes around the failures, by what it is called.
fn changed_servers<'a>(
    fleet: &'a Fleet,
    suspects: &[Suspect<'a>],
    affected: &BTreeMap<ServerId, i64>,
) -> BTreeMap<Cow<'a, str>, BTreeSet<ServerId>> {
    let (from, until) = (
        affected.values().min().copied().unwrap_or(0) - AGE_MAX_MS,
        affected.values().max().copied().unwrap_or(0) + SLACK_MS,
    );
    let mut changed: BTreeMap<Cow<'a, str>, BTreeSet<ServerId>> =
        suspects.iter().map(|suspect| (suspect.name.clone(), suspect.servers.clone())).collect();
    let servers = fleet.servers.values().filter(|server| !server.forgotten);
    for server in servers.filter(|server| server.changed_at >= from) {
        for change in server.changes.iter().filter(|c| (from..=until).contains(&c.at)) {
            if let Some(servers) = changed.get_mut(&key(server, change)) {
                servers.insert(server.id);
            }
        }
    }
    changed
}

/// The same for the servers of the fleet that had the change, against those that had not.
fn lift_of_servers(
    fleet: &Fleet,
    suspect: &Suspect<'_>,
    changed: &BTreeMap<Cow<'_, str>, BTreeSet<ServerId>>,
    affected: &BTreeMap<ServerId, i64>,
) -> f64 {
    let changed = changed.get(&suspect.name);
    let (mut n, mut n_failed) = ([0.0, 0.0], [0.0, 0.0]);
    for id in fleet.servers.values().filter(|server| !server.forgotten).map(|server| server.id) {
        let group = usize::from(changed.is_some_and(|servers| servers.contains(&id)));
        n[group] += 1.0;
        n_failed[group] += f64::from(u8::from(affected.contains_key(&id)));
    }
    lift(n, n_failed)
}

/// ln(failed among changed / changed) - ln(failed among unchanged / unchanged), each with half a
/// failure more; 0 when nothing is left unchanged.
fn lift(n: [f64; 2], n_failed: [f64; 2]) -> f64 {
    let share = |group: usize| (n_failed[group] + 0.5) / (n[group] + 1.0);
    if n[0] > 0.0 { (share(1) / share(0)).ln() } else { 0.0 }
}

fn is_before(change: &Changed, first: i64) -> bool {
    let age_max = if change.kind == "package" { PACKAGE_AGE_MAX_MS } else { AGE_MAX_MS };
    change.at <= first + SLACK_MS && change.at >= first - age_max
}

/// Whether a change of this server may explain failures of these sites: of a change of one site, its
/// own failures alone; what happened at once to several, as to those of one document root, theirs. Whoever owns a site may change it at any time, and explains no other one's.
fn explains(fleet: &Fleet, server: &Server, change: &Changed, members: &[u32]) -> bool {
    let mut sites = members.iter().map(|ix| fleet.site(*ix));
    let touches = |site: &Site| site.server == server.id && touched(change, site);
    let at_once = at_once(server, change);
    let any_touches = |site: &Site| {
        site.server == server.id && at_once.iter().any(|change| touched(change, site))
    };
    match (&change.site, change.kind.as_str()) {
        (Some(_), _) => !members.is_empty() && sites.all(any_touches),
        // A plugin explains its own site, not a whole box.
        (None, "plugin") => false,
        (None, _) => sites.any(touches),
    }
}

/// A change with those of other sites at the same instant: an edit in a document root that several
/// sites share is one of each.
fn at_once<'a>(server: &'a Server, change: &'a Changed) -> Vec<&'a Changed> {
    let is_same = |other: &&Changed| {
        other.site.is_some() && (other.at, &other.kind) == (change.at, &change.kind)
    };
    match change.site {
        Some(_) => server.changes.iter().filter(is_same).collect(),
        None => vec![change],
    }
}

fn touched(change: &Changed, site: &Site) -> bool {
    change.site.as_ref().is_none_or(|name| *name == site.name)
        && (change.pool.is_none() || change.pool == site.pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServerId;

    fn changed(at: i64, kind: &str, what: &str, site: Option<&str>) -> Changed {
        let site = site.map(str::to_owned);
        let (pool, key, of_stack) = (None, String::new(), false);
        Changed { at, kind: kind.into(), what: what.into(), site, pool, key, of_stack }
    }

    fn fleet(changes: &[(i64, i64, &str, &str, Option<&str>)]) -> Fleet {
        let mut fleet = Fleet::default();
        for (id, at, kind, what, site) in changes {
            let server = fleet.servers.entry(ServerId(*id)).or_insert_with(|| {
                let mut server = Server::new(ServerId(*id));
                server.name = format!("web-0{id}.example.net");
                server
            });
            server.fold_change(changed(*at, kind, what, *site));
        }
        fleet
    }

    #[test]
    fn servers_with_the_same_change_of_their_stack_are_a_cohort() {
        let php = "php8.2-fpm 8.2.7 to 8.2.29";
        let fleet = fleet(&[
            (1, 10_000, "package", php, None),
            (1, 70_000, "package", php, None),
            (2, 20_000, "package", php, None),
            (3, 30_000, "package", "php8.2-fpm 8.2.7 to 8.2.28", None),
            (4, 40_000, "package", "vim 9.0 to 9.1", None),
            (5, 40_000, "package", "vim 9.0 to 9.1", None),
            (4, 41_000, "config", "/etc/nginx/conf.d/web-04.conf", None),
            (5, 42_000, "config", "/etc/nginx/conf.d/web-05.conf", None),
            (4, 43_000, "config", "/srv/x/.htaccess of php", Some("shop04.test")),
            (5, 43_000, "config", "/srv/x/.htaccess of php", Some("shop04.test")),
            (6, 50_000, "firewall", "rule for 10.0.0.6 added", None),
            (7, 51_000, "firewall", "rule for 10.0.0.7 added", None),
            (8, 52_000, "restart", "nginx.service reloaded", None),
            (9, 52_000, "restart", "nginx.service reloaded", None),
        ]);
        let at = |n: i64| cohorts(&fleet, n);
        let found: Vec<_> = at(100_000)
            .into_iter()
            .map(|c| (c.key, c.servers.into_iter().map(|(id, at)| (id.0, at)).collect::<Vec<_>>()))
            .collect();
        let want = [
            ("config /etc/nginx/conf.d/(server).conf", vec![(4, 41_000), (5, 42_000)]),
            ("firewall rule for (address) added", vec![(6, 50_000), (7, 51_000)]),
            ("package php8.2-fpm 8.2.7 to 8.2.29", vec![(1, 10_000), (2, 20_000)]),
        ];
        assert_eq!(found, want.map(|(key, servers)| (key.to_owned(), servers)));
        assert_eq!(at(700_000), [], "ten minutes later nobody remembers");
        assert_eq!(at(1_000), [], "what is still to come is no change yet");
    }

    #[test]
    fn a_fleet_of_liars_gets_so_many_cohorts_and_no_more() {
        let texts: Vec<String> = (0..100).map(|n| format!("nginx {n}")).collect();
        let all: Vec<_> = [1, 2]
            .into_iter()
            .flat_map(|id| texts.iter().map(move |text| (id, 1_000, "config", text.as_str(), None)))
            .collect();
        assert_eq!(cohorts(&fleet(&all), 2_000).len(), COHORTS_MAX);
    }

    #[test]
    fn words_say_what_happened() {
        let words = |kind: &str, what: &str| super::words(&changed(0, kind, what, None));
        assert_eq!(
            words("restart", "php8.2-fpm.service restarted"),
            "php8.2-fpm.service restarted"
        );
        assert_eq!(words("restart", "php8.2-fpm"), "php8.2-fpm restarted");
        assert_eq!(words("boot", "kernel-6.1"), "machine booted: kernel-6.1");
        assert_eq!(words("config", "/etc/nginx/nginx.conf"), "config: /etc/nginx/nginx.conf");
    }
}
