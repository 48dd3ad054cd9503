//! The notify log: what became of each page on each route, and why.

use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::routes;
use crate::model::Moment;
use crate::notify::route::{BEGAN, GOES_ON};

/// Lines kept; the oldest leave first.
const NOTICES_MAX: i64 = 100_000;
/// Lines read for the timeline of one incident, the newest.
const MOMENTS_MAX: i64 = 100;

/// The route of a notice about none in particular.
pub const NOBODY: &str = "*";

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// The incident; null of a digest or a test.
    pub incident: Option<String>,
    /// Name of the route.
    pub route: String,
    /// `opened`, `updated`, `resolved`, `digest` or `test`.
    pub event: String,
    /// What became of it.
    pub what: What,
    /// Why, in words.
    pub why: String,
    /// Its message, when there is one.
    pub delivery: Option<String>,
}

/// What became of a page on one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is in the outbox.
    Owed,
    /// The receiver took it.
    Delivered,
    /// It is kept back: by a silence, its hours, or while somebody may yet acknowledge.
    Suppressed,
    /// The route does not want it.
    Unwanted,
    /// The receiver will never take it.
    Refused,
    /// Nobody took it for two days.
    Expired,
    /// A newer message of the same incident took its place before it left.
    Superseded,
    /// There was nothing to tell any more, or the route is gone.
    Dropped,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Owed => "owed",
            Self::Delivered => "delivered",
            Self::Suppressed => "suppressed",
            Self::Unwanted => "unwanted",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Dropped => "dropped",
        }
    }
}

/// Which lines `list` returns.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this incident.
    pub incident: Option<String>,
    /// Only of this route.
    pub route: Option<String>,
    /// Only at or after this.
    pub since: Option<UnixMillis>,
    /// At most so many, the newest; 0: 1,000.
    pub n_max: usize,
}

/// Writes a line.
pub fn add(tx: &Transaction<'_>, notice: &Notice) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO notice(at, incident, route, event, what, why, delivery) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        notice.at.0,
        notice.incident,
        notice.route,
        notice.event,
        notice.what.name(),
        notice.why,
        notice.delivery
    ])?;
    tx.prepare_cached("DELETE FROM notice WHERE id <= ?1")?
        .execute([tx.last_insert_rowid() - NOTICES_MAX])?;
    if notice.what == What::Dropped {
        routes::count_dropped(tx, 1)?;
    }
    Ok(())
}

/// Whether an incident was to be told while no route wanted any of it: nobody knows of it.
pub fn had_no_route(conn: &Connection, incident: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS(SELECT 1 FROM notice WHERE incident = ?1 AND route = ?2 AND what = 'unwanted')
           AND NOT EXISTS(SELECT 1 FROM notice WHERE incident = ?1 AND what IN ('owed', 'suppressed'))",
    )?
    .query_row([incident, NOBODY], |row| row.get(0))
}

/// What was told of an incident, what was not, and why, for its timeline: one line for each decision
/// worth knowing, the same one about several routes being one. That a single route does not want it, and
/// that a message arrived, stands in the log alone.
pub fn moments(conn: &Connection, incident: &str) -> rusqlite::Result<Vec<Moment>> {
    let mut found = conn
        .prepare_cached(
            "SELECT at, incident, route, event, what, why, delivery FROM notice
             WHERE incident = ?1 AND (route = '*' OR what NOT IN ('unwanted', 'delivered', 'superseded'))
             ORDER BY id DESC LIMIT ?2",
        )?
        .query_map(params![incident, MOMENTS_MAX], read)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    found.reverse();
    let alike = |a: &Notice, b: &Notice| {
        (a.at, a.what, &a.event, &a.why) == (b.at, b.what, &b.event, &b.why)
    };
    let moment = |notices: &[Notice]| {
        let routes: Vec<&str> = notices.iter().map(|notice| notice.route.as_str()).collect();
        let what = in_words(&notices[0], &routes.join(", "));
        Moment { at: notices[0].at, what }
    };
    Ok(found.chunk_by(alike).map(moment).collect())
}

fn in_words(notice: &Notice, routes: &str) -> String {
    let Notice { event, what, why, .. } = notice;
    match (what, event.as_str()) {
        _ if routes == "*" && event == "opened" => format!("nobody was paged: {why}"),
        _ if routes == "*" => format!("nobody was told: {why}"),
        (What::Owed, "opened") if why == BEGAN => format!("paged {routes}"),
        (What::Owed, "opened") => format!("paged {routes}: {why}"),
        (What::Owed, "resolved") if !why.starts_with(GOES_ON) => {
            format!("told {routes} that it is over")
        }
        (What::Owed, _) => format!("told {routes}: {why}"),
        (What::Suppressed, _) => format!("page to {routes} suppressed: {why}"),
        (What::Refused | What::Expired, _) => format!("page to {routes} given up: {why}"),
        _ => format!("page to {routes} dropped: {why}"),
    }
}

/// Lines, oldest first.
pub fn list(conn: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Notice>> {
    let n_max = if filter.n_max == 0 { 1000 } else { filter.n_max };
    let mut found = conn
        .prepare_cached(
            "SELECT at, incident, route, event, what, why, delivery FROM notice
             WHERE (?1 IS NULL OR incident = ?1) AND (?2 IS NULL OR route = ?2) AND (?3 IS NULL OR at >= ?3)
             ORDER BY id DESC LIMIT ?4",
        )?
        .query_map(
            params![filter.incident, filter.route, filter.since.map(|at| at.0), n_max as i64],
            read,
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    found.reverse();
    Ok(found)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Notice> {
    let what: String = row.get(4)?;
    let what = serde_json::from_value(serde_json::Value::String(what)).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, error.into())
    })?;
    Ok(Notice {
        at: UnixMillis(row.get(0)?),
        incident: row.get(1)?,
        route: row.get(2)?,
        event: row.get(3)?,
        what,
        why: row.get(5)?,
        delivery: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn notice(second: i64, route: &str, event: &str, what: What, why: &str) -> Notice {
        Notice {
            at: UnixMillis(second * 1000),
            incident: Some("A".into()),
            route: route.into(),
            event: event.into(),
            what,
            why: why.into(),
            delivery: None,
        }
    }

    #[tokio::test]
    async fn a_timeline_has_a_line_for_each_decision_and_only_the_newest_hundred() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let job = |tx: &Transaction<'_>| {
            for (second, route, event, what, why) in [
                (1, "ops", "opened", What::Owed, BEGAN),
                (1, "chat", "opened", What::Owed, BEGAN),
                (1, "db", "opened", What::Unwanted, "it is about something else"),
                (1, "night", "opened", What::Suppressed, "outside its hours"),
                (2, "ops", "opened", What::Delivered, ""),
                (3, "boss", "opened", What::Owed, "nobody acknowledged it for 10m"),
                (4, "ops", "updated", What::Owed, "from 4 to 8 sites"),
                (5, "ops", "updated", What::Superseded, "a newer message tells it"),
                (6, "chat", "opened", What::Refused, "404 Not Found"),
                (7, "night", "opened", What::Dropped, "it was over before it could be told"),
                (7, "ops", "resolved", What::Owed, "it is over"),
                (8, "*", "opened", What::Unwanted, "no route wants it"),
                (9, "*", "resolved", What::Dropped, "it is open again"),
            ] {
                add(tx, &notice(second, route, event, what, why))?;
            }
            let all = moments(tx, "A")?;
            for n in 0..300 {
                add(tx, &notice(100 + n, "ops", "updated", What::Owed, "from 4 to 8 sites"))?;
            }
            Ok((all, moments(tx, "A")?, moments(tx, "B")?))
        };
        let (all, many, none) = store.write(job).await.unwrap();
        let said: Vec<&str> = all.iter().map(|moment| moment.what.as_str()).collect();
        let want = [
            "paged ops, chat",
            "page to night suppressed: outside its hours",
            "paged boss: nobody acknowledged it for 10m",
            "told ops: from 4 to 8 sites",
            "page to chat given up: 404 Not Found",
            "page to night dropped: it was over before it could be told",
            "told ops that it is over",
            "nobody was paged: no route wants it",
            "nobody was told: it is open again",
        ];
        assert_eq!(said, want);
        assert_eq!((many.len(), many[99].at.0, none.len()), (100, 399_000, 0));
    }
}
