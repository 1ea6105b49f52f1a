//! Keyrings, trusts and settings → a snapshot. All that can fail before it is published.
//!
//! Pure but for the key pairs' own cryptography. It resolves names; it decides nothing. A listener without a pair to
//! show or without a trust to verify with is not in the snapshot: it waits, and the snapshot records for what.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::bearer::TokenRoute;
use super::{
    ChainEnd, EgressBearer, EgressSnapshot, Epoch, IngressSnapshot, KeyPairView, KeyringView, ListenerId, Side,
    Snapshot, TrustView,
};
use crate::evidence::ProbeMode;
use crate::jwt::{SignatureAlgorithm, TokenVerifier};
use crate::keyring::{CandidateList, HeldPair, Keyring, KeyringName, PreferPolicy, Standing};
use crate::pki::{Certificate, KeyPair, PendingKey};
use crate::tls::{AlpnProtocol, AuthorityNames, EgressConnector, IngressAcceptor, TlsTimeSource, acceptor, connector};
use crate::trust::{Anchors, OWN_TRUST_PREFIX, Partner, Partners, PeerRole, Trust, TrustName};

/// What a snapshot is built from: views into the writer's state.
pub struct SnapshotParts<'a> {
    /// The settings' listeners and partners.
    pub ingresses: &'a [super::ingress::IngressSettings],
    /// Egress listeners.
    pub egresses: &'a [super::egress::EgressSettings],
    /// Partners in order.
    pub partners: &'a [crate::trust::partner::PartnerSettings],
    /// Keyrings by name.
    pub keyrings: &'a BTreeMap<KeyringName, Keyring>,
    /// Trusts by name; a keyring's own `ca.crt` under `own:KEYRING`.
    pub trusts: &'a BTreeMap<TrustName, Anchors>,
    /// Certificates of a file that the configuration names.
    pub named: &'a dyn Fn(&Path) -> Vec<Arc<Certificate>>,
    /// Keys of a keyring's folder that wait for their certificate.
    pub waiting: &'a dyn Fn(&str) -> Vec<PendingKey>,
    /// Pairs whose files vanished survive a restart.
    pub remembers: bool,
}

/// Why no snapshot could be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A TLS config.
    #[error("{listener}: {source}")]
    Tls {
        /// Which listener.
        listener: String,
        /// Why.
        source: crate::tls::TlsConfigError,
    },
}

/// Why a listener is not in the snapshot.
enum MissingName {
    /// Something has to come first.
    Waits(String),
    /// Something is wrong.
    Wrong(BuildError),
}

/// Builds one as it is at `now`; its TLS configs go by `time`.
pub fn build_snapshot(
    epoch: Epoch,
    parts: &SnapshotParts<'_>,
    now: Timestamp,
    time: &TlsTimeSource,
) -> Result<Snapshot, BuildError> {
    let partners = Arc::new(build_partners(parts, now));
    let builder = SnapshotBuilder {
        parts,
        time,
        now,
        // A trust is built once an epoch, however many listeners share it: they share its cache too.
        trusts: parts
            .trusts
            .iter()
            .map(|(name, anchors)| (Arc::clone(name), anchors.build_with_partners(&partners, now)))
            .collect(),
        partners,
    };
    let mut snapshot = Snapshot {
        epoch,
        ingresses: BTreeMap::new(),
        egresses: BTreeMap::new(),
        waiting: Vec::new(),
        key_set: builder.key_set(&parts.keyrings.keys().cloned().collect::<Vec<_>>()),
        keyrings: parts.keyrings.values().map(|keyring| view_of_keyring(keyring, parts)).collect(),
        trusts: builder.trusts.iter().map(|(name, trust)| trust_view(name, trust, parts)).collect(),
    };
    for settings in parts.ingresses {
        match builder.build_ingress(settings) {
            Ok(ingress) => drop(snapshot.ingresses.insert(Arc::clone(&settings.name), Arc::new(ingress))),
            Err(MissingName::Waits(what)) => snapshot.waiting.push((listener_id(Side::Ingress, &settings.name), what)),
            Err(MissingName::Wrong(error)) => return Err(error),
        }
    }
    for settings in parts.egresses {
        match builder.build_egress(settings) {
            Ok(egress) => drop(snapshot.egresses.insert(Arc::clone(&settings.name), Arc::new(egress))),
            Err(MissingName::Waits(what)) => snapshot.waiting.push((listener_id(Side::Egress, &settings.name), what)),
            Err(MissingName::Wrong(error)) => return Err(error),
        }
    }
    Ok(snapshot)
}

struct SnapshotBuilder<'a> {
    parts: &'a SnapshotParts<'a>,
    time: &'a TlsTimeSource,
    now: Timestamp,
    trusts: BTreeMap<TrustName, Arc<Trust>>,
    partners: Arc<Partners>,
}

impl SnapshotBuilder<'_> {
    fn build_ingress(&self, settings: &super::ingress::IngressSettings) -> Result<IngressSnapshot, MissingName> {
        let (candidates, pairs) = self.collect_candidates(&settings.keyrings)?;
        let first = settings.keyrings.first().map_or("default", |name| name.as_ref());
        let trust = self.find_trust(settings.trust.as_ref(), first)?;
        let authorities = match &settings.authorities_file {
            Some(file) => AuthorityNames::Subjects(
                (self.parts.named)(file).iter().map(|certificate| certificate.subject_der().to_vec()).collect(),
            ),
            None => settings.authorities.clone(),
        };
        let acceptors = pairs.iter().map(|pair| {
            IngressAcceptor::new(&acceptor::AcceptorParts {
                pair,
                trust: &trust,
                client_auth: settings.client_auth,
                authorities: &authorities,
                settings: &settings.tls,
                time: self.time,
            })
            .map_err(|source| tls_omission(Side::Ingress, &settings.name, source))
        });
        Ok(IngressSnapshot {
            acceptors: acceptors.collect::<Result<_, _>>()?,
            settings: Arc::new(settings.clone()),
            candidates,
            trust,
            partners: Arc::clone(&self.partners),
            jwt: settings.jwt.as_ref().map(|jwt| self.build_verifier(jwt)).transpose()?,
            key_set: settings.jwks.then(|| self.key_set(&settings.keyrings)),
        })
    }

    fn build_egress(&self, settings: &super::egress::EgressSettings) -> Result<EgressSnapshot, MissingName> {
        let (candidates, pairs) = self.collect_candidates(std::slice::from_ref(&settings.keyring))?;
        let trust = self.find_trust(settings.trust.as_ref(), &settings.keyring)?;
        let bearer = self.build_bearer(settings, &pairs, &trust)?;
        let parts = |pair| connector::ConnectorParts {
            pair,
            trust: &trust,
            expects: &settings.expects,
            host: &settings.upstream.host,
            settings: &settings.tls,
            time: self.time,
        };
        let omission = |source| tls_omission(Side::Egress, &settings.name, source);
        let connectors = pairs.iter().map(|pair| EgressConnector::new(&parts(pair)).map_err(omission));
        let asks_bare = matches!(settings.probe, ProbeMode::Head(_)) || pairs.len() > 1;
        let bare = pairs.first().filter(|_| asks_bare).map(|pair| EgressConnector::without_key_pair(&parts(pair)));
        Ok(EgressSnapshot {
            connectors: connectors.collect::<Result<_, _>>()?,
            without_key_pair: bare.transpose().map_err(omission)?,
            settings: Arc::new(settings.clone()),
            candidates,
            trust,
            bearer,
        })
    }

    /// What an ingress verifies tokens with.
    fn build_verifier(&self, jwt: &crate::jwt::verify::TokenVerifierSettings) -> Result<TokenVerifier, MissingName> {
        let certificates: Vec<_> = jwt.certificates.iter().flat_map(|file| (self.parts.named)(file)).collect();
        let verifier = TokenVerifier::new(jwt.clone(), &certificates);
        if verifier.has_keys() {
            return Ok(verifier);
        }
        let partner = &jwt.partner;
        Err(MissingName::Waits(format!(
            "a certificate in jwt.certificates that partner {partner:?} can sign tokens with"
        )))
    }

    /// Who signs the tokens of an egress, and the way to the endpoint, with the pairs that the egress shows.
    fn build_bearer(
        &self,
        egress: &super::egress::EgressSettings,
        pairs: &[Arc<KeyPair>],
        trust: &Arc<Trust>,
    ) -> Result<Option<EgressBearer>, MissingName> {
        let Some(settings) = &egress.bearer else { return Ok(None) };
        let (candidates, mut signers) = self.collect_candidates(std::slice::from_ref(&settings.keyring))?;
        let old_first = candidates.0.first().is_some_and(|first| first.prefer == PreferPolicy::Old);
        if old_first && signers.len() > 1 {
            signers.rotate_left(1);
        }
        let fits = |pair: &Arc<KeyPair>| match settings.algorithm {
            Some(algorithm) => algorithm.fits(pair.end_entity().key()),
            None => SignatureAlgorithm::for_key(pair.end_entity().key()).is_some(),
        };
        signers.retain(fits);
        if signers.is_empty() {
            let algorithm = settings.algorithm.map_or("RS256, ES256, ES384 or EdDSA", SignatureAlgorithm::as_str);
            return Err(MissingName::Waits(format!(
                "a key pair in keyring {:?} that signs with {algorithm}",
                settings.keyring
            )));
        }
        let way = settings
            .endpoint
            .as_ref()
            .map(|endpoint| self.build_endpoint_route(egress, endpoint, pairs, trust))
            .transpose()?;
        Ok(Some(EgressBearer { settings: Arc::new(settings.clone()), signers, way }))
    }

    fn build_endpoint_route(
        &self,
        egress: &super::egress::EgressSettings,
        endpoint: &super::bearer::TokenEndpoint,
        pairs: &[Arc<KeyPair>],
        trust: &Arc<Trust>,
    ) -> Result<TokenRoute, MissingName> {
        let trust = match &endpoint.trust {
            Some(name) => self.find_trust(Some(name), &egress.keyring)?,
            None => Arc::clone(trust),
        };
        let expects = PeerRole::ServerName(Arc::clone(&endpoint.to.host));
        let tls = crate::tls::TlsSettings { alpn: vec![AlpnProtocol::Http11], ..egress.tls.clone() };
        let connectors = pairs.iter().map(|pair| {
            EgressConnector::new(&connector::ConnectorParts {
                pair,
                trust: &trust,
                expects: &expects,
                host: &endpoint.to.host,
                settings: &tls,
                time: self.time,
            })
            .map_err(|source| tls_omission(Side::Egress, &egress.name, source))
        });
        Ok(TokenRoute { connectors: connectors.collect::<Result<_, _>>()?, trust, expects })
    }

    /// The JWK Set of what signs tokens: the keyrings of `jwt_bearer`; where no egress has one, `otherwise`. Staged pairs are
    /// in it before they sign, and previous ones as long as their overlap lasts.
    fn key_set(&self, otherwise: &[KeyringName]) -> Arc<str> {
        let signing = self.parts.egresses.iter().filter_map(|egress| Some(&egress.bearer.as_ref()?.keyring));
        let mut names: Vec<&KeyringName> = signing.collect();
        if names.is_empty() {
            names.extend(otherwise);
        }
        names.dedup();
        let rings = names.into_iter().filter_map(|name| self.parts.keyrings.get(name));
        let in_play =
            |held: &&HeldPair| matches!(held.standing, Standing::Current | Standing::Staged | Standing::Previous);
        let mut held: Vec<&HeldPair> = rings.flat_map(Keyring::pairs).filter(in_play).collect();
        // Where two certificates have one key, the one that signs names it.
        held.sort_by_key(|held| held.standing != Standing::Current);
        crate::jwt::key_set(held.iter().map(|held| &**held.pair.end_entity())).to_string().into()
    }

    /// What the keyrings may show, in the order of the configuration.
    fn collect_candidates(&self, names: &[KeyringName]) -> Result<(CandidateList, Vec<Arc<KeyPair>>), MissingName> {
        let shown = names.iter().filter_map(|name| self.parts.keyrings.get(name)).flat_map(|ring| ring.shown(self.now));
        let (candidates, pairs): (Vec<_>, Vec<_>) = shown.unzip();
        if candidates.is_empty() {
            let names: Vec<&str> = names.iter().map(|name| name.as_ref()).collect();
            return Err(MissingName::Waits(format!("a usable key pair in keyring {:?}", names.join("\", \""))));
        }
        Ok((CandidateList(candidates), pairs))
    }

    fn find_trust(&self, named: Option<&TrustName>, keyring: &str) -> Result<Arc<Trust>, MissingName> {
        let name = named.cloned().unwrap_or_else(|| own_trust_name(keyring));
        let usable = self.parts.trusts.get(&name).is_some_and(Anchors::is_usable);
        match self.trusts.get(&name).filter(|_| usable) {
            Some(trust) => Ok(Arc::clone(trust)),
            None if named.is_some() => Err(MissingName::Waits(format!("a trust anchor of trust {name:?}"))),
            None => Err(MissingName::Waits(format!("ca.crt in the folder of keyring {keyring:?}"))),
        }
    }
}

/// The name under which a keyring's own `ca.crt` is a trust.
pub fn own_trust_name(keyring: &str) -> TrustName {
    format!("{OWN_TRUST_PREFIX}{keyring}").into()
}

fn listener_id(side: Side, name: &Arc<str>) -> ListenerId {
    ListenerId { side, name: Arc::clone(name) }
}

fn tls_omission(side: Side, name: &str, source: crate::tls::TlsConfigError) -> MissingName {
    MissingName::Wrong(BuildError::Tls { listener: format!("{} {name:?}", side.as_str()), source })
}

fn build_partners(parts: &SnapshotParts<'_>, now: Timestamp) -> Partners {
    let resolve = |settings: &crate::trust::partner::PartnerSettings| {
        let anchors = settings.anchors.iter().flat_map(|file| (parts.named)(file));
        Partner::new(settings.clone(), anchors.map(|certificate| certificate.fingerprint()).collect(), now)
    };
    Partners(parts.partners.iter().map(resolve).collect())
}

fn view_of_keyring(keyring: &Keyring, parts: &SnapshotParts<'_>) -> KeyringView {
    let settings = keyring.settings();
    KeyringView {
        name: Arc::clone(&settings.name),
        purpose: settings.purpose.clone(),
        owner: settings.owner.clone(),
        contact: settings.contact.clone(),
        waiting: (parts.waiting)(&settings.name),
        rotate_every: settings.rotate_every,
        alert_before: settings.alert_before.clone(),
        key_pairs: keyring.pairs().into_iter().map(|held| view_of_pair(held, parts.remembers)).collect(),
        diverges: keyring.divergence(),
        overlap_seconds: settings.overlap.as_secs(),
        seen_within_seconds: settings.seen_within.as_secs(),
        prefer: settings.prefer,
        activate: settings.activate,
        held: keyring.held_back(),
        revoked: keyring.revoked_pairs(),
    }
}

fn view_of_pair(held: &HeldPair, remembers: bool) -> KeyPairView {
    let certificate = held.pair.end_entity();
    KeyPairView {
        key_pair: held.pair.fingerprint(),
        standing: held.standing,
        since: held.since,
        validity: held.pair.validity(),
        overlap_ends: held.overlap_ends.filter(|_| held.standing == Standing::Previous),
        subject: certificate.subject().to_owned(),
        issuer: certificate.issuer().to_owned(),
        serial: certificate.serial().to_owned(),
        key: certificate.key().to_string(),
        names: certificate.subject_alt_names(),
        sources: held.pair.sources().to_vec(),
        chain_sources: held.pair.origin().shared_files.clone(),
        in_folder: held.in_folder,
        survives_restart: held.in_folder || remembers,
        why: held.why.clone(),
        chain: held.pair.chain().to_vec(),
        key_kind: certificate.key(),
        spki: certificate.spki_hash(),
        weakness: certificate.weakness().map(str::to_owned),
        self_issued: certificate.is_self_issued(),
        chain_ends: held.pair.ends_early().map(|intermediate| ChainEnd {
            subject: intermediate.subject().to_owned(),
            not_after: intermediate.validity().not_after,
        }),
    }
}

fn trust_view(name: &TrustName, trust: &Trust, parts: &SnapshotParts<'_>) -> TrustView {
    let is_it = |named: &Option<TrustName>, first: Option<&KeyringName>| match named {
        Some(named) => named == name,
        None => first.is_some_and(|first| own_trust_name(first) == *name),
    };
    let ingresses = parts.ingresses.iter().filter(|settings| is_it(&settings.trust, settings.keyrings.first()));
    let mut keyrings: Vec<KeyringName> = ingresses.flat_map(|settings| settings.keyrings.iter().cloned()).collect();
    let egresses = parts.egresses.iter().filter(|settings| is_it(&settings.trust, Some(&settings.keyring)));
    let mut used_by: Vec<KeyringName> = egresses.map(|settings| Arc::clone(&settings.keyring)).collect();
    used_by.extend(keyrings.iter().cloned());
    for names in [&mut keyrings, &mut used_by] {
        names.sort();
        names.dedup();
    }
    TrustView { holds: trust.view(), keyrings, used_by }
}
