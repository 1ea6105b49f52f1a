//! A peer: a TLS client of its own (rustls), with or without a certificate, stubborn, old or hostile as the test wants.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::IssuedKeyPair;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client configuration.
#[derive(Clone)]
pub struct Peer {
    pub config: Arc<ClientConfig>,
}

pub fn roots(pems: &[&str]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    for pem in pems {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            store.add(certificate.expect("PEM")).expect("an anchor");
        }
    }
    store
}

pub fn chain(issued: &IssuedKeyPair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(|der| der.expect("PEM")).collect();
    (chain, PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("a key"))
}

impl Peer {
    /// Trusts these roots and shows this pair.
    pub fn new(trusted: &[&str], pair: Option<&IssuedKeyPair>) -> Self {
        Self::with_versions(trusted, pair, rustls::DEFAULT_VERSIONS)
    }

    /// The same with TLS 1.2 only.
    pub fn tls12(trusted: &[&str], pair: Option<&IssuedKeyPair>) -> Self {
        Self::with_versions(trusted, pair, &[&rustls::version::TLS12])
    }

    fn with_versions(
        trusted: &[&str],
        pair: Option<&IssuedKeyPair>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots(trusted));
        let config = match pair {
            Some(pair) => {
                let (chain, key) = chain(pair);
                builder.with_client_auth_cert(chain, key).expect("a client pair")
            }
            None => builder.with_no_client_auth(),
        };
        Self { config: Arc::new(config) }
    }

    /// Offers these protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols =
            protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Never resumes a session.
    pub fn fresh(mut self) -> Self {
        Arc::make_mut(&mut self.config).resumption = rustls::client::Resumption::disabled();
        self
    }

    /// A TLS connection. In TLS 1.3 a refusal of our certificate comes only when something is read.
    pub async fn tls(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    /// The same from this address of the machine.
    pub async fn tls_from(&self, from: [u8; 4], to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let stream = socket.connect(to).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    /// A connection that speaks HTTP by what ALPN agreed on.
    pub async fn connect(&self, to: SocketAddr) -> anyhow::Result<Connection> {
        Connection::over(self.tls(to).await?).await
    }

    /// One request on a connection of its own.
    pub async fn get(&self, to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
        self.connect(to).await?.get(path).await
    }
}

enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// An open connection.
pub struct Connection {
    sender: Sender,
    /// The server's end entity.
    pub shown: Fingerprint,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// Ends when the connection does.
    pub ended: tokio::task::JoinHandle<()>,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Connection {
    pub async fn over(stream: TlsStream<TcpStream>) -> anyhow::Result<Self> {
        let session = stream.get_ref().1;
        let shown = Fingerprint::of(session.peer_certificates().expect("a certificate")[0].as_ref());
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let h2 = session.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let (sender, ended) = if h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            (Sender::H2(sender), tokio::spawn(async move { drop(connection.await) }))
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            (Sender::H1(sender), tokio::spawn(async move { drop(connection.with_upgrades().await) }))
        };
        Ok(Self { sender, shown, resumed, ended })
    }

    pub async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(Request::get(path).body(Full::default())?).await
    }

    /// Sends a request; `Host` and scheme are filled in where they are missing.
    pub async fn send(&mut self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let response = match &mut self.sender {
            Sender::H1(sender) => {
                request.headers_mut().entry("host").or_insert(http::HeaderValue::from_static("localhost"));
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::H2(sender) => {
                if request.uri().authority().is_none() {
                    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                    *request.uri_mut() = format!("https://localhost{path}").parse()?;
                }
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (parts, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        Ok(Answer { status: parts.status, headers: parts.headers, body: collected.to_bytes(), trailers })
    }
}
