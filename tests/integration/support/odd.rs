//! A TLS client that offers, shows and refuses what it is told to, whatever is sensible.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use sidekey::pki::issue::IssuedKeyPair;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::peer::{Peer, chain};

pub static TLS12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
pub static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// The client.
#[derive(Clone)]
pub struct Odd {
    pub provider: CryptoProvider,
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// The certificate it shows and the key it signs with; they need not match.
    pub shows: Option<(Vec<CertificateDer<'static>>, Arc<PrivateKeyDer<'static>>)>,
    /// Signatures that it says it accepts.
    pub schemes: Vec<SignatureScheme>,
    /// Why it refuses the server's certificate, if it does.
    pub refuses: Option<CertificateError>,
    /// The roots that it trusts and names in its ClientHello; `None`: it trusts every server and names none.
    pub trusts: Option<Arc<RootCertStore>>,
    pub alpn: Vec<Vec<u8>>,
}

impl Default for Odd {
    fn default() -> Self {
        Self {
            provider: aws_lc_rs::default_provider(),
            versions: rustls::ALL_VERSIONS,
            shows: None,
            schemes: aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes(),
            refuses: None,
            trusts: None,
            alpn: Vec::new(),
        }
    }
}

impl Odd {
    /// Shows this pair.
    pub fn showing(pair: &IssuedKeyPair) -> Self {
        let (chain, key) = chain(pair);
        Self { shows: Some((chain, Arc::new(key))), ..Self::default() }
    }

    /// Shows one pair's certificate and signs with another one's key.
    pub fn stolen(certificate: Vec<CertificateDer<'static>>, key: &IssuedKeyPair) -> Self {
        Self { shows: Some((certificate, Arc::new(chain(key).1))), ..Self::default() }
    }

    pub fn config(&self) -> ClientConfig {
        let shows = self.shows.as_ref().map(|(chain, key)| {
            let key = aws_lc_rs::sign::any_supported_type(key).expect("a key");
            Arc::new(CertifiedKey::new(chain.clone(), key))
        });
        let provider = Arc::new(self.provider.clone());
        let trusts = self.trusts.as_ref().map(|roots| {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider));
            (builder.build().expect("roots"), roots.subjects())
        });
        let judge = Arc::new(Judge { shows, schemes: self.schemes.clone(), refuses: self.refuses.clone(), trusts });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&judge) as _)
            .with_client_cert_resolver(judge);
        config.alpn_protocols.clone_from(&self.alpn);
        config
    }

    /// The same client as one that speaks HTTP.
    pub fn peer(&self) -> Peer {
        Peer { config: Arc::new(self.config()) }
    }

    /// Connects, and reads until the other side has had its say.
    pub async fn connect(&self, to: SocketAddr) {
        let Ok(stream) = TcpStream::connect(to).await else { return };
        let name = ServerName::try_from("localhost").expect("a name");
        if let Ok(mut tls) = TlsConnector::from(Arc::new(self.config())).connect(name, stream).await {
            // In TLS 1.3 a refusal comes only now. One that is served ends it here.
            let mut byte = [0];
            let quick = std::time::Duration::from_millis(200);
            let _ = tokio::time::timeout(quick, tls.read(&mut byte)).await;
        }
    }

    /// The bytes of its ClientHello.
    pub fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = rustls::ClientConnection::new(Arc::new(self.config()), name).expect("a connection");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("a ClientHello");
        bytes
    }
}

#[derive(Debug)]
struct Judge {
    shows: Option<Arc<CertifiedKey>>,
    schemes: Vec<SignatureScheme>,
    refuses: Option<CertificateError>,
    trusts: Option<(Arc<WebPkiServerVerifier>, Vec<DistinguishedName>)>,
}

impl ResolvesClientCert for Judge {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shows.clone()
    }
    fn has_certs(&self) -> bool {
        self.shows.is_some()
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match (&self.refuses, &self.trusts) {
            (Some(why), _) => Err(why.clone().into()),
            (None, Some((roots, _))) => roots.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            (None, None) => Ok(ServerCertVerified::assertion()),
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some((roots, _)) = &self.trusts else { return Ok(HandshakeSignatureValid::assertion()) };
        roots.verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some((roots, _)) = &self.trusts else { return Ok(HandshakeSignatureValid::assertion()) };
        roots.verify_tls13_signature(message, certificate, signed)
    }
    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.trusts.as_ref().map(|(_, names)| names.as_slice())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
