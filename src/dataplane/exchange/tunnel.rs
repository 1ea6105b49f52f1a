//! A WebSocket after its 101: bytes both ways, until one side ends or either connection is closed.
//!
//! hyper's connection ends at the 101, so a tunnel keeps its own place in the worker's list: a rotation leaves it alone, and
//! a drain waits for it until its deadline.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use super::link::PooledConnection;
use crate::dataplane::connection::view::ConnectionOwner;
use crate::dataplane::connection::{InFlightGuard, poll_close_signal};

/// Both halves, and the guards that keep their connections in the worker's list.
pub(crate) struct WebSocketTunnel {
    pub(crate) asker: OnUpgrade,
    pub(crate) answerer: OnUpgrade,
    pub(crate) flight: InFlightGuard,
    /// The client's connection, which hyper releases at the 101: listed and counted by the worker while this is held.
    pub(crate) whole: Option<Rc<dyn ConnectionOwner>>,
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
