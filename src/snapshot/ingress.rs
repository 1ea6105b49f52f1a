//! An ingress listener: its settings and, for one epoch, what it shows and which peers it accepts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::keyring::{CandidateList, KeyringName};
use crate::net::{BackendAddress, ListenAddress};
use crate::tls::{AuthorityNames, ClientAuth, IngressAcceptor};
use crate::trust::{AccessRules, Partners, PeerMatcher, Trust, TrustName};

/// What the configuration says of one `[[ingress]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressSettings {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens.
    pub listen: ListenAddress,
    /// Its keyrings; the first is the default.
    pub keyrings: Vec<KeyringName>,
    /// Its trust; `None`: the first keyring's own `ca.crt`.
    pub trust: Option<TrustName>,
    /// Whether a client certificate is needed.
    pub client_auth: ClientAuth,
    /// The application.
    pub backend: BackendAddress,
    /// Identity headers set for the backend.
    pub identity: IdentityHeaders,
    /// Load balancers whose PROXY header is trusted and required.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Peers whose forwarding fields are kept and extended.
    pub forwarded_from: Vec<PeerMatcher>,
    /// Health checkers whose failed handshakes without a certificate are not logged.
    pub quiet_from: Vec<IpNet>,
    /// Further field names to strip, lower case, `*` at the end allowed.
    pub also_strip: Vec<String>,
    /// Who may do what.
    pub rules: AccessRules,
    /// `ca_names`.
    pub authorities: AuthorityNames,
    /// `ca_names` as a file under the watched folder (resolved into `authorities` when the snapshot is built).
    pub authorities_file: Option<PathBuf>,
    /// What tokens requests need, if they do.
    pub jwt: Option<crate::jwt::verify::TokenVerifierSettings>,
    /// `jwks`: serves the JWK Set to peers.
    pub jwks: bool,
    /// Versions, groups, ALPN.
    pub tls: crate::tls::TlsSettings,
    /// Limits.
    pub limits: ListenerLimits,
    /// Whether a source that refuses the new pair is shown the previous one (`learn`).
    pub learn: bool,
    /// Whether handshakes and requests are logged (`[log]`).
    pub log_access: bool,
}

#[cfg(test)]
impl IngressSettings {
    /// A listener on a free port that shows this keyring and names no trust: for the tests of rooms that know neither
    /// addresses nor TLS.
    pub(crate) fn for_keyring(name: &str, keyring: &str) -> Self {
        Self {
            name: name.into(),
            listen: ListenAddress::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 0))),
            keyrings: vec![keyring.into()],
            trust: None,
            client_auth: ClientAuth::Required,
            backend: BackendAddress::Http(crate::net::HostPort { host: "127.0.0.1".into(), port: 1 }),
            identity: IdentityHeaders::default(),
            proxy_protocol_from: Vec::new(),
            forwarded_from: Vec::new(),
            quiet_from: Vec::new(),
            also_strip: Vec::new(),
            rules: AccessRules::default(),
            authorities: AuthorityNames::Auto,
            authorities_file: None,
            jwt: None,
            jwks: false,
            tls: crate::tls::TlsSettings::default(),
            limits: ListenerLimits::default(),
            learn: true,
            log_access: true,
        }
    }
}

/// Whether an address is in one of these networks. Addresses are canonical: IPv4 is never mapped into IPv6.
pub fn is_in_networks(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Which identity headers are set (`identity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    /// `X-Forwarded-Client-Cert`.
    pub xfcc: bool,
    /// `X-Sidekey-Peer`.
    pub peer: bool,
    /// `Client-Cert` (RFC 9440).
    pub client_cert: bool,
    /// `Client-Cert-Chain` (RFC 9440).
    pub client_cert_chain: bool,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self { xfcc: true, peer: true, client_cert: false, client_cert_chain: false }
    }
}

/// Limits of a listener (contract section 12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// A handshake, from accept.
    pub handshake: Duration,
    /// Connections without a complete ClientHello.
    pub hello_waiting: usize,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Of these from one source (IPv6 by /64).
    pub handshakes_per_source: usize,
    /// A request head.
    pub head: Duration,
    /// Bytes of a request head.
    pub head_size: usize,
    /// Fields of a request head.
    pub fields: usize,
    /// How long a request's body may stand still while nothing moves the other way either.
    pub body_idle: Duration,
    /// How long a response may stand still; `None`: without end for streams (`text/event-stream`, gRPC, tunnels), and
    /// [`DEFAULT_ANSWER_IDLE`] for all others.
    pub answer_idle: Option<Duration>,
    /// Bytes a second that a request's body has to bring at least, on an average over `body_idle`.
    pub upload_rate: Option<usize>,
    /// How long a backend or upstream may take to ask for the content of `Expect: 100-continue`, or to refuse it.
    pub continue_wait: Duration,
    /// Keep-alive.
    pub idle: Duration,
    /// Connecting to the backend or upstream.
    pub connect: Duration,
    /// The response head.
    pub response: Duration,
    /// Open connections of this listener.
    pub connections: usize,
    /// HTTP/2 streams of a connection.
    pub streams: u32,
    /// How old a connection may get before it drains.
    pub connection_age: Option<Duration>,
    /// How long what runs on a connection may take once a planned drain has begun.
    pub drain_planned: Duration,
}

/// How long a response may stand still, unless it is a stream, where `answer_idle` is not set.
pub const DEFAULT_ANSWER_IDLE: Duration = Duration::from_secs(300);

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            hello_waiting: 1024,
            handshakes: 512,
            handshakes_per_source: 64,
            head: Duration::from_secs(10),
            head_size: 64 * 1024,
            fields: 100,
            body_idle: Duration::from_secs(30),
            answer_idle: None,
            upload_rate: None,
            continue_wait: Duration::from_secs(1),
            idle: Duration::from_secs(60),
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            connections: 10_000,
            streams: 128,
            connection_age: None,
            drain_planned: Duration::from_hours(24),
        }
    }
}

/// One epoch of an ingress listener. `acceptors[i]` shows `candidates.0[i]`.
pub struct IngressSnapshot {
    /// Its settings.
    pub settings: Arc<IngressSettings>,
    /// What it may show; not empty.
    pub candidates: CandidateList,
    /// A built config for each candidate.
    pub acceptors: Vec<IngressAcceptor>,
    /// The trust that verifies its peers.
    pub trust: Arc<Trust>,
    /// Who its peers are.
    pub partners: Arc<Partners>,
    /// What tokens are verified with.
    pub jwt: Option<crate::jwt::TokenVerifier>,
    /// The JWK Set that peers get.
    pub key_set: Option<Arc<str>>,
}
