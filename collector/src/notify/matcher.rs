//! What a route or a silence is about: keys and patterns against the servers, sites and nature of an
//! incident.
//!
//! Keys `server`, `site`, `pool`, `scope`, `kind`, `cause` and `severity` are of the incident; any other
//! key is a label of a server. A pattern may hold `*`. All keys must match. A route matches when one
//! failing server does (who cares for it must hear), silences only when all of them do (one server in
//! maintenance must not hide its neighbours), each by some silence.

use std::collections::{BTreeMap, BTreeSet};

use glob::Pattern;

use crate::model::Incident;

/// Keys that are no labels.
pub const OWN_KEYS: [&str; 7] = ["server", "site", "pool", "scope", "kind", "cause", "severity"];

/// Patterns by key; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matcher {
    parts: BTreeMap<String, Pattern>,
}

/// An incident and what fails in it; see [`crate::store::subjects`].
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// Its failing servers by name, with their labels.
    pub servers: BTreeMap<String, BTreeMap<String, String>>,
    /// Names of its failing sites, all of them where they are known.
    pub sites: BTreeSet<String>,
    /// Whether `sites` may lack some.
    pub has_more_sites: bool,
    /// Pools of its failing sites; empty text: not known.
    pub pools: BTreeSet<String>,
}

/// A part of an incident that several silences may cover one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its servers.
    Server,
    /// Its sites.
    Site,
    /// Its pools.
    Pool,
}

impl Part {
    /// Names of all of them; `None` while some or all are not known.
    #[must_use]
    pub fn of<'a>(self, subject: &'a Subject<'_>) -> Option<BTreeSet<&'a str>> {
        let names: BTreeSet<&str> = match self {
            Self::Server => subject.servers.keys().map(String::as_str).collect(),
            Self::Site if subject.has_more_sites => BTreeSet::new(),
            Self::Site => subject.sites.iter().map(String::as_str).collect(),
            Self::Pool => subject.pools.iter().map(String::as_str).collect(),
        };
        (!names.is_empty()).then_some(names)
    }
}

impl Matcher {
    /// `Err` says which value is no pattern.
    pub fn new(matches: &BTreeMap<String, String>) -> Result<Self, String> {
        let part = |(key, value): (&String, &String)| {
            let pattern = Pattern::new(value)
                .map_err(|error| format!("{key}: {value:?} is no pattern: {error}"))?;
            Ok((key.clone(), pattern))
        };
        Ok(Self { parts: matches.iter().map(part).collect::<Result<_, String>>()? })
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }

    /// Whether something of the incident matches: for routes.
    #[must_use]
    pub fn matches_any(&self, subject: &Subject<'_>) -> bool {
        let any = |key: &str, names: &BTreeSet<String>| {
            self.parts.get(key).is_none_or(|p| names.iter().any(|name| p.matches(name)))
        };
        let of_server = || subject.servers.iter().any(|(name, of)| self.matches_server(name, of));
        self.matches_nature(subject)
            && (!self.is_about_servers() || of_server())
            && any("site", &subject.sites)
            && any("pool", &subject.pools)
    }

    /// Whether all of the incident matches: for silences.
    #[must_use]
    pub fn matches_all(&self, subject: &Subject<'_>) -> bool {
        self.matches_nature(subject)
            && [Part::Server, Part::Site, Part::Pool]
                .into_iter()
                .all(|part| self.matches_whole(subject, part))
    }

    /// Whether this one server, site or pool matches, and all of the rest: for silences.
    #[must_use]
    pub fn matches_part(&self, subject: &Subject<'_>, part: Part, name: &str) -> bool {
        let others = [Part::Server, Part::Site, Part::Pool].into_iter().filter(|of| *of != part);
        self.is_about(part)
            && self.matches_nature(subject)
            && others.into_iter().all(|of| self.matches_whole(subject, of))
            && self.matches_one(subject, part, name)
    }

    fn matches_whole(&self, subject: &Subject<'_>, part: Part) -> bool {
        let all = |names: BTreeSet<&str>| {
            names.into_iter().all(|name| self.matches_one(subject, part, name))
        };
        !self.is_about(part) || part.of(subject).is_some_and(all)
    }

    fn matches_one(&self, subject: &Subject<'_>, part: Part, name: &str) -> bool {
        let by = |key: &str| self.parts.get(key).is_none_or(|pattern| pattern.matches(name));
        match part {
            Part::Server => {
                subject.servers.get(name).is_some_and(|labels| self.matches_server(name, labels))
            }
            Part::Site => by("site"),
            Part::Pool => by("pool"),
        }
    }

    fn is_about(&self, part: Part) -> bool {
        match part {
            Part::Server => self.is_about_servers(),
            Part::Site => self.parts.contains_key("site"),
            Part::Pool => self.parts.contains_key("pool"),
        }
    }

    fn is_about_servers(&self) -> bool {
        self.keys().any(is_of_server)
    }

    fn matches_server(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.parts.iter().all(|(key, pattern)| match key.as_str() {
            "server" => pattern.matches(name),
            key if OWN_KEYS.contains(&key) => true,
            key => labels.get(key).is_some_and(|value| pattern.matches(value)),
        })
    }

    fn matches_nature(&self, subject: &Subject<'_>) -> bool {
        let incident = subject.incident;
        self.parts.iter().all(|(key, pattern)| match key.as_str() {
            "scope" => pattern.matches(&incident.scope),
            "kind" => pattern.matches(&incident.kind),
            "cause" => pattern.matches(&incident.cause.class),
            "severity" => pattern.matches(&incident.severity),
            _ => true,
        })
    }
}

/// Whether a key speaks of a server: of its name or of a label.
#[must_use]
pub fn is_of_server(key: &str) -> bool {
    key == "server" || !OWN_KEYS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Place;

    fn texts(words: &str) -> BTreeMap<String, String> {
        let pair = |word: &str| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        words.split_whitespace().filter_map(pair).collect()
    }

    fn names(words: &str) -> BTreeSet<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    fn incident() -> Incident {
        let place = Place { members: vec!["web-1".into(), "web-2".into()], ..Place::default() };
        Incident { scope: "group".into(), place, ..crate::samples::incident() }
    }

    fn subject(incident: &Incident) -> Subject<'_> {
        let servers = [("web-1", "rack=r1 team=shop"), ("web-2", "rack=r1"), ("db[1]*", "rack=r9")];
        let servers = servers[..2].iter().map(|(name, of)| ((*name).to_owned(), texts(of)));
        Subject {
            incident,
            servers: servers.collect(),
            sites: names("a.example b.example"),
            has_more_sites: false,
            pools: names("www /run/php/shop.sock"),
        }
    }

    fn check(subject: &Subject<'_>, matches: &str, any: bool, all: bool) {
        let matcher = Matcher::new(&texts(matches)).unwrap();
        let found = (matcher.matches_any(subject), matcher.matches_all(subject));
        assert_eq!(found, (any, all), "{matches}");
    }

    #[test]
    fn a_route_hears_of_one_failing_server_and_a_silence_needs_all() {
        let incident = incident();
        let subject = subject(&incident);
        for (matches, any, all) in [
            ("", true, true),
            ("server=web-1", true, false),
            ("server=web-*", true, true),
            ("server=web", false, false),
            ("server=*", true, true),
            ("rack=r1", true, true),
            ("rack=r*", true, true),
            ("rack=r2", false, false),
            ("team=shop", true, false),
            // Both of the same server.
            ("team=shop server=web-2", false, false),
            ("team=shop rack=r1", true, false),
            ("unknown=*", false, false),
            ("site=a.example", true, false),
            ("site=*.example", true, true),
            ("site=c.example", false, false),
            ("pool=www", true, false),
            ("pool=/run/php/*", true, false),
            ("pool=*", true, true),
            ("scope=group", true, true),
            ("scope=s*", false, false),
            ("kind=gateway_errors severity=critical cause=overload", true, true),
            ("kind=gateway_errors severity=warning", false, false),
            ("cause=o?m", false, false),
            ("server=WEB-1", false, false),
        ] {
            check(&subject, matches, any, all);
        }
    }

    #[test]
    fn what_is_not_known_matches_no_silence() {
        let incident = incident();
        let more = Subject { has_more_sites: true, ..subject(&incident) };
        check(&more, "site=*", true, false);
        let nobody = Subject {
            servers: BTreeMap::new(),
            sites: BTreeSet::new(),
            pools: BTreeSet::new(),
            ..subject(&incident)
        };
        for matches in ["server=*", "rack=*", "site=*", "pool=*"] {
            check(&nobody, matches, false, false);
        }
        check(&nobody, "kind=*", true, true);
        let unknown_pool = Subject {
            pools: names("www").into_iter().chain([String::new()]).collect(),
            ..subject(&incident)
        };
        check(&unknown_pool, "pool=www", true, false);
    }

    #[test]
    fn names_are_text_and_never_patterns() {
        let incident = incident();
        let servers = BTreeMap::from([("db[1]*".to_owned(), BTreeMap::new())]);
        let odd = Subject { servers, sites: names("*.evil ../x"), ..subject(&incident) };
        for (matches, any, all) in [
            ("server=db1x", false, false),
            ("server=db[[]1]*", true, true),
            ("site=good", false, false),
            ("site=../*", true, false),
        ] {
            check(&odd, matches, any, all);
        }
        for wrong in ["server=[", "server=a**b", "rack=***"] {
            let problem = Matcher::new(&texts(wrong)).expect_err(wrong);
            assert!(problem.contains("is no pattern"), "{problem}");
        }
    }
}
