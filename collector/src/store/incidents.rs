//! Incidents in the database: what the detector commits, what people read, and its memory.
//!
//! Invariant: an incident, its sites, the pages it asks for and `detect_upto` change in one
//! transaction, and a stored `rev` only rises. So a detector that folds the same rows again after a
//! crash finds its transitions already there and tells nobody twice.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use wire::UnixMillis;

use super::fleet::{self, Meta};
use super::notices::{Notice, What};
use super::subjects::Silenced;
use super::{SiteRow, notices, outbox, read};
use crate::clock;
use crate::model::{Incident, Moment, NotifyEvent, ServerId, SiteId, Transition, TransitionEvent};

/// Which incidents `list` returns.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those still open.
    pub open: bool,
    /// Only those open at or after this instant.
    pub since: Option<UnixMillis>,
    /// Also those that were merged into another one.
    pub merged: bool,
    /// At most so many, newest first; 0 = 1,000.
    pub n_max: usize,
}

/// Rank of a severity: `info` 0, `warning` 1, `critical` 2; anything else 0.
#[must_use]
pub fn severity_rank(severity: &str) -> u8 {
    match severity {
        "critical" => 2,
        "warning" => 1,
        _ => 0,
    }
}

/// The incident with this id: with its acknowledgement, its notes, what was told of it, and whether a
/// silence covers it.
pub fn get(conn: &Connection, id: &str) -> rusqlite::Result<Option<Incident>> {
    let Some(mut incident) = bare(conn, id)? else { return Ok(None) };
    dress(conn, &Silenced::load(conn, clock::now())?, &mut incident)?;
    Ok(Some(incident))
}

/// The same as `get`; `Err` inside says why what is stored is no incident.
pub fn shown(conn: &Connection, id: &str) -> rusqlite::Result<Result<Option<Incident>, String>> {
    or_why(get(conn, id))
}

/// The same as `bare`; `Err` inside says why what is stored is no incident.
pub fn readable(conn: &Connection, id: &str) -> rusqlite::Result<Result<Option<Incident>, String>> {
    or_why(bare(conn, id))
}

/// `Err` inside says why what was read is no incident.
fn or_why<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Result<T, String>> {
    match read {
        Ok(found) => Ok(Ok(found)),
        Err(rusqlite::Error::FromSqlConversionFailure(_, _, why)) => {
            Ok(Err(format!("the incident cannot be read: {why}")))
        }
        Err(error) => Err(error),
    }
}

/// The same without what was told of it.
pub fn bare(conn: &Connection, id: &str) -> rusqlite::Result<Option<Incident>> {
    let mut found = conn
        .prepare_cached("SELECT body, acked_by, acked_at FROM incident WHERE id = ?1")?
        .query_row([id], read_incident)
        .optional()?;
    if let Some(incident) = &mut found {
        add_notes(conn, incident)?;
    }
    Ok(found)
}

/// Incidents, newest first, each as `get` gives it. One that cannot be read is said and left out.
pub fn list(conn: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Incident>> {
    let n_max = if filter.n_max == 0 { 1000 } else { filter.n_max };
    let mut statement = conn.prepare_cached(
        "SELECT body, acked_by, acked_at FROM incident
         WHERE (?1 = 0 OR closed IS NULL) AND (?2 IS NULL OR closed IS NULL OR closed >= ?2)
           AND (?3 = 1 OR IIF(json_valid(body), body ->> '$.parent', NULL) IS NULL)
         ORDER BY opened DESC, id DESC LIMIT ?4",
    )?;
    let rows = statement.query_map(
        params![filter.open, filter.since.map(|at| at.0), filter.merged, n_max as i64],
        |row| Ok(or_why(read_incident(row))),
    )?;
    let mut incidents = Vec::new();
    for read in rows {
        match read?? {
            Ok(incident) => incidents.push(incident),
            Err(why) => tracing::error!(why, "an incident is left out"),
        }
    }
    let silenced = Silenced::load(conn, clock::now())?;
    for incident in &mut incidents {
        add_notes(conn, incident)?;
        dress(conn, &silenced, incident)?;
    }
    Ok(incidents)
}

fn dress(conn: &Connection, silenced: &Silenced, incident: &mut Incident) -> rusqlite::Result<()> {
    silenced.mark(conn, incident)?;
    incident.timeline.extend(notices::moments(conn, &incident.id)?);
    incident.timeline.sort_by_key(|moment| moment.at);
    Ok(())
}

/// Whether there is one of this id that is not over.
pub fn is_open(conn: &Connection, id: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM incident WHERE id = ?1 AND closed IS NULL)")?
        .query_row([id], |row| row.get(0))
}

/// Ids of all that are open, the oldest first.
pub fn open_ids(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT id FROM incident WHERE closed IS NULL ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Notes who takes care of an incident. False when there is none with this id.
pub fn ack(tx: &Transaction<'_>, id: &str, by: &str, at: UnixMillis) -> rusqlite::Result<bool> {
    // The clock may have been set back since it opened.
    let at = at.max(bare(tx, id)?.map_or(at, |incident| opened_at(&incident)));
    let n = tx.execute(
        "UPDATE incident SET acked_by = ?2, acked_at = ?3 WHERE id = ?1",
        params![id, by, at.0],
    )?;
    Ok(n == 1)
}

/// Adds a note to an incident. False when there is none with this id.
pub fn note(
    tx: &Transaction<'_>,
    id: &str,
    by: &str,
    at: UnixMillis,
    text: &str,
) -> rusqlite::Result<bool> {
    let n = tx.execute(
        "INSERT INTO incident_note(incident, at, by, text)
         SELECT id, ?2, ?3, ?4 FROM incident WHERE id = ?1",
        params![id, at.0, by, text],
    )?;
    Ok(n == 1)
}

/// Ids of acknowledged incidents that are open or closed since `since`.
pub fn acked(conn: &Connection, since: UnixMillis) -> rusqlite::Result<Vec<String>> {
    conn.prepare_cached(
        "SELECT id FROM incident WHERE acked_by IS NOT NULL AND (closed IS NULL OR closed >= ?1)",
    )?
    .query_map([since.0], |row| row.get(0))?
    .collect()
}

/// Stores transitions, the pages they ask for, the open cases and how far the detector has read.
///
/// `cases` is the state machine as it is after the transitions (see `load`); `upto` the last
/// `hot.id` folded into it. A transition whose `rev` is stored already changes nothing.
pub fn commit(
    tx: &Transaction<'_>,
    transitions: &[Transition],
    cases: &[u8],
    upto: i64,
) -> rusqlite::Result<()> {
    for transition in transitions {
        let is_new = upsert(tx, transition)?;
        if let Some(notify) = transition.notify.filter(|_| is_new) {
            outbox::decide(tx, &transition.incident.id, transition.rev, notify.event, notify.due)?;
        } else if is_new && transition.event == TransitionEvent::Reopen {
            let incident = &transition.incident;
            let is_page = !incident.retroactive && incident.parent.is_none();
            if is_page && notices::had_no_route(tx, &incident.id)? {
                let (event, due) = (NotifyEvent::Opened, transition.at);
                outbox::decide(tx, &incident.id, transition.rev, event, due)?;
            } else {
                notices::add(tx, &came_back(transition))?;
            }
        }
    }
    save_body(tx, "cases", upto, cases)?;
    tx.execute(
        "INSERT INTO state(k, v) VALUES('detect_upto', ?1)
         ON CONFLICT(k) DO UPDATE SET v = max(v, excluded.v)",
        [upto],
    )?;
    Ok(())
}

/// What comes back soon after its end is the same outage: whoever could hear of it gets no new page at
/// once.
fn came_back(transition: &Transition) -> Notice {
    Notice {
        at: transition.at,
        incident: Some(transition.incident.id.clone()),
        route: notices::NOBODY.to_owned(),
        event: "opened".to_owned(),
        what: What::Suppressed,
        why: "it came back soon after its end, and is told again if it lasts 5 minutes".to_owned(),
        delivery: None,
    }
}

/// Stores one transition; false when this or a later revision is there already.
fn upsert(tx: &Transaction<'_>, transition: &Transition) -> rusqlite::Result<bool> {
    let incident = &transition.incident;
    let body = serde_json::to_string(incident)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    if incident.resolved_at.is_none() {
        displace(tx, transition)?;
    }
    let n = tx
        .prepare_cached(
            "INSERT INTO incident(id, key, opened, closed, rev, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT(id) DO UPDATE SET key = excluded.key, opened = excluded.opened,
               closed = excluded.closed, rev = excluded.rev, body = excluded.body
             WHERE excluded.rev > incident.rev",
        )?
        .execute(params![
            incident.id,
            transition.key,
            incident.started_at.0,
            incident.resolved_at.map(|at| at.0),
            transition.rev as i64,
            body,
        ])?;
    if n == 0 {
        return Ok(false);
    }
    let mut site = tx.prepare_cached(
        "INSERT INTO incident_site(incident, site_id, since, until) VALUES(?1, ?2, ?3, ?4)
         ON CONFLICT(incident, site_id, since) DO UPDATE SET until = excluded.until",
    )?;
    for (id, since, until) in &transition.sites {
        site.execute(params![incident.id, id.0, since.0, until.map(|at| at.0)])?;
    }
    let mut server = tx.prepare_cached(
        "INSERT INTO incident_server(incident, server_id, name, since, until)
         VALUES(?1, ?2, coalesce((SELECT name FROM server WHERE server_id = ?2), ''), ?3, ?4)
         ON CONFLICT(incident, server_id) DO UPDATE SET since = excluded.since, until = excluded.until",
    )?;
    for (id, since, until) in &transition.servers {
        server.execute(params![incident.id, id.0, since.0, until.map(|at| at.0)])?;
    }
    Ok(true)
}

/// Closes what is still open under the same key although nobody carries it on: the open cases could
/// not be read at a start, or a new server has the name of one that was forgotten. Left open it
/// would keep the detector from storing anything, for ever.
fn displace(tx: &Transaction<'_>, transition: &Transition) -> rusqlite::Result<()> {
    let why = format!("{} took its place", transition.incident.id);
    let n = tx.prepare_cached(&format!("{CLOSE} AND key = ?3 AND id <> ?4"))?.execute(params![
        transition.at.0,
        closing(transition.at, &why),
        transition.key,
        transition.incident.id
    ])?;
    if n > 0 {
        let (id, key) = (&transition.incident.id, &transition.key);
        tracing::warn!(
            id,
            key,
            "an incident that nobody carried on is closed: a new one has its place"
        );
    }
    Ok(())
}

/// Closes whatever is open, of which nobody knows any more how it stands.
pub fn close_all(tx: &Transaction<'_>, at: UnixMillis, why: &str) -> rusqlite::Result<usize> {
    tx.prepare_cached(CLOSE)?.execute(params![at.0, closing(at, why)])
}

/// Takes the instant and the [`closing`]. Of one that cannot be read only that it is closed is kept.
const CLOSE: &str = "UPDATE incident SET closed = ?1, body = IIF(json_valid(body),
   json_set(body, '$.state', 'resolved', '$.resolved_at', ?2 ->> '$.at', '$.updated_at', ?2 ->> '$.at',
     '$.timeline[#]', json(?2)), body)
 WHERE closed IS NULL";

/// The last moment of an incident that nobody carries on.
fn closing(at: UnixMillis, why: &str) -> String {
    serde_json::json!({"at": at.to_string(), "what": format!("resolved unverified: {why}")})
        .to_string()
}

/// A detector's memory and the last `hot.id` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Last `hot.id` folded.
    pub upto: i64,
    /// As it was saved.
    pub body: Vec<u8>,
}

/// What a detector starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The whole engine, at most a minute older than its end.
    pub engine: Option<Memory>,
    /// The cases as of the last transition.
    pub cases: Option<Memory>,
}

/// Loads what `save_snapshot` and `commit` saved last.
pub fn load(conn: &Connection) -> rusqlite::Result<Saved> {
    let memory = |k: &str| {
        conn.query_row("SELECT upto, body FROM snapshot WHERE k = ?1", [k], |row| {
            Ok(Memory { upto: row.get(0)?, body: row.get(1)? })
        })
        .optional()
    };
    Ok(Saved { engine: memory("engine")?, cases: memory("cases")? })
}

/// Saves the whole engine as it is after folding `hot.id = upto`.
pub fn save_snapshot(tx: &Transaction<'_>, upto: i64, body: &[u8]) -> rusqlite::Result<()> {
    save_body(tx, "engine", upto, body)
}

fn save_body(tx: &Transaction<'_>, k: &str, upto: i64, body: &[u8]) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO snapshot(k, upto, body) VALUES(?1, ?2, ?3)
         ON CONFLICT(k) DO UPDATE SET upto = excluded.upto, body = excluded.body",
    )?
    .execute(params![k, upto, body])?;
    Ok(())
}

/// A server with its sites, as the detector has to know them before their records.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Its id.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Effective labels.
    pub labels: BTreeMap<String, String>,
    /// What it said of itself.
    pub meta: Meta,
    /// `up`, `silent`, `goodbye` or `revoked`, as filed last.
    pub state: String,
    /// When it was heard last; 0 never.
    pub last_seen: UnixMillis,
    /// Its sites by name.
    pub sites: Vec<SiteRow>,
}

/// Servers and their sites: one server, or all of them.
pub fn known(conn: &Connection, only: Option<ServerId>) -> rusqlite::Result<Vec<Known>> {
    let mut statement = conn.prepare_cached(
        "SELECT server_id, name, meta, state, last_seen FROM server WHERE ?1 IS NULL OR server_id = ?1
         ORDER BY server_id",
    )?;
    let rows = statement.query_map([only.map(|server| server.0)], |row| {
        let meta: Option<String> = row.get(2)?;
        let meta = meta.and_then(|meta| serde_json::from_str(&meta).ok()).unwrap_or_default();
        Ok((ServerId(row.get(0)?), row.get(1)?, meta, row.get(3)?, UnixMillis(row.get(4)?)))
    })?;
    let mut found = Vec::new();
    for row in rows {
        let (server, name, meta, state, last_seen) = row?;
        let (labels, sites) = (fleet::labels(conn, server)?, read::sites(conn, server)?);
        found.push(Known { server, name, labels, meta, state, last_seen, sites });
    }
    Ok(found)
}

/// Position before the first batch that arrived at or after `at`; the last one when none did.
pub fn position_before(conn: &Connection, at: UnixMillis) -> rusqlite::Result<i64> {
    let first = read::first_after(conn, at)?;
    // The number of the last one outlives it.
    let last = "SELECT iif(EXISTS(SELECT 1 FROM hot WHERE id >= ?1), ?1 - 1,
                  coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'hot'), 0))";
    conn.query_row(last, [first], |row| row.get(0))
}

/// Past of every site, as `save_baselines` wrote it.
pub fn load_baselines(conn: &Connection) -> rusqlite::Result<Vec<(SiteId, Vec<u8>)>> {
    conn.prepare("SELECT site_id, body FROM baseline ORDER BY site_id")?
        .query_map([], |row| Ok((SiteId(row.get(0)?), row.get(1)?)))?
        .collect()
}

/// Writes the past of sites; one of a forgotten site is dropped.
pub fn save_baselines(tx: &Transaction<'_>, rows: &[(SiteId, Vec<u8>)]) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO baseline(site_id, body) SELECT site_id, ?2 FROM site WHERE site_id = ?1
         ON CONFLICT(site_id) DO UPDATE SET body = excluded.body",
    )?;
    for (site, body) in rows {
        statement.execute(params![site.0, body])?;
    }
    Ok(())
}

fn read_incident(row: &Row<'_>) -> rusqlite::Result<Incident> {
    let body: String = row.get(0)?;
    let mut incident: Incident = serde_json::from_str(&body).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })?;
    incident.acked_by = row.get(1)?;
    let acked_at: Option<i64> = row.get(2)?;
    if let (Some(by), Some(at)) = (&incident.acked_by, acked_at.map(UnixMillis)) {
        let what = format!("acknowledged by {by}");
        // Who took it before it came back has not taken it again.
        let is_of_before = at < opened_at(&incident);
        incident.timeline.push(Moment { at, what });
        if is_of_before {
            incident.acked_by = None;
        }
    }
    Ok(incident)
}

/// When an incident opened last: when it came back, or else when it was detected.
#[must_use]
pub fn opened_at(incident: &Incident) -> UnixMillis {
    let moments = incident.timeline.iter();
    let back = moments.filter(|moment| moment.what.starts_with("reopened")).map(|moment| moment.at);
    back.max().unwrap_or(incident.detected_at)
}

/// Adds notes to the timeline and puts it in order of time.
fn add_notes(conn: &Connection, incident: &mut Incident) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(
        "SELECT at, by, text FROM incident_note WHERE incident = ?1 ORDER BY at, id",
    )?;
    let notes = statement.query_map([&incident.id], |row| {
        let (by, text): (String, String) = (row.get(1)?, row.get(2)?);
        Ok(Moment { at: UnixMillis(row.get(0)?), what: format!("note by {by}: {text}") })
    })?;
    for note in notes {
        incident.timeline.push(note?);
    }
    incident.timeline.sort_by_key(|moment| moment.at);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Notify;
    use crate::samples;
    use crate::store::Store;

    fn transition(rev: u64, event: NotifyEvent) -> Transition {
        let mut incident = samples::incident();
        incident.title = format!("revision {rev}");
        let notify = Notify { event, due: incident.detected_at };
        Transition {
            event: TransitionEvent::Open,
            at: incident.detected_at,
            key: "gateway_errors:server:web-07".into(),
            rev,
            sites: vec![(SiteId(4), incident.started_at, None)],
            incident,
            servers: Vec::new(),
            notify: Some(notify),
        }
    }

    fn owed(conn: &Connection) -> Vec<String> {
        let mut query = conn.prepare("SELECT event FROM page ORDER BY id").unwrap();
        let rows = query.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }

    /// Commits transitions one by one to an empty store and gives what each of them owes.
    async fn play(transitions: Vec<Transition>) -> (tempfile::TempDir, Store, Vec<Vec<String>>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut told = Vec::new();
        for transition in transitions {
            let job = move |tx: &Transaction<'_>| {
                let before = owed(tx).len();
                commit(tx, &[transition], b"cases", 5)?;
                Ok(owed(tx).split_off(before))
            };
            told.push(store.write(job).await.unwrap());
        }
        (dir, store, told)
    }

    #[tokio::test]
    async fn a_page_is_put_down_once_for_each_revision_and_one_that_waits_is_not_doubled() {
        use NotifyEvent::{Opened, Resolved, Updated};
        let (_dir, _store, pages) = play(vec![
            transition(1, Opened),
            transition(1, Opened),
            transition(2, Updated),
            transition(3, Resolved),
        ])
        .await;
        assert_eq!(pages, [vec!["opened"], vec![], vec![], vec!["resolved"]]);
    }

    #[tokio::test]
    async fn an_incident_that_comes_back_without_a_page_says_why() {
        let back = Transition {
            event: TransitionEvent::Reopen,
            notify: None,
            ..transition(3, NotifyEvent::Opened)
        };
        let (_dir, store, _) =
            play(vec![transition(1, NotifyEvent::Opened), back.clone(), back]).await;
        let log =
            store.read(|conn| notices::list(conn, &notices::Filter::default())).await.unwrap();
        assert_eq!(log.len(), 1, "once: {log:?}");
        let id = samples::incident().id;
        let found = store.read(move |conn| get(conn, &id)).await.unwrap().expect("it is stored");
        let said = |moment: &Moment| moment.what.starts_with("nobody was paged: it came back soon");
        assert!(found.timeline.iter().any(said), "{:?}", found.timeline);
    }

    #[tokio::test]
    async fn an_incident_that_comes_back_is_told_at_once_where_there_was_nobody_to_tell_before() {
        let said = |what: What, route: &str| Notice {
            at: samples::START,
            incident: Some(samples::incident().id),
            route: route.to_owned(),
            event: "opened".to_owned(),
            what,
            why: "no route is configured".to_owned(),
            delivery: None,
        };
        let nobody = said(What::Unwanted, notices::NOBODY);
        for (log, owed_now) in [
            (vec![nobody.clone()], &["opened"][..]),
            (vec![nobody.clone(), said(What::Owed, "ops")], &[]),
            (vec![said(What::Dropped, notices::NOBODY)], &[]),
            (vec![], &[]),
        ] {
            let (_dir, store, _) = play(vec![transition(1, NotifyEvent::Opened)]).await;
            let back = Transition {
                event: TransitionEvent::Reopen,
                notify: None,
                ..transition(3, NotifyEvent::Opened)
            };
            let job = move |tx: &Transaction<'_>| {
                tx.execute("DELETE FROM page", [])?;
                log.iter().try_for_each(|notice| notices::add(tx, notice))?;
                commit(tx, &[back], b"cases", 5)?;
                Ok(owed(tx))
            };
            assert_eq!(store.write(job).await.unwrap(), owed_now);
        }
    }

    #[tokio::test]
    async fn an_older_revision_changes_nothing() {
        let (_dir, store, _) =
            play(vec![transition(2, NotifyEvent::Opened), transition(1, NotifyEvent::Opened)])
                .await;
        let id = samples::incident().id;
        let found = store.read(move |conn| get(conn, &id)).await.unwrap().expect("it is stored");
        assert_eq!(found.title, "revision 2");
        let saved = store.read(load).await.unwrap();
        assert_eq!(saved.cases, Some(Memory { upto: 5, body: b"cases".to_vec() }));
        assert_eq!(saved.engine, None);
    }

    #[tokio::test]
    async fn acknowledgements_and_notes_are_part_of_what_people_read() {
        let (_dir, store, _) = play(vec![transition(1, NotifyEvent::Opened)]).await;
        let later = samples::incident().started_at.plus(std::time::Duration::from_secs(90));
        let job = move |tx: &Transaction<'_>| {
            let id = samples::incident().id;
            assert!(ack(tx, &id, "ada", later)?);
            assert!(note(tx, &id, "ada", later, "looking")?);
            assert!(!ack(tx, "nobody", "ada", later)? && !note(tx, "nobody", "a", later, "b")?);
            Ok(())
        };
        store.write(job).await.unwrap();
        let open = Filter { open: true, ..Filter::default() };
        let found = store.read(move |conn| list(conn, &open)).await.unwrap();
        assert_eq!(found[0].acked_by.as_deref(), Some("ada"));
        let said: Vec<_> = found[0].timeline.iter().map(|moment| moment.what.as_str()).collect();
        assert!(said.ends_with(&["acknowledged by ada", "note by ada: looking"]), "{said:?}");
        let ids = store.read(|conn| acked(conn, UnixMillis(0))).await.unwrap();
        assert_eq!(ids, [samples::incident().id]);
    }

    #[tokio::test]
    async fn an_orphan_with_the_same_key_does_not_stop_the_detector_for_ever() {
        let orphan = transition(7, NotifyEvent::Opened);
        let mut fresh = transition(1, NotifyEvent::Opened);
        fresh.incident.id = "01JD4Z8QK0A1B2C3D4E5F6G7H9".into();
        let (_dir, store, _) = play(vec![orphan.clone(), fresh.clone()]).await;
        let found = store.read(|conn| list(conn, &Filter::default())).await.unwrap();
        let states: BTreeMap<_, _> = found.iter().map(|i| (&*i.id, &*i.state)).collect();
        let expected = [(&*orphan.incident.id, "resolved"), (&*fresh.incident.id, "open")];
        assert_eq!(states, BTreeMap::from(expected));
        let old = found.iter().find(|i| i.id == orphan.incident.id).unwrap();
        assert_eq!(old.resolved_at, Some(fresh.at));
        assert!(old.timeline.iter().any(|m| m.what.ends_with("took its place")), "{old:?}");
        assert_eq!(
            store
                .read(|conn| list(conn, &Filter { open: true, ..Filter::default() }))
                .await
                .unwrap()
                .len(),
            1
        );
    }

    #[tokio::test]
    async fn an_incident_that_cannot_be_read_is_left_out_and_hides_no_other() {
        let mut other = transition(1, NotifyEvent::Opened);
        other.key = "gateway_errors:site:web-07/a.example".into();
        other.incident.id = "01JD4Z8QK0A1B2C3D4E5F6G7H9".into();
        let broken = other.incident.id.clone();
        let (_dir, store, _) = play(vec![transition(1, NotifyEvent::Opened), other]).await;
        for body in ["no JSON", "{}"] {
            let spoil = format!("UPDATE incident SET body = '{body}' WHERE id = '{broken}'");
            store.write(move |tx| tx.execute(&spoil, [])).await.unwrap();
            let found = store.read(|conn| list(conn, &Filter::default())).await.unwrap();
            assert_eq!(found.len(), 1, "{body}");
            assert_eq!(found[0].id, samples::incident().id);
        }
        let at = samples::incident().detected_at;
        assert_eq!(store.write(move |tx| close_all(tx, at, "a test")).await.unwrap(), 2);
        let found = store.read(|conn| list(conn, &Filter::default())).await.unwrap();
        assert_eq!((found[0].state.as_str(), found[0].resolved_at), ("resolved", Some(at)));
        let last =
            found[0].timeline.iter().map(|moment| &*moment.what).find(|w| w.ends_with("test"));
        assert_eq!(last, Some("resolved unverified: a test"));
    }

    #[tokio::test]
    async fn lists_hold_what_was_asked_for() {
        let mut merged = transition(1, NotifyEvent::Opened);
        merged.key = "gateway_errors:site:web-07/a.example".into();
        merged.incident.id = "01JD4Z8QK0A1B2C3D4E5F6G7H9".into();
        merged.incident.parent = Some(samples::incident().id);
        merged.incident.resolved_at = Some(merged.incident.detected_at);
        let (_dir, store, _) = play(vec![transition(1, NotifyEvent::Opened), merged]).await;
        let late = Some(UnixMillis(i64::MAX));
        for (filter, want) in [
            (Filter::default(), 1),
            (Filter { merged: true, ..Filter::default() }, 2),
            (Filter { merged: true, n_max: 1, ..Filter::default() }, 1),
            (Filter { merged: true, open: true, ..Filter::default() }, 1),
            (Filter { merged: true, since: late, ..Filter::default() }, 1),
        ] {
            let asked = filter.clone();
            let found = store.read(move |conn| list(conn, &asked)).await.unwrap();
            assert_eq!(found.len(), want, "{filter:?}");
        }
    }
}
