//! What an evidence bundle is made of: the order in which servers were hit, and what was sent in a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rusqlite::Connection;
use wire::UnixMillis;

#[cfg(test)]
use super::history;
use super::history::{History, Piece, Play, Samples};
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

/// Servers, and how far the clock of each is ahead, ms.
pub type Ahead = BTreeMap<ServerId, i64>;

/// Bytes put together at once.
const PIECES_BYTES: usize = 256 << 10;
/// Time read at once when it is read backwards; less when that is more than so many bytes, down to a second.
const BACK: Duration = Duration::from_secs(300);
const BACK_MIN: Duration = Duration::from_secs(1);
const BACK_BYTES_MAX: usize = 16 << 20;

/// Shows `see` what these servers sent that arrived from `from` to `to`, in order of arrival, until it says
/// false, `n_max` pieces of it were shown, or `is_over`; where it was cut off so, the arrival up to which
/// all were shown.
pub fn arrived(
    history: &History<'_>,
    servers: &Ahead,
    (from, to): (UnixMillis, UnixMillis),
    samples: Samples,
    n_max: usize,
    is_over: &dyn Fn() -> bool,
    see: &mut dyn FnMut(Piece) -> bool,
) -> rusqlite::Result<Option<UnixMillis>> {
    let span = (from, UnixMillis(to.0.saturating_add(1)));
    let mut play = Play::new(servers.clone(), span, samples);
    let (mut n_shown, mut passed) = (0, from);
    if is_over() {
        return Ok(Some(from));
    }
    while !play.is_over() {
        let pieces = history.play(&mut play, PIECES_BYTES)?;
        if pieces.is_empty() && !history.goes_on() {
            return Ok(Some(passed));
        }
        for piece in pieces {
            let before = UnixMillis(piece.at.0 - 1).max(passed);
            if n_shown == n_max || is_over() {
                return Ok(Some(before));
            }
            n_shown += 1;
            passed = passed.max(piece.at);
            if !see(piece) {
                return Ok(Some(passed));
            }
        }
    }
    Ok(None)
}

/// The same from the newest to the oldest, and whether all of them were shown: what is cut off is the
/// beginning.
pub fn arrived_last(
    history: &History<'_>,
    servers: &Ahead,
    (from, to): (UnixMillis, UnixMillis),
    samples: Samples,
    n_max: usize,
    is_over: &dyn Fn() -> bool,
    see: &mut dyn FnMut(Piece),
) -> rusqlite::Result<bool> {
    let mut end = UnixMillis(to.0.saturating_add(1));
    let (mut n_shown, mut back) = (0, BACK);
    while end > from {
        let begin = end.minus(back).max(from);
        let mut play = Play::new(servers.clone(), (begin, end), samples);
        let (mut pieces, mut n_bytes, mut is_cut) = (VecDeque::new(), 0, false);
        while !(play.is_over() || (n_bytes > BACK_BYTES_MAX && back > BACK_MIN)) {
            if is_over() || !history.goes_on() {
                return Ok(false);
            }
            for piece in history.play(&mut play, PIECES_BYTES)? {
                n_bytes += piece.n_bytes();
                pieces.push_back(piece);
            }
            // The newest are wanted, as many as are shown and as fit.
            while pieces.len() > n_max - n_shown
                || (n_bytes > BACK_BYTES_MAX && back <= BACK_MIN && pieces.len() > 1)
            {
                n_bytes -= pieces.pop_front().map_or(0, |piece: Piece| piece.n_bytes());
                is_cut = true;
            }
        }
        if n_bytes > BACK_BYTES_MAX && back > BACK_MIN {
            back = (back / 4).max(BACK_MIN);
            continue;
        }
        for piece in pieces.into_iter().rev() {
            if n_shown == n_max || is_over() {
                return Ok(false);
            }
            n_shown += 1;
            see(piece);
        }
        if is_cut {
            return Ok(false);
        }
        back = (back * 2).min(BACK);
        end = begin;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four batches of server 1 between a hundred of others each; none can be read.
    fn fleet() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE hot(id INTEGER PRIMARY KEY, server_id INTEGER, epoch INTEGER, seq INTEGER,
               at INTEGER, t_min INTEGER, t_max INTEGER, complete_until INTEGER, codec INTEGER, body BLOB);
             CREATE TABLE sealed(t0 INTEGER PRIMARY KEY, hot_cut INTEGER, parts INTEGER);
             CREATE TABLE state(k TEXT PRIMARY KEY, v INTEGER);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
             INSERT INTO hot SELECT i, iif(i % 100 = 0, 1, 2 + i % 100), 1, i, i * 10, 0, 0, 0, 0, x'00'
               FROM n;",
        )
        .unwrap();
        conn
    }

    fn shown(
        n_max: usize,
        is_over: &dyn Fn() -> bool,
        n_bodies_max: usize,
    ) -> (Vec<i64>, Option<UnixMillis>) {
        let (servers, span) = ([(ServerId(1), 0)].into(), (UnixMillis(0), UnixMillis(9000)));
        let mut ids = Vec::new();
        let cut = history::of(&fleet(), |history| {
            arrived(history, &servers, span, Samples::All, n_max, is_over, &mut |piece| {
                ids.push(piece.id);
                ids.len() < n_bodies_max
            })
        });
        (ids, cut.unwrap())
    }

    #[test]
    fn batches_of_healthy_servers_do_not_use_up_the_rows_of_those_that_were_hit() {
        let all = vec![100, 200, 300, 400];
        assert_eq!(shown(4, &|| false, 99), (all, None), "four of four hundred");
        let cut_at = Some(UnixMillis(2999));
        assert_eq!(shown(2, &|| false, 99), (vec![100, 200], cut_at), "all before the third");
        assert_eq!(shown(9, &|| false, 2), (vec![100, 200], Some(UnixMillis(2000))));
    }

    #[test]
    fn read_from_the_end_the_newest_batches_come_first_and_the_oldest_are_cut_off() {
        let shown = |n_max: usize, from: i64, to: i64| {
            let (span, mut ids) = ((UnixMillis(from), UnixMillis(to)), Vec::new());
            let servers = [(ServerId(1), 0)].into();
            let see = &mut |piece: Piece| ids.push(piece.id);
            let whole = history::of(&fleet(), |history| {
                arrived_last(history, &servers, span, Samples::All, n_max, &|| false, see)
            });
            (whole.unwrap(), ids)
        };
        assert_eq!(shown(9, 0, 9000), (true, vec![400, 300, 200, 100]));
        assert_eq!(shown(9, -900_000, 900_000), (true, vec![400, 300, 200, 100]), "bit by bit");
        assert_eq!(shown(2, 0, 9000), (false, vec![400, 300]));
        assert_eq!(shown(9, 2000, 3999), (true, vec![300, 200]), "both ends are taken in");
    }

    #[test]
    fn a_reading_whose_time_is_over_says_how_far_it_came() {
        assert_eq!(shown(9, &|| true, 99), (Vec::new(), Some(UnixMillis(0))));
        let n = std::cell::Cell::new(0);
        let is_over = || {
            n.set(n.get() + 1);
            n.get() > 3
        };
        assert_eq!(shown(9, &is_over, 99), (vec![100, 200], Some(UnixMillis(2999))));
    }
}
