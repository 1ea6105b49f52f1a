-- What an instance knows of each pair at each sender of an ingress: the rotation report of the whole fleet is made of it.
-- `sender` is a hash of listener, identity, certificate and source, which may be too long for an index.

CREATE TABLE sender (
    instance TEXT NOT NULL,
    keyring TEXT NOT NULL,
    sender TEXT NOT NULL,
    key_pair TEXT NOT NULL,
    listener TEXT NOT NULL,
    identity TEXT NOT NULL,
    certificate TEXT NOT NULL,
    source TEXT NOT NULL,
    partner TEXT,
    visits BIGINT NOT NULL,
    connections BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    handshakes BIGINT NOT NULL,
    since BIGINT,
    chosen_by TEXT,
    proved BIGINT,
    unexplained_ends BIGINT NOT NULL,
    ended BIGINT,
    insisted BIGINT,
    reason TEXT,
    because TEXT,
    PRIMARY KEY (instance, keyring, sender, key_pair)
);
CREATE INDEX sender_last_seen ON sender (keyring, last_seen);

-- Peers that an earlier version saw: when they came is known, but not what they proved.
INSERT INTO sender (instance, keyring, sender, key_pair, listener, identity, certificate, source, partner, visits,
    connections, first_seen, last_seen, handshakes, unexplained_ends)
SELECT instance, keyring, 'peer ' || listener || ' ' || certificate, key_pair, listener, identity, certificate,
    COALESCE(address, ''), partner, handshakes, handshakes, first_seen, last_seen, 0, 0
FROM peer WHERE side = 'ingress' AND keyring IS NOT NULL AND key_pair IS NOT NULL AND identity IS NOT NULL;
