//! A TLS client that offers, shows and refuses what it is told to, whatever is sensible.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion};
use sidekey::pki::issue::IssuedKeyPair;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::peer::chain;

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
        let judge = Arc::new(Judge { shows, schemes: self.schemes.clone(), refuses: self.refuses.clone() });
        let mut config = ClientConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_protocol_versions(self.versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&judge) as _)
            .with_client_cert_resolver(judge);
        config.alpn_protocols.clone_from(&self.alpn);
        config
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
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.refuses.clone().map_or_else(|| Ok(ServerCertVerified::assertion()), |why| Err(why.into()))
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
