//! `Trust` as rustls' two verifiers. CertificateVerify is always checked by rustls' own code, with the key of the very
//! certificate that is presented in that call (never one remembered from elsewhere).

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::upstream_sessions::PathBoundSessions;
use super::{AuthorityNames, ClientAuth, seen};
use crate::trust::{PeerRole, PresentedChain, Trust, TrustError};

/// What both verifiers do alike.
struct ChainVerifier {
    trust: Arc<Trust>,
    role: PeerRole,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ChainVerifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ChainVerifier({}, {:?})", self.trust.name(), self.role)
    }
}

impl ChainVerifier {
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Timestamp, Error> {
        let mut chain = Vec::with_capacity(intermediates.len() + 1);
        chain.push(end_entity.clone().into_owned());
        chain.extend(intermediates.iter().map(|certificate| certificate.clone().into_owned()));
        let now = i64::try_from(now.as_secs()).ok().and_then(|secs| Timestamp::from_second(secs).ok());
        let chain = PresentedChain::from(chain);
        let verdict = self.trust.verify_presented(&chain, &self.role, now.unwrap_or(Timestamp::MAX));
        let answer = verdict.as_ref().map(|verified| verified.valid_until).map_err(tls_error);
        seen::record_observation(|seen| {
            // One copy for all connections of a peer that is known.
            seen.chain = verdict.as_ref().map_or(chain, |verified| verified.presented.clone());
            seen.path_end = verdict.as_ref().ok().map(|verified| verified.valid_until);
            seen.untrusted = verdict.err();
        });
        answer
    }

    fn verify_signature(
        &self,
        tls13: bool,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verify = if tls13 { verify_tls13_signature } else { verify_tls12_signature };
        let verdict = verify(message, certificate, signature, &self.algorithms);
        seen::record_observation(|seen| {
            seen.tls13 = Some(tls13);
            seen.bad_signature = verdict.is_err();
        });
        verdict
    }
}

/// The error that makes rustls send the alert that fits (RFC 8446 6.2). The values stay in the handshake's slot.
pub(super) fn tls_error(untrusted: &TrustError) -> Error {
    let error = match untrusted {
        TrustError::Empty => return Error::NoCertificatesPresented,
        TrustError::Malformed { .. } => CertificateError::BadEncoding,
        TrustError::Expired { .. } => CertificateError::Expired,
        TrustError::NotYetValid { .. } => CertificateError::NotValidYet,
        TrustError::UnknownIssuer { .. } => CertificateError::UnknownIssuer,
        TrustError::BadSignature { .. } => CertificateError::BadSignature,
        TrustError::WrongUsage { .. } => CertificateError::InvalidPurpose,
        TrustError::WrongName { .. } => CertificateError::NotValidForName,
        TrustError::NoPin { .. } => CertificateError::ApplicationVerificationFailure,
        TrustError::Revoked { .. } => CertificateError::Revoked,
        TrustError::RevocationUnknown { .. } => CertificateError::UnknownRevocationStatus,
        TrustError::Weak { .. } | TrustError::NotAnEndEntity { .. } | TrustError::Other { .. } => {
            CertificateError::Other(rustls::OtherError(Arc::new(untrusted.clone())))
        }
    };
    Error::InvalidCertificate(error)
}

/// Verifies peers of an ingress.
#[derive(Debug)]
pub(super) struct TrustClientVerifier {
    judge: ChainVerifier,
    mandatory: bool,
    authorities: Vec<DistinguishedName>,
}

impl TrustClientVerifier {
    pub(super) fn new(
        trust: &Arc<Trust>,
        client_auth: ClientAuth,
        authorities: &AuthorityNames,
        provider: &CryptoProvider,
    ) -> Self {
        let authorities = match authorities {
            AuthorityNames::Auto => trust.authorities(),
            AuthorityNames::None => Vec::new(),
            AuthorityNames::Subjects(subjects) => subjects.clone(),
        };
        Self {
            judge: ChainVerifier {
                trust: Arc::clone(trust),
                role: PeerRole::Client,
                algorithms: provider.signature_verification_algorithms,
            },
            mandatory: client_auth == ClientAuth::Required,
            authorities: authorities.into_iter().map(DistinguishedName::from).collect(),
        }
    }
}

impl ClientCertVerifier for TrustClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge.verify_chain(end_entity, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_signature(false, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.verify_signature(true, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

/// Verifies the upstream of an egress. Who it must be is fixed by the configuration, not by what was dialled.
#[derive(Debug)]
pub(super) struct TrustServerVerifier(ChainVerifier, Arc<PathBoundSessions>);

impl TrustServerVerifier {
    /// `sessions` are those that end with the paths verified here.
    pub(super) fn new(
        trust: &Arc<Trust>,
        expects: &PeerRole,
        provider: &CryptoProvider,
        sessions: Arc<PathBoundSessions>,
    ) -> Self {
        let (trust, role) = (Arc::clone(trust), expects.clone());
        let algorithms = provider.signature_verification_algorithms;
        Self(ChainVerifier { trust, role, algorithms }, sessions)
    }
}

impl ServerCertVerifier for TrustServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let valid_until = self.0.verify_chain(end_entity, intermediates, now)?;
        self.1.limit_to(valid_until);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_signature(false, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_signature(true, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}
