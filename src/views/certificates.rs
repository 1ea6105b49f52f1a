//! A certificate with all its fields: as `sidekey inspect` reads it from a file, and by its fingerprint, wherever the
//! sidecar knows it from.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::RuntimeViews;
use crate::keyring::Standing;
use crate::pki::{Certificate, Fingerprint, Validity};
use crate::registry::{PeerRow, RegistryStore};
use crate::snapshot::Snapshot;

/// Rows of the registry that are read of the peers that showed a certificate, those that came last.
const MOST_ROWS: i64 = 100;

/// The fields of a certificate that its bytes say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// Subject, printable.
    pub subject: String,
    /// Issuer, printable.
    pub issuer: String,
    /// Serial number, hex.
    pub serial: String,
    /// Names of the SAN, each with its kind: `uri:`, `dns:`, `ip:`, `email:`.
    pub names: Vec<String>,
    /// Begin of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// The same as a sentence.
    pub validity: String,
    /// Kind and size of its key.
    pub key: String,
    /// What its extended key usage allows.
    pub usage: String,
    /// The algorithm of its signature, by its name in the RFCs, or by its OID where it has none here.
    pub signature: String,
    /// It may issue certificates.
    pub authority: bool,
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    /// SHA-256 of its SubjectPublicKeyInfo, as in `pins`.
    pub pin: String,
    /// Why it is too weak to serve, if it is.
    pub weakness: Option<String>,
}

/// Where the sidecar knows a certificate from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum CertificateRole {
    /// The end entity of a pair of ours.
    KeyPair {
        /// The keyring.
        keyring: Arc<str>,
        /// Its standing there.
        standing: Standing,
    },
    /// An intermediate that we show after a pair.
    Intermediate {
        /// The keyring.
        keyring: Arc<str>,
        /// The pair.
        key_pair: Fingerprint,
    },
    /// An anchor of a trust.
    Anchor {
        /// The trust.
        trust: Arc<str>,
    },
    /// A peer or an upstream showed it.
    Peer {
        /// `ingress` or `egress`.
        side: String,
        /// The listener.
        listener: String,
        /// Its identity; without one, its subject.
        identity: String,
    },
}

/// One certificate and what the sidecar knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateDetails {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Its roles; a peer's at most a hundred times.
    pub roles: Vec<CertificateRole>,
    /// All its fields; absent where only the registry remembers it.
    pub certificate: Option<CertificateView>,
    /// The certificate; absent where only the registry remembers it.
    pub pem: Option<String>,
    /// What the registry remembers, where its bytes are not at hand.
    pub remembered: Option<PeerRow>,
}

/// Reads the fields.
pub fn describe_certificate(certificate: &Certificate, now: Timestamp) -> CertificateView {
    let validity = certificate.validity();
    let typed = |kind: &str, names: &[String]| names.iter().map(|name| format!("{kind}:{name}")).collect::<Vec<_>>();
    let mut names = typed("uri", certificate.uris());
    names.extend(typed("dns", certificate.dns_names()));
    names.extend(certificate.ips().iter().map(|ip| format!("ip:{ip}")));
    names.extend(typed("email", certificate.emails()));
    let usage = certificate.usage();
    CertificateView {
        subject: certificate.subject().to_owned(),
        issuer: certificate.issuer().to_owned(),
        serial: certificate.serial().to_owned(),
        names,
        not_before: validity.not_before,
        not_after: validity.not_after,
        validity: validity_text(validity, now),
        key: certificate.key().to_string(),
        usage: match (usage.limited, usage.server, usage.client) {
            (false, ..) => "any (no extended key usage)",
            (true, true, true) => "server and client",
            (true, true, false) => "server only",
            (true, false, true) => "client only",
            (true, false, false) => "neither server nor client",
        }
        .to_owned(),
        signature: certificate.signature_algorithm().to_owned(),
        authority: certificate.is_ca(),
        fingerprint: certificate.fingerprint().to_string(),
        pin: certificate.spki_hash().to_string(),
        weakness: certificate.weakness().map(str::to_owned),
    }
}

/// Until when it is valid, as a sentence with the days.
fn validity_text(validity: Validity, now: Timestamp) -> String {
    let days = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs() / 86_400;
    if now < validity.not_before {
        format!("not valid before {} (in {} days)", validity.not_before, days(now, validity.not_before))
    } else if now > validity.not_after {
        format!("expired on {} ({} days ago)", validity.not_after, days(validity.not_after, now))
    } else {
        format!("valid until {} ({} days left)", validity.not_after, days(now, validity.not_after))
    }
}

/// A certificate by its fingerprint; `None`: the sidecar does not know it.
pub(crate) async fn find_certificate(views: &RuntimeViews, fingerprint: Fingerprint) -> Option<CertificateDetails> {
    let snapshot = views.reader.latest();
    let (mut roles, mut found) = find_ours(&snapshot, fingerprint);
    if found.is_none() {
        found = find_shown(views, fingerprint);
    }
    let text = fingerprint.to_string();
    let read = async move |store: RegistryStore| store.find_peers_by_certificate(&text, MOST_ROWS).await;
    let rows: Vec<PeerRow> = views.registry.read(read).await.unwrap_or_default();
    roles.extend(rows.iter().map(|row| CertificateRole::Peer {
        side: row.side.clone(),
        listener: row.listener.clone(),
        identity: row.identity.clone().unwrap_or_else(|| row.subject.clone()),
    }));
    let remembered = rows.into_iter().next().filter(|_| found.is_none());
    let is_known = !roles.is_empty() || found.is_some();
    is_known.then(|| CertificateDetails {
        fingerprint,
        roles,
        certificate: found.as_ref().map(|certificate| describe_certificate(certificate, views.events.now())),
        pem: found.as_ref().map(|certificate| certificate.pem()),
        remembered,
    })
}

/// Among our pairs' chains and the anchors that are accepted.
fn find_ours(snapshot: &Snapshot, fingerprint: Fingerprint) -> (Vec<CertificateRole>, Option<Arc<Certificate>>) {
    let (mut roles, mut found) = (Vec::new(), None);
    for keyring in &snapshot.keyrings {
        for pair in &keyring.key_pairs {
            let Some(certificate) = pair.chain.iter().find(|one| one.fingerprint() == fingerprint) else { continue };
            found = Some(Arc::clone(certificate));
            let (keyring, key_pair) = (Arc::clone(&keyring.name), pair.key_pair);
            roles.push(if key_pair == fingerprint {
                CertificateRole::KeyPair { keyring, standing: pair.standing }
            } else {
                CertificateRole::Intermediate { keyring, key_pair }
            });
        }
    }
    let of_ingresses = snapshot.ingresses.values().map(|ingress| &ingress.trust);
    for trust in of_ingresses.chain(snapshot.egresses.values().map(|egress| &egress.trust)) {
        let Some(anchor) = trust.anchors().iter().find(|one| one.fingerprint() == fingerprint) else { continue };
        found = Some(Arc::clone(anchor));
        let role = CertificateRole::Anchor { trust: Arc::clone(trust.name()) };
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    (roles, found)
}

/// Among the certificates that the recent handshakes' other sides sent.
fn find_shown(views: &RuntimeViews, fingerprint: Fingerprint) -> Option<Arc<Certificate>> {
    let recent = views.events.recent();
    let mut sent = recent.iter().rev().flat_map(|handshake| handshake.peer_chain.iter());
    let der = sent.find(|der| Fingerprint::of(der) == fingerprint)?;
    Certificate::parse(der.clone().into_owned()).ok()
}
