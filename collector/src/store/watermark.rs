//! Which batch may be stored next, pure: at-least-once delivery becomes exactly-once effect.

use super::{NewBatch, Outcome, Watermark};

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Store it; first note that so many batches before it are lost for good.
    Store {
        /// Positions `seq - n_lost .. seq`.
        n_lost: u64,
    },
    /// Store nothing.
    Drop(Outcome),
}

/// Judges a batch against how far its server is committed.
///
/// A new epoch starts again at 1. Past a gap nothing is stored, unless the agent declares it lost.
pub(super) fn judge(known: Watermark, batch: &NewBatch) -> Verdict {
    if batch.epoch < known.epoch {
        return Verdict::Drop(Outcome::OldEpoch { known: known.epoch });
    }
    let durable = if batch.epoch == known.epoch { known.seq } else { 0 };
    if batch.seq <= durable {
        return Verdict::Drop(Outcome::Duplicate);
    }
    let n_missing = batch.seq - durable - 1;
    if n_missing <= batch.n_evicted {
        Verdict::Store { n_lost: n_missing }
    } else {
        Verdict::Drop(Outcome::Gap { wanted: durable + 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::batch;

    #[test]
    fn only_the_next_batch_is_stored() {
        let known = Watermark { epoch: 5, seq: 10 };
        let gap = |wanted| Verdict::Drop(Outcome::Gap { wanted });
        for (epoch, seq, n_evicted, expected) in [
            (5, 11, 0, Verdict::Store { n_lost: 0 }),
            (5, 10, 0, Verdict::Drop(Outcome::Duplicate)),
            (5, 1, 0, Verdict::Drop(Outcome::Duplicate)),
            (5, 12, 0, gap(11)),
            (5, 14, 2, gap(11)),
            (5, 14, 3, Verdict::Store { n_lost: 3 }),
            // Some of the evicted ones had been committed: only the others are lost.
            (5, 14, 9, Verdict::Store { n_lost: 3 }),
            (5, 10, 9, Verdict::Drop(Outcome::Duplicate)),
            (4, 11, 0, Verdict::Drop(Outcome::OldEpoch { known: 5 })),
            (6, 1, 0, Verdict::Store { n_lost: 0 }),
            (6, 3, 0, gap(1)),
            (6, 3, 2, Verdict::Store { n_lost: 2 }),
            (6, u64::MAX, u64::MAX, Verdict::Store { n_lost: u64::MAX - 1 }),
        ] {
            let batch = NewBatch { n_evicted, ..batch(1, epoch, seq) };
            assert_eq!(judge(known, &batch), expected, "{epoch}:{seq} evicted {n_evicted}");
        }
        assert_eq!(
            judge(Watermark::default(), &batch(1, 1, 1)),
            Verdict::Store { n_lost: 0 },
            "the first batch of a new server"
        );
    }
}
