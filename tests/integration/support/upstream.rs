//! An upstream: a TLS server of its own (rustls) that demands a client certificate, and records whose it was.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::Issued;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::backend::Seen;
use super::peer::{chain, roots};

/// A running upstream.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<(Fingerprint, Seen)>>>,
}

impl Upstream {
    /// Shows `pair`, accepts clients of these roots, offers these protocols; echoes bodies.
    pub async fn start(pair: &Issued, accepts: &[&str], alpn: &[&str]) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(accepts)), Arc::clone(&provider));
        let (chain, key) = chain(pair);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a pair");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let records = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&records)));
            }
        });
        Self { address, seen }
    }

    /// Every request with the client certificate that it came with.
    pub fn seen(&self) -> Vec<(Fingerprint, Seen)> {
        self.seen.lock().expect("lock").clone()
    }
}

async fn serve(stream: tokio::net::TcpStream, acceptor: TlsAcceptor, records: Arc<Mutex<Vec<(Fingerprint, Seen)>>>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let session = stream.get_ref().1;
    let client = Fingerprint::of(session.peer_certificates().expect("a certificate")[0].as_ref());
    let h2 = session.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let one = Seen { uri: parts.uri, headers: parts.headers, version: parts.version };
        records.lock().expect("lock").push((client, one));
        async move {
            let bytes = body.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::new(bytes)))
        }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}
