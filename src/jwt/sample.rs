//! Key pairs and claims for the tests of this room; RSA keys are generated once, because that takes long.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use jiff::Timestamp;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::TokenClaims;
use crate::pki::issue::{self, IssueRequest, NewKeyKind};
use crate::pki::{KeyPair, Validity, blocks};

/// Every kind of key that signs tokens.
pub(crate) const SIGNING_KEY_KINDS: [NewKeyKind; 4] =
    [NewKeyKind::P256, NewKeyKind::P384, NewKeyKind::Ed25519, NewKeyKind::Rsa(2048)];

static KEY_PAIR_CACHE: Mutex<BTreeMap<String, Arc<KeyPair>>> = Mutex::new(BTreeMap::new());
static NO_CLAIMS: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// 2026-11-25T12:00:00Z.
pub(crate) fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

/// The pair of this kind, valid for 2026 and 2027.
pub(crate) fn key_pair(kind: NewKeyKind) -> Arc<KeyPair> {
    Arc::clone(KEY_PAIR_CACHE.lock().unwrap().entry(format!("{kind:?}")).or_insert_with(|| generate_key_pair(kind)))
}

/// Another pair of this kind.
pub(crate) fn generate_key_pair(kind: NewKeyKind) -> Arc<KeyPair> {
    let request = IssueRequest {
        common_name: "acme".into(),
        organization: None,
        dns: vec!["acme.example".into()],
        uris: Vec::new(),
        ips: Vec::new(),
        server: false,
        client: false,
        validity: Validity {
            not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2027-12-31T00:00:00Z".parse().unwrap(),
        },
        key: kind,
    };
    let issued = issue::self_signed(&request).unwrap();
    let both = Zeroizing::new(format!("{}{}", issued.chain_pem, *issued.key_pem).into_bytes());
    let read = blocks::read(&both, None);
    KeyPair::new(read.certificates, Arc::clone(&read.keys[0]), Vec::new()).unwrap()
}

/// The claims of a valid token.
pub(crate) fn claims() -> TokenClaims<'static> {
    TokenClaims {
        issuer: "acme",
        subject: "sync",
        audience: "https://orders.example.com",
        lifetime: std::time::Duration::from_secs(120),
        id: "1",
        more: &NO_CLAIMS,
    }
}
