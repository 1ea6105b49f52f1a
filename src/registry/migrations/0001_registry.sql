-- The registry, in the subset of SQL that SQLite and Postgres both accept. Times are seconds since 1970, flags 0 or 1,
-- lists texts with one element a line. `instance` is the sidecar that says so; what a certificate itself says is nobody's.

CREATE TABLE instance (
    instance TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL
);

CREATE TABLE keyring (
    instance TEXT NOT NULL,
    keyring TEXT NOT NULL,
    purpose TEXT,
    owner TEXT,
    contact TEXT,
    rotate_every BIGINT,
    alert_before TEXT,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    present BIGINT NOT NULL,
    PRIMARY KEY (instance, keyring)
);

CREATE TABLE key_pair (
    key_pair TEXT NOT NULL PRIMARY KEY,
    subject TEXT NOT NULL,
    names TEXT NOT NULL,
    issuer TEXT NOT NULL,
    serial TEXT NOT NULL,
    key_kind TEXT NOT NULL,
    spki TEXT NOT NULL,
    not_before BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    weakness TEXT,
    self_issued BIGINT NOT NULL
);

CREATE TABLE placement (
    instance TEXT NOT NULL,
    keyring TEXT NOT NULL,
    key_pair TEXT NOT NULL,
    standing TEXT NOT NULL,
    since BIGINT NOT NULL,
    overlap_ends BIGINT,
    sources TEXT NOT NULL,
    why TEXT,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    last_used BIGINT,
    present BIGINT NOT NULL,
    PRIMARY KEY (instance, keyring, key_pair)
);
CREATE INDEX placement_key_pair ON placement (key_pair);

CREATE TABLE waiting_key (
    instance TEXT NOT NULL,
    keyring TEXT NOT NULL,
    file TEXT NOT NULL,
    spki TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    present BIGINT NOT NULL,
    PRIMARY KEY (instance, keyring, file, spki)
);

CREATE TABLE trust (
    instance TEXT NOT NULL,
    trust TEXT NOT NULL,
    keyrings TEXT NOT NULL,
    checks_crls BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    present BIGINT NOT NULL,
    PRIMARY KEY (instance, trust)
);

CREATE TABLE anchor (
    instance TEXT NOT NULL,
    trust TEXT NOT NULL,
    kind TEXT NOT NULL,
    anchor TEXT NOT NULL,
    subject TEXT,
    not_after BIGINT,
    accepted_until BIGINT,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    last_matched BIGINT,
    present BIGINT NOT NULL,
    PRIMARY KEY (instance, trust, kind, anchor)
);

CREATE TABLE crl (
    instance TEXT NOT NULL,
    trust TEXT NOT NULL,
    issuer TEXT NOT NULL,
    anchors TEXT NOT NULL,
    this_update BIGINT NOT NULL,
    next_update BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    present BIGINT NOT NULL,
    PRIMARY KEY (instance, trust, issuer)
);

CREATE TABLE peer (
    instance TEXT NOT NULL,
    side TEXT NOT NULL,
    listener TEXT NOT NULL,
    certificate TEXT NOT NULL,
    identity TEXT,
    partner TEXT,
    subject TEXT NOT NULL,
    issuer TEXT NOT NULL,
    serial TEXT NOT NULL,
    not_before BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    public_ca BIGINT NOT NULL,
    address TEXT,
    keyring TEXT,
    key_pair TEXT,
    handshakes BIGINT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (instance, side, listener, certificate)
);
CREATE INDEX peer_key_pair ON peer (key_pair);

-- `run` is a number that each start of a sidecar draws; with a counter it makes a row's name, so that writing a batch
-- again writes nothing twice.
CREATE TABLE failure (
    instance TEXT NOT NULL,
    run BIGINT NOT NULL,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    side TEXT NOT NULL,
    listener TEXT NOT NULL,
    reason TEXT NOT NULL,
    explanation TEXT NOT NULL,
    address TEXT,
    server_name TEXT,
    subject TEXT,
    issuer TEXT,
    certificate TEXT,
    key_pair TEXT,
    alert TEXT,
    repeats BIGINT NOT NULL,
    PRIMARY KEY (instance, run, number)
);
CREATE INDEX failure_at ON failure (instance, at);

CREATE TABLE history (
    instance TEXT NOT NULL,
    run BIGINT NOT NULL,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    key_pair TEXT,
    was TEXT,
    becomes TEXT,
    who TEXT NOT NULL,
    reason TEXT NOT NULL,
    why TEXT NOT NULL,
    PRIMARY KEY (instance, run, number)
);
CREATE INDEX history_at ON history (at);

-- One row for each alert and sink: whoever inserts it first has claimed it, for as long as the lease lasts.
CREATE TABLE alert (
    alert TEXT NOT NULL,
    sink TEXT NOT NULL,
    kind TEXT NOT NULL,
    keyring TEXT NOT NULL,
    key_pair TEXT,
    urgent BIGINT NOT NULL,
    recipient TEXT,
    summary TEXT NOT NULL,
    remedy TEXT NOT NULL,
    raised_by TEXT NOT NULL,
    raised BIGINT NOT NULL,
    state TEXT NOT NULL,
    holder TEXT NOT NULL,
    lease_ends BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_try BIGINT NOT NULL,
    error TEXT,
    PRIMARY KEY (alert, sink)
);
CREATE INDEX alert_state ON alert (state, next_try);

CREATE TABLE acknowledgement (
    key_pair TEXT NOT NULL,
    at BIGINT NOT NULL,
    keyring TEXT NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    PRIMARY KEY (key_pair, at, who)
);
