//! Losses that other parts count, on their way into the ledger of the next batch.

use std::sync::atomic::Ordering;

use super::Gather;
use crate::logs::tail::Vanished;
use crate::window::Loss;

impl Gather {
    /// Bytes of logs that were gone before they were read.
    pub(super) fn lose_vanished(&mut self) {
        let vanished = self.files.take_vanished();
        if vanished != Vanished::default() {
            self.windows.lose(&Loss {
                n_bytes_lost: vanished.n_bytes,
                n_bytes_recovered: vanished.n_bytes_recovered,
                n_truncations: vanished.n_truncations + vanished.n_gone,
                ..Loss::default()
            });
        }
    }

    /// What the queue of observations refused, and what the spool found destroyed.
    pub(super) fn lose_elsewhere(&mut self) {
        let n_events_dropped = self.inputs.n_observations_dropped.swap(0, Ordering::Relaxed);
        let n_corrupt = self.spool(|spool| spool.stats().n_records_corrupt);
        let n_spool_records_corrupt = n_corrupt.saturating_sub(self.n_spool_corrupt);
        self.n_spool_corrupt = n_corrupt;
        if n_events_dropped > 0 || n_spool_records_corrupt > 0 {
            let loss = Loss { n_spool_records_corrupt, n_events_dropped, ..Loss::default() };
            self.windows.lose(&loss);
        }
    }
}
