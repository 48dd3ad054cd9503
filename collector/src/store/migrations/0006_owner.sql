-- Whose a site is: reports add up what a customer lost.
ALTER TABLE site ADD COLUMN owner TEXT; -- Unix user of the server; NULL unknown
