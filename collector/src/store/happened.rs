//! What no batch holds: faults of the collector, and agents that left on purpose and came back; rows
//! of `event`, in order of time.

use rusqlite::{Connection, OptionalExtension as _, Result, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::collector;
use crate::model::{CollectorEvent, Record, ServerId};

/// `event.kind` of the words of agents.
const KIND: i64 = 2;
/// Words kept of one server: one whose agent comes and goes all the time takes no more room.
const WORDS_MAX: i64 = 1000;

/// What an agent said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// It came back after a goodbye.
    Hello,
    /// It left on purpose.
    Goodbye,
}

/// Files a word of an agent; a hello only after a goodbye: others say no more than the batches do.
pub(super) fn note(conn: &Connection, server: ServerId, at: UnixMillis, word: Word) -> Result<()> {
    let last: Option<String> = conn
        .prepare_cached(
            "SELECT body FROM event WHERE server_id = ?1 AND kind = ?2 ORDER BY ts DESC, id DESC LIMIT 1",
        )?
        .query_row(params![server.0, KIND], |row| row.get(0))
        .optional()?;
    let body = json(word)?;
    if word == Word::Hello && last != Some(json(Word::Goodbye)?) {
        return Ok(());
    }
    conn.prepare_cached("INSERT INTO event(ts, server_id, kind, body) VALUES(?1, ?2, ?3, ?4)")?
        .execute(params![at.0, server.0, KIND, body])?;
    conn.prepare_cached(
        "DELETE FROM event WHERE id IN (SELECT id FROM event WHERE server_id = ?1 AND kind = ?2
         ORDER BY ts DESC, id DESC LIMIT -1 OFFSET ?3)",
    )?
    .execute(params![server.0, KIND, WORDS_MAX])?;
    Ok(())
}

fn json(word: Word) -> Result<String> {
    serde_json::to_string(&word)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// A place in the order of time: an instant, and the id of an event of it.
pub type Place = (UnixMillis, i64);

/// One event.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Its place, whose instant is of the collector's clock.
    pub place: Place,
    /// What happened, at that instant; `None` for what only a later release knows.
    pub record: Option<Record>,
}

/// Events behind the place `after` and up to `until`, in order of time, at most `n_max`.
pub fn after(
    conn: &Connection,
    after: Place,
    until: UnixMillis,
    n_max: u32,
) -> Result<Vec<Happened>> {
    let mut query = conn.prepare_cached(
        "SELECT ts, id, server_id, kind, body FROM event WHERE (ts, id) > (?1, ?2) AND ts <= ?3
         ORDER BY ts, id LIMIT ?4",
    )?;
    let rows = query.query_map(params![after.0.0, after.1, until.0, n_max], |row| {
        let at = UnixMillis(row.get(0)?);
        let server = row.get::<_, Option<i64>>(2)?.map(ServerId);
        let body = row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?;
        let record = record(server, row.get(3)?, at, body);
        Ok(Happened { place: (at, row.get(1)?), record })
    })?;
    rows.collect()
}

fn record(server: Option<ServerId>, kind: i64, at: UnixMillis, body: &str) -> Option<Record> {
    match (server, kind) {
        (None, collector::KIND) => {
            let event: CollectorEvent = serde_json::from_str(body).ok()?;
            Some(Record::Collector { at, event })
        }
        (Some(server), KIND) => Some(match serde_json::from_str(body).ok()? {
            Word::Hello => Record::Hello { server, at },
            Word::Goodbye => Record::Goodbye { server, at },
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::presence::{self, Arrival};
    use super::super::{Store, tests::enrol};
    use super::*;

    const SERVER: ServerId = ServerId(1);

    #[tokio::test]
    async fn what_agents_and_the_collector_told_is_read_in_order_of_time_page_by_page() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        enrol(&store, 1).await;
        let at = UnixMillis;
        store
            .write(move |tx| {
                let arrive = |ms| {
                    presence::arrived(tx, SERVER, &Arrival { at: at(ms), ..Arrival::default() })
                };
                arrive(1)?;
                collector::note(tx, at(7), CollectorEvent::Started)?;
                presence::left(tx, SERVER, at(5), true)?;
                arrive(7)?;
                arrive(8)?;
                presence::left(tx, SERVER, at(9), false)?;
                // Of a server that is not there.
                presence::left(tx, ServerId(2), at(9), true)
            })
            .await
            .unwrap();
        let (mut place, mut seen) = ((at(0), 0), Vec::new());
        loop {
            let page = store.read(move |conn| after(conn, place, at(100), 1)).await.unwrap();
            let Some(one) = page.into_iter().next() else { break };
            place = one.place;
            seen.push(one.record.unwrap());
        }
        assert_eq!(
            seen,
            [
                Record::Goodbye { server: SERVER, at: at(5) },
                Record::Collector { at: at(7), event: CollectorEvent::Started },
                Record::Hello { server: SERVER, at: at(7) },
            ]
        );
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn an_agent_that_comes_and_goes_all_the_time_takes_a_bound_of_rows() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        enrol(&store, 1).await;
        let write = |tx: &super::super::WriteTx<'_>| {
            (0..WORDS_MAX + 50).try_for_each(|ms| presence::left(tx, SERVER, UnixMillis(ms), true))
        };
        store.write(write).await.unwrap();
        let read = |conn: &Connection| after(conn, (UnixMillis(-1), 0), UnixMillis(9999), 9999);
        let kept = store.read(read).await.unwrap();
        assert_eq!(kept.len() as i64, WORDS_MAX);
        assert_eq!(kept[0].place.0, UnixMillis(50), "the oldest go first");
        store.close().await.unwrap();
    }
}
