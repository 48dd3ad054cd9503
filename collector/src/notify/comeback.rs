//! What changed back before an incident was over: the newest fact that may have ended it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wire::UnixMillis;

use super::words::{clock, many, span};
use crate::model::Incident;

/// What came longer before the last failure did not end it.
const BEFORE: Duration = Duration::from_secs(15 * 60);
/// States are asked for every few seconds and requests end late, so it may be seen so long after.
const AFTER: Duration = Duration::from_secs(60);

/// One dated fact of an affected server, on the collector's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Name of the server.
    pub server: String,
    /// When.
    pub at: UnixMillis,
    /// What.
    pub what: What,
}

/// Kinds of facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A service has this state now.
    Service {
        /// Its unit.
        unit: String,
        /// `active`, `failed`, ...
        state: String,
    },
    /// Something was changed.
    Change {
        /// `package`, `config`, ...
        kind: String,
        /// In words.
        text: String,
    },
}

/// What is known about the end of an incident.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// The incident, resolved.
    pub incident: &'a Incident,
    /// Facts of its servers since a while before it began, in any order.
    pub facts: &'a [Fact],
    /// The last gateway error that was counted.
    pub last_failed: Option<UnixMillis>,
    /// Servers that are well again, and since when.
    pub well_again: Vec<(String, UnixMillis)>,
    /// How many servers were hit.
    pub n_servers: usize,
    /// Only the newest facts, or those of some servers, are known.
    pub is_partial: bool,
    /// Now, for the words.
    pub now: UnixMillis,
}

/// In words, e.g. `php8.2-fpm.service active again at 12:13:02, 9 s before the last failure`.
#[must_use]
pub fn words(known: &Known<'_>) -> Option<String> {
    let resolved = known.incident.resolved_at.unwrap_or(known.now);
    let last = known.last_failed.filter(|at| *at <= resolved);
    let end = last.unwrap_or(resolved);
    let from = known.incident.started_at.max(end.minus(BEFORE));
    let until = end.plus(AFTER).min(resolved.max(end));
    let is_near = |at: UnixMillis| at > from && at <= until;
    let relation = |at: UnixMillis| match (at <= end, last) {
        (true, Some(_)) if end == at => "with the last failure".to_owned(),
        (true, Some(_)) => format!("{} before the last failure", span(end.since(at))),
        (true, None) => format!("{} before the end", span(end.since(at))),
        (false, _) => format!("{} after the last failure", span(at.since(end))),
    };
    // Of the newest time, and of a service rather than of a change: a restart follows an edit.
    let newest = candidates(known).into_iter().filter(|told| is_near(told.at));
    if let Some(told) = newest.max_by_key(|told| (told.at, told.is_service)) {
        let on = match (told.servers.len(), known.n_servers) {
            (1, 0..=1) => String::new(),
            (1, _) => format!(" on {}", told.servers.first().map_or("", String::as_str)),
            (n, _) => {
                let at_least = if known.is_partial { "at least " } else { "" };
                format!(" on {at_least}{}, the last one", many(n as u64, "server"))
            }
        };
        let at = clock(told.at, known.now);
        return Some(format!("{}{on} at {at}, {}", told.text, relation(told.at)));
    }
    if known.incident.kind != "silence" {
        return None;
    }
    let (server, at) = known.well_again.iter().max_by_key(|(_, at)| *at)?;
    let who = match known.well_again.len() {
        1 => format!("{server} talks"),
        n => format!("{} talk", many(n as u64, "server")),
    };
    Some(format!("{who} again since {}", clock(*at, known.now)))
}

/// Something that may have helped, over all servers.
struct Told {
    text: String,
    servers: BTreeSet<String>,
    at: UnixMillis,
    is_service: bool,
}

/// Services that came back after they had been seen otherwise, and every change. Where earlier facts are
/// not known, a service that is active since then came back: states are told when they change.
fn candidates(known: &Known<'_>) -> Vec<Told> {
    let was_active =
        |before: Option<&str>| before.map_or(!known.is_partial, |before| before == "active");
    let mut in_order: Vec<&Fact> = known.facts.iter().collect();
    in_order.sort_by_key(|fact| fact.at);
    let mut states: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    for fact in in_order {
        let text = match &fact.what {
            What::Change { kind, text } => format!("{kind}: {text}"),
            What::Service { unit, state } => {
                let before = states.insert((&fact.server, unit), state);
                if state != "active" || was_active(before) {
                    continue;
                }
                format!("{unit} active again")
            }
        };
        let is_service = matches!(fact.what, What::Service { .. });
        let at = fact.at;
        let new = Told { text: text.clone(), servers: BTreeSet::new(), at, is_service };
        let known = told.entry(text).or_insert(new);
        known.servers.insert(fact.server.clone());
        known.at = at;
    }
    told.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{START, incident};

    fn at(s: i64) -> UnixMillis {
        UnixMillis(START.0 + s * 1000)
    }

    fn service(server: &str, s: i64, state: &str) -> Fact {
        let what = What::Service { unit: "php8.2-fpm.service".into(), state: state.into() };
        Fact { server: server.into(), at: at(s), what }
    }

    fn change(s: i64, text: &str) -> Fact {
        let what = What::Change { kind: "config".into(), text: text.into() };
        Fact { server: "web-07".into(), at: at(s), what }
    }

    fn check(
        why: &str,
        facts: &[Fact],
        last_failed: Option<i64>,
        n_servers: usize,
        expected: Option<&str>,
    ) {
        let end = at(last_failed.unwrap_or(724) + 86);
        let incident = Incident { resolved_at: Some(end), ..incident() };
        let known = Known {
            incident: &incident,
            facts,
            last_failed: last_failed.map(at),
            well_again: vec![("web-07".into(), at(730))],
            n_servers,
            is_partial: false,
            now: end.plus(Duration::from_secs(1)),
        };
        assert_eq!(words(&known).as_deref(), expected, "{why}");
    }

    fn down() -> Fact {
        service("web-07", -1, "failed")
    }

    fn up() -> Fact {
        service("web-07", 715, "active")
    }

    #[test]
    fn the_newest_fact_that_may_have_ended_it_is_told() {
        let edit = || change(700, "/etc/php.ini changed");
        let back = "php8.2-fpm.service active again at 12:13:02, 9 s before the last failure";
        let edited = "config: /etc/php.ini changed at 12:12:47, 24 s before the last failure";
        let late = "php8.2-fpm.service active again at 12:13:16, 5 s after the last failure";
        let uncounted = "php8.2-fpm.service active again at 12:13:02, 1 min 35 s before the end";
        for (why, facts, last_failed, expected) in [
            ("a service came back", vec![down(), up()], Some(724), Some(back)),
            ("an edit and the restart after it", vec![down(), edit(), up()], Some(724), Some(back)),
            ("an edit only", vec![edit()], Some(724), Some(edited)),
            (
                "seen a little late",
                vec![down(), service("web-07", 729, "active")],
                Some(724),
                Some(late),
            ),
            ("nothing was counted", vec![down(), up()], None, Some(uncounted)),
        ] {
            check(why, &facts, last_failed, 1, expected);
        }
    }

    #[test]
    fn what_cannot_have_ended_it_is_not_told() {
        let steady = vec![service("web-07", -5, "active"), up()];
        for (why, facts, last_failed) in [
            ("nothing happened", vec![], 724),
            ("a service that had run all the time", steady, 724),
            ("a service known only since it runs", vec![up()], 724),
            ("an edit before it began", vec![change(-20, "x")], 3),
            ("an edit long before the end", vec![change(10, "x")], 3000),
            ("an edit long after the end", vec![change(790, "x")], 724),
        ] {
            check(why, &facts, Some(last_failed), 1, None);
        }
    }

    #[test]
    fn of_several_servers_it_is_said_which_or_how_many() {
        let one = "php8.2-fpm.service active again on web-07 at 12:13:02, 9 s before the last \
                   failure";
        check("one of three", &[down(), up()], Some(724), 3, Some(one));
        let other = [service("web-08", 720, "active"), service("web-08", 0, "failed")];
        let facts = [&other[..], &[up(), down()]].concat();
        let both = "php8.2-fpm.service active again on 2 servers, the last one at 12:13:07, 4 s \
                    before the last failure";
        check("in any order", &facts, Some(724), 2, Some(both));
    }

    #[test]
    fn what_is_known_in_part_is_told_as_such() {
        let other = [service("web-08", 720, "active"), up()];
        let incident = Incident { resolved_at: Some(at(810)), ..incident() };
        let known = |is_partial: bool| {
            let last_failed = Some(at(724));
            let (facts, well_again, now) = (&other[..], Vec::new(), at(811));
            let incident = &incident;
            words(&Known {
                incident,
                facts,
                last_failed,
                well_again,
                n_servers: 9,
                is_partial,
                now,
            })
        };
        assert_eq!(known(false), None, "they were active before");
        let both = "php8.2-fpm.service active again on at least 2 servers, the last one at \
                    12:13:07, 4 s before the last failure";
        assert_eq!(known(true).as_deref(), Some(both), "what was before is not known");
    }

    #[test]
    fn a_server_that_was_silent_talks_again() {
        let silence = Incident { kind: "silence".into(), resolved_at: Some(at(600)), ..incident() };
        let known = |names: &[&str], facts| {
            let well_again = (0_i64..).zip(names).map(|(n, name)| ((*name).into(), at(590 + n)));
            let well_again = well_again.collect();
            let n_servers = names.len();
            let last_failed = None;
            words(&Known {
                incident: &silence,
                facts,
                last_failed,
                well_again,
                n_servers,
                is_partial: false,
                now: at(601),
            })
        };
        let one = known(&["web-07"], &[]);
        assert_eq!(one.as_deref(), Some("web-07 talks again since 12:10:57"));
        let two = known(&["web-07", "web-08"], &[]);
        assert_eq!(two.as_deref(), Some("2 servers talk again since 12:10:58"));
        assert_eq!(known(&[], &[]), None);
        let text = "machine booted, kernel 6.1".into();
        let boot = What::Change { kind: "boot".into(), text };
        let boot = Fact { server: "web-07".into(), at: at(570), what: boot };
        let booted = known(&["web-07"], &[boot]);
        let expected = "boot: machine booted, kernel 6.1 at 12:10:37, 30 s before the end";
        assert_eq!(booted.as_deref(), Some(expected));
    }
}
