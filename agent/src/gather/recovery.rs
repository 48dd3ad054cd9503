//! Where reading goes on after a restart: the checkpoint, and the spooled batches after it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use wire::UnixMillis;

use crate::logs::checkpoint::{Checkpoint, FileKey, Position};
use crate::spool::{Pos, Spool};
use crate::{batch, chain};

/// The checkpoint, brought up to date by the spooled records after it; true when this is the
/// first start of this agent here.
pub(super) fn recover(path: &Path, spool: &Mutex<Spool>, at: UnixMillis) -> (Checkpoint, bool) {
    let fresh = Checkpoint { first_start_at: at, saved_at: at, ..Checkpoint::default() };
    let (mut checkpoint, mut is_first) = match Checkpoint::load(path) {
        Ok(Some(checkpoint)) => (checkpoint, false),
        Ok(None) => (fresh, true),
        Err(error) => {
            tracing::warn!(
                error = %chain(&error),
                "going on from the spooled batches; a log none of them names is followed from its end"
            );
            (fresh, true)
        }
    };
    let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
    let after = Pos(checkpoint.spool_pos);
    let mut n_applied = 0_u64;
    for record in spool.records_after(after) {
        let (pos, payload) = match record {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot read a spooled batch");
                continue;
            }
        };
        match batch::offsets(&payload) {
            Ok(offsets) => checkpoint.apply(&offsets),
            Err(error) => tracing::warn!(error = %chain(&error), "cannot read a spooled batch"),
        }
        checkpoint.spool_pos = pos.0;
        n_applied += 1;
    }
    is_first &= n_applied == 0;
    if is_first {
        checkpoint.spool_pos = spool.last().0;
    }
    (checkpoint, is_first)
}

/// The positions that differ from what the spool has.
pub(super) fn moved(positions: &[Position], spooled: &[Position]) -> Vec<Position> {
    let spooled: BTreeMap<FileKey, &Position> = spooled.iter().map(|p| (p.key, p)).collect();
    let is_new = |position: &&Position| {
        spooled.get(&position.key).is_none_or(|known| {
            known.offset != position.offset
                || known.fingerprint != position.fingerprint
                || known.is_done != position.is_done
        })
    };
    positions.iter().filter(is_new).cloned().collect()
}
