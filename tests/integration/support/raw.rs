//! A backend that speaks bytes: for answers that no library would send.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A listening backend; it ends with the test's runtime.
#[derive(Clone)]
pub struct Raw {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Raw {
    /// Gives every connection, with its number from 0, to `handle`.
    pub async fn start<F, Fut>(handle: F) -> Self
    where
        F: Fn(usize, TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket");
                tokio::spawn(handle(count.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        Self { address, accepted }
    }

    /// Answers every request head, on every connection, with these bytes; then closes if `close`.
    pub async fn saying(answer: impl Into<Vec<u8>>, close: bool) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |_, mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                while head(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() || close {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Reads one head, and not a byte more; `None` at the end.
pub async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    until(stream, b"\r\n\r\n").await
}

/// Reads up to and with `mark`, and not a byte more.
pub async fn until(stream: &mut (impl AsyncRead + Unpin), mark: &[u8]) -> Option<String> {
    let mut seen = Vec::new();
    while !seen.ends_with(mark) {
        seen.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&seen).into_owned())
}

/// Reads to the end; what a reset cuts off is what there is.
pub async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut part).await {
        seen.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}
