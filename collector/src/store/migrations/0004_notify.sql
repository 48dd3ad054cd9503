-- What the detector decided that people hear of. A row leaves once every route was asked.
CREATE TABLE page(
  id INTEGER PRIMARY KEY, incident TEXT NOT NULL, rev INTEGER NOT NULL,
  event TEXT NOT NULL,                           -- opened, updated or resolved
  due INTEGER NOT NULL, UNIQUE(incident, rev)) STRICT;
-- What a route knows of an incident that is not over for it: the incident as it was told last.
CREATE TABLE told(
  incident TEXT NOT NULL, route TEXT NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY(incident, route)) WITHOUT ROWID, STRICT;
-- Pages kept back from a route: until its silence or hours end, or nobody acknowledged for long enough.
CREATE TABLE held(
  incident TEXT NOT NULL, route TEXT NOT NULL, since INTEGER NOT NULL, why TEXT NOT NULL,
  PRIMARY KEY(incident, route)) WITHOUT ROWID, STRICT;
-- What became of each page on each route: the notify log.
CREATE TABLE notice(
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, incident TEXT, route TEXT NOT NULL,
  event TEXT NOT NULL,                           -- opened, updated, resolved, digest or test
  what TEXT NOT NULL,                            -- owed, delivered, suppressed, refused, expired, superseded, dropped
  why TEXT NOT NULL, delivery TEXT) STRICT;
CREATE INDEX notice_incident ON notice(incident, id);
CREATE INDEX notice_at ON notice(at);
-- Maintenance windows: what matches is not paged between `starts` and `ends`.
CREATE TABLE silence(
  id TEXT PRIMARY KEY, matches TEXT NOT NULL,    -- JSON: key to value, all of them
  starts INTEGER NOT NULL, ends INTEGER NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL, made_at INTEGER NOT NULL,
  ended_at INTEGER, ended_by TEXT) WITHOUT ROWID, STRICT;
-- Messages owed, whole: body is `notify::Message`. Rows of the release before are carried over: what was
-- tried keeps its bytes and its delivery, what was not is decided again.
INSERT OR IGNORE INTO page(incident, rev, event, due)
  SELECT incident, rev, body ->> '$.event', min(due) FROM outbox WHERE body ->> '$.delivery' IS NULL GROUP BY incident, rev;
DELETE FROM outbox WHERE body ->> '$.delivery' IS NULL;
ALTER TABLE outbox RENAME TO outbox_before;
CREATE TABLE outbox(
  id INTEGER PRIMARY KEY, incident TEXT NOT NULL, -- empty: a digest
  route TEXT NOT NULL, due INTEGER NOT NULL, tries INTEGER NOT NULL, delivery TEXT NOT NULL UNIQUE, body TEXT NOT NULL) STRICT;
CREATE INDEX outbox_route ON outbox(route, incident, id);
INSERT INTO outbox(id, incident, route, due, tries, delivery, body)
  SELECT id, incident, route, due, tries, body ->> '$.delivery', body FROM outbox_before;
DROP TABLE outbox_before;
