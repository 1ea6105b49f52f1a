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

use super::{AuthorityNames, ClientAuth, seen};
use crate::trust::{Role, Trust, Untrusted};

/// What both verifiers do alike.
struct Judge {
    trust: Arc<Trust>,
    role: Role,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Judge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ChainVerifier({}, {:?})", self.trust.name(), self.role)
    }
}

impl Judge {
    fn chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut chain = Vec::with_capacity(intermediates.len() + 1);
        chain.push(end_entity.clone().into_owned());
        chain.extend(intermediates.iter().map(|certificate| certificate.clone().into_owned()));
        let now = i64::try_from(now.as_secs()).ok().and_then(|secs| Timestamp::from_second(secs).ok());
        let verdict = self.trust.verify(&chain, &self.role, now.unwrap_or(Timestamp::MAX));
        let answer = verdict.as_ref().map(|_| ()).map_err(tls_error);
        seen::note(|seen| {
            seen.chain = chain;
            seen.untrusted = verdict.err();
        });
        answer
    }

    fn signature(
        &self,
        tls13: bool,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verify = if tls13 { verify_tls13_signature } else { verify_tls12_signature };
        let verdict = verify(message, certificate, signature, &self.algorithms);
        seen::note(|seen| {
            seen.tls13 = Some(tls13);
            seen.bad_signature = verdict.is_err();
        });
        verdict
    }
}

/// The error that makes rustls send the alert that fits (RFC 8446 6.2). The values stay in the handshake's slot.
fn tls_error(untrusted: &Untrusted) -> Error {
    let error = match untrusted {
        Untrusted::Empty => return Error::NoCertificatesPresented,
        Untrusted::Malformed { .. } => CertificateError::BadEncoding,
        Untrusted::Expired { .. } => CertificateError::Expired,
        Untrusted::NotYetValid { .. } => CertificateError::NotValidYet,
        Untrusted::UnknownIssuer { .. } => CertificateError::UnknownIssuer,
        Untrusted::BadSignature { .. } => CertificateError::BadSignature,
        Untrusted::WrongUsage { .. } => CertificateError::InvalidPurpose,
        Untrusted::WrongName { .. } => CertificateError::NotValidForName,
        Untrusted::NoPin { .. } => CertificateError::ApplicationVerificationFailure,
        Untrusted::Revoked { .. } => CertificateError::Revoked,
        Untrusted::RevocationUnknown { .. } => CertificateError::UnknownRevocationStatus,
        Untrusted::Weak { .. } | Untrusted::NotAnEndEntity { .. } | Untrusted::Other { .. } => {
            CertificateError::Other(rustls::OtherError(Arc::new(untrusted.clone())))
        }
    };
    Error::InvalidCertificate(error)
}

/// Verifies peers of an ingress.
#[derive(Debug)]
pub(super) struct Clients {
    judge: Judge,
    mandatory: bool,
    authorities: Vec<DistinguishedName>,
}

impl Clients {
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
            judge: Judge {
                trust: Arc::clone(trust),
                role: Role::Client,
                algorithms: provider.signature_verification_algorithms,
            },
            mandatory: client_auth == ClientAuth::Required,
            authorities: authorities.into_iter().map(DistinguishedName::from).collect(),
        }
    }
}

impl ClientCertVerifier for Clients {
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
        self.judge.chain(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.signature(false, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.signature(true, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

/// Verifies the upstream of an egress. Who it must be is fixed by the configuration, not by what was dialled.
#[derive(Debug)]
pub(super) struct Servers(Judge);

impl Servers {
    pub(super) fn new(trust: &Arc<Trust>, expects: &Role, provider: &CryptoProvider) -> Self {
        Self(Judge {
            trust: Arc::clone(trust),
            role: expects.clone(),
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.chain(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.signature(false, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.signature(true, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}
