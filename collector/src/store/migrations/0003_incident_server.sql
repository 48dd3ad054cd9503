-- Which servers an incident of whole servers hit, and when: the order of onset outlives the incident.
CREATE TABLE incident_server(
  incident TEXT NOT NULL REFERENCES incident, server_id INTEGER NOT NULL, name TEXT NOT NULL,
  since INTEGER NOT NULL, until INTEGER, PRIMARY KEY(incident, server_id)) WITHOUT ROWID, STRICT;
