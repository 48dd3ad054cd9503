//! The statements of one batch: its row, its gap, its losses, its sites.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

use rusqlite::{Transaction, params};
use wire::UnixMillis;

use super::guard::Numbers;
use super::hot::Head;
use super::watermark::{Verdict, judge};
use super::{FreshRow, Ledger, NewBatch, OTHER, Outcome, SiteSeen, Watermark};
use crate::ingest::convert::Opened;
use crate::model::ServerId;
use crate::selfstats::SelfStats;

/// Sites stored per server; further ones count as `other`. Ten times what an agent names by default.
const SITES_PER_SERVER_MAX: usize = 20_000;

/// Largest number in the loss ledger: what lies beyond would overflow SQLite's integers.
const LOSS_MAX: u64 = 1 << 62;

/// The same of each number of `ledger`: three of them are added up.
const LEDGER_MAX: u64 = 1 << 60;

/// Stores one batch with its sites, losses and gap, or says why not.
pub(super) fn store(
    tx: &Transaction<'_>,
    batch: &NewBatch,
    books: &Books,
    staged: &mut Staged,
) -> rusqlite::Result<Outcome> {
    let server = batch.server;
    let committed = || books.marks.get(&server).copied().unwrap_or_default();
    let known = staged.marks.get(&server).copied().unwrap_or_else(committed);
    let n_lost = match judge(known, batch) {
        Verdict::Store { n_lost } => n_lost,
        Verdict::Drop(outcome) => {
            staged.counts.dropped(outcome);
            return Ok(outcome);
        }
    };
    if staged.is_job_done || !books.known.contains(&server) {
        let mut exists = tx.prepare_cached("SELECT 1 FROM server WHERE server_id = ?1")?;
        if !exists.exists([server.0])? {
            return Ok(Outcome::UnknownServer);
        }
        staged.known.push(server);
    }
    if n_lost > 0 {
        insert_gap(tx, batch, n_lost)?;
    }
    staged.counts.evicted = staged.counts.evicted.saturating_add(n_lost);
    let last = staged.heads.last().map_or(books.last, |head| head.id);
    staged.heads.push(insert_row(tx, batch, last)?);
    if n_lost > 0 {
        staged.counts.lines_evicted += batch.n_lines_evicted;
        add_loss(tx, server, "n_batches_evicted", n_lost)?;
        add_loss(tx, server, "n_lines_lost", batch.n_lines_evicted)?;
        add_loss(tx, server, "n_bytes_lost", batch.n_bytes_evicted)?;
        add_loss(tx, server, "n_bytes_evicted", batch.n_bytes_evicted)?;
    }
    add_ledger(tx, batch, n_lost > 0)?;
    for (k, n) in &batch.losses {
        add_loss(tx, server, k, *n)?;
    }
    let mut n_refused = 0;
    for site in &batch.sites {
        n_refused += u64::from(!upsert_site(tx, (server, batch.at), site, books, staged)?);
    }
    if n_refused > 0 {
        let other = SiteSeen { name: OTHER.to_owned(), pool: None, upstream: None, owner: None };
        upsert_site(tx, (server, batch.at), &other, books, staged)?;
        add_loss(tx, server, "n_sites_refused", n_refused)?;
        staged.counts.sites_refused += n_refused;
    }
    staged.marks.insert(server, Watermark { epoch: batch.epoch, seq: batch.seq });
    staged.counts.stored += 1;
    staged.counts.bytes += batch.body.len() as u64;
    Ok(Outcome::Stored)
}

/// The row itself, guarded against flipped bits; `last` is the position before it.
fn insert_row(tx: &Transaction<'_>, batch: &NewBatch, last: i64) -> rusqlite::Result<Head> {
    let NewBatch { server, at, t_min, t_max, complete_until, codec, .. } = *batch;
    let head = Head { id: last + 1, server, at, t_min, t_max };
    let (epoch, seq) = (integer(batch.epoch), integer(batch.seq));
    let (epoch_kept, seq_kept) = (epoch.cast_unsigned(), seq.cast_unsigned());
    let row = Numbers { head, epoch: epoch_kept, seq: seq_kept, complete_until, codec };
    tx.prepare_cached(
        "INSERT INTO hot(server_id, epoch, seq, at, t_min, t_max, complete_until, codec, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        server.0,
        epoch,
        seq,
        at.0,
        t_min.0,
        t_max.0,
        complete_until.0,
        row.kept_codec(),
        batch.body
    ])?;
    let head = Head { id: tx.last_insert_rowid(), ..head };
    if head.id != last + 1 {
        // Ids go on behind those of rows that are gone.
        let kept = Numbers { head, ..row }.kept_codec();
        tx.prepare_cached("UPDATE hot SET codec = ?2 WHERE id = ?1")?
            .execute(params![head.id, kept])?;
    }
    Ok(head)
}

fn insert_gap(tx: &Transaction<'_>, batch: &NewBatch, n_lost: u64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO gap(server_id, epoch, seq_from, seq_to, n_lines, n_bytes, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        batch.server.0,
        integer(batch.epoch),
        integer(batch.seq - n_lost),
        integer(batch.seq - 1),
        integer(batch.n_lines_evicted),
        integer(batch.n_bytes_evicted),
        batch.at.0
    ])?;
    Ok(())
}

fn add_loss(tx: &Transaction<'_>, server: ServerId, k: &str, n: u64) -> rusqlite::Result<()> {
    if n == 0 {
        return Ok(());
    }
    tx.prepare_cached(
        "INSERT INTO loss(server_id, k, n) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET n = MIN(n + excluded.n, ?4)",
    )?
    .execute(params![server.0, k, integer(n.min(LOSS_MAX / 2)), integer(LOSS_MAX)])?;
    Ok(())
}

/// Adds to what became of the server's lines and bytes.
fn add_ledger(tx: &Transaction<'_>, batch: &NewBatch, is_after_gap: bool) -> rusqlite::Result<()> {
    let mut step = batch.ledger;
    if is_after_gap {
        step.n_lines_lost = step.n_lines_lost.saturating_add(batch.n_lines_evicted);
        step.n_bytes_lost = step.n_bytes_lost.saturating_add(batch.n_bytes_evicted);
    }
    if step == Ledger::default() {
        return Ok(());
    }
    let capped = |n: u64| integer(n.min(LEDGER_MAX));
    tx.prepare_cached(
        "INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT DO UPDATE SET
         n_lines_counted = MIN(n_lines_counted + excluded.n_lines_counted, ?8),
         n_lines_rejected = MIN(n_lines_rejected + excluded.n_lines_rejected, ?8),
         n_lines_lost = MIN(n_lines_lost + excluded.n_lines_lost, ?8),
         n_bytes_counted = MIN(n_bytes_counted + excluded.n_bytes_counted, ?8),
         n_bytes_rejected = MIN(n_bytes_rejected + excluded.n_bytes_rejected, ?8),
         n_bytes_lost = MIN(n_bytes_lost + excluded.n_bytes_lost, ?8)",
    )?
    .execute(params![
        batch.server.0,
        capped(step.n_lines_counted),
        capped(step.n_lines_rejected),
        capped(step.n_lines_lost),
        capped(step.n_bytes_counted),
        capped(step.n_bytes_rejected),
        capped(step.n_bytes_lost),
        integer(LEDGER_MAX)
    ])?;
    Ok(())
}

/// Adds a site, or moves it to another pool; skipped when its row is known to say the same. False
/// when the server has too many.
fn upsert_site(
    tx: &Transaction<'_>,
    (server, at): (ServerId, UnixMillis),
    site: &SiteSeen,
    books: &Books,
    staged: &mut Staged,
) -> rusqlite::Result<bool> {
    let (name, row) = (hash(&site.name), hash(&(&site.pool, &site.upstream, &site.owner)));
    let known = books.sites.get(&server);
    let stored = known.and_then(|sites| sites.get(&name));
    if stored == Some(&row) {
        return Ok(true);
    }
    if stored.is_none() {
        let n_new = staged.new_sites.entry(server).or_default();
        let n_sites = known.map_or(0, HashMap::len) + n_new.len();
        if n_sites >= SITES_PER_SERVER_MAX && site.name != OTHER && !n_new.contains(&name) {
            return Ok(false);
        }
        n_new.insert(name);
    }
    // A batch that does not know what serves the site, or whose it is, takes nothing back.
    let is_served = site.pool.is_some() || site.upstream.is_some();
    tx.prepare_cached(
        "INSERT INTO site(server_id, host, pool, upstream, owner, since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?7)
         ON CONFLICT(server_id, host) DO UPDATE SET
         pool = iif(?6, excluded.pool, pool), upstream = iif(?6, excluded.upstream, upstream),
         owner = coalesce(excluded.owner, owner)
         WHERE (?6 AND (pool, upstream) IS NOT (excluded.pool, excluded.upstream))
         OR owner IS NOT coalesce(excluded.owner, owner)",
    )?
    .execute(params![
        server.0,
        site.name,
        site.pool,
        site.upstream,
        site.owner,
        is_served,
        at.0
    ])?;
    staged.sites.push((server, name, row));
    Ok(true)
}

/// Writes the watermarks that are not in their table yet.
///
/// Only as far as `books` goes: the batches of the running group are replayed after a crash.
pub(super) fn write_marks(tx: &Transaction<'_>, books: &Books) -> rusqlite::Result<()> {
    let mut upsert = tx.prepare_cached(
        "INSERT INTO watermark(server_id, epoch, seq) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq",
    )?;
    for server in &books.dirty {
        let mark = books.marks.get(server).copied().unwrap_or_default();
        upsert.execute(params![server.0, integer(mark.epoch), integer(mark.seq)])?;
    }
    tx.prepare_cached(
        "INSERT INTO state(k, v) VALUES ('hw_upto', ?1)
         ON CONFLICT DO UPDATE SET v = MAX(v, excluded.v)",
    )?
    .execute([books.last])?;
    Ok(())
}

/// What the writer knows of the committed state.
pub(super) struct Books {
    pub(super) marks: HashMap<ServerId, Watermark>,
    /// Whose mark is not in the `watermark` table yet.
    pub(super) dirty: HashSet<ServerId>,
    /// Hash of a site's name to that of its pool, upstream and owner: what its row says.
    pub(super) sites: HashMap<ServerId, HashMap<u64, u64>>,
    /// Servers that are in the fleet, as of the last job.
    pub(super) known: HashSet<ServerId>,
    /// Highest `hot.id`.
    pub(super) last: i64,
}

/// What a transaction will change in the books; dropped when it fails.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) marks: HashMap<ServerId, Watermark>,
    pub(super) sites: Vec<(ServerId, u64, u64)>,
    /// Of those, the ones that had no row: hashes of their names.
    new_sites: HashMap<ServerId, HashSet<u64>>,
    /// Of the stored batches, in order.
    pub(super) heads: Vec<Head>,
    /// Of those, the ones that came open.
    pub(super) fresh: Vec<FreshRow>,
    /// Found in the fleet.
    pub(super) known: Vec<ServerId>,
    /// Somebody's statements ran before: what the books know of the fleet counts no more.
    pub(super) is_job_done: bool,
    pub(super) counts: Counts,
}

impl Staged {
    /// Keeps the body of the batch that was stored just now; `last` is the position before the group.
    pub(super) fn keep(&mut self, batch: &NewBatch, opened: Opened, last: i64) {
        let mut heads = self.heads.iter().rev();
        let Some(head) = heads.next() else { return };
        self.fresh.push(FreshRow {
            id: head.id,
            before: heads.next().map_or(last, |head| head.id),
            server: batch.server,
            at: batch.at,
            complete_until: batch.complete_until,
            opened,
        });
    }
}

#[derive(Default)]
pub(super) struct Counts {
    stored: u64,
    bytes: u64,
    duplicate: u64,
    out_of_order: u64,
    old_epoch: u64,
    evicted: u64,
    lines_evicted: u64,
    sites_refused: u64,
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// SQLite's integers are signed; what lies beyond is capped, never wrapped.
fn integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Counts {
    fn dropped(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Duplicate => self.duplicate += 1,
            Outcome::Gap { .. } => self.out_of_order += 1,
            Outcome::OldEpoch { .. } => self.old_epoch += 1,
            Outcome::Stored | Outcome::UnknownServer => {}
        }
    }

    pub(super) fn publish(&self, stats: &SelfStats) {
        stats.batches_stored.add(self.stored);
        stats.batch_bytes_stored.add(self.bytes);
        stats.batches_duplicate.add(self.duplicate);
        stats.batches_out_of_order.add(self.out_of_order);
        stats.batches_old_epoch.add(self.old_epoch);
        stats.batches_evicted.add(self.evicted);
        stats.lines_evicted.add(self.lines_evicted);
        stats.sites_refused.add(self.sites_refused);
    }
}
