//! A connection to the proxy that is measured: TCP and TLS. The server is not verified, to be cheap: what is measured is the proxy.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::LoadError;
use crate::options::Options;
use crate::pki::PairSigner;

/// Plain text, or what is above TLS.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> ByteStream for T {}

/// A connection before its first request.
pub(crate) struct DialledConnection {
    pub(crate) stream: Box<dyn ByteStream>,
    /// Whether a session was resumed.
    pub(crate) resumed: bool,
    /// Version, suite, group and protocol, for people and for `bench/run`.
    pub(crate) negotiated: String,
}

/// Opens connections to one port. A clone shares its sessions.
#[derive(Clone)]
pub(crate) struct Dialler {
    port: u16,
    pub(crate) http2: bool,
    tls: Option<Arc<ClientConfig>>,
    server_name: ServerName<'static>,
}

impl Dialler {
    /// As the options say; `resume`: with tickets.
    pub(crate) fn new(options: &Options, resume: bool) -> Result<Self, LoadError> {
        let port = options.number("port")?.ok_or("--port is needed")?;
        let http2 = match options.text("protocol") {
            None | Some("h1") => false,
            Some("h2") => true,
            Some(other) => return Err(format!("--protocol is h1 or h2, not {other:?}").into()),
        };
        let mut dialler = Self { port, http2, tls: None, server_name: ServerName::try_from("localhost")? };
        let Some(certs) = options.text("certs") else { return Ok(dialler) };
        let shown = match options.text("pair").unwrap_or("client") {
            "none" => None,
            name => Some(read_pair(Path::new(certs), name)?),
        };
        dialler.tls = Some(Arc::new(client_config(shown, http2, resume)?));
        Ok(dialler)
    }

    /// The same, with a client of its own.
    pub(crate) fn with_client(&self, signer: &PairSigner, number: u64) -> Result<Self, LoadError> {
        let config = client_config(Some(signer.sign_client(number)?), self.http2, false)?;
        Ok(Self { tls: Some(Arc::new(config)), ..self.clone() })
    }

    /// The same, with the pair of this file, sessions of its own, and for this server.
    pub(crate) fn with_pair(&self, file: &Path, server_name: &str, resume: bool) -> Result<Self, LoadError> {
        let chain = CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>()?;
        let config = client_config(Some((chain, PrivateKeyDer::from_pem_file(file)?)), self.http2, resume)?;
        let server_name = ServerName::try_from(server_name.to_owned())?;
        Ok(Self { tls: Some(Arc::new(config)), server_name, ..self.clone() })
    }

    /// A new connection.
    pub(crate) async fn dial(&self) -> Result<DialledConnection, LoadError> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        tcp.set_nodelay(true)?;
        let Some(config) = &self.tls else {
            return Ok(DialledConnection {
                stream: Box::new(tcp),
                resumed: false,
                negotiated: "plain text".to_owned(),
            });
        };
        let stream = TlsConnector::from(Arc::clone(config)).connect(self.server_name.clone(), tcp).await?;
        let session = stream.get_ref().1;
        let alpn = session.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default();
        if self.http2 && alpn != "h2" {
            return Err(format!("HTTP/2 was offered and {alpn:?} negotiated").into());
        }
        let negotiated = format!(
            "{:?} {:?} {:?} {alpn}",
            session.protocol_version().ok_or("TLS has no version")?,
            session.negotiated_cipher_suite().ok_or("TLS has no cipher suite")?.suite(),
            session.negotiated_key_exchange_group().ok_or("TLS has no group")?.name(),
        );
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(DialledConnection { stream: Box::new(stream), resumed, negotiated })
    }
}

type ShownPair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// `NAME.pem` and `NAME.key` of this folder.
pub(crate) fn read_pair(certs: &Path, name: &str) -> Result<ShownPair, LoadError> {
    let chain = CertificateDer::pem_file_iter(certs.join(format!("{name}.pem")))?.collect::<Result<Vec<_>, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_file(certs.join(format!("{name}.key")))?))
}

/// TLS 1.3 with one suite and one group: every proxy has them, so all do the same work.
fn client_config(shown: Option<ShownPair>, http2: bool, resume: bool) -> Result<ClientConfig, LoadError> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let provider: Arc<CryptoProvider> = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(UncheckedServer(schemes)));
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
    };
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    config.resumption = if resume { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Ok(config)
}

/// What the TLS backend accepts and shows: the pair of the server, to clients of this root, or to all.
pub(crate) fn server_config(certs: &Path, admit_all: bool) -> Result<rustls::ServerConfig, LoadError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certs.join("root.pem"))?)?;
    let (chain, key) = read_pair(certs, "server")?;
    let clients = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let builder = rustls::ServerConfig::builder();
    let builder = if admit_all { builder.with_no_client_auth() } else { builder.with_client_cert_verifier(clients) };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts any server.
#[derive(Debug)]
struct UncheckedServer(Vec<SignatureScheme>);

impl ServerCertVerifier for UncheckedServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
