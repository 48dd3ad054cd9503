//! How each route stands: what it owes, and what became of its messages.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction};
use wire::UnixMillis;

/// What waits for a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Messages waiting.
    pub n_owed: u64,
    /// Of these, those that were tried in vain.
    pub n_tried: u64,
    /// Tries in vain of these.
    pub n_tries: u64,
    /// When the first of these was, or is, due.
    pub oldest_due_at: Option<UnixMillis>,
    /// Pages kept back: by a silence, hours, or somebody who may still acknowledge.
    pub n_held: u64,
}

/// What the notify log says of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// When a message arrived last.
    pub last_delivered_at: Option<UnixMillis>,
    /// When one was given up last, and why.
    pub last_error: Option<(UnixMillis, String)>,
}

/// Every route for which something waits, by name.
pub fn waiting(conn: &Connection) -> rusqlite::Result<BTreeMap<String, Waiting>> {
    let mut found: BTreeMap<String, Waiting> = BTreeMap::new();
    let mut owed = conn.prepare_cached(
        "SELECT route, count(*), sum(tries > 0), sum(tries), min(due) FROM outbox GROUP BY route",
    )?;
    let mut rows = owed.query([])?;
    while let Some(row) = rows.next()? {
        let waiting = found.entry(row.get(0)?).or_default();
        waiting.n_owed = count(row.get(1)?);
        waiting.n_tried = count(row.get(2)?);
        waiting.n_tries = count(row.get(3)?);
        waiting.oldest_due_at = Some(UnixMillis(row.get(4)?));
    }
    let mut held = conn.prepare_cached("SELECT route, count(*) FROM held GROUP BY route")?;
    let mut rows = held.query([])?;
    while let Some(row) = rows.next()? {
        found.entry(row.get(0)?).or_default().n_held = count(row.get(1)?);
    }
    Ok(found)
}

/// Every route that the notify log knows, by name. Cost: a walk over the whole log.
pub fn pasts(conn: &Connection) -> rusqlite::Result<BTreeMap<String, Past>> {
    let mut found: BTreeMap<String, Past> = BTreeMap::new();
    // With max() SQLite takes the other columns from the row that has the maximum.
    let mut notices = conn.prepare_cached(
        "SELECT route, what, max(id), at, why FROM notice
         WHERE what IN ('delivered', 'refused', 'expired') GROUP BY route, what",
    )?;
    let mut rows = notices.query([])?;
    while let Some(row) = rows.next()? {
        let past = found.entry(row.get(0)?).or_default();
        let (what, at): (String, _) = (row.get(1)?, UnixMillis(row.get(3)?));
        if what == "delivered" {
            past.last_delivered_at = Some(at);
        } else if past.last_error.as_ref().is_none_or(|(before, _)| *before <= at) {
            past.last_error = Some((at, row.get(4)?));
        }
    }
    Ok(found)
}

/// Counts pages and messages that nobody is told any more. It is kept beside the log, of which old
/// lines leave.
pub fn count_dropped(tx: &Transaction<'_>, n: usize) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO state(k, v) VALUES('n_dropped', ?1)
         ON CONFLICT(k) DO UPDATE SET v = v + excluded.v",
    )?
    .execute([n as i64])?;
    Ok(())
}

/// How many there were in the life of the database.
pub fn n_dropped(conn: &Connection) -> rusqlite::Result<u64> {
    let n = conn
        .prepare_cached("SELECT v FROM state WHERE k = 'n_dropped'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(count(n.unwrap_or(0)))
}

fn count(n: i64) -> u64 {
    n.max(0).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::notices::{Notice, What};
    use crate::store::{Store, notices, outbox};

    #[tokio::test]
    async fn a_route_is_judged_by_its_outbox_and_the_notify_log() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let at = UnixMillis;
        let write = store.write(move |tx| {
            for (route, due, delivery) in [("a", 50, "1"), ("a", 40, "2"), ("b", 60, "3")] {
                outbox::owe(tx, "I", route, at(due), delivery, "{}")?;
            }
            outbox::postpone(tx, 1, at(70))?;
            outbox::postpone(tx, 1, at(80))?;
            outbox::hold(tx, "I", "c", at(1), "silence")?;
            for (when, route, what, why) in [
                (10, "a", What::Delivered, ""),
                (20, "a", What::Refused, "the receiver answered 400"),
                (30, "a", What::Expired, "no answer"),
                (31, "a", What::Delivered, ""),
                (32, "a", What::Owed, "it began"),
                (33, "*", What::Dropped, "it is part of another incident"),
            ] {
                let notice = Notice {
                    at: at(when),
                    incident: Some("I".into()),
                    route: route.into(),
                    event: "opened".into(),
                    what,
                    why: why.into(),
                    delivery: None,
                };
                notices::add(tx, &notice)?;
            }
            Ok(())
        });
        write.await.unwrap();
        let read = |conn: &Connection| Ok((waiting(conn)?, pasts(conn)?, n_dropped(conn)?));
        let (waiting, pasts, n_dropped) = store.read(read).await.unwrap();
        let a =
            Waiting { n_owed: 2, n_tried: 1, n_tries: 2, oldest_due_at: Some(at(40)), n_held: 0 };
        assert_eq!(waiting["a"], a);
        let b = Waiting { n_owed: 1, oldest_due_at: Some(at(60)), ..Waiting::default() };
        assert_eq!(waiting["b"], b);
        assert_eq!(waiting["c"], Waiting { n_held: 1, ..Waiting::default() });
        assert_eq!(waiting.len(), 3);
        let a = Past {
            last_delivered_at: Some(at(31)),
            last_error: Some((at(30), "no answer".into())),
        };
        assert_eq!(pasts, BTreeMap::from([("a".to_owned(), a)]));
        assert_eq!(n_dropped, 1);
    }

    #[tokio::test]
    async fn what_is_owed_to_a_route_that_left_the_config_counts_as_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let write = store.write(move |tx| {
            for (route, delivery) in [("a", "1"), ("b", "2"), ("b", "3")] {
                outbox::owe(tx, delivery, route, UnixMillis(1), delivery, "{}")?;
            }
            outbox::drop_other_routes(tx, &["a".to_owned()], UnixMillis(2))?;
            tx.execute("DELETE FROM notice", [])
        });
        write.await.unwrap();
        assert_eq!(store.read(n_dropped).await.unwrap(), 2, "the log may forget them");
    }
}
