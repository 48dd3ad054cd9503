//! Until when each scheduled report was sent. A mark moves in the transaction that puts the report into
//! the outbox, so a crash neither loses nor repeats one.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use wire::UnixMillis;

/// The last time of `name` that was seen to; `None` before its first look.
pub fn mark(conn: &Connection, name: &str) -> rusqlite::Result<Option<UnixMillis>> {
    conn.prepare_cached("SELECT upto FROM snapshot WHERE k = ?1")?
        .query_row([key(name)], |row| row.get(0).map(UnixMillis))
        .optional()
}

/// Sets it.
pub fn set_mark(tx: &Transaction<'_>, name: &str, at: UnixMillis) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO snapshot(k, upto, body) VALUES(?1, ?2, x'')
         ON CONFLICT(k) DO UPDATE SET upto = excluded.upto",
    )?
    .execute(params![key(name), at.0])?;
    Ok(())
}

/// Forgets the marks of reports that are no longer scheduled.
pub fn forget_other(tx: &Transaction<'_>, names: &[String]) -> rusqlite::Result<usize> {
    let keys: Vec<String> = names.iter().map(|name| key(name)).collect();
    let keys = serde_json::to_string(&keys).expect("strings are JSON");
    let delete = "DELETE FROM snapshot WHERE k GLOB 'report:*'
                  AND k NOT IN (SELECT value FROM json_each(?1))";
    tx.execute(delete, [keys])
}

fn key(name: &str) -> String {
    format!("report:{name}")
}
