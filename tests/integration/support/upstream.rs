//! An upstream: a TLS server of its own (rustls) that demands a client certificate, records whose it was, and may change
//! its mind: about the CAs that it accepts, and about pairs that it refuses with a status.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, SupportedProtocolVersion};
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::IssuedKeyPair;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::backend::Seen;
use super::peer::{chain, roots};

/// Stands for a client that showed none.
pub const WITHOUT_CERTIFICATE: Fingerprint = Fingerprint::from_bytes([0; 32]);

/// A running upstream.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    plan: Plan,
    state: Arc<State>,
    hang_up: watch::Sender<u32>,
}

/// How its TLS is set up.
#[derive(Clone)]
pub struct Plan {
    pub chain_pem: String,
    pub key_pem: String,
    pub alpn: Vec<String>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Whether its CertificateRequest names the CAs that it accepts.
    pub names_authorities: bool,
    /// Whether it asks for a certificate, and whether a handshake without one fails.
    pub asks_for_certificate: bool,
    pub demands_certificate: bool,
}

#[derive(Default)]
struct State {
    acceptor: Mutex<Option<TlsAcceptor>>,
    seen: Mutex<Vec<(Fingerprint, Seen)>>,
    /// Pairs whose requests never reach the application, everywhere or at one path: a status is the answer, or silence.
    refused: Mutex<BTreeMap<(Fingerprint, Option<String>), Option<StatusCode>>>,
    open: Mutex<BTreeMap<Fingerprint, usize>>,
}

impl Plan {
    /// Shows `pair`, offers these protocols, TLS 1.2 and 1.3, and names the CAs that it accepts.
    pub fn new(pair: &IssuedKeyPair, alpn: &[&str]) -> Self {
        Self {
            chain_pem: pair.chain_pem.clone(),
            key_pem: pair.key_pem.to_string(),
            alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
            versions: rustls::ALL_VERSIONS.to_vec(),
            names_authorities: true,
            asks_for_certificate: true,
            demands_certificate: true,
        }
    }

    pub(super) fn acceptor(&self, accepts: &[&str]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(accepts)), Arc::clone(&provider));
        if !self.names_authorities {
            verifier = verifier.clear_root_hint_subjects();
        }
        if !self.demands_certificate {
            verifier = verifier.allow_unauthenticated();
        }
        let pair = IssuedKeyPair { chain_pem: self.chain_pem.clone(), key_pem: self.key_pem.clone().into() };
        let (chain, key) = chain(&pair);
        let builder =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&self.versions).expect("versions");
        let builder = match self.asks_for_certificate {
            true => builder.with_client_cert_verifier(verifier.build().expect("a verifier")),
            false => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Upstream {
    /// Shows `pair`, accepts clients of these roots, offers these protocols; echoes bodies.
    pub async fn start(pair: &IssuedKeyPair, accepts: &[&str], alpn: &[&str]) -> Self {
        Self::with(Plan::new(pair, alpn), accepts).await
    }

    /// Likewise, with a plan.
    pub async fn with(plan: Plan, accepts: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::<State>::default();
        let hang_up = watch::Sender::new(0);
        let upstream = Self { address, plan, state, hang_up };
        upstream.accept(accepts);
        let (state, hang_up) = (Arc::clone(&upstream.state), upstream.hang_up.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut told = hang_up.subscribe();
                let serving = serve(stream, Arc::clone(&state));
                tokio::spawn(async move {
                    tokio::select! {
                        () = serving => {}
                        _ = told.changed() => {}
                    }
                });
            }
        });
        upstream
    }

    /// Accepts clients of these roots from now on; what is open stays.
    pub fn accept(&self, roots: &[&str]) {
        *self.state.acceptor.lock().expect("lock") = Some(self.plan.acceptor(roots));
    }

    /// Likewise, from now on as another node: with this pair, and naming the CAs that it accepts or not.
    pub fn accept_as(&self, pair: &IssuedKeyPair, names_authorities: bool, roots: &[&str]) {
        let plan = Plan {
            chain_pem: pair.chain_pem.clone(),
            key_pem: pair.key_pem.to_string(),
            names_authorities,
            ..self.plan.clone()
        };
        *self.state.acceptor.lock().expect("lock") = Some(plan.acceptor(roots));
    }

    /// Closes every connection.
    pub fn hang_up(&self) {
        self.hang_up.send_modify(|count| *count += 1);
    }

    /// Answers requests that come with this pair with a status, before any application sees them.
    pub fn refuse(&self, key_pair: Fingerprint, status: u16) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.state.refused.lock().expect("lock").insert((key_pair, None), Some(status));
    }

    /// Likewise at one path only.
    pub fn refuse_at(&self, key_pair: Fingerprint, path: &str, status: u16) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.state.refused.lock().expect("lock").insert((key_pair, Some(path.to_owned())), Some(status));
    }

    /// Ends connections on which a request comes with this pair, without an answer and without an alert.
    pub fn end_silently(&self, key_pair: Fingerprint) {
        self.state.refused.lock().expect("lock").insert((key_pair, None), None);
    }

    /// Refuses no pair with a status any longer.
    pub fn accept_every_pair(&self) {
        self.state.refused.lock().expect("lock").clear();
    }

    /// Every request with the client certificate that it came with.
    pub fn seen(&self) -> Vec<(Fingerprint, Seen)> {
        self.state.seen.lock().expect("lock").clone()
    }

    /// How many connections of this pair are open.
    pub fn open(&self, key_pair: Fingerprint) -> usize {
        self.state.open.lock().expect("lock").get(&key_pair).copied().unwrap_or(0)
    }
}

/// Counts a connection until it ends.
struct Counted(Arc<State>, Fingerprint);

impl Counted {
    fn new(state: &Arc<State>, key_pair: Fingerprint) -> Self {
        *state.open.lock().expect("lock").entry(key_pair).or_default() += 1;
        Self(Arc::clone(state), key_pair)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.open.lock().expect("lock").get_mut(&self.1).expect("counted") -= 1;
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let acceptor = state.acceptor.lock().expect("lock").clone().expect("an acceptor");
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let session = stream.get_ref().1;
    let client = session.peer_certificates().map_or(WITHOUT_CERTIFICATE, |shown| Fingerprint::of(shown[0].as_ref()));
    let h2 = session.alpn_protocol() == Some(b"h2");
    let _counted = Counted::new(&state, client);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let (parts, body) = request.into_parts();
            let refused = {
                let refused = state.refused.lock().expect("lock");
                let at = Some(parts.uri.path().to_owned());
                refused.get(&(client, at)).or_else(|| refused.get(&(client, None))).copied()
            };
            match refused {
                Some(Some(status)) => {
                    let mut refusal = Response::new(Full::<Bytes>::from("no required certificate"));
                    *refusal.status_mut() = status;
                    return Ok(refusal);
                }
                Some(None) => return Err(std::io::Error::other("ended without an answer")),
                None => {}
            }
            let one = Seen { uri: parts.uri, headers: parts.headers, version: parts.version };
            state.seen.lock().expect("lock").push((client, one));
            let bytes = body.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default();
            Ok(Response::new(Full::new(bytes)))
        }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}
