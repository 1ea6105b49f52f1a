//! A connection of HTTP/1.1 that hyper serves, and that is parked while it is idle: hyper goes with its buffers of 16 KiB, and
//! the stream, TLS and all guards above it stay. The first byte that comes, or a signal, brings hyper back.
//!
//! When a connection may be parked says its state; between two requests it may, as nothing of hyper's own outlives a request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, UpgradeableConnection};
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::dataplane::connection::{ConnectionSignal, ConnectionState};
use crate::dataplane::exchange::response_body::ResponseBody;
use crate::http::framing::guard::FramingGuard;
use crate::http::framing::verdict::GuardVerdict;
use crate::metrics::{ParkedConnectionGuard, WorkerCounters};

/// A connection of HTTP/1.1 with hyper or without it.
pub(super) struct ParkableConnection<S, F: HttpService<Incoming>> {
    builder: Builder,
    phase: ServingPhase<S, F>,
    verdict: Arc<GuardVerdict>,
    cells: Arc<WorkerCounters>,
}

enum ServingPhase<S, F: HttpService<Incoming>> {
    /// Both boxed, so that a parked connection keeps no room for hyper's part.
    Served(Box<UpgradeableConnection<TokioIo<Box<FramingGuard<S>>>, F>>),
    Parked {
        guard: Box<FramingGuard<S>>,
        service: F,
        _counted: ParkedConnectionGuard,
    },
    /// It has ended.
    Over,
}

impl<S, F, E> ParkableConnection<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: HttpService<Incoming, ResBody = ResponseBody, Error = E> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    /// Served by hyper with these settings.
    pub(super) fn new(
        builder: Builder,
        guard: FramingGuard<S>,
        service: F,
        (verdict, cells): (&Arc<GuardVerdict>, &Arc<WorkerCounters>),
    ) -> Self {
        let served = Box::new(builder.serve_connection(TokioIo::new(Box::new(guard)), service).with_upgrades());
        let (verdict, cells) = (Arc::clone(verdict), Arc::clone(cells));
        Self { builder, phase: ServingPhase::Served(served), verdict, cells }
    }

    /// Ends with what runs; a connection that is idle ends at once.
    pub(super) fn shut_down_gracefully(&mut self) {
        self.unpark();
        if let ServingPhase::Served(served) = &mut self.phase {
            Pin::new(&mut **served).graceful_shutdown();
        }
    }

    /// Serves it, and parks it where `open` says so.
    pub(super) fn poll_serve(&mut self, open: &ConnectionState, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        loop {
            match &mut self.phase {
                ServingPhase::Served(served) => {
                    if let Poll::Ready(ended) = Pin::new(&mut **served).poll(cx) {
                        return Poll::Ready(ended);
                    }
                    if !(open.is_parkable() && self.verdict.is_between_requests()) {
                        return Poll::Pending;
                    }
                    self.park();
                }
                ServingPhase::Parked { guard, .. } => {
                    if open.signal() <= ConnectionSignal::Drain
                        && let Err(error) = ready!(guard.poll_readable(cx))
                    {
                        tracing::debug!(target: "proxy", %error, "connection ended with an error");
                        self.phase = ServingPhase::Over;
                        return Poll::Ready(Ok(()));
                    }
                    self.unpark();
                }
                ServingPhase::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Drops hyper. It has nothing to give back where it has handed the stream over to a tunnel, and has ended with that.
    fn park(&mut self) {
        if let ServingPhase::Served(served) = std::mem::replace(&mut self.phase, ServingPhase::Over)
            && let Some(parts) = served.into_parts()
        {
            let mut guard = parts.io.into_inner();
            guard.take_back(&parts.read_buf);
            let counted = self.cells.park_connection();
            self.phase = ServingPhase::Parked { guard, service: parts.service, _counted: counted };
        }
    }

    /// Brings hyper back.
    fn unpark(&mut self) {
        if matches!(self.phase, ServingPhase::Parked { .. })
            && let ServingPhase::Parked { guard, service, .. } = std::mem::replace(&mut self.phase, ServingPhase::Over)
        {
            let served = self.builder.serve_connection(TokioIo::new(guard), service).with_upgrades();
            self.phase = ServingPhase::Served(Box::new(served));
        }
    }
}
