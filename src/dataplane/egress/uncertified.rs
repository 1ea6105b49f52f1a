//! Asks an upstream without a certificate: what it answers alike to everyone proves no key pair.
//!
//! A probe asks for its path, and a request that only reads for its own where a refusal is open. The handshake shows no certificate
//! on purpose, so it leaves no handshake event: a refusal is the good outcome.

use std::net::IpAddr;
use std::time::Duration;

use http::Request;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::resources::UpstreamRef;
use crate::dataplane::exchange::request_body::OutgoingBody;
use crate::evidence::proved::UncertifiedAnswer;
use crate::net::dial::DialOptions;
use crate::tls::handshake::connect;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What this request gets without a certificate, at this address first. Unknown where the upstream is not reached, is late, or is not
/// the one that is meant.
pub(super) async fn ask_without_certificate(
    towards: UpstreamRef<'_>,
    request: Request<OutgoingBody>,
    prefer: Option<IpAddr>,
) -> UncertifiedAnswer {
    let (settings, deadline) = (&towards.egress.settings, Instant::now() + LIMIT);
    let Some(connector) = towards.egress.without_key_pair.as_ref() else { return UncertifiedAnswer::Unknown };
    let terms = DialOptions { deadline, keepalive: None, refresh: settings.dns_refresh, prefer };
    let dialled = towards.context().dialler().connect_tcp(&settings.upstream, terms).await;
    let Ok(stream) = dialled else { return UncertifiedAnswer::Unknown };
    let refused = || if Instant::now() < deadline { UncertifiedAnswer::Refused } else { UncertifiedAnswer::Unknown };
    let Ok(tls) = connect(stream, &connector.http1(), deadline).await else { return refused() };
    if towards.egress.trust.verify(&tls.chain, &settings.expects, towards.now()).is_err() {
        return UncertifiedAnswer::Unknown;
    }
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(tls.stream)).await else {
        return refused();
    };
    spawn_local(async move { drop(timeout_at(deadline, connection).await) });
    match timeout_at(deadline, sender.send_request(request)).await {
        Ok(Ok(response)) => UncertifiedAnswer::Status(response.status().as_u16()),
        Ok(Err(_)) => refused(),
        Err(_) => UncertifiedAnswer::Unknown,
    }
}
