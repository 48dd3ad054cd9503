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
-- Messages owed, whole: body is `notify::Message`. Rows of the release before are carried over. What was
-- tried keeps its bytes and its delivery. Of what was not, a beginning is asked about again, on its route
-- alone; any other row says that its route knows of the incident, and the clerk sees whether it is over.
INSERT INTO held(incident, route, since, why)
  SELECT incident, route, min(due), 'not sent before the update' FROM outbox
  WHERE body ->> '$.delivery' IS NULL AND body ->> '$.event' = 'opened' GROUP BY incident, route;
INSERT INTO told(incident, route, since, at, body)
  SELECT o.incident, o.route, min(o.due), min(o.due), i.body FROM outbox o JOIN incident i ON i.id = o.incident
  WHERE o.body ->> '$.delivery' IS NULL AND NOT EXISTS
    (SELECT 1 FROM held h WHERE h.incident = o.incident AND h.route = o.route)
  GROUP BY o.incident, o.route;
DELETE FROM outbox WHERE body ->> '$.delivery' IS NULL;
ALTER TABLE outbox RENAME TO outbox_before;
CREATE TABLE outbox(
  id INTEGER PRIMARY KEY, incident TEXT NOT NULL, -- empty: a digest
  route TEXT NOT NULL, due INTEGER NOT NULL, tries INTEGER NOT NULL, delivery TEXT NOT NULL UNIQUE, body TEXT NOT NULL) STRICT;
CREATE INDEX outbox_route ON outbox(route, incident, id);
INSERT INTO outbox(id, incident, route, due, tries, delivery, body)
  SELECT id, incident, route, due, tries, body ->> '$.delivery', body FROM outbox_before;
DROP TABLE outbox_before;
