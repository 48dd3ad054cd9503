-- What became of the log lines and bytes that the batches of each server account for. Counted from this
-- release on; both sums are counted + rejected + lost.
CREATE TABLE ledger(
  server_id INTEGER PRIMARY KEY REFERENCES server ON DELETE CASCADE,
  n_lines_counted INTEGER NOT NULL, n_lines_rejected INTEGER NOT NULL, n_lines_lost INTEGER NOT NULL,
  n_bytes_counted INTEGER NOT NULL, n_bytes_rejected INTEGER NOT NULL, n_bytes_lost INTEGER NOT NULL) STRICT;
-- Log bytes the lost batches accounted for.
ALTER TABLE gap ADD COLUMN n_bytes INTEGER NOT NULL DEFAULT 0;
