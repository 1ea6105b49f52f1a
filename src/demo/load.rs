//! The application: a steady load of GET and POST requests through our egress, every answer compared with what was sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::backend::KEY_PAIR;
use crate::pki::Fingerprint;

/// Connections of the application, each with one request at a time.
const CONNECTIONS: u32 = 16;

/// The load's results.
#[derive(Clone, Debug, Default)]
pub struct ServedRequests {
    /// Requests sent.
    pub sent: u64,
    /// Answered as they must be.
    pub answered: u64,
    /// Anything else.
    pub lost: u64,
    /// The first loss, for people.
    pub first_loss: Option<String>,
    /// Answered requests by the client key pair that carried them.
    pub by_pair: BTreeMap<Fingerprint, u64>,
    /// Latencies, sorted.
    pub latencies: Vec<Duration>,
}

impl ServedRequests {
    /// The latency that this share of the requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small count")]
        let index = (self.latencies.len().saturating_sub(1) as f64 * share) as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

struct LoadCounts {
    answered: AtomicU64,
    lost: AtomicU64,
    served: Mutex<ServedRequests>,
}

/// Sends `rate` requests a second for `length`; `progress` gets answered and lost from time to time.
pub(super) async fn start(
    url: String,
    rate: u32,
    length: Duration,
    progress: impl Fn(u64, u64) + Send + 'static,
) -> ServedRequests {
    let counts = Arc::new(LoadCounts { answered: 0.into(), lost: 0.into(), served: Mutex::default() });
    let start = Instant::now();
    let ending = start + length;
    let between = Duration::from_secs(1) * CONNECTIONS / rate;
    let authority = url.trim_start_matches("http://").to_owned();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        let first = start + between * number / CONNECTIONS;
        clients.spawn(client(authority.clone(), number, (first, between, ending), Arc::clone(&counts)));
    }
    let ticker = tokio::spawn({
        let counts = Arc::clone(&counts);
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                progress(counts.answered.load(Ordering::Relaxed), counts.lost.load(Ordering::Relaxed));
            }
        }
    });
    while clients.join_next().await.is_some() {}
    ticker.abort();
    let mut served = std::mem::take(&mut *counts.served.lock().unwrap_or_else(PoisonError::into_inner));
    served.latencies.sort_unstable();
    served
}

async fn client(authority: String, number: u32, plan: (Instant, Duration, Instant), counts: Arc<LoadCounts>) {
    let (first, between, ending) = plan;
    let mut sender = None;
    let mut due = first;
    let mut turn = number;
    while due < ending {
        tokio::time::sleep_until(due).await;
        // Bodies of 0 to 48 KiB; every third request is a GET.
        let body =
            if turn.is_multiple_of(3) { Bytes::new() } else { Bytes::from(vec![b'a'; (turn as usize % 7) * 8192]) };
        let outcome = send_one_request(&authority, &mut sender, turn, body).await;
        let mut served = counts.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.sent += 1;
        match outcome {
            Ok(key_pair) => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                served.answered += 1;
                served.latencies.push(due.elapsed());
                *served.by_pair.entry(key_pair).or_default() += 1;
            }
            Err(why) => {
                counts.lost.fetch_add(1, Ordering::Relaxed);
                served.lost += 1;
                served.first_loss.get_or_insert_with(|| format!("{why:#}"));
            }
        }
        drop(served);
        due += between;
        turn = turn.wrapping_add(CONNECTIONS);
    }
}

/// One request; the response must be 200 with the same body. Returns which client key pair carried it.
async fn send_one_request(
    authority: &str,
    kept: &mut Option<SendRequest<Full<Bytes>>>,
    turn: u32,
    body: Bytes,
) -> anyhow::Result<Fingerprint> {
    let mut sender = match kept.take().filter(|sender| !sender.is_closed()) {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        }
    };
    sender.ready().await?;
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = Request::builder().method(method).uri(format!("/orders/{turn}")).header("host", authority);
    let response = sender.send_request(request.body(Full::new(body.clone()))?).await?;
    let status = response.status();
    let key_pair = response.headers().get(KEY_PAIR).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let got = response.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status == 200, "status {status}");
    anyhow::ensure!(got == body, "the echoed body differs from the one sent");
    *kept = Some(sender);
    Ok(key_pair.unwrap_or_default().parse()?)
}
