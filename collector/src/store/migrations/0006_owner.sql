-- Whose a site is, and since when it is known: reports add up what a customer lost, of which time.
ALTER TABLE site ADD COLUMN owner TEXT; -- Unix user of the server; NULL unknown
ALTER TABLE site ADD COLUMN since INTEGER; -- when the first batch that names it came; NULL: before migration 6
