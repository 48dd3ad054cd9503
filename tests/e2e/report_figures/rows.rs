//! What the database says of incidents, read as it is.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// A site as the database has it.
pub(super) struct Known {
    pub(super) server: String,
    pub(super) name: String,
    pub(super) since: i64,
    /// When its server was heard last, ms; it has said goodbye.
    pub(super) heard: i64,
}

/// A time in which a site was inside of an incident.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    /// Its first and last minute.
    pub(super) minutes: RangeInclusive<i64>,
    /// Class of the cause.
    pub(super) class: &'a str,
}

/// What the database says of incidents, read as it is.
pub(super) struct Rows {
    pub(super) sites: BTreeMap<i64, Known>,
    /// Incident, site, from and to in ms.
    pub(super) spells: Vec<(String, i64, i64, i64)>,
    /// Incident, server, from and to in ms.
    pub(super) down: Vec<(String, String, i64, i64)>,
    /// Key and body of each.
    pub(super) incidents: BTreeMap<String, (String, Value)>,
}

impl Rows {
    pub(super) fn read(data_dir: &Path) -> Self {
        let file = data_dir.join("gatewatch.db");
        let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .expect("the database is there");
        let all = |sql: &str| -> Vec<Vec<rusqlite::types::Value>> {
            let mut query = conn.prepare(sql).expect("a query");
            let n = query.column_count();
            let row = |row: &rusqlite::Row<'_>| (0..n).map(|ix| row.get(ix)).collect();
            query.query_map([], row).expect("rows").map(|row| row.expect("a row")).collect()
        };
        let text = |value: &rusqlite::types::Value| match value {
            rusqlite::types::Value::Text(text) => text.clone(),
            other => panic!("{other:?} is no text"),
        };
        let int = |value: &rusqlite::types::Value| match value {
            rusqlite::types::Value::Integer(n) => *n,
            rusqlite::types::Value::Null => i64::MAX / 2,
            other => panic!("{other:?} is no number"),
        };
        let sites = all(
            "SELECT site_id, name, host, since, last_seen FROM site JOIN server USING(server_id)",
        );
        let spells =
            all("SELECT incident, site_id, since, coalesce(until, closed) FROM incident_site
             JOIN incident ON id = incident");
        let down = all("SELECT incident, s.name, since, coalesce(until, closed)
             FROM incident_server JOIN incident ON id = incident JOIN server s USING(server_id)");
        let incidents = all("SELECT id, key, body FROM incident");
        let json = |value| serde_json::from_str(&text(value)).expect("JSON");
        Self {
            sites: sites
                .iter()
                .map(|row| {
                    let (server, name) = (text(&row[1]), text(&row[2]));
                    let (since, heard) = (int(&row[3]), int(&row[4]));
                    (int(&row[0]), Known { server, name, since, heard })
                })
                .collect(),
            spells: spells
                .iter()
                .map(|row| (text(&row[0]), int(&row[1]), int(&row[2]), int(&row[3])))
                .collect(),
            down: down
                .iter()
                .map(|row| (text(&row[0]), text(&row[1]), int(&row[2]), int(&row[3])))
                .collect(),
            incidents: incidents
                .iter()
                .map(|row| (text(&row[0]), (text(&row[1]), json(&row[2]))))
                .collect(),
        }
    }

    /// The incident that one was merged into, or itself.
    pub(super) fn root<'a>(&'a self, id: &'a str) -> &'a str {
        let parent = self.incidents.get(id).and_then(|(_, body)| body["parent"].as_str());
        parent.filter(|parent| self.incidents.contains_key(*parent)).map_or(id, |id| self.root(id))
    }

    /// What incidents say of a site.
    pub(super) fn verdicts(&self, server: &str, name: &str) -> Vec<Verdict<'_>> {
        let is_it = |id: &i64| {
            self.sites.get(id).is_some_and(|site| site.server == server && site.name == name)
        };
        let own = self.spells.iter().filter(|(_, site, ..)| is_it(site));
        let verdict = |(id, _, from, to): &'_ (String, i64, i64, i64)| {
            let class = self.incidents[self.root(id)].1["cause"]["class"].as_str();
            (from.div_euclid(60_000)..=to.div_euclid(60_000), class.expect("a word"))
        };
        own.map(verdict).map(|(minutes, class)| Verdict { minutes, class }).collect()
    }

    pub(super) fn body(&self, id: &str) -> &Value {
        &self.incidents[id].1
    }
}
