//! Views for tests: a pair, a keyring, a trust and a snapshot with nothing remarkable about them, to be changed where a test cares.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::egress::{EgressSettings, EgressSnapshot};
use super::{Epoch, KeyPairView, KeyringView, Snapshot, TrustView};
use crate::keyring::{ActivationPolicy, CandidateList, KeyPairCandidate, PreferPolicy, Standing};
use crate::pki::{Fingerprint, KeyKind, SpkiHash, Validity};
use crate::trust::{AnchorView, CrlView, KeptContent, TrustContents, TrustFileFault};

/// A pair whose fingerprint begins so, valid all through 2026, in the folder.
pub(crate) fn sample_pair(first: &[u8], standing: Standing) -> KeyPairView {
    let at = |text: &str| text.parse().expect("a time");
    let mut bytes = [0; 32];
    bytes[..first.len()].copy_from_slice(first);
    KeyPairView {
        key_pair: Fingerprint::from_bytes(bytes),
        standing,
        since: at("2026-11-01T00:00:00Z"),
        validity: Validity { not_before: at("2026-01-01T00:00:00Z"), not_after: at("2027-01-01T00:00:00Z") },
        overlap_ends: None,
        subject: "CN=api".to_owned(),
        issuer: "CN=CA".to_owned(),
        serial: "01".to_owned(),
        key: "ECDSA P-256".to_owned(),
        names: Vec::new(),
        sources: vec!["api/tls.crt".into()],
        chain_sources: Vec::new(),
        in_folder: true,
        survives_restart: true,
        why: None,
        chain: Vec::new(),
        key_kind: KeyKind::P256,
        spki: SpkiHash::from_bytes(bytes),
        weakness: None,
        self_issued: false,
        chain_ends: None,
    }
}

/// The keyring `api` with these pairs.
pub(crate) fn sample_keyring(key_pairs: Vec<KeyPairView>) -> KeyringView {
    KeyringView {
        name: "api".into(),
        purpose: None,
        owner: None,
        contact: None,
        rotate_every: None,
        alert_before: None,
        waiting: Vec::new(),
        key_pairs,
        diverges: None,
        overlap_seconds: 2_592_000,
        seen_within_seconds: 3_024_000,
        prefer: PreferPolicy::New,
        activate: ActivationPolicy::Auto,
        held: Vec::new(),
        revoked: Vec::new(),
    }
}

/// A snapshot with these keyrings, and no listener.
pub(crate) fn sample_snapshot(keyrings: Vec<KeyringView>) -> Snapshot {
    Snapshot {
        epoch: Epoch(7),
        ingresses: BTreeMap::new(),
        egresses: BTreeMap::new(),
        waiting: Vec::new(),
        keyrings,
        trusts: Vec::new(),
        key_set: "{\"keys\":[]}".into(),
    }
}

/// A trust with this anchor of "CN=Partners' CA", used by the keyring `api`.
pub(crate) fn sample_trust(validity: Validity) -> TrustView {
    let anchor = AnchorView {
        anchor: Fingerprint::from_bytes([7; 32]),
        subject: "CN=Partners' CA".to_owned(),
        validity,
        until: None,
        platform: false,
        cannot_vouch: None,
    };
    let holds = TrustContents {
        stale_refuses: false,
        faults: Vec::new(),
        name: "partners".into(),
        anchors: vec![anchor],
        pins: Vec::new(),
        crls: Vec::new(),
        checks_crls: false,
    };
    TrustView { holds, keyrings: vec!["api".into()], used_by: vec!["api".into()] }
}

/// An egress of this name that may show one pair, with no config built for it.
pub(crate) fn sample_egress(name: &str, key_pair: Fingerprint) -> EgressSnapshot {
    let candidate = KeyPairCandidate::sample(name, key_pair);
    EgressSnapshot {
        settings: Arc::new(EgressSettings::for_keyring(name, name)),
        candidates: CandidateList(vec![candidate]),
        connectors: Vec::new(),
        without_key_pair: None,
        trust: crate::trust::sample::trust(&[]),
        bearer: None,
    }
}

/// A CRL of "CN=CA".
pub(crate) fn sample_crl(this_update: Timestamp, next_update: Timestamp) -> CrlView {
    CrlView { issuer: "CN=CA".to_owned(), anchors: Vec::new(), this_update, next_update, revoked: 2 }
}

/// An empty file of a trust whose former content stays in use.
pub(crate) fn sample_file_fault(since: Timestamp) -> TrustFileFault {
    let (file, why) = ("trust/a.pem".to_owned(), "the file is empty".to_owned());
    TrustFileFault { file, why, kept: KeptContent::LastUsable, since }
}
