//! What an evidence bundle is made of: the order in which servers were hit, and the batches of a time.

use std::collections::BTreeSet;

use rusqlite::Connection;
use wire::UnixMillis;

use super::{HotRow, read};
use crate::model::{ServerId, SiteId};

/// When a server was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onset {
    /// Its id.
    pub server: ServerId,
    /// Its name then, or now.
    pub name: String,
    /// Its first sign.
    pub since: UnixMillis,
    /// When it was well again.
    pub until: Option<UnixMillis>,
}

/// The servers of an incident and of those merged into it, in the order they were hit.
pub fn onsets(conn: &Connection, ids: &[String]) -> rusqlite::Result<Vec<Onset>> {
    // A site that fails on has no end, so neither has its server.
    let mut query = conn.prepare_cached(
        "SELECT server_id, name, min(since), iif(count(*) = count(until), max(until), NULL) FROM (
           SELECT t.server_id AS server_id, s.name AS name, i.since AS since, i.until AS until
             FROM incident_site i JOIN site t USING(site_id) JOIN server s USING(server_id)
             WHERE i.incident = ?1
           UNION ALL
           SELECT server_id, name, since, until FROM incident_server WHERE incident = ?1)
         GROUP BY server_id",
    )?;
    let mut found: Vec<Onset> = Vec::new();
    for id in ids {
        let rows = query.query_map([id], |row| {
            Ok(Onset {
                server: ServerId(row.get(0)?),
                name: row.get(1)?,
                since: UnixMillis(row.get(2)?),
                until: row.get::<_, Option<i64>>(3)?.map(UnixMillis),
            })
        })?;
        for onset in rows {
            let onset = onset?;
            match found.iter_mut().find(|known| known.server == onset.server) {
                Some(known) => {
                    known.since = known.since.min(onset.since);
                    known.until = known.until.zip(onset.until).map(|(a, b)| a.max(b));
                }
                None => found.push(onset),
            }
        }
    }
    found.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    Ok(found)
}

/// The sites that failed in these incidents.
pub fn sites(conn: &Connection, ids: &[String]) -> rusqlite::Result<BTreeSet<SiteId>> {
    let mut query = conn.prepare_cached("SELECT site_id FROM incident_site WHERE incident = ?1")?;
    let mut found = BTreeSet::new();
    for id in ids {
        for site in query.query_map([id], |row| Ok(SiteId(row.get(0)?)))? {
            found.insert(site?);
        }
    }
    Ok(found)
}

/// Shows `see` the batches of these servers that arrived from `from` to `to`, in order of commit, until
/// it says false, `n_rows_max` of them were shown, or `is_over`; where it was cut off so, the arrival
/// up to which all were shown.
///
/// Arrival rises with the id but for moments, so the first one is found by halving; of other servers'
/// batches, which are many, neither the bodies are read nor is any counted.
pub fn arrived(
    conn: &Connection,
    servers: &BTreeSet<ServerId>,
    (from, to): (UnixMillis, UnixMillis),
    n_rows_max: usize,
    is_over: &dyn Fn() -> bool,
    see: &mut dyn FnMut(HotRow) -> bool,
) -> rusqlite::Result<Option<UnixMillis>> {
    let first = read::first_after(conn, from)?;
    let mut heads =
        conn.prepare_cached("SELECT id, server_id, at FROM hot WHERE id >= ?1 ORDER BY id")?;
    let mut whole = conn.prepare_cached(
        "SELECT id, server_id, epoch, seq, at, t_min, t_max, complete_until, codec, body
         FROM hot WHERE id = ?1",
    )?;
    let mut rows = heads.query([first])?;
    let (mut n_shown, mut passed) = (0, from);
    while let Some(head) = rows.next()? {
        let (id, server, at): (i64, i64, i64) = (head.get(0)?, head.get(1)?, head.get(2)?);
        if at > to.0 {
            return Ok(None);
        }
        if is_over() {
            return Ok(Some(passed));
        }
        if servers.contains(&ServerId(server)) {
            if n_shown == n_rows_max {
                return Ok(Some(passed));
            }
            n_shown += 1;
            if !see(whole.query_row([id], read::hot_row)?) {
                return Ok(Some(UnixMillis(at)));
            }
        }
        passed = UnixMillis(at);
    }
    Ok(None)
}

/// The same from the newest to the oldest, and whether all of them were shown: what is cut off is the
/// beginning.
pub fn arrived_last(
    conn: &Connection,
    servers: &BTreeSet<ServerId>,
    (from, to): (UnixMillis, UnixMillis),
    n_rows_max: usize,
    is_over: &dyn Fn() -> bool,
    see: &mut dyn FnMut(HotRow),
) -> rusqlite::Result<bool> {
    let behind = read::first_after(conn, UnixMillis(to.0.saturating_add(1)))?;
    let mut heads =
        conn.prepare_cached("SELECT id, server_id, at FROM hot WHERE id < ?1 ORDER BY id DESC")?;
    let mut whole = conn.prepare_cached(
        "SELECT id, server_id, epoch, seq, at, t_min, t_max, complete_until, codec, body
         FROM hot WHERE id = ?1",
    )?;
    let mut rows = heads.query([behind])?;
    let mut n_shown = 0;
    while let Some(head) = rows.next()? {
        let (id, server, at): (i64, i64, i64) = (head.get(0)?, head.get(1)?, head.get(2)?);
        if at < from.0 {
            return Ok(true);
        }
        if is_over() {
            return Ok(false);
        }
        if servers.contains(&ServerId(server)) {
            if n_shown == n_rows_max {
                return Ok(false);
            }
            n_shown += 1;
            see(whole.query_row([id], read::hot_row)?);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four batches of server 1 between a hundred of others each.
    fn fleet() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE hot(id INTEGER PRIMARY KEY, server_id INTEGER, epoch INTEGER, seq INTEGER,
               at INTEGER, t_min INTEGER, t_max INTEGER, complete_until INTEGER, codec INTEGER, body BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
             INSERT INTO hot SELECT i, iif(i % 100 = 0, 1, 2 + i % 100), 1, i, i * 10, 0, 0, 0, 0, x'00'
               FROM n;",
        )
        .unwrap();
        conn
    }

    fn shown(
        n_rows_max: usize,
        is_over: &dyn Fn() -> bool,
        n_bodies_max: usize,
    ) -> (Vec<i64>, Option<UnixMillis>) {
        let servers = [ServerId(1)].into();
        let span = (UnixMillis(0), UnixMillis(9000));
        let mut ids = Vec::new();
        let cut = arrived(&fleet(), &servers, span, n_rows_max, is_over, &mut |row| {
            ids.push(row.id);
            ids.len() < n_bodies_max
        });
        (ids, cut.unwrap())
    }

    #[test]
    fn batches_of_healthy_servers_do_not_use_up_the_rows_of_those_that_were_hit() {
        let all = vec![100, 200, 300, 400];
        assert_eq!(shown(4, &|| false, 99), (all, None), "four of four hundred");
        let cut_at = Some(UnixMillis(2990));
        assert_eq!(shown(2, &|| false, 99), (vec![100, 200], cut_at), "all before the third");
        assert_eq!(shown(9, &|| false, 2), (vec![100, 200], Some(UnixMillis(2000))));
    }

    #[test]
    fn read_from_the_end_the_newest_batches_come_first_and_the_oldest_are_cut_off() {
        let shown = |n_rows_max: usize, from: i64, to: i64| {
            let (span, mut ids) = ((UnixMillis(from), UnixMillis(to)), Vec::new());
            let servers = [ServerId(1)].into();
            let see = &mut |row: HotRow| ids.push(row.id);
            let whole = arrived_last(&fleet(), &servers, span, n_rows_max, &|| false, see);
            (whole.unwrap(), ids)
        };
        assert_eq!(shown(9, 0, 9000), (true, vec![400, 300, 200, 100]));
        assert_eq!(shown(2, 0, 9000), (false, vec![400, 300]));
        assert_eq!(shown(9, 2000, 3999), (true, vec![300, 200]), "both ends are taken in");
    }

    #[test]
    fn a_reading_whose_time_is_over_says_how_far_it_came() {
        assert_eq!(shown(9, &|| true, 99), (Vec::new(), Some(UnixMillis(0))));
        let n = std::cell::Cell::new(0);
        let is_over = || {
            n.set(n.get() + 1);
            n.get() > 250
        };
        assert_eq!(shown(9, &is_over, 99), (vec![100, 200], Some(UnixMillis(2500))));
    }
}
