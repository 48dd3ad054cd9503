//! What fails in an incident, as matchers see it: its servers with their labels, its sites, its pools.
//! And which silence covers it.
//!
//! Reads only what the keys in use ask for: a group of thousands of servers costs nothing where nobody
//! matches on servers.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params_from_iter};
use wire::UnixMillis;

use super::fleet;
use super::silences::{self, Silence};
use crate::model::Incident;
use crate::notify::matcher::{Matcher, Part, Subject, is_of_server};

/// An incident with what these keys ask for.
pub fn subject<'a>(
    conn: &Connection,
    incident: &'a Incident,
    keys: &BTreeSet<String>,
) -> rusqlite::Result<Subject<'a>> {
    let wants = |key: &str| keys.contains(key);
    let mut subject = Subject {
        incident,
        servers: BTreeMap::new(),
        sites: incident.place.sites.iter().cloned().collect(),
        has_more_sites: (incident.place.sites.len() as u64) < incident.affected.n_sites,
        pools: BTreeSet::new(),
    };
    if keys.iter().any(|key| is_of_server(key)) {
        for name in servers(conn, incident)? {
            let mut labels = fleet::labels_of(conn, &name)?;
            // Of a server that was forgotten meanwhile, what the group says of it.
            let place = &incident.place;
            let pair = place.label.clone().zip(place.value.clone());
            for (label, value) in place.labels.clone().unwrap_or_default().into_iter().chain(pair) {
                labels.entry(label).or_insert(value);
            }
            subject.servers.insert(name, labels);
        }
    }
    if wants("site") && subject.has_more_sites {
        let select = "SELECT DISTINCT s.host FROM incident_site i JOIN site s USING(site_id) WHERE i.incident = ?1";
        subject.sites.extend(column(conn, select, &[&incident.id])?);
        subject.has_more_sites = (subject.sites.len() as u64) < incident.affected.n_sites;
    }
    if wants("pool") {
        subject.pools = match &incident.place.pool {
            Some(pool) => BTreeSet::from([pool.clone()]),
            None => column(
                conn,
                "SELECT DISTINCT coalesce(s.pool, s.upstream, '') FROM incident_site i
                 JOIN site s USING(site_id) WHERE i.incident = ?1",
                &[&incident.id],
            )?,
        };
    }
    Ok(subject)
}

/// Failing servers: of a group those that failed, not all that belong to it.
fn servers(conn: &Connection, incident: &Incident) -> rusqlite::Result<BTreeSet<String>> {
    if incident.scope == "group" {
        let failed = column(
            conn,
            "SELECT DISTINCT v.name FROM incident_site i JOIN site s USING(site_id)
               JOIN server v USING(server_id) WHERE i.incident = ?1
             UNION SELECT name FROM incident_server WHERE incident = ?1 AND name <> ''",
            &[&incident.id],
        )?;
        if !failed.is_empty() {
            return Ok(failed);
        }
    }
    let place = &incident.place;
    let names = place.members.iter().map(|name| name.split('/').next().unwrap_or(name));
    Ok(names.chain(place.server.as_deref()).map(str::to_owned).collect())
}

fn column(
    conn: &Connection,
    select: &str,
    values: &[&String],
) -> rusqlite::Result<BTreeSet<String>> {
    conn.prepare_cached(select)?
        .query_map(params_from_iter(values), |row| row.get::<_, String>(0))?
        .collect()
}

/// The silences of one instant.
#[derive(Debug, Default)]
pub struct Silenced {
    active: Vec<(Silence, Matcher)>,
    /// Keys they match on.
    pub keys: BTreeSet<String>,
}

impl Silenced {
    /// Those that are active at `now`.
    pub fn load(conn: &Connection, now: UnixMillis) -> rusqlite::Result<Self> {
        let mut found = Self::default();
        for silence in silences::list(conn, now)? {
            // One that is no pattern any more silences nothing.
            let Ok(matcher) = Matcher::new(&silence.matches) else { continue };
            if silence.is_active(now) {
                found.keys.extend(matcher.keys().map(str::to_owned));
                found.active.push((silence, matcher));
            }
        }
        Ok(found)
    }

    /// Those that cover an incident, in words; `None` when something of it stays uncovered.
    #[must_use]
    pub fn covering(&self, subject: &Subject<'_>) -> Option<String> {
        let alone = self.active.iter().find(|(_, matcher)| matcher.matches_all(subject));
        if let Some((silence, _)) = alone {
            return Some(format!("silence {}: {}", silence.id, silence.reason));
        }
        let together = self.together(subject)?;
        let words: Vec<String> =
            together.iter().map(|of| format!("{}: {}", of.id, of.reason)).collect();
        Some(format!("silences {}", words.join("; ")))
    }

    /// Several that cover it only together: each of its servers, sites or pools by one of them.
    fn together(&self, subject: &Subject<'_>) -> Option<Vec<&Silence>> {
        let by = |part: Part| {
            let mut left: BTreeSet<&str> = part.of(subject)?;
            let mut used = Vec::new();
            for (silence, matcher) in &self.active {
                let n = left.len();
                left.retain(|name| !matcher.matches_part(subject, part, name));
                if left.len() < n {
                    used.push(silence);
                }
            }
            left.is_empty().then_some(used)
        };
        [Part::Server, Part::Site, Part::Pool].into_iter().find_map(by)
    }

    /// Marks an open incident that one of them covers.
    pub fn mark(&self, conn: &Connection, incident: &mut Incident) -> rusqlite::Result<()> {
        if self.active.is_empty() || incident.resolved_at.is_some() {
            return Ok(());
        }
        let is_covered = self.covering(&subject(conn, incident, &self.keys)?).is_some();
        incident.silenced = is_covered;
        Ok(())
    }

    /// Which ones, so that a change is seen.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.active.iter().map(|(silence, _)| silence.id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Place;
    use crate::samples;
    use crate::store::Store;

    const FLEET: &str = "
        INSERT INTO server(server_id, uuid, name, first_seen) VALUES
          (1, x'00000000000000000000000000000001', 'web-1', 0), (2, x'00000000000000000000000000000002', 'web-2', 0), (3, x'00000000000000000000000000000003', 'web-3', 0);
        INSERT INTO label(server_id, source, k, v) VALUES
          (1, 1, 'team', 'shop'), (1, 3, 'team', 'blog'), (2, 2, 'rack', 'r2');
        INSERT INTO site(site_id, server_id, host, pool, upstream) VALUES
          (1, 1, 'a.example', 'www', NULL), (2, 1, 'b.example', NULL, '10.0.0.9:80'),
          (3, 2, 'c.example', 'www', NULL), (4, 3, 'd.example', 'www', NULL);
        INSERT INTO incident(id, key, opened, rev, body) VALUES('A', 'A', 0, 1, '{}'), ('S', 'S', 0, 1, '{}');
        INSERT INTO incident_site(incident, site_id, since) VALUES('A', 1, 0), ('A', 2, 0), ('A', 3, 0);
        INSERT INTO incident_server(incident, server_id, name, since) VALUES('S', 3, 'web-3', 0);";

    fn incident(id: &str, scope: &str, members: &[&str]) -> Incident {
        let members = members.iter().map(|name| (*name).to_owned()).collect();
        let (label, value) = (Some("rack".to_owned()), Some("r1".to_owned()));
        let (label, value) = if scope == "group" { (label, value) } else { (None, None) };
        let place =
            Place { members, label, value, sites: vec!["a.example".into()], ..Place::default() };
        Incident { id: id.into(), scope: scope.into(), place, ..samples::incident() }
    }

    #[tokio::test]
    async fn an_incident_is_what_fails_in_it_and_not_all_that_its_group_holds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write(|tx| tx.execute_batch(FLEET)).await.unwrap();
        let all = ["web-1", "web-2", "web-3"];
        for (incident, servers) in [
            (incident("A", "group", &all), "web-1 rack=r1 team=blog, web-2 rack=r2"),
            (incident("S", "group", &all), "web-3 rack=r1"),
            // Nothing is stored of it.
            (incident("N", "group", &["web-2", "gone"]), "gone rack=r1, web-2 rack=r2"),
            (incident("A", "server", &["web-1"]), "web-1 team=blog"),
            (incident("A", "pool", &["web-1/www", "web-2/www"]), "web-1 team=blog, web-2 rack=r2"),
            (incident("A", "site", &["web-1/a.example"]), "web-1 team=blog"),
        ] {
            let read = move |conn: &Connection| {
                let keys = ["team", "site", "pool"].map(str::to_owned).into();
                let found = subject(conn, &incident, &keys)?;
                let words = |(name, labels): (&String, &BTreeMap<String, String>)| {
                    let labels = labels.iter().map(|(k, v)| format!(" {k}={v}"));
                    format!("{name}{}", labels.collect::<String>())
                };
                let words: Vec<String> = found.servers.iter().map(words).collect();
                Ok((words.join(", "), found.sites.len(), found.has_more_sites, found.pools.len()))
            };
            let (found, n_sites, has_more, n_pools) = store.read(read).await.unwrap();
            assert_eq!(found, servers);
            // The list of the incident is short of 37; the store knows three of A.
            assert!(has_more && (n_sites == 3 || n_sites == 1), "{n_sites}");
            assert!(n_pools == 2 || n_pools == 0, "{n_pools}");
        }
    }

    #[tokio::test]
    async fn nothing_is_read_that_nobody_matches_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write(|tx| tx.execute_batch(FLEET)).await.unwrap();
        let read = |conn: &Connection| {
            let incident = incident("A", "group", &["web-1"]);
            let found = subject(conn, &incident, &BTreeSet::from(["severity".to_owned()]))?;
            Ok((found.servers.len(), found.sites.len(), found.pools.len()))
        };
        assert_eq!(store.read(read).await.unwrap(), (0, 1, 0));
    }
}
