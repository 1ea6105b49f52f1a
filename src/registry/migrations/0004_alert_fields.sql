-- What a webhook's JSON has as fields of its own: the owner, the contacts and the date that an alert is about.

ALTER TABLE alert ADD COLUMN owner TEXT;
ALTER TABLE alert ADD COLUMN contact TEXT;
ALTER TABLE alert ADD COLUMN ends BIGINT;
