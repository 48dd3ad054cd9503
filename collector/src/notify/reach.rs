//! What a `match` can reach: the words of the vocabulary, the servers of the fleet, the hours of the
//! week. For routes at `check`, and for silences when they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use glob::Pattern;
use jiff::tz::TimeZone;
use wire::UnixMillis;

use super::fault::{Fault, Wrong};
use super::hours::{self, Hours};
use super::matcher::OWN_KEYS;
use crate::config::NotifyConfig;
use crate::store::incidents::severity_rank;
use crate::store::{Conn, ReadResult, fleet, read};

/// Keys whose values are words of the vocabulary.
const WORDS: [(&str, &[&str]); 4] = [
    ("scope", &["site", "pool", "server", "group"]),
    ("kind", &["gateway_errors", "slow_burn", "silence", "pressure", "services"]),
    (
        "cause",
        &[
            "overload",
            "oom",
            "crash",
            "service_down",
            "misconfig",
            "firewall",
            "dns",
            "timeout",
            "site_code",
            "ddos",
            "steal",
            "disk_full",
            "network",
            "agent_silence",
            "unknown",
        ],
    ),
    ("severity", &["info", "warning", "critical"]),
];

/// Severities that an incident of a kind can have while people are told of it.
const SEVERITIES: [(&str, &[&str]); 5] = [
    ("gateway_errors", &["warning", "critical"]),
    ("slow_burn", &["info"]),
    ("silence", &["critical"]),
    ("pressure", &["info"]),
    ("services", &["critical"]),
];

/// Minutes of a week.
const WEEK: u32 = 7 * 24 * 60;

/// Stretches of the week that a hint names.
const STRETCHES_SHOWN: usize = 3;

/// A server of the fleet, as a `match` sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its sites; empty unless they were asked for.
    pub sites: Vec<String>,
    /// Their pools; the same.
    pub pools: BTreeSet<String>,
}

impl Server {
    /// Whether this server has what one key of a `match` wants; true for keys of incidents.
    fn has(&self, key: &str, pattern: &Pattern) -> bool {
        match key {
            "server" => pattern.matches(&self.name),
            "site" => self.sites.iter().any(|site| pattern.matches(site)),
            "pool" => self.pools.iter().any(|pool| pattern.matches(pool)),
            key if OWN_KEYS.contains(&key) => true,
            key => self.labels.get(key).is_some_and(|value| pattern.matches(value)),
        }
    }

    /// Whether it has all that `matches` wants of a server.
    #[must_use]
    pub fn is_in(&self, matches: &BTreeMap<String, String>) -> bool {
        matches.iter().all(|(key, value)| Pattern::new(value).is_ok_and(|p| self.has(key, &p)))
    }
}

/// The fleet; with sites and pools when one of `matches` is about those.
pub fn fleet<'a>(
    conn: &Conn,
    matches: impl IntoIterator<Item = &'a BTreeMap<String, String>>,
) -> ReadResult<Vec<Server>> {
    let wants_sites =
        matches.into_iter().any(|keys| keys.contains_key("site") || keys.contains_key("pool"));
    let server = |(id, name)| {
        let rows = if wants_sites { read::sites(conn, id)? } else { Vec::new() };
        Ok(Server {
            name,
            labels: fleet::labels(conn, id)?,
            pools: rows.iter().filter_map(|row| row.pool.clone()).collect(),
            sites: rows.into_iter().map(|row| row.name).collect(),
        })
    };
    read::server_names(conn)?.into_iter().map(server).collect()
}

/// Says why no server of the fleet matches; `None` when one does, or the fleet is empty.
#[must_use]
pub fn unmatched(matches: &BTreeMap<String, String>, fleet: &[Server]) -> Option<String> {
    if fleet.is_empty() || fleet.iter().any(|server| server.is_in(matches)) {
        return None;
    }
    for (key, value) in matches {
        let alone = BTreeMap::from([(key.clone(), value.clone())]);
        if !fleet.iter().any(|server| server.is_in(&alone)) {
            return Some(match key.as_str() {
                "server" => format!("no server is named {value}"),
                "site" | "pool" => format!("no server has a {key} {value}"),
                key => format!("no server has {key}={value}"),
            });
        }
    }
    let all: Vec<String> = matches
        .iter()
        .filter(|(key, _)| !WORDS.iter().any(|(word, _)| word == key))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Some(format!("no server has {} all at once", all.join(" ")))
}

/// What is wrong with a `match` whatever the fleet is, by its keys.
#[must_use]
pub fn check_match(matches: &BTreeMap<String, String>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (key, value) in matches {
        let mut tell = |what: String, fix: &str| faults.push(Wrong::new(what, fix).at(key));
        let pattern = match Pattern::new(value) {
            Ok(pattern) => pattern,
            Err(error) => {
                let fix = "write a value, with `*` for any letters";
                tell(format!("{value:?} is no pattern ({error})"), fix);
                continue;
            }
        };
        if value.is_empty() {
            tell("is empty".into(), "write a value, with `*` for any letters");
        } else if let Some((_, words)) = WORDS.iter().find(|(name, _)| name == key) {
            if !words.iter().any(|word| pattern.matches(word)) {
                let fix = format!("write one of {}", words.join(", "));
                tell(format!("no incident has {value:?}"), &fix);
            }
        } else if !OWN_KEYS.contains(&key.as_str())
            && fleet::check_labels(&BTreeMap::from([(key.clone(), String::new())])).is_err()
        {
            let fix = format!("write the key of a label, or one of {}", OWN_KEYS.join(", "));
            let wrong = Wrong::new("is no label", fix);
            faults.push(wrong.at(&format!("{key:?}")));
        }
    }
    faults
}

/// Wishes that no incident can fulfil.
pub(super) fn impossible(config: &NotifyConfig, faults: &mut Vec<Fault>) {
    let wrong = check_match(&config.matches);
    faults.extend(wrong.iter().map(|fault| Fault {
        key: "match".into(),
        what: format!("{}: {}", fault.key, fault.what),
        fix: fault.fix.clone(),
    }));
    let min = config.min_severity.as_str();
    if !wrong.is_empty() || severity_rank(min) == 0 {
        return;
    }
    let wanted = |key: &str, word: &str| {
        let value = config.matches.get(key);
        value.is_none_or(|value| Pattern::new(value).is_ok_and(|pattern| pattern.matches(word)))
    };
    let kinds = SEVERITIES.iter().filter(|(kind, _)| wanted("kind", kind));
    let mut reached = kinds
        .flat_map(|(_, severities)| severities.iter())
        .filter(|severity| wanted("severity", severity))
        .peekable();
    if reached.peek().is_none() {
        let fix = "slow_burn and pressure are info, all others warning or critical";
        faults.push(Wrong::new("no incident of that kind has that severity", fix).at("match"));
    } else if !reached.any(|severity| severity_rank(severity) >= severity_rank(min)) {
        let fix = "slow_burn and pressure are info, write min_severity = \"info\"";
        let what = format!("= {min:?} keeps out all that match lets in");
        faults.push(Wrong::new(what, fix).at("min_severity"));
    }
}

/// Who is not told of what, one line each; `now` picks the week whose hours are looked at.
#[must_use]
pub fn nobody_hears(configs: &[NotifyConfig], now: UnixMillis) -> Vec<String> {
    if configs.is_empty() {
        let fix = "add a [[notify]] table, see deploy/config/collector.toml";
        return vec![format!("there is no [[notify]]: nobody will be told of an incident: {fix}")];
    }
    let mut told = Vec::new();
    for severity in ["critical", "warning"] {
        let takes = |config: &&NotifyConfig| {
            severity_rank(&config.min_severity) <= severity_rank(severity)
                && config.matches.get("severity").is_none_or(|value| {
                    Pattern::new(value).is_ok_and(|pattern| pattern.matches(severity))
                })
        };
        let taking: Vec<&NotifyConfig> = configs.iter().filter(takes).collect();
        let is_plain = |config: &&NotifyConfig| {
            let only_severity = config.matches.keys().all(|key| key == "severity");
            only_severity && config.escalate_after.is_none() && config.digest.is_empty()
        };
        let plain: Vec<&NotifyConfig> = taking.iter().copied().filter(is_plain).collect();
        if taking.is_empty() {
            told.push(format!("nobody hears of {severity} incidents: lower a min_severity"));
        } else if plain.is_empty() {
            told.push(format!(
                "every route that takes {severity} incidents has match, escalate_after or digest: of one \
                 that none of them wants nobody hears at once: add a route without"
            ));
        } else if let Some(gaps) = gaps(&plain, now) {
            let fix = "add a route without hours";
            told.push(format!("nobody hears of {severity} incidents {gaps}: {fix}"));
        }
    }
    told
}

/// When in the week none of these routes is told, in the zone of the first of them.
fn gaps(routes: &[&NotifyConfig], now: UnixMillis) -> Option<String> {
    let hours = routes.iter().map(|config| Hours::parse(&config.hours, config.timezone.as_deref()));
    // What is no hours is a problem already.
    let hours: Vec<Hours> = hours.collect::<Result<_, _>>().ok()?;
    let zone = hours::time_zone(routes[0].timezone.as_deref()).ok()?;
    let begin = monday(now, &zone);
    let minute = |n: u32| begin.plus(Duration::from_secs(60 * u64::from(n)));
    let is_told = |n: u32| hours.iter().any(|hours| hours.contain(minute(n)));
    let mut found: Vec<(u32, u32)> = Vec::new();
    for n in (0..WEEK).filter(|n| !is_told(*n)) {
        match found.last_mut() {
            Some((_, end)) if *end == n => *end = n + 1,
            _ => found.push((n, n + 1)),
        }
    }
    // What goes on over the end of the week is one stretch.
    if let (Some(&(0, end)), Some(&(from, WEEK))) = (found.first(), found.last())
        && found.len() > 1
    {
        found.remove(0);
        found.pop();
        found.push((from, WEEK + end));
    }
    if found.is_empty() {
        return None;
    }
    let shown = |n: u32| hours::zoned(minute(n), &zone).strftime("%a %H:%M").to_string();
    let stretch = |(from, end): &(u32, u32)| format!("{} to {}", shown(*from), shown(*end));
    // The longest say most.
    found.sort_by_key(|(from, end)| std::cmp::Reverse(end - from));
    let n_more = found.len().saturating_sub(STRETCHES_SHOWN);
    let stretches: Vec<String> = found.iter().take(STRETCHES_SHOWN).map(stretch).collect();
    let more = if n_more > 0 { format!(" and {n_more} more times a week") } else { String::new() };
    if found == [(0, WEEK)] {
        return Some("at any time of the week".into());
    }
    Some(format!("from {}{more}", stretches.join(", ")))
}

/// Midnight at the begin of the week of `now`.
fn monday(now: UnixMillis, zone: &TimeZone) -> UnixMillis {
    let here = hours::zoned(now, zone);
    let days = i64::from(here.weekday().to_monday_zero_offset());
    let begin = here.start_of_day().and_then(|day| day.checked_sub(jiff::Span::new().days(days)));
    begin.map_or(now, |begin| UnixMillis(begin.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Friday.
    const NOW: UnixMillis = UnixMillis(1_795_176_067_000);

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn config(text: &str) -> NotifyConfig {
        toml::from_str(&format!("kind = 'slack'\n{text}\n")).unwrap()
    }

    #[test]
    fn a_match_that_no_incident_can_have_is_told() {
        for (key, value, told) in [
            ("scope", "rack", "scope: no incident has \"rack\": write one of site, pool, "),
            ("kind", "burn", "kind: no incident has \"burn\""),
            ("cause", "gremlins", "cause: no incident has \"gremlins\""),
            ("severity", "loud", "severity: no incident has \"loud\""),
            ("a b", "x", "\"a b\": is no label: write the key of a label, or one of server, "),
            ("rack", "", "rack: is empty"),
            ("rack", "[", "rack: \"[\" is no pattern"),
        ] {
            let found = check_match(&map(&[(key, value)]));
            let [problem] = &found[..] else { panic!("{key}={value}: {found:?}") };
            assert!(problem.to_string().starts_with(told), "{problem}");
        }
        for (key, value) in
            [("scope", "s*"), ("cause", "*"), ("rack", "r7"), ("server", "web-*"), ("site", "*")]
        {
            assert_eq!(check_match(&map(&[(key, value)])), [], "{key}={value}");
        }
    }

    #[test]
    fn a_route_that_can_never_be_told_is_a_problem() {
        for (text, key) in [
            ("min_severity = 'critical'\nmatch.kind = 'slow_burn'", Some("min_severity")),
            ("match.kind = 'slow_burn'", Some("min_severity")),
            ("min_severity = 'critical'\nmatch.severity = 'info'", Some("min_severity")),
            ("min_severity = 'critical'\nmatch.severity = 'warning'", Some("min_severity")),
            ("match.kind = 'slow_burn'\nmatch.severity = 'critical'", Some("match")),
            ("match.kind = 'gremlin'", Some("match")),
            ("min_severity = 'info'\nmatch.kind = 'slow_burn'", None),
            ("min_severity = 'critical'\nmatch.kind = 's*'", None),
            ("match.severity = 'critical'\nmatch.kind = 'silence'", None),
            ("", None),
        ] {
            let mut problems = Vec::new();
            impossible(&config(text), &mut problems);
            let keys: Vec<&str> = problems.iter().map(|fault: &Fault| &*fault.key).collect();
            assert_eq!(keys, key.into_iter().collect::<Vec<_>>(), "{text}: {problems:?}");
        }
    }

    #[test]
    fn a_match_that_no_server_has_today_is_named() {
        let server = |name: &str, labels: &[(&str, &str)]| Server {
            name: name.into(),
            labels: map(labels),
            sites: vec!["shop.example".into()],
            pools: BTreeSet::from(["www".to_owned()]),
        };
        let fleet = [
            server("web-1", &[("rack", "r1"), ("hypervisor", "hv-1")]),
            server("web-2", &[("rack", "r2")]),
        ];
        for (matches, told) in [
            (map(&[("hypervisor", "hv-9")]), Some("no server has hypervisor=hv-9")),
            (map(&[("server", "db-*")]), Some("no server is named db-*")),
            (map(&[("site", "blog.*")]), Some("no server has a site blog.*")),
            (map(&[("pool", "api")]), Some("no server has a pool api")),
            (
                map(&[("rack", "r1"), ("server", "web-2"), ("scope", "server")]),
                Some("no server has rack=r1 server=web-2 all at once"),
            ),
            (map(&[("server", "*")]), None),
            (map(&[("rack", "r1"), ("site", "shop.*"), ("pool", "www"), ("cause", "oom")]), None),
            (map(&[("severity", "critical")]), None),
            (map(&[]), None),
        ] {
            assert_eq!(unmatched(&matches, &fleet).as_deref(), told, "{matches:?}");
        }
        assert_eq!(unmatched(&map(&[("rack", "r9")]), &[]), None, "a fleet without servers yet");
    }

    #[test]
    fn hours_in_which_nobody_hears_are_named() {
        let utc = "timezone = 'UTC'\n";
        let office = format!("{utc}hours = ['Mon-Fri 08:00-18:00']");
        for (texts, expected) in [
            (vec![], vec!["there is no [[notify]]: nobody will be told of an incident"]),
            (vec![utc.into()], vec![]),
            (
                vec!["min_severity = 'critical'".into()],
                vec!["nobody hears of warning incidents: lower a min_severity"],
            ),
            (
                vec!["match.rack = 'r7'".into()],
                vec![
                    "every route that takes critical incidents has match,",
                    "every route that takes warning",
                ],
            ),
            (
                vec![office.clone()],
                vec![
                    "nobody hears of critical incidents from Fri 18:00 to Mon 08:00, Mon 18:00 to Tue 08:00, \
                     Tue 18:00 to Wed 08:00 and 2 more times a week: add a route",
                    "nobody hears of warning incidents from Fri",
                ],
            ),
            (
                vec![
                    office.clone(),
                    format!("{utc}hours = ['Mon-Fri 18:00-08:00']\nmin_severity = 'critical'"),
                ],
                vec![
                    "nobody hears of critical incidents from Sat 08:00 to Mon 08:00: add",
                    "nobody hears of warning incidents from Fri",
                ],
            ),
            (vec![office.clone(), utc.into()], vec![]),
            (
                vec![office, "escalate_after = '5m'".into()],
                vec!["nobody hears of critical", "nobody hears of warning"],
            ),
            (vec![utc.into(), "hours = ['nonsense']".into()], vec![]),
        ] {
            let configs: Vec<NotifyConfig> =
                texts.iter().map(|text: &String| config(text)).collect();
            let told = nobody_hears(&configs, NOW);
            assert_eq!(told.len(), expected.len(), "{texts:?}: {told:#?}");
            for (told, expected) in told.iter().zip(expected) {
                assert!(told.starts_with(expected), "{texts:?}: {told}");
            }
        }
    }
}
