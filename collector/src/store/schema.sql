-- The schema of gatewatch.db as it is today, for readers; the migrations make it. Times are
-- milliseconds since the Unix epoch, UTC.
-- AUTOINCREMENT on ids that other rows keep: a forgotten server's id must not name another one.
CREATE TABLE server(
  server_id INTEGER PRIMARY KEY AUTOINCREMENT, uuid BLOB NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE,
  joined_with TEXT, key_sha256 BLOB,             -- token id and public key it joined with: an enrolment may be repeated
  first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'silent',          -- up, silent, goodbye or revoked
  meta TEXT                                      -- JSON: version, n_cpu, heartbeat_ms, clock_offset_ms, spool_bytes, n_sites
) STRICT;
-- Labels of a server, one row per source; the strongest source wins: operator 3, token 2, config 1, detected 0.
CREATE TABLE label(
  server_id INTEGER NOT NULL REFERENCES server ON DELETE CASCADE, source INTEGER NOT NULL,
  k TEXT NOT NULL, v TEXT NOT NULL, PRIMARY KEY(server_id, source, k)) WITHOUT ROWID, STRICT;
-- Join tokens: only the SHA-256 of the secret is kept.
CREATE TABLE token(
  id TEXT PRIMARY KEY, secret_sha256 BLOB NOT NULL, labels TEXT NOT NULL, replace_name TEXT,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, uses_max INTEGER NOT NULL,
  uses INTEGER NOT NULL DEFAULT 0, revoked_at INTEGER) WITHOUT ROWID, STRICT;
-- Certificates handed out, so that one can be refused before it expires.
CREATE TABLE certificate(
  serial BLOB PRIMARY KEY, server_id INTEGER NOT NULL REFERENCES server ON DELETE CASCADE,
  not_after INTEGER NOT NULL, issued_at INTEGER NOT NULL, revoked_at INTEGER) WITHOUT ROWID, STRICT;
CREATE INDEX certificate_revoked ON certificate(revoked_at) WHERE revoked_at IS NOT NULL;
CREATE TABLE watermark(server_id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL) STRICT;
CREATE TABLE state(k TEXT PRIMARY KEY, v INTEGER NOT NULL) WITHOUT ROWID, STRICT; -- hw_upto, detect_upto
-- Batches as they came. AUTOINCREMENT: an emptied table must not hand out old ids again. No index, ever.
CREATE TABLE hot(
  id INTEGER PRIMARY KEY AUTOINCREMENT, server_id INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  at INTEGER NOT NULL,                           -- arrival, collector's clock
  t_min INTEGER NOT NULL, t_max INTEGER NOT NULL,
  complete_until INTEGER NOT NULL,               -- agent's clock: no older count is unsent after this batch
  codec INTEGER NOT NULL,                        -- low byte: as Batch.codec; 0 = unreadable, body is the reason as text; above it a checksum (store/guard.rs)
  body BLOB NOT NULL) STRICT;
CREATE TABLE gap(
  server_id INTEGER NOT NULL, epoch INTEGER NOT NULL, seq_from INTEGER NOT NULL, seq_to INTEGER NOT NULL,
  n_lines INTEGER NOT NULL, at INTEGER NOT NULL, n_bytes INTEGER NOT NULL DEFAULT 0) STRICT;
-- What became of the log lines and bytes that the batches of each server account for; seen = counted +
-- rejected + lost. Counted since migration 2.
CREATE TABLE ledger(
  server_id INTEGER PRIMARY KEY REFERENCES server ON DELETE CASCADE,
  n_lines_counted INTEGER NOT NULL, n_lines_rejected INTEGER NOT NULL, n_lines_lost INTEGER NOT NULL,
  n_bytes_counted INTEGER NOT NULL, n_bytes_rejected INTEGER NOT NULL, n_bytes_lost INTEGER NOT NULL) STRICT;
-- The loss ledger of each server, summed from its batches in the commit that stores them.
CREATE TABLE loss(
  server_id INTEGER NOT NULL REFERENCES server ON DELETE CASCADE, k TEXT NOT NULL, n INTEGER NOT NULL,
  PRIMARY KEY(server_id, k)) WITHOUT ROWID, STRICT;
CREATE TABLE site(
  site_id INTEGER PRIMARY KEY AUTOINCREMENT, server_id INTEGER NOT NULL REFERENCES server ON DELETE CASCADE, host TEXT NOT NULL,
  pool TEXT, upstream TEXT, owner TEXT,          -- owner: Unix user of the server it belongs to
  since INTEGER,                                 -- when the first batch that names it came; NULL: before migration 6
  UNIQUE(server_id, host)) STRICT;
CREATE TABLE event(id INTEGER PRIMARY KEY, ts INTEGER NOT NULL, server_id INTEGER, kind INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE INDEX event_ts ON event(ts);
CREATE INDEX event_server ON event(server_id, ts);
CREATE TABLE baseline(site_id INTEGER PRIMARY KEY REFERENCES site ON DELETE CASCADE, body BLOB NOT NULL) STRICT;
CREATE TABLE snapshot(k TEXT PRIMARY KEY, upto INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE incident(
  id TEXT PRIMARY KEY, key TEXT NOT NULL, opened INTEGER NOT NULL, closed INTEGER, epoch INTEGER NOT NULL DEFAULT 0,
  rev INTEGER NOT NULL, body TEXT NOT NULL,      -- body: the incident object of the contract
  acked_by TEXT, acked_at INTEGER) STRICT;
CREATE UNIQUE INDEX incident_open ON incident(key) WHERE closed IS NULL;
CREATE TABLE incident_note(
  id INTEGER PRIMARY KEY, incident TEXT NOT NULL REFERENCES incident, at INTEGER NOT NULL, by TEXT NOT NULL, text TEXT NOT NULL) STRICT;
CREATE TABLE incident_site(
  incident TEXT NOT NULL REFERENCES incident, site_id INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER,
  PRIMARY KEY(incident, site_id, since)) WITHOUT ROWID, STRICT;
-- Which servers an incident of whole servers hit, and when: the order of onset outlives the incident.
CREATE TABLE incident_server(
  incident TEXT NOT NULL REFERENCES incident, server_id INTEGER NOT NULL, name TEXT NOT NULL,
  since INTEGER NOT NULL, until INTEGER, PRIMARY KEY(incident, server_id)) WITHOUT ROWID, STRICT;
-- What the detector decided that people hear of. A row leaves once every route was asked.
CREATE TABLE page(
  id INTEGER PRIMARY KEY, incident TEXT NOT NULL, rev INTEGER NOT NULL,
  event TEXT NOT NULL,                           -- opened, updated or resolved
  due INTEGER NOT NULL, UNIQUE(incident, rev)) STRICT;
-- What a route knows of an incident that is not over for it: the incident as it was told last.
CREATE TABLE told(
  incident TEXT NOT NULL, route TEXT NOT NULL,
  since INTEGER NOT NULL DEFAULT 0, at INTEGER NOT NULL, -- when it was told first and last
  body TEXT NOT NULL, PRIMARY KEY(incident, route)) WITHOUT ROWID, STRICT;
-- Pages kept back from a route: until its silence or hours end, or nobody acknowledged for long enough.
CREATE TABLE held(
  incident TEXT NOT NULL, route TEXT NOT NULL, since INTEGER NOT NULL, why TEXT NOT NULL,
  PRIMARY KEY(incident, route)) WITHOUT ROWID, STRICT;
-- What became of each page on each route: the notify log.
CREATE TABLE notice(
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, incident TEXT, route TEXT NOT NULL,
  event TEXT NOT NULL,                           -- opened, updated, resolved, digest or test
  what TEXT NOT NULL,                            -- owed, delivered, suppressed, unwanted, refused, expired, superseded, dropped
  why TEXT NOT NULL, delivery TEXT) STRICT;
CREATE INDEX notice_incident ON notice(incident, id);
CREATE INDEX notice_at ON notice(at);
-- Maintenance windows: what matches is not paged between `starts` and `ends`.
CREATE TABLE silence(
  id TEXT PRIMARY KEY, matches TEXT NOT NULL,    -- JSON: key to value, all of them
  starts INTEGER NOT NULL, ends INTEGER NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL, made_at INTEGER NOT NULL,
  ended_at INTEGER, ended_by TEXT) WITHOUT ROWID, STRICT;
-- Messages owed, whole: body is `notify::Message`.
CREATE TABLE outbox(
  id INTEGER PRIMARY KEY, incident TEXT NOT NULL, -- empty: a digest
  route TEXT NOT NULL, due INTEGER NOT NULL, tries INTEGER NOT NULL, delivery TEXT NOT NULL UNIQUE, body TEXT NOT NULL) STRICT;
CREATE INDEX outbox_route ON outbox(route, incident, id);
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
