//! Names of upstreams, which are resolved and then connected to, and the sites' own: do they still
//! point here?

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::connect::Subject;
use super::dial::{Failure, Target};
use super::resolve::{Answer, Answers, Resolver, listed};
use super::{Budget, Prober, Round, STEP_LATE};
use crate::discover::Discovery;
use crate::discover::backends::Backend;

/// Names of upstreams asked for in one round.
const NAMES_MAX: usize = 8;
/// Names of sites asked for in one round: with 10 s between two, less than one a second.
const SITES_MAX: usize = 4;
/// Time between two questions for the name of one site.
const SITE_GAP: Duration = Duration::from_secs(3600);
/// The same while an answer that says something new waits for a second one: longer than most are kept.
const CONFIRM_GAP: Duration = Duration::from_secs(600);
/// A name whose answers come and go is told nothing of for this long.
const ROTATES_FOR: Duration = Duration::from_secs(86_400);
/// Addresses of one name that are connected to until one answers.
const TRIED_MAX: usize = 2;

/// What is known of names.
#[derive(Debug)]
pub(super) struct Names {
    resolver: Resolver,
    answers: Answers,
    sites: BTreeMap<String, SiteName>,
}

#[derive(Debug)]
struct SiteName {
    asked_at: Instant,
    points_here: Option<bool>,
    /// An answer that says otherwise; one that comes twice is believed.
    doubted: Option<BTreeSet<IpAddr>>,
    rotates_until: Option<Instant>,
}

impl SiteName {
    fn new(asked_at: Instant) -> Self {
        Self { asked_at, points_here: None, doubted: None, rotates_until: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        let gap = if self.doubted.is_some() { CONFIRM_GAP } else { SITE_GAP };
        now.saturating_duration_since(self.asked_at) >= gap
    }

    /// Takes in an answer; true when it is a change to be told.
    fn fold(&mut self, points_here: bool, found: &BTreeSet<IpAddr>, now: Instant) -> bool {
        let Some(before) = self.points_here else {
            self.points_here = Some(points_here);
            return false;
        };
        if before == points_here {
            // It said otherwise in between: a name server that gives its addresses in turns.
            if self.doubted.take().is_some() {
                self.rotates_until = Some(now + ROTATES_FOR);
            }
            return false;
        }
        if self.doubted.as_ref() != Some(found) {
            self.doubted = Some(found.clone());
            return false;
        }
        (self.doubted, self.points_here) = (None, Some(points_here));
        self.rotates_until.is_none_or(|until| now >= until)
    }
}

impl Names {
    pub(super) fn new() -> Self {
        Self { resolver: Resolver::new(), answers: Answers::default(), sites: BTreeMap::new() }
    }

    /// Where a backend that is known by name was found last.
    pub(super) fn target(&self, backend: &Backend) -> Option<Target> {
        let (_, host, port) = host_and_port(backend)?;
        let found = self.answers.of(host)?.iter().take(TRIED_MAX);
        Some(Target::Tcp(found.map(|ip| SocketAddr::new(*ip, port)).collect()))
    }
}

impl Prober {
    /// Resolves names that are due, and connects to the backends that are known by one.
    pub(super) async fn ask_names(
        &mut self,
        discovery: &Discovery,
        wanted: &[Backend],
        round: &mut Round,
    ) {
        let named: Vec<(&Backend, &str, u16)> = wanted.iter().filter_map(host_and_port).collect();
        // A name server that hangs must not hold up the rounds of each second.
        let most = if round.is_full { NAMES_MAX } else { 1 };
        let answers = &self.names.answers;
        let mut due: Vec<_> = named
            .iter()
            .filter(|(_, host, _)| answers.is_due(host, round.is_fast, round.now))
            .collect();
        // First who waited longest, so that names that time out take nobody's turn.
        due.sort_by_key(|(_, host, _)| (answers.asked_at(host), *host));
        due.dedup_by_key(|(_, host, _)| *host);
        let budget = Budget::of(STEP_LATE);
        for (backend, host, _) in due.into_iter().take(most) {
            if budget.is_spent() {
                break;
            }
            self.ask_upstream(backend, host, round).await;
        }
        let dialled = named
            .iter()
            .filter(|(backend, ..)| !backend.is_script)
            .filter_map(|(backend, ..)| Some(((*backend).clone(), self.names.target(backend)?)));
        let dialled = dialled.collect();
        self.dial_all(dialled, Budget::of(STEP_LATE), discovery, round).await;
        if round.is_full && !round.is_fast {
            self.ask_sites(discovery, round).await;
            let names: BTreeSet<&str> = hosts(&discovery.backends).collect();
            self.names.answers.keep(|name| names.contains(name));
        }
    }

    async fn ask_upstream(&mut self, backend: &Backend, host: &str, round: &mut Round) {
        let Some((answer, took)) = self.names.resolver.ask(host).await else { return };
        round.push("gatewatch.dns.duration", format!("name={host}"), took.as_secs_f64());
        if let Some(what) = self.names.answers.fold(host, &answer, round.now) {
            self.tell_change("dns", &what, None);
        }
        let result = answer.map(drop);
        // The name has a state of its own: its last good address may answer all the same.
        let subject = Subject {
            address: format!("name {host}"),
            title: format!("{host}: its name does not resolve"),
            ..Subject::of(backend)
        };
        let verdict = self.ledger.fold(&subject, &result, round.now);
        if let Some(mut line) = verdict.line {
            line.message = match &result {
                Err(Failure { words, .. }) => {
                    format!("cannot resolve {host} ({words}){}", subject.used_by)
                }
                Ok(()) => format!("{host} resolves again{}", subject.used_by),
            };
            self.tell(line);
        }
        if result.is_err() && self.names.answers.of(host).is_none() {
            // Nobody who asks by this name gets through.
            let attribute = format!("upstream={}", backend.address);
            round.push("gatewatch.upstream.up", attribute, 0.0);
        }
    }

    /// The next few sites whose names are due.
    async fn ask_sites(&mut self, discovery: &Discovery, round: &mut Round) {
        let is_due = |name: &str| {
            let known = self.names.sites.get(name);
            known.is_none_or(|known| known.is_due(round.now))
        };
        let names = discovery.sites.iter().map(|site| site.name.as_str());
        let due = names.filter(|name| is_public_name(name) && is_due(name));
        let due: Vec<String> = due.take(SITES_MAX).map(str::to_owned).collect();
        let budget = Budget::of(STEP_LATE);
        for name in due {
            if budget.is_spent() {
                break;
            }
            let Some((answer, _)) = self.names.resolver.ask(&name).await else { break };
            let points_here = points_here(&answer, &discovery.addresses);
            let known =
                self.names.sites.entry(name.clone()).or_insert_with(|| SiteName::new(round.now));
            known.asked_at = round.now;
            let (Some(points_here), Ok(found)) = (points_here, &answer) else { continue };
            let is_news = known.fold(points_here, found, round.now);
            round.push(
                "gatewatch.dns.points_here",
                format!("site={name}"),
                f64::from(u8::from(points_here)),
            );
            if is_news {
                let now = listed(found);
                let how = if points_here { "points here again" } else { "no longer points here" };
                self.tell_change("dns", &format!("{name} {how}: {now}"), Some(name.clone()));
            }
        }
        let is_known = |name: &String| discovery.sites.iter().any(|site| site.name == *name);
        self.names.sites.retain(|name, _| is_known(name));
    }
}

/// Hosts of all that are known by name.
pub(super) fn hosts(backends: &[Backend]) -> impl Iterator<Item = &str> {
    backends.iter().filter_map(host_and_port).map(|(_, host, _)| host)
}

/// Backend, host and port of one that is known by name.
fn host_and_port(backend: &Backend) -> Option<(&Backend, &str, u16)> {
    let (host, port) = backend.address.rsplit_once(':')?;
    let is_name = !backend.address.starts_with('/')
        && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err();
    is_name.then_some((backend, host, port.parse().ok()?))
}

/// Whether one of the addresses is this machine's; `None` when that cannot be told: behind a router
/// that translates addresses a machine does not know its own, be it only those of one family.
fn points_here(answer: &Answer, own: &[IpAddr]) -> Option<bool> {
    let found = answer.as_ref().ok()?;
    if found.iter().any(|ip| own.contains(ip) || ip.is_loopback()) {
        return Some(true);
    }
    let is_told =
        |ip: &IpAddr| own.iter().any(|own| own.is_ipv4() == ip.is_ipv4() && is_public(own));
    found.iter().any(is_told).then_some(false)
}

fn is_public(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// True for the name of a site that somebody could have in DNS.
fn is_public_name(name: &str) -> bool {
    name.contains('.') && is_host_name(name) && name.parse::<IpAddr>().is_err()
}

/// True for what can be asked for as a host, which wildcards and patterns cannot.
pub(super) fn is_host_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.len() <= 253 && name.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::Signal;

    #[test]
    fn a_site_points_here_or_elsewhere_or_nobody_can_tell() {
        let check = |found: &[&str], own: &[&str], want: Option<bool>| {
            let parse = |ip: &&str| ip.parse::<IpAddr>().unwrap();
            let answer: Answer = Ok(found.iter().map(parse).collect());
            let own: Vec<_> = own.iter().map(parse).collect();
            assert_eq!(points_here(&answer, &own), want, "{found:?} {own:?}");
        };
        check(&["198.51.100.7"], &["198.51.100.7"], Some(true));
        check(&["203.0.113.1", "2001:db8::7"], &["10.0.0.5", "2001:db8::7"], Some(true));
        check(&["203.0.113.1"], &["198.51.100.7"], Some(false));
        check(&["203.0.113.1"], &["10.0.0.5", "fe80::1", "fd00::1", "100.64.0.1"], None);
        check(&["203.0.113.1"], &[], None);
        // Behind a router for IPv4, with an address of its own for IPv6.
        check(&["203.0.113.1"], &["10.0.0.5", "2001:db8::7"], None);
        check(&["203.0.113.1", "2001:db8::9"], &["10.0.0.5", "2001:db8::7"], Some(false));
        check(&["2001:db8::9"], &["198.51.100.7", "fe80::1"], None);
        check(&["127.0.0.1"], &["198.51.100.7"], Some(true));
        let gone = Err(Failure::new(Signal::Dns, "x"));
        assert_eq!(points_here(&gone, &["198.51.100.7".parse().unwrap()]), None);
    }

    #[test]
    fn addresses_in_turns_are_no_change_and_a_new_one_is_told_when_it_comes_twice() {
        let start = crate::clock::instant();
        let at = |hours: u64| start + Duration::from_secs(hours * 3600);
        let found = |ip: &str| BTreeSet::from([ip.parse::<IpAddr>().unwrap()]);
        let (here, there) = (found("198.51.100.7"), found("203.0.113.1"));
        let mut name = SiteName::new(start);
        assert!(!name.fold(true, &here, at(0)), "the first answer");
        assert!(!name.fold(false, &there, at(1)));
        assert!(name.is_due(start + CONFIRM_GAP), "a new answer is asked about sooner");
        assert!(!name.fold(false, &found("203.0.113.2"), at(2)), "another one again");
        assert!(name.fold(false, &found("203.0.113.2"), at(3)), "twice the same");
        assert!(!name.is_due(start + CONFIRM_GAP));
        // Now it rotates.
        let mut n_told = 0;
        for hour in 4..24 {
            let points_here = hour % 2 == 0;
            n_told += u32::from(name.fold(
                points_here,
                if points_here { &here } else { &there },
                at(hour),
            ));
        }
        assert_eq!(n_told, 0);
        assert!(!name.fold(true, &here, at(24)) && !name.fold(true, &here, at(25)), "not yet");
        assert!(!name.fold(false, &there, at(60)) && name.fold(false, &there, at(61)));
    }

    #[test]
    fn a_backend_known_by_name_is_connected_to_at_its_last_addresses() {
        let mut names = Names::new();
        let backend = Backend { address: "app.internal:8443".into(), ..Backend::default() };
        assert_eq!(names.target(&backend), None, "nothing is known of it yet");
        let answer: BTreeSet<IpAddr> =
            ["10.0.0.7", "10.0.0.8", "10.0.0.9"].iter().map(|ip| ip.parse().unwrap()).collect();
        names.answers.fold("app.internal", &Ok(answer), crate::clock::instant());
        let addresses = ["10.0.0.7:8443", "10.0.0.8:8443"].map(|a| a.parse().unwrap()).to_vec();
        assert_eq!(names.target(&backend), Some(Target::Tcp(addresses)));
    }

    #[test]
    fn only_names_that_dns_could_know_are_asked_for() {
        for (name, want) in [
            ("shop.example", true),
            ("default", false),
            ("localhost", false),
            ("*.example.com", false),
            ("~^(a|b)\\.example$", false),
            ("192.0.2.7", false),
            ("müller.example", false),
            ("a b.example", false),
        ] {
            assert_eq!(is_public_name(name), want, "{name}");
        }
        let backend = |address: &str| Backend { address: address.into(), ..Backend::default() };
        for (address, want) in [
            ("app.internal:8080", Some(("app.internal", 8080))),
            ("10.0.0.7:80", None),
            ("[2001:db8::1]:80", None),
            ("/run/a.sock", None),
        ] {
            let backend = backend(address);
            assert_eq!(host_and_port(&backend).map(|(_, h, p)| (h, p)), want, "{address}");
        }
    }
}
