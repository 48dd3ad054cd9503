//! Records on their way: given out by `peek`, not acked, and not asked for again.
//!
//! The budget may evict one of them before its ack comes. Until then nobody knows whether it is lost.
//! It is counted as evicted at once, so that a crash cannot hide a loss, and taken out of that count
//! when the ack says that it had arrived.

use std::collections::BTreeMap;

use super::Volume;

/// What is on its way, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flight {
    /// What it accounts for once it is evicted; `None` while it is still kept.
    records: BTreeMap<u64, Option<Volume>>,
}

impl Flight {
    /// `pos` leaves because somebody asked for `asked`: of what left from there on nothing arrives.
    pub(super) fn leaves(&mut self, asked: u64, pos: u64) {
        self.records.split_off(&asked);
        self.records.insert(pos, None);
    }

    /// `pos` is evicted.
    pub(super) fn evicts(&mut self, pos: u64, volume: Volume) {
        if let Some(evicted) = self.records.get_mut(&pos) {
            *evicted = Some(volume);
        }
    }

    /// Everything up to `acked` has arrived: how many of it were evicted, and their volume.
    pub(super) fn arrives(&mut self, acked: u64) -> (u64, Volume) {
        let left = self.records.split_off(&acked.saturating_add(1));
        let arrived = std::mem::replace(&mut self.records, left);
        let evicted: Vec<Volume> = arrived.into_values().flatten().collect();
        (evicted.len() as u64, evicted.into_iter().sum())
    }
}
