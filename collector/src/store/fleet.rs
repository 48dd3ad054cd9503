//! The fleet: servers, their labels, certificates and loss ledgers.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use wire::UnixMillis;

use super::Ledger;
use crate::model::ServerId;

/// Heartbeat assumed of a server that has not said its own.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);
/// Least time without a word after which a server counts as silent.
const SILENT_AFTER_MIN: Duration = Duration::from_secs(5);

/// Labels of one source at most, and their sizes in bytes.
const LABELS_MAX: usize = 64;
const LABEL_KEY_BYTES_MAX: usize = 63;
const LABEL_VALUE_BYTES_MAX: usize = 255;

/// Where a label comes from, weakest first. The number is `label.source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelSource {
    /// The agent found it out by itself.
    Detected = 0,
    /// The agent's config or command line.
    Config = 1,
    /// The join token.
    Token = 2,
    /// `agent label`.
    Operator = 3,
}

/// What the fleet says of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is this server's and counts.
    Known {
        /// Id of the server.
        server: ServerId,
        /// Its name today.
        name: String,
    },
    /// It was revoked, alone or with its server.
    Revoked,
    /// No server has it: forgotten, or another data directory's.
    Unknown,
}

/// A server about to be created or given back.
#[derive(Clone, Debug)]
pub struct Joining<'a> {
    /// Id for ever.
    pub uuid: Ulid,
    /// Name in the fleet.
    pub name: &'a str,
    /// Token it joins with.
    pub token: &'a str,
    /// SHA-256 of its public key.
    pub key_sha256: [u8; 32],
}

/// A server as enrolment needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id here.
    pub server: ServerId,
    /// Its id for ever.
    pub uuid: Ulid,
    /// Its certificates no longer count.
    pub revoked: bool,
    /// Token it joined with.
    pub token: Option<String>,
    /// SHA-256 of the public key it joined with.
    pub key_sha256: Option<Vec<u8>>,
}

/// What a server last said of itself: `server.meta`. Each writer changes only the keys it knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Release of its agent.
    pub version: Option<String>,
    /// Logical processors.
    pub n_cpu: Option<u32>,
    /// Interval of its heartbeats.
    pub heartbeat_ms: Option<u64>,
    /// Its clock minus ours.
    #[serde(deserialize_with = "super::presence::clock_off")]
    pub clock_offset_ms: Option<i64>,
    /// Bytes of batches it still has to send.
    pub spool_bytes: Option<u64>,
    /// Sites it knows.
    pub n_sites: Option<u64>,
}

/// A server as `agent list` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name.
    pub server: String,
    /// Effective labels.
    pub labels: BTreeMap<String, String>,
    /// Release of its agent.
    pub version: Option<String>,
    /// `up`, `silent`, `goodbye` or `revoked`.
    pub state: String,
    /// When it last said anything; null: never.
    #[serde(with = "wire::rfc3339::option")]
    pub last_seen_at: Option<UnixMillis>,
    /// Its clock minus ours.
    pub clock_offset_ms: Option<i64>,
    /// Bytes of batches it still has to send.
    pub spool_bytes: Option<u64>,
    /// Sites it knows.
    pub n_sites: u64,
    /// What it lost or refused, by counter; those of [`LOSSES`] are always there.
    pub loss: BTreeMap<String, u64>,
    /// What became of every line and byte of its logs.
    #[serde(default)]
    pub ledger: LedgerView,
}

/// The counters of the loss ledger that every server shows, be they 0.
const LOSSES: [&str; 8] = [
    "n_lines_rejected",
    "n_lines_lost",
    "n_bytes_rejected",
    "n_bytes_lost",
    "n_bytes_evicted",
    "n_bytes_recovered",
    "n_batches_evicted",
    "n_truncations",
];

/// A ledger with its sums: `n_bytes_seen` = counted + rejected + lost, and so for lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerView {
    /// All lines.
    pub n_lines_seen: u64,
    /// All bytes.
    pub n_bytes_seen: u64,
    /// What they are made of.
    #[serde(flatten)]
    pub parts: Ledger,
}

impl From<Ledger> for LedgerView {
    fn from(parts: Ledger) -> Self {
        let (n_lines_seen, n_bytes_seen) = (parts.n_lines_seen(), parts.n_bytes_seen());
        Self { n_lines_seen, n_bytes_seen, parts }
    }
}

/// A server as `agent show` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerDetail {
    /// As in the list.
    #[serde(flatten)]
    pub view: ServerView,
    /// Its id for ever.
    pub uuid: String,
    /// When it joined.
    #[serde(with = "wire::rfc3339")]
    pub first_seen_at: UnixMillis,
    /// Logical processors.
    pub n_cpu: Option<u32>,
    /// Every label with its source, the strongest first.
    pub label_sources: Vec<LabelView>,
    /// Its certificates, newest first.
    pub certificates: Vec<CertificateView>,
    /// Its sites.
    pub sites: Vec<SiteView>,
}

/// One label of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelView {
    /// Key.
    pub k: String,
    /// Value.
    pub v: String,
    /// `operator`, `token`, `config` or `detected`.
    pub source: LabelSource,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// When it was made.
    #[serde(with = "wire::rfc3339")]
    pub issued_at: UnixMillis,
    /// When it ends.
    #[serde(with = "wire::rfc3339")]
    pub not_after: UnixMillis,
    /// When it was revoked.
    #[serde(with = "wire::rfc3339::option")]
    pub revoked_at: Option<UnixMillis>,
}

/// One site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteView {
    /// Primary name.
    pub site: String,
    /// What serves it on this server.
    pub pool: Option<String>,
    /// Upstream on another machine.
    pub upstream: Option<String>,
    /// Unix user it belongs to.
    #[serde(default)]
    pub owner: Option<String>,
}

/// Why a server was not forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgetRefusal {
    /// No server has this name.
    Unknown,
    /// It is connected.
    Up,
}

/// Says what is wrong with labels somebody wants to set.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    if labels.len() > LABELS_MAX {
        return Err(format!("more than {LABELS_MAX} of them"));
    }
    for (k, v) in labels {
        if k.is_empty() || k.len() > LABEL_KEY_BYTES_MAX || !k.bytes().all(good) {
            return Err(format!(
                "the key {k:?} is not 1 to {LABEL_KEY_BYTES_MAX} letters, digits, dots, slashes, \
                 hyphens or underscores"
            ));
        }
        if v.len() > LABEL_VALUE_BYTES_MAX || v.chars().any(char::is_control) {
            return Err(format!(
                "the value of {k:?} is longer than {LABEL_VALUE_BYTES_MAX} bytes or has control characters"
            ));
        }
    }
    Ok(())
}

/// Says whether a certificate, valid by its signature and dates, still counts.
pub fn admit(conn: &Connection, uuid: Ulid, serial: &[u8]) -> rusqlite::Result<Admission> {
    let row = conn
        .prepare_cached(
            "SELECT s.server_id, s.name, s.state = 'revoked' OR c.revoked_at IS NOT NULL
             FROM server s JOIN certificate c USING(server_id) WHERE s.uuid = ?1 AND c.serial = ?2",
        )?
        .query_row(params![uuid.to_bytes(), serial], |row| {
            Ok((ServerId(row.get(0)?), row.get(1)?, row.get(2)?))
        })
        .optional()?;
    Ok(match row {
        Some((_, _, true)) => Admission::Revoked,
        Some((server, name, false)) => Admission::Known { server, name },
        None => Admission::Unknown,
    })
}

/// The server of this name.
pub fn member(conn: &Connection, name: &str) -> rusqlite::Result<Option<Member>> {
    conn.prepare_cached(
        "SELECT server_id, uuid, state = 'revoked', joined_with, key_sha256 FROM server WHERE name = ?1",
    )?
        .query_row([name], |row| {
            Ok(Member {
                server: ServerId(row.get(0)?),
                uuid: Ulid::from_bytes(row.get(1)?),
                revoked: row.get(2)?,
                token: row.get(3)?,
                key_sha256: row.get(4)?,
            })
        })
        .optional()
}

/// Creates a server.
pub fn create(
    tx: &Transaction<'_>,
    joining: &Joining<'_>,
    now: UnixMillis,
) -> rusqlite::Result<ServerId> {
    tx.prepare_cached(
        "INSERT INTO server(uuid, name, first_seen, joined_with, key_sha256) VALUES(?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        joining.uuid.to_bytes(),
        joining.name,
        now.0,
        joining.token,
        joining.key_sha256
    ])?;
    Ok(ServerId(tx.last_insert_rowid()))
}

/// Gives an existing server to a reinstalled machine: all its certificates so far are revoked.
pub fn take_over(
    tx: &Transaction<'_>,
    server: ServerId,
    joining: &Joining<'_>,
    now: UnixMillis,
) -> rusqlite::Result<()> {
    revoke_certificates(tx, server, now)?;
    tx.prepare_cached(
        "UPDATE server SET state = 'silent', joined_with = ?2, key_sha256 = ?3 WHERE server_id = ?1",
    )?
    .execute(params![server.0, joining.token, joining.key_sha256])?;
    Ok(())
}

/// Files a certificate that was just made.
pub fn add_certificate(
    tx: &Transaction<'_>,
    server: ServerId,
    serial: &[u8],
    not_after: UnixMillis,
    now: UnixMillis,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO certificate(serial, server_id, not_after, issued_at) VALUES(?1, ?2, ?3, ?4)",
    )?
    .execute(params![serial, server.0, not_after.0, now.0])?;
    // Long ended ones are refused by TLS, so nobody asks for them any more.
    tx.prepare_cached("DELETE FROM certificate WHERE server_id = ?1 AND not_after < ?2")?
        .execute([server.0, now.0 - 90 * 86_400_000])?;
    Ok(())
}

/// Replaces all labels that one source gave a server; true when that changed anything.
pub fn set_labels(
    tx: &Transaction<'_>,
    server: ServerId,
    source: LabelSource,
    labels: &BTreeMap<String, String>,
) -> rusqlite::Result<bool> {
    let before: BTreeMap<String, String> = tx
        .prepare_cached("SELECT k, v FROM label WHERE server_id = ?1 AND source = ?2")?
        .query_map(params![server.0, source as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    if before == *labels {
        return Ok(false);
    }
    tx.prepare_cached("DELETE FROM label WHERE server_id = ?1 AND source = ?2")?
        .execute(params![server.0, source as i64])?;
    let mut insert =
        tx.prepare_cached("INSERT INTO label(server_id, source, k, v) VALUES(?1, ?2, ?3, ?4)")?;
    for (k, v) in labels {
        insert.execute(params![server.0, source as i64, k, v])?;
    }
    Ok(true)
}

/// Sets single labels as the operator wants them; an empty value takes the operator's label away.
/// False when no server has this name.
pub fn label(
    tx: &Transaction<'_>,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> rusqlite::Result<bool> {
    let Some(member) = member(tx, name)? else { return Ok(false) };
    for (k, v) in labels {
        let source = LabelSource::Operator as i64;
        if v.is_empty() {
            tx.prepare_cached("DELETE FROM label WHERE server_id = ?1 AND source = ?2 AND k = ?3")?
                .execute(params![member.server.0, source, k])?;
        } else {
            tx.prepare_cached(
                "INSERT OR REPLACE INTO label(server_id, source, k, v) VALUES(?1, ?2, ?3, ?4)",
            )?
            .execute(params![member.server.0, source, k, v])?;
        }
    }
    Ok(true)
}

/// The labels that count: of each key the one of the strongest source.
pub fn labels(conn: &Connection, server: ServerId) -> rusqlite::Result<BTreeMap<String, String>> {
    // With max() SQLite takes the other columns from the row that has the maximum.
    conn.prepare_cached("SELECT k, v, max(source) FROM label WHERE server_id = ?1 GROUP BY k")?
        .query_map([server.0], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Effective labels of the server of this name; none when there is no such server.
pub fn labels_of(conn: &Connection, name: &str) -> rusqlite::Result<BTreeMap<String, String>> {
    Ok(member(conn, name)?
        .map(|member| labels(conn, member.server))
        .transpose()?
        .unwrap_or_default())
}

/// Revokes a server with all its certificates; false when no server has this name.
/// Its open stream ends with the commit.
pub fn revoke(tx: &Transaction<'_>, name: &str, now: UnixMillis) -> rusqlite::Result<bool> {
    let Some(member) = member(tx, name)? else { return Ok(false) };
    revoke_certificates(tx, member.server, now)?;
    tx.execute("UPDATE server SET state = 'revoked' WHERE server_id = ?1", [member.server.0])?;
    Ok(true)
}

/// Removes a server, its sites, gaps and events. Its batches leave with the retention of raw
/// data, its incidents stay: they are the history of the fleet.
pub fn forget(
    tx: &Transaction<'_>,
    name: &str,
    now: UnixMillis,
) -> rusqlite::Result<Result<(), ForgetRefusal>> {
    let Some(member) = member(tx, name)? else { return Ok(Err(ForgetRefusal::Unknown)) };
    let up = tx
        .prepare_cached(SELECT_ONE)?
        .query_row([name], |row| Ok(view(row, now)?.1.state == "up"))?;
    if up {
        return Ok(Err(ForgetRefusal::Up));
    }
    for table in ["watermark", "gap", "event", "server"] {
        tx.execute(&format!("DELETE FROM {table} WHERE server_id = ?1"), [member.server.0])?;
    }
    Ok(Ok(()))
}

const SELECT_ALL: &str =
    "SELECT server_id, uuid, name, first_seen, last_seen, state, meta FROM server ORDER BY name";
const SELECT_ONE: &str =
    "SELECT server_id, uuid, name, first_seen, last_seen, state, meta FROM server WHERE name = ?1";

/// All servers by name. `state` is as of `now`: a server that went quiet is `silent` at once.
pub fn list(conn: &Connection, now: UnixMillis) -> rusqlite::Result<Vec<ServerView>> {
    let mut servers: BTreeMap<i64, ServerView> = conn
        .prepare_cached(SELECT_ALL)?
        .query_map([], |row| view(row, now))?
        .map(|row| row.map(|(server, view, _)| (server.0, view)))
        .collect::<rusqlite::Result<_>>()?;
    let mut labels = conn
        .prepare_cached("SELECT server_id, k, v, max(source) FROM label GROUP BY server_id, k")?;
    let mut rows = labels.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(server) = servers.get_mut(&row.get(0)?) {
            server.labels.insert(row.get(1)?, row.get(2)?);
        }
    }
    let mut loss = conn.prepare_cached("SELECT server_id, k, n FROM loss")?;
    let mut rows = loss.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(server) = servers.get_mut(&row.get(0)?) {
            server.loss.insert(row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned());
        }
    }
    let mut ledger = conn.prepare_cached("SELECT * FROM ledger")?;
    let mut rows = ledger.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(server) = servers.get_mut(&row.get(0)?) {
            server.ledger = read_ledger(row)?.into();
        }
    }
    let mut servers: Vec<ServerView> = servers.into_values().collect();
    servers.sort_by(|a, b| a.server.cmp(&b.server));
    Ok(servers)
}

/// One server with everything known of it; `None` when no server has this name.
pub fn show(
    conn: &Connection,
    name: &str,
    now: UnixMillis,
) -> rusqlite::Result<Option<ServerDetail>> {
    let found = conn
        .prepare_cached(SELECT_ONE)?
        .query_row([name], |row| {
            let (server, view, meta) = view(row, now)?;
            let uuid = Ulid::from_bytes(row.get("uuid")?).to_string();
            Ok((server, view, meta, uuid, UnixMillis(row.get("first_seen")?)))
        })
        .optional()?;
    let Some((server, mut view, meta, uuid, first_seen_at)) = found else { return Ok(None) };
    view.labels = labels(conn, server)?;
    let loss: Vec<(String, u64)> = conn
        .prepare_cached("SELECT k, n FROM loss WHERE server_id = ?1")?
        .query_map([server.0], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?
        .collect::<rusqlite::Result<_>>()?;
    view.loss.extend(loss);
    view.ledger = ledger(conn, server)?.into();
    Ok(Some(ServerDetail {
        view,
        uuid,
        first_seen_at,
        n_cpu: meta.n_cpu,
        label_sources: label_sources(conn, server)?,
        certificates: certificates(conn, server)?,
        sites: sites(conn, server)?,
    }))
}

/// What became of the lines and bytes of a server.
pub fn ledger(conn: &Connection, server: ServerId) -> rusqlite::Result<Ledger> {
    let row = conn
        .prepare_cached("SELECT * FROM ledger WHERE server_id = ?1")?
        .query_row([server.0], read_ledger)
        .optional()?;
    Ok(row.unwrap_or_default())
}

fn read_ledger(row: &Row<'_>) -> rusqlite::Result<Ledger> {
    let number = |k| row.get::<_, i64>(k).map(i64::cast_unsigned);
    Ok(Ledger {
        n_lines_counted: number("n_lines_counted")?,
        n_lines_rejected: number("n_lines_rejected")?,
        n_lines_lost: number("n_lines_lost")?,
        n_bytes_counted: number("n_bytes_counted")?,
        n_bytes_rejected: number("n_bytes_rejected")?,
        n_bytes_lost: number("n_bytes_lost")?,
    })
}

fn label_sources(conn: &Connection, server: ServerId) -> rusqlite::Result<Vec<LabelView>> {
    conn.prepare_cached(
        "SELECT k, v, source FROM label WHERE server_id = ?1 ORDER BY k, source DESC",
    )?
    .query_map([server.0], |row| {
        let source = match row.get::<_, i64>(2)? {
            3 => LabelSource::Operator,
            2 => LabelSource::Token,
            1 => LabelSource::Config,
            _ => LabelSource::Detected,
        };
        Ok(LabelView { k: row.get(0)?, v: row.get(1)?, source })
    })?
    .collect()
}

fn certificates(conn: &Connection, server: ServerId) -> rusqlite::Result<Vec<CertificateView>> {
    conn.prepare_cached(
        "SELECT lower(hex(serial)), issued_at, not_after, revoked_at FROM certificate
         WHERE server_id = ?1 ORDER BY issued_at DESC, serial",
    )?
    .query_map([server.0], |row| {
        Ok(CertificateView {
            serial: row.get(0)?,
            issued_at: UnixMillis(row.get(1)?),
            not_after: UnixMillis(row.get(2)?),
            revoked_at: row.get::<_, Option<i64>>(3)?.map(UnixMillis),
        })
    })?
    .collect()
}

fn sites(conn: &Connection, server: ServerId) -> rusqlite::Result<Vec<SiteView>> {
    let query = "SELECT host, pool, upstream, owner FROM site WHERE server_id = ?1 ORDER BY host";
    conn.prepare_cached(query)?
        .query_map([server.0], |row| {
            let (site, pool) = (row.get(0)?, row.get(1)?);
            Ok(SiteView { site, pool, upstream: row.get(2)?, owner: row.get(3)? })
        })?
        .collect()
}

fn revoke_certificates(
    tx: &Transaction<'_>,
    server: ServerId,
    now: UnixMillis,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE certificate SET revoked_at = ?2 WHERE server_id = ?1 AND revoked_at IS NULL",
    )?
    .execute([server.0, now.0])?;
    Ok(())
}

fn view(row: &Row<'_>, now: UnixMillis) -> rusqlite::Result<(ServerId, ServerView, Meta)> {
    let meta: Option<String> = row.get("meta")?;
    let meta: Meta = meta.and_then(|meta| serde_json::from_str(&meta).ok()).unwrap_or_default();
    let last_seen = UnixMillis(row.get("last_seen")?);
    let mut state: String = row.get("state")?;
    let heartbeat = meta.heartbeat_ms.map_or(HEARTBEAT_DEFAULT, Duration::from_millis);
    if state == "up" && now.since(last_seen) > (heartbeat * 4).max(SILENT_AFTER_MIN) {
        "silent".clone_into(&mut state);
    }
    let view = ServerView {
        server: row.get("name")?,
        labels: BTreeMap::new(),
        version: meta.version.clone(),
        state,
        last_seen_at: (last_seen.0 != 0).then_some(last_seen),
        clock_offset_ms: meta.clock_offset_ms,
        spool_bytes: meta.spool_bytes,
        n_sites: meta.n_sites.unwrap_or(0),
        loss: LOSSES.map(|k| (k.to_owned(), 0)).into(),
        ledger: LedgerView::default(),
    };
    Ok((ServerId(row.get("server_id")?), view, meta))
}
