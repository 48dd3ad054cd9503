//! When sites and servers were inside of incidents, and what incidents those were.

use rusqlite::{Connection, OptionalExtension as _, Result, params};
use wire::UnixMillis;

use super::incidents;
use crate::model::{Incident, ServerId, SiteId};

/// A time that a site or a server spent inside of an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spell<T> {
    /// Id of the incident.
    pub incident: String,
    /// Who.
    pub of: T,
    /// From its first failure.
    pub since: UnixMillis,
    /// To its last, or to the end of the incident; `None`: it goes on.
    pub until: Option<UnixMillis>,
}

/// What sites spent inside of incidents, of all that reaches into `from..to`; those of forgotten servers
/// are not among them.
pub fn of_sites(
    conn: &Connection,
    span: (UnixMillis, UnixMillis),
) -> Result<Vec<Spell<(ServerId, SiteId)>>> {
    let query = "SELECT s.incident, s.since, coalesce(s.until, i.closed), t.server_id, t.site_id
         FROM incident_site s JOIN incident i ON i.id = s.incident JOIN site t USING(site_id)
         WHERE s.since < ?2 AND coalesce(s.until, i.closed, ?1) >= ?1 ORDER BY 1, 5, 2";
    spells(conn, query, span, |row| Ok((ServerId(row.get(3)?), SiteId(row.get(4)?))))
}

/// The same of whole servers.
pub fn of_servers(
    conn: &Connection,
    span: (UnixMillis, UnixMillis),
) -> Result<Vec<Spell<ServerId>>> {
    let query = "SELECT s.incident, s.since, coalesce(s.until, i.closed), s.server_id
         FROM incident_server s JOIN incident i ON i.id = s.incident
         WHERE s.since < ?2 AND coalesce(s.until, i.closed, ?1) >= ?1 ORDER BY 1, 4";
    spells(conn, query, span, |row| Ok(ServerId(row.get(3)?)))
}

fn spells<T>(
    conn: &Connection,
    query: &str,
    (from, to): (UnixMillis, UnixMillis),
    of: impl Fn(&rusqlite::Row<'_>) -> Result<T>,
) -> Result<Vec<Spell<T>>> {
    let mut query = conn.prepare_cached(query)?;
    let rows = query.query_map(params![from.0, to.0], |row| {
        Ok(Spell {
            incident: row.get(0)?,
            since: UnixMillis(row.get(1)?),
            until: row.get::<_, Option<i64>>(2)?.map(UnixMillis),
            of: of(row)?,
        })
    })?;
    rows.collect()
}

/// An incident as the database has it, with what it was about: its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// `kind:scope:place`.
    pub key: String,
    /// First failure.
    pub opened: UnixMillis,
    /// Its end; `None`: it is open.
    pub closed: Option<UnixMillis>,
    /// The incident, or why it cannot be read.
    pub incident: std::result::Result<Incident, String>,
}

/// One incident; `None`: there is none with this id.
pub fn kept(conn: &Connection, id: &str) -> Result<Option<Kept>> {
    let query = "SELECT key, opened, closed FROM incident WHERE id = ?1";
    let found = conn
        .prepare_cached(query)?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?)));
    let Some((key, opened, closed)) = found.optional()? else { return Ok(None) };
    let incident = match incidents::readable(conn, id)? {
        Ok(Some(incident)) => Ok(incident),
        Ok(None) => return Ok(None),
        Err(why) => Err(why),
    };
    Ok(Some(Kept { key, opened: UnixMillis(opened), closed: closed.map(UnixMillis), incident }))
}

/// When a server joined and was heard last (0: never), and its state as filed last.
pub fn lived(
    conn: &Connection,
    server: ServerId,
) -> Result<Option<(UnixMillis, UnixMillis, String)>> {
    let query = "SELECT first_seen, last_seen, state FROM server WHERE server_id = ?1";
    let found = conn.prepare_cached(query)?.query_row([server.0], |row| {
        Ok((UnixMillis(row.get(0)?), UnixMillis(row.get(1)?), row.get(2)?))
    });
    found.optional()
}
