//! How each route stands: what it owes, and what became of its messages.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use wire::UnixMillis;

/// How a route stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Messages waiting.
    pub n_owed: u64,
    /// Of these, those that were tried in vain.
    pub n_tried: u64,
    /// Tries in vain of these.
    pub n_tries: u64,
    /// When the first of these was, or is, due.
    pub oldest_due_at: Option<UnixMillis>,
    /// When a message arrived last.
    pub last_delivered_at: Option<UnixMillis>,
    /// When one was given up last, and why.
    pub last_error: Option<(UnixMillis, String)>,
    /// Messages that arrived since the time asked for.
    pub n_delivered: u64,
    /// Messages since that their receiver will never take.
    pub n_refused: u64,
    /// Messages since that nobody took for too long.
    pub n_expired: u64,
    /// Pages kept back: by a silence, hours, or somebody who may still acknowledge.
    pub n_held: u64,
}

/// Every route that owes something or that the notify log knows, by name; counts since `since`.
pub fn standings(
    conn: &Connection,
    since: UnixMillis,
) -> rusqlite::Result<BTreeMap<String, Standing>> {
    let mut found: BTreeMap<String, Standing> = BTreeMap::new();
    let mut owed = conn.prepare_cached(
        "SELECT route, count(*), sum(tries > 0), sum(tries), min(due) FROM outbox GROUP BY route",
    )?;
    let mut rows = owed.query([])?;
    while let Some(row) = rows.next()? {
        let standing = found.entry(row.get(0)?).or_default();
        standing.n_owed = count(row.get(1)?);
        standing.n_tried = count(row.get(2)?);
        standing.n_tries = count(row.get(3)?);
        standing.oldest_due_at = Some(UnixMillis(row.get(4)?));
    }
    // With max() SQLite takes the other columns from the row that has the maximum.
    let mut notices = conn.prepare_cached(
        "SELECT route, what, max(id), at, why, sum(at >= ?1) FROM notice
         WHERE what IN ('delivered', 'refused', 'expired') GROUP BY route, what",
    )?;
    let mut rows = notices.query(params![since.0])?;
    while let Some(row) = rows.next()? {
        let standing = found.entry(row.get(0)?).or_default();
        let (what, at, n): (String, _, _) =
            (row.get(1)?, UnixMillis(row.get(3)?), count(row.get(5)?));
        match what.as_str() {
            "delivered" => {
                standing.last_delivered_at = Some(at);
                standing.n_delivered = n;
                continue;
            }
            "refused" => standing.n_refused = n,
            _ => standing.n_expired = n,
        }
        if standing.last_error.as_ref().is_none_or(|(before, _)| *before <= at) {
            standing.last_error = Some((at, row.get(4)?));
        }
    }
    let mut held = conn.prepare_cached("SELECT route, count(*) FROM held GROUP BY route")?;
    let mut rows = held.query([])?;
    while let Some(row) = rows.next()? {
        found.entry(row.get(0)?).or_default().n_held = count(row.get(1)?);
    }
    Ok(found)
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
        let found = store.read(move |conn| standings(conn, at(25))).await.unwrap();
        let a = Standing {
            n_owed: 2,
            n_tried: 1,
            n_tries: 2,
            oldest_due_at: Some(at(40)),
            last_delivered_at: Some(at(31)),
            last_error: Some((at(30), "no answer".into())),
            n_delivered: 1,
            n_refused: 0,
            n_expired: 1,
            n_held: 0,
        };
        assert_eq!(found["a"], a);
        let b = Standing { n_owed: 1, oldest_due_at: Some(at(60)), ..Standing::default() };
        assert_eq!(found["b"], b);
        assert_eq!(found["c"], Standing { n_held: 1, ..Standing::default() });
        assert_eq!(found.len(), 3);
    }
}
