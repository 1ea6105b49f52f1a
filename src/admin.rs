//! The admin and probes listeners: `/livez`, `/readyz`, `/metrics`. Read-only: GET and HEAD, nothing else.
//!
//! It sees snapshots, metrics and the phase of stopping, and has no way to change anything: a change goes through the
//! configuration or the watched folder. Admin answers on this host only and says names; probes may be reached from
//! elsewhere and say none.

mod gauges;
mod routes;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::event::Events;
use crate::metrics::Metrics;
use crate::net::Bound;
use crate::net::listen::Accepted;
use crate::process::{Phase, Shutdown};
use crate::snapshot::Reader;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// From accept to the end of a request head, and how long an idle connection is kept.
const HEAD: Duration = Duration::from_secs(10);
/// How long it rests when it cannot accept.
const REST: Duration = Duration::from_millis(100);

/// Which of the two listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This host only: names are said, and `Host` is checked, so that a browser cannot be led here by another name.
    Admin,
    /// Kubelet and Prometheus.
    Probes,
}

/// What may be looked at.
#[derive(Clone)]
pub struct Views {
    /// What is served.
    pub reader: Reader,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// What happened.
    pub events: Arc<Events>,
    /// How far stopping has come.
    pub shutdown: Shutdown,
}

impl Views {
    /// From its parts.
    pub fn new(reader: Reader, metrics: Arc<Metrics>, events: Arc<Events>, shutdown: Shutdown) -> Self {
        Self { reader, metrics, events, shutdown }
    }

    /// Ready = every ingress has a pair to show, and the process is not stopping. Upstreams never matter.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// What readiness lacks, one sentence each.
    pub fn missing(&self) -> Vec<String> {
        if self.shutdown.phase() > Phase::Running {
            return vec!["it is stopping".to_owned()];
        }
        let snapshot = self.reader.take();
        let waiting = snapshot.waiting.iter().filter(|(id, _)| id.side == crate::snapshot::Side::Ingress);
        waiting.map(|(id, what)| format!("ingress {:?} waits for {what}", id.name)).collect()
    }

    /// Everything as Prometheus text.
    pub fn metrics_text(&self) -> String {
        let gauges = gauges::Gauges { snapshot: self.reader.take(), lines_dropped: self.events.log_lines_dropped() };
        self.metrics.render(Some(Box::new(gauges)))
    }
}

/// Serves until the process is over.
///
/// # Errors
/// The socket cannot listen.
pub async fn serve(bound: Bound, kind: Kind, views: Views) -> std::io::Result<()> {
    let listening = bound.listen()?;
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut shutdown = views.shutdown.clone();
    let accepting = async {
        loop {
            // Never closed: this function holds it.
            let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
            match listening.accept().await {
                Ok(accepted) => {
                    let views = views.clone();
                    tokio::spawn(async move {
                        connection(accepted, kind, views).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(target: "admin", %error, "cannot accept");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.reached(Phase::Over) => {}
    }
    Ok(())
}

async fn connection(accepted: Accepted, kind: Kind, views: Views) {
    let Ok(stream) = accepted.into_stream() else { return };
    let answer = move |request: Request<Incoming>| {
        let response: Response<_> = routes::answer(&request, kind, &views);
        async move { Ok::<_, Infallible>(response) }
    };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Err(error) = served.await {
        tracing::debug!(target: "admin", %error, "a connection ended early");
    }
}
