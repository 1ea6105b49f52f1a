//! Asks an upstream for a probe's path without a certificate: what it answers alike to everyone proves no key pair.
//!
//! The handshake shows no certificate on purpose, so it leaves no handshake event: a refusal is the good outcome.

use std::time::Duration;

use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::resources::UpstreamRef;
use crate::dataplane::exchange::request_body::OutgoingBody;
use crate::net::dial::DialOptions;
use crate::tls::handshake::connect;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The status of this request without a certificate; `None` where the upstream gives no answer, or is not the one that is meant.
pub(super) async fn ask_without_certificate(
    towards: UpstreamRef<'_>,
    request: Request<OutgoingBody>,
) -> Option<StatusCode> {
    let (settings, deadline) = (&towards.egress.settings, Instant::now() + LIMIT);
    let connector = towards.egress.without_key_pair.as_ref()?.http1();
    let terms = DialOptions { deadline, keepalive: None, refresh: settings.dns_refresh, prefer: None };
    let stream = towards.context().dialler().connect_tcp(&settings.upstream, terms).await.ok()?;
    let tls = connect(stream, &connector, deadline).await.ok()?;
    towards.egress.trust.verify(&tls.chain, &settings.expects, towards.now()).ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls.stream)).await.ok()?;
    spawn_local(async move { drop(timeout_at(deadline, connection).await) });
    let response = timeout_at(deadline, sender.send_request(request)).await.ok()?.ok()?;
    Some(response.status())
}
