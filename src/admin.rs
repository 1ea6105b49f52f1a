//! The admin and probes listeners: `/livez`, `/readyz`, `/metrics`; on admin also the page and the API. Read-only: GET and
//! HEAD, nothing else.
//!
//! It sees snapshots, metrics and the phase of stopping, and has no way to change anything but the time at which a client
//! last asked `/readyz`, on which the delay of a stop depends: a change goes through the
//! configuration or the watched folder. Admin answers on this host only and names things; probes may be reached from
//! elsewhere and say none. What an answer says is the business of `routes`, which reads it from `views`.

mod answer;
mod api;
mod page;
mod routes;
mod target;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::net::BoundSocket;
use crate::net::listen::AcceptedConnection;
use crate::process::ShutdownPhase;
use crate::views::RuntimeViews;

pub use routes::AdminListenerKind;

/// Connections at once. The next one ends the oldest: a client that holds many of them open cannot lock out kubelet.
const CONNECTIONS: usize = 64;
/// From accept, or from the last answer, to the end of a request head.
const HEAD: Duration = Duration::from_secs(10);
/// A connection's whole life: it also ends a client that reads a response too slowly.
const LIFE: Duration = Duration::from_mins(5);
/// Pause after a failed accept.
const REST: Duration = Duration::from_millis(100);

/// Serves until the process is over.
///
/// # Errors
/// The socket cannot listen.
pub async fn serve(bound: BoundSocket, kind: AdminListenerKind, views: RuntimeViews) -> std::io::Result<()> {
    let listening = bound.listen()?;
    let hosts = match kind {
        AdminListenerKind::Admin => routes::HostPolicy::for_listener(bound.local_addr()),
        AdminListenerKind::Probes => routes::HostPolicy::Any,
    };
    let (mut shutdown, mut handed_over) = (views.shutdown.clone(), views.shutdown.clone());
    let mut open = AdminConnections::default();
    loop {
        let accepted = tokio::select! {
            () = shutdown.wait_for_phase(ShutdownPhase::Over) => return Ok(()),
            () = handed_over.wait_until_handed_over() => break,
            accepted = listening.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => open.add(connection(accepted, (kind, hosts), views.clone())),
            Err(error) => {
                tracing::debug!(target: "admin", %error, "cannot accept a connection");
                sleep(REST).await;
            }
        }
    }
    // The new process accepts from now on. Connections end with their next answer.
    drop(listening);
    shutdown.wait_for_phase(ShutdownPhase::Over).await;
    Ok(())
}

/// The open connections, the oldest first. They end with their listener.
#[derive(Default)]
struct AdminConnections {
    tasks: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl AdminConnections {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|task| !task.is_finished());
        if self.by_age.len() >= CONNECTIONS
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(connection));
    }
}

async fn connection(
    accepted: AcceptedConnection,
    (kind, hosts): (AdminListenerKind, routes::HostPolicy),
    views: RuntimeViews,
) {
    let Ok(stream) = accepted.into_stream() else { return };
    let answer = move |request: Request<Incoming>| {
        let views = views.clone();
        // No answer depends on a body: it is not read, and the connection of a client that sent one ends.
        let (request, _) = request.into_parts();
        async move {
            let mut response = routes::answer(&request, (kind, hosts), &views).await;
            if views.shutdown.is_handed_over() {
                // The next request is for the new process.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Ok(Err(error)) = timeout(LIFE, served).await {
        tracing::debug!(target: "admin", %error, "connection ended early");
    }
}

#[cfg(test)]
mod tests;
