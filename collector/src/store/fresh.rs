//! Batches that were just committed, opened as they came: whoever folds them need not read them again.
//!
//! Only to save work: what is not here is read from `hot`, which has all of it.

use std::collections::VecDeque;

use wire::UnixMillis;

use crate::ingest::convert::Opened;
use crate::model::ServerId;

/// Batches that are kept, and the most memory that those can take. The oldest leave first.
const ROWS_MAX: usize = 4096;
const BYTES_MAX: usize = 64 << 20;

/// A batch that was committed.
#[derive(Debug)]
pub struct FreshRow {
    /// Its position in the store.
    pub id: i64,
    /// The position before, of whichever server.
    pub(super) before: i64,
    /// Whose.
    pub server: ServerId,
    /// Arrival, on the collector's clock.
    pub at: UnixMillis,
    /// No older count is unsent after it.
    pub complete_until: UnixMillis,
    /// Its body.
    pub opened: Opened,
}

/// The newest ones, in order of commit.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    rows: VecDeque<FreshRow>,
    n_bytes: usize,
}

impl Fresh {
    /// Keeps the rows of a commit.
    pub(super) fn add(&mut self, rows: Vec<FreshRow>) {
        for row in rows {
            self.n_bytes += row.opened.n_bytes_max;
            self.rows.push_back(row);
            while self.rows.len() > ROWS_MAX || self.n_bytes > BYTES_MAX {
                self.pop();
            }
        }
    }

    /// Takes what follows position `after` without a hole, at most `n_max`; what lies before it leaves.
    pub(super) fn take(&mut self, mut after: i64, n_max: usize) -> Vec<FreshRow> {
        while self.rows.front().is_some_and(|row| row.id <= after) {
            self.pop();
        }
        let mut taken = Vec::new();
        while taken.len() < n_max && self.rows.front().is_some_and(|row| row.before <= after) {
            let Some(row) = self.pop() else { break };
            after = row.id;
            taken.push(row);
        }
        taken
    }

    fn pop(&mut self) -> Option<FreshRow> {
        let row = self.rows.pop_front()?;
        self.n_bytes -= row.opened.n_bytes_max;
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use wire::v1::BatchBody;

    use super::*;

    fn row(before: i64, id: i64, n_bytes_max: usize) -> FreshRow {
        let opened = Opened { body: BatchBody::default(), n_bytes_max };
        let (at, server) = (UnixMillis(0), ServerId(1));
        FreshRow { id, before, server, at, complete_until: at, opened }
    }

    fn ids(rows: &[FreshRow]) -> Vec<i64> {
        rows.iter().map(|row| row.id).collect()
    }

    #[test]
    fn rows_come_in_order_and_only_without_a_hole() {
        let mut fresh = Fresh::default();
        fresh.add(vec![row(0, 1, 1), row(1, 2, 1), row(2, 3, 1), row(5, 6, 1), row(6, 9, 1)]);
        assert_eq!(ids(&fresh.take(1, 1)), [2]);
        assert_eq!(ids(&fresh.take(2, 9)), [3], "4 and 5 are not here");
        assert!(fresh.take(4, 9).is_empty());
        assert_eq!(ids(&fresh.take(5, 9)), [6, 9], "7 and 8 never were");
        assert_eq!(fresh.n_bytes, 0);
        fresh.add(vec![row(9, 10, 1)]);
        assert!(fresh.take(10, 9).is_empty(), "it was read from the table");
        assert!(fresh.rows.is_empty());
    }

    #[test]
    fn they_are_bounded_in_number_and_memory() {
        let mut fresh = Fresh::default();
        fresh.add((0..5000).map(|id| row(id, id + 1, 1)).collect());
        assert_eq!((fresh.rows.len(), fresh.n_bytes), (ROWS_MAX, ROWS_MAX));
        assert!(fresh.take(0, 9).is_empty(), "the first ones have left");
        fresh.add(vec![row(5000, 5001, BYTES_MAX), row(5001, 5002, 1)]);
        assert_eq!(ids(&fresh.take(5001, 9)), [5002]);
        fresh.add(vec![row(5002, 5003, BYTES_MAX + 1)]);
        assert_eq!((fresh.rows.len(), fresh.n_bytes), (0, 0));
    }
}
