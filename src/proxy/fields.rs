//! Header and trailer fields at the border: hop-by-hop out, identity family and forwarding fields out, then ours in (contract section 11).
//!
//! Pure: one pass over a map. Nothing that a peer or an application sends may look like an identity that Sidekey vouches for.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HeaderValue;

use crate::snapshot::ingress::Identity;
use crate::trust::Peer;

/// Which names are stripped beside the fixed ones (`also_strip`; `*` at the end stands for anything).
#[derive(Clone, Debug, Default)]
pub struct Strip {
    // yours
}

/// Why a request's fields cannot be forwarded: 400. Names the rule, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// `Connection` names a field that it must not.
    #[error("Connection names {0:?}, which is no hop-by-hop field")]
    ConnectionNames(String),
    /// A field whose value is no legal field value or list.
    #[error("malformed {0} field")]
    Malformed(&'static str),
}

impl Strip {
    /// From `also_strip`.
    pub fn new(also: &[String]) -> Self {
        let _ = also;
        todo!()
    }
}

/// What a cleaned request had asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// `Connection: upgrade` with exactly `Upgrade: websocket`.
    pub websocket: bool,
    /// `TE: trailers` (kept towards the backend).
    pub te_trailers: bool,
    /// `Expect: 100-continue`.
    pub expect_continue: bool,
}

/// Cleans a request on its way to the backend or upstream: fields named by `Connection` and the other hop-by-hop fields,
/// then the identity family and (on ingress: `forwarding`) the forwarding fields `X-Forwarded-*` and `Forwarded`.
/// `Trailer` and `TE: trailers` stay. What an upgrade needs is set again by the caller.
pub fn clean_request(headers: &mut HeaderMap, strip: &Strip, forwarding: bool) -> Result<Cleaned, Violation> {
    let _ = (headers, strip, forwarding);
    todo!()
}

/// Cleans a response on its way back: hop-by-hop fields, and the identity family (an application must not fake one to an
/// outer proxy).
pub fn clean_response(headers: &mut HeaderMap) {
    let _ = headers;
    todo!()
}

/// Cleans trailers, either way: hop-by-hop, framing, `Host`, identity and forwarding fields.
pub fn clean_trailers(trailers: &mut HeaderMap, strip: &Strip) {
    let _ = (trailers, strip);
    todo!()
}

/// What an ingress sets for the backend: prepared once a connection, because it depends only on the peer and its address.
#[derive(Clone, Debug)]
pub struct ForBackend {
    // yours: HeaderValues
}

impl ForBackend {
    /// From the verified peer (`None` = anonymous) and the peer's address (`None` on a Unix socket).
    pub fn new(peer: Option<&Peer>, from: Option<IpAddr>, identity: Identity) -> Self {
        let _ = (peer, from, identity);
        todo!()
    }
    /// Sets `X-Forwarded-Client-Cert`, `X-Sidekey-Peer`, `Client-Cert…`, `X-Forwarded-For/-Proto/-Host` and `Forwarded`.
    pub fn set(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        let _ = (headers, host);
        todo!()
    }
}
