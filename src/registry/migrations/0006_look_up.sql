-- A peer is found by its name, and by a certificate that it showed, without all the others being read. Its name is its identity, or
-- its subject where it has none; that may be longer than an index takes, so the begin of it is in there.

CREATE INDEX peer_name ON peer (substr(COALESCE(identity, subject), 1, 200));
CREATE INDEX peer_certificate ON peer (certificate);

-- How many certificates a CRL revokes; NULL: an earlier version wrote it.
ALTER TABLE crl ADD COLUMN revoked BIGINT;
