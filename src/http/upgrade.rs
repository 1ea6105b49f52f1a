//! WebSockets: requested by a GET without content, granted only by a 101 naming it, then bytes both ways (RFC 6455).
//!
//! hyper's connection ends at the 101, so a tunnel keeps its own place in the worker's list: a rotation leaves it alone, and
//! a drain waits for it until its deadline.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use super::fields::RequestedFeatures;
use crate::dataplane::connection::InFlightGuard;
use crate::dataplane::exchange::link::{PooledConnection, poll_close_signal};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// The client's half of a WebSocket, if the request asks for one and may have it.
pub(crate) fn take_upgrade(request: &mut Request<Incoming>, cleaned: RequestedFeatures) -> Option<OnUpgrade> {
    let may = cleaned.websocket
        && request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream();
    may.then(|| hyper::upgrade::on(request))
}

/// Sets the fields that request, or grant, a WebSocket on this hop.
pub(crate) fn set_upgrade_fields(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// Whether a 101 grants what was requested.
pub(crate) fn is_granted(response: &Response<Incoming>) -> bool {
    let mut named = response.headers().get_all(UPGRADE).iter();
    named.next().is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
        && named.next().is_none()
}

/// Both halves, and the guards that keep their connections in the worker's list.
pub(crate) struct WebSocketTunnel {
    pub(crate) asker: OnUpgrade,
    pub(crate) answerer: OnUpgrade,
    pub(crate) flight: InFlightGuard,
    /// The client's connection, which hyper releases at the 101: listed and counted by the worker while this is held.
    pub(crate) whole: Option<Rc<dyn Any>>,
    pub(crate) link: PooledConnection,
}

/// Copies both ways in a task of its own, until one side ends or either connection is closed.
pub(crate) fn spawn_tunnel(tunnel: WebSocketTunnel) {
    spawn_local(async move {
        let WebSocketTunnel { asker, answerer, flight, whole: _whole, link } = tunnel;
        let mut copied = std::pin::pin!(async {
            let (asker, answerer) = (asker.await?, answerer.await?);
            let (mut asker, mut answerer) = (TokioIo::new(asker), TokioIo::new(answerer));
            // Ends and resets of either side are the normal end of a tunnel.
            let _ = tokio::io::copy_bidirectional(&mut asker, &mut answerer).await;
            Ok::<_, hyper::Error>(())
        });
        let ended = poll_fn(|cx| {
            if poll_close_signal(Some(flight.state()), cx).is_ready()
                || poll_close_signal(link.connection_state(), cx).is_ready()
            {
                return Poll::Ready(Ok(()));
            }
            copied.as_mut().poll(cx)
        });
        if let Err(error) = ended.await {
            tracing::debug!(target: "proxy", %error, "tunnel could not be opened");
        }
    });
}
