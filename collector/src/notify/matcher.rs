//! What a route or a silence is about: keys and patterns against the servers, sites and nature of an
//! incident.
//!
//! Keys `server`, `site`, `pool`, `scope`, `kind`, `cause` and `severity` are of the incident; any other
//! key is a label of a server. A pattern may hold `*`. All keys must match. A route matches when one
//! failing server does (who cares for it must hear), a silence only when all of them do (one server in
//! maintenance must not hide its neighbours).

use std::collections::BTreeMap;

use glob::Pattern;

use crate::model::Incident;

/// Keys that are no labels.
pub const OWN_KEYS: [&str; 7] = ["server", "site", "pool", "scope", "kind", "cause", "severity"];

/// Patterns by key; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matcher {
    parts: BTreeMap<String, Pattern>,
}

/// An incident and the labels of its servers.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// Its failing servers by name, with their labels.
    pub servers: BTreeMap<String, BTreeMap<String, String>>,
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

    /// Whether something of the incident matches: for routes.
    #[must_use]
    pub fn matches_any(&self, subject: &Subject<'_>) -> bool {
        self.matches_nature(subject)
            && (!self.is_about_servers()
                || subject.servers.iter().any(|(name, labels)| self.matches_server(name, labels)))
            && self.names(
                "site",
                &subject.incident.place.sites,
                |site, key| key.matches(site),
                false,
            )
            && self.names("pool", &pools(subject.incident), |pool, key| key.matches(pool), false)
    }

    /// Whether all of the incident matches: for silences.
    #[must_use]
    pub fn matches_all(&self, subject: &Subject<'_>) -> bool {
        let sites = &subject.incident.place.sites;
        let all_named = sites.len() as u64 >= subject.incident.affected.n_sites;
        self.matches_nature(subject)
            && (!self.is_about_servers()
                || !subject.servers.is_empty()
                    && subject
                        .servers
                        .iter()
                        .all(|(name, labels)| self.matches_server(name, labels)))
            && (!self.parts.contains_key("site") || all_named)
            && self.names("site", sites, |site, key| key.matches(site), true)
            && self.names("pool", &pools(subject.incident), |pool, key| key.matches(pool), true)
    }

    fn is_about_servers(&self) -> bool {
        self.parts.keys().any(|key| key == "server" || !OWN_KEYS.contains(&key.as_str()))
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

    fn names(
        &self,
        key: &str,
        names: &[String],
        matches: impl Fn(&str, &Pattern) -> bool,
        all: bool,
    ) -> bool {
        let Some(pattern) = self.parts.get(key) else { return true };
        let mut hits = names.iter().map(|name| matches(bare(name), pattern));
        if all { !names.is_empty() && hits.all(|hit| hit) } else { hits.any(|hit| hit) }
    }
}

/// The site of `server/site`.
fn bare(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, bare)| bare)
}

fn pools(incident: &Incident) -> Vec<String> {
    match &incident.place.pool {
        Some(pool) => vec![pool.clone()],
        None if incident.scope == "pool" => incident.place.members.clone(),
        None => Vec::new(),
    }
}
