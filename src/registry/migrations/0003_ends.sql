-- Whatever ends before the certificate that it vouches for: an intermediate of a pair's own chain, and the begin of a trust
-- anchor's validity, from which its alerts are reckoned.

ALTER TABLE placement ADD COLUMN chain_ends BIGINT;
ALTER TABLE placement ADD COLUMN chain_issuer TEXT;
ALTER TABLE anchor ADD COLUMN not_before BIGINT;

-- What somebody has acknowledged is one end of a certificate, not the next one too.
ALTER TABLE acknowledgement ADD COLUMN ends BIGINT;
