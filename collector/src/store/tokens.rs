//! Join tokens. A token is `ID.SECRET`; only the SHA-256 of the secret is on disk.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::ca;

/// Tokens are shown for this long after they ended, then removed.
const KEPT_AFTER_END_MS: i64 = 7 * 86_400_000;

/// What the operator decides about a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenTerms {
    /// Labels of every server that joins with it.
    pub labels: BTreeMap<String, String>,
    /// Server whose name and history the joining one gets.
    pub replace: Option<String>,
    /// From when on it is useless.
    pub expires_at: UnixMillis,
    /// How many servers may join with it.
    pub uses_max: u32,
}

/// A token as `token list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// The public half.
    pub id: String,
    /// `valid`, `expired`, `used_up` or `revoked`.
    pub state: TokenState,
    /// When it was made.
    #[serde(with = "wire::rfc3339")]
    pub created_at: UnixMillis,
    /// From when on it is useless.
    #[serde(with = "wire::rfc3339")]
    pub expires_at: UnixMillis,
    /// How many servers may join with it.
    pub uses: u32,
    /// How many did.
    pub n_used: u32,
    /// Labels of every server that joins with it.
    pub labels: BTreeMap<String, String>,
    /// Server it gives back.
    pub replace: Option<String>,
}

/// Whether a token can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It can.
    Valid,
    /// Its time is over.
    Expired,
    /// As many servers joined as may.
    UsedUp,
    /// An operator ended it.
    Revoked,
}

/// Stores a new token. Tokens that ended long ago are removed in passing.
pub fn insert(
    tx: &Transaction<'_>,
    id: &str,
    secret: &str,
    terms: &TokenTerms,
    now: UnixMillis,
) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM token WHERE expires_at < ?1")?
        .execute([now.0 - KEPT_AFTER_END_MS])?;
    tx.prepare_cached(
        "INSERT INTO token(id, secret_sha256, labels, replace_name, created_at, expires_at, uses_max)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        id,
        ca::sha256(secret.as_bytes()),
        serde_json::to_string(&terms.labels).expect("a map of strings is JSON"),
        terms.replace,
        now.0,
        terms.expires_at.0,
        terms.uses_max
    ])?;
    Ok(())
}

/// The token somebody pasted, in whatever state it is; `None` for an unknown id and for a wrong
/// secret alike. Uses nothing up.
pub fn find(
    conn: &Connection,
    pasted: &str,
    now: UnixMillis,
) -> rusqlite::Result<Option<TokenView>> {
    let (id, secret) = pasted.trim().split_once('.').unwrap_or_default();
    let found = conn
        .prepare_cached("SELECT * FROM token WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get::<_, Vec<u8>>("secret_sha256")?, view(row, now)?)))
        .optional()?;
    let given = ca::sha256(secret.as_bytes());
    // An unknown id takes the same path as a wrong secret.
    let (expected, token) = found.map_or((vec![0; 32], None), |(hash, token)| (hash, Some(token)));
    Ok(token.filter(|_| ca::same_secret(&expected, &given)))
}

/// Counts one use; in the transaction that creates the server.
pub fn use_once(tx: &Transaction<'_>, id: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE token SET uses = uses + 1 WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// All tokens, newest first.
pub fn list(conn: &Connection, now: UnixMillis) -> rusqlite::Result<Vec<TokenView>> {
    conn.prepare_cached("SELECT * FROM token ORDER BY created_at DESC, id")?
        .query_map([], |row| view(row, now))?
        .collect()
}

/// Ends a token; false when there is none of this id. Ending it again changes nothing.
pub fn revoke(tx: &Transaction<'_>, id: &str, now: UnixMillis) -> rusqlite::Result<bool> {
    let n = tx
        .prepare_cached("UPDATE token SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1")?
        .execute(params![id, now.0])?;
    Ok(n == 1)
}

fn view(row: &Row<'_>, now: UnixMillis) -> rusqlite::Result<TokenView> {
    let (uses, n_used) = (row.get("uses_max")?, row.get("uses")?);
    let expires_at = UnixMillis(row.get("expires_at")?);
    let state = if row.get::<_, Option<i64>>("revoked_at")?.is_some() {
        TokenState::Revoked
    } else if n_used >= uses {
        TokenState::UsedUp
    } else if now >= expires_at {
        TokenState::Expired
    } else {
        TokenState::Valid
    };
    let labels: String = row.get("labels")?;
    Ok(TokenView {
        id: row.get("id")?,
        state,
        created_at: UnixMillis(row.get("created_at")?),
        expires_at,
        uses,
        n_used,
        labels: serde_json::from_str(&labels).unwrap_or_default(),
        replace: row.get("replace_name")?,
    })
}
