//! A WebSocket after its 101: bytes both ways, until one side ends or either connection is closed.
//!
//! hyper's connection ends at the 101, so a tunnel keeps its own place in the worker's list: a rotation leaves it alone, and
//! a drain waits for it until its deadline. It may be silent for as long as it likes, unless `answer_idle` is set.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::spawn_local;

use super::access::RequestContext;
use super::link::PooledConnection;
use crate::clock::deadlines::WaitTimer;
use crate::dataplane::connection::view::ConnectionOwner;
use crate::dataplane::connection::{InFlightGuard, poll_close_signal};
use crate::http::progress::BodyLimit;
use crate::http::taken::TakenMark;
use crate::tls::passing::passes_writes;

/// Both halves, and the guards that keep their connections in the worker's list.
pub(crate) struct WebSocketTunnel {
    pub(crate) asker: OnUpgrade,
    pub(crate) answerer: OnUpgrade,
    pub(crate) flight: InFlightGuard,
    /// The client's connection, which hyper releases at the 101: listed and counted by the worker while this is held.
    pub(crate) whole: Option<Rc<dyn ConnectionOwner>>,
    pub(crate) link: PooledConnection,
    /// How long neither side may send anything, where that is limited.
    pub(crate) idle: Option<Duration>,
    /// Where its end by that limit is counted.
    pub(crate) context: Rc<RequestContext>,
}

/// One side of a tunnel, which marks when bytes come from it.
struct TunnelSide<S> {
    stream: S,
    mark: Arc<TakenMark>,
}

impl<S: AsyncRead + Unpin> AsyncRead for TunnelSide<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.mark.record();
        }
        read
    }
}

passes_writes!(TunnelSide.stream);

/// Copies both ways in a task of its own, until one side ends or either connection is closed.
pub(crate) fn spawn_tunnel(tunnel: WebSocketTunnel) {
    spawn_local(async move {
        let WebSocketTunnel { asker, answerer, flight, whole: _whole, link, idle, context } = tunnel;
        let waits = flight.state().waits();
        let mark = TakenMark::new(waits);
        let mut wait = idle.map(|limit| WaitTimer::new(waits, limit));
        let mut copied = std::pin::pin!(async {
            let (asker, answerer) = (asker.await?, answerer.await?);
            let side = |stream| TunnelSide { stream: TokioIo::new(stream), mark: Arc::clone(&mark) };
            let (mut asker, mut answerer) = (side(asker), side(answerer));
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
            let polled = copied.as_mut().poll(cx);
            if polled.is_pending() && wait.as_mut().is_some_and(|wait| wait.check_late_since(|_| mark.last(), cx)) {
                report_silence(&flight, &context);
                return Poll::Ready(Ok(()));
            }
            polled
        });
        if let Err(error) = ended.await {
            tracing::debug!(target: "proxy", %error, "tunnel could not be opened");
        }
    });
}

/// Neither side has sent anything for too long.
fn report_silence(flight: &InFlightGuard, context: &RequestContext) {
    let (facts, connection) = (&flight.state().facts, flight.state().number);
    let (side, listener, reason) = (facts.side.as_str(), &*facts.listener, "answer_late");
    context.cells.count_limit(BodyLimit::Answer.key());
    tracing::info!(target: "proxy", side, listener, connection, reason, "tunnel closed: neither side sent anything (limits.answer_idle)");
}
