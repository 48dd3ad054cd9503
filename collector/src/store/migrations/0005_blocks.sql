-- Sealed history: what the day files of `blocks/` and the month files of `rollup/` hold.
DROP TABLE metric;
DROP TABLE sealed;
-- A metric with one attribute: what a column of a day file is about.
CREATE TABLE metric(
  metric INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, attribute TEXT NOT NULL, -- as in wire::v1::Series
  scale INTEGER NOT NULL, unit TEXT NOT NULL,
  used INTEGER NOT NULL DEFAULT 0,               -- first second of the last day with a sample of it
  UNIQUE(name, attribute, scale)) STRICT;
-- Hours that are in their day file: readers take parts below `parts` from it, and of hot rows only those
-- with id > hot_cut.
CREATE TABLE sealed(
  t0 INTEGER PRIMARY KEY,                        -- first second of the hour, since the Unix epoch, UTC
  hot_cut INTEGER NOT NULL, parts INTEGER NOT NULL, at INTEGER NOT NULL,
  rolled INTEGER NOT NULL DEFAULT 0,             -- parts that are in the month file
  n_bytes INTEGER NOT NULL DEFAULT 0) STRICT;    -- size of its bodies
-- Days that are in their month file, until that file leaves: of which days there must be one.
CREATE TABLE summed(day INTEGER PRIMARY KEY) STRICT; -- first second of the day, UTC
-- What was found broken in day and month files: served no more, never deleted.
CREATE TABLE quarantine(
  id INTEGER PRIMARY KEY, file TEXT NOT NULL,    -- below the data directory: blocks/20261130.db
  t0 INTEGER, metric INTEGER, server_id INTEGER, part INTEGER, -- NULL: all of them
  at INTEGER NOT NULL, why TEXT NOT NULL, UNIQUE(file, t0, metric, server_id, part)) STRICT;
