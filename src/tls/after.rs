//! What an upstream says after a handshake, before anything is asked of it: in TLS 1.3 the only way to hear whether it takes
//! our key pair without sending a request.

use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::handshake::{ClientStream, CompletedHandshake, FailedHandshake, classify_error};
use super::seen::HandshakeObservation;

/// What came.
pub enum PostHandshakeOutcome {
    /// Session tickets: it has read our certificate, and goes on (RFC 8446 4.6.1).
    Tickets,
    /// Data of the application protocol, as HTTP/2's settings; other stacks send these before they have read our certificate.
    Spoke,
    /// It closed the connection without an alert.
    Closed,
    /// Nothing, until the deadline.
    Silent,
    /// An alert, or another end.
    Failed(Box<FailedHandshake>),
}

/// Waits for it. Ends with the first thing that says more than "it is still there".
pub async fn wait_after_handshake<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &mut CompletedHandshake<ClientStream<S>>,
    deadline: Instant,
) -> PostHandshakeOutcome {
    let (stream, facts) = (&mut tls.stream, &tls.facts);
    let mut spoke = false;
    let heard = std::future::poll_fn(|context| {
        loop {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(PostHandshakeOutcome::Closed),
                Poll::Ready(Ok(())) => spoke = true,
                Poll::Ready(Err(error)) => {
                    let cause = classify_error(error, false);
                    let (facts, seen) = (facts.clone(), HandshakeObservation::default());
                    return Poll::Ready(PostHandshakeOutcome::Failed(Box::new(FailedHandshake {
                        cause,
                        facts,
                        seen,
                        first_bytes: Vec::new(),
                    })));
                }
                Poll::Pending if stream.get_ref().1.tls13_tickets_received() > 0 => {
                    return Poll::Ready(PostHandshakeOutcome::Tickets);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    match tokio::time::timeout_at(deadline, heard).await {
        Ok(heard) => heard,
        Err(_) if spoke => PostHandshakeOutcome::Spoke,
        Err(_) => PostHandshakeOutcome::Silent,
    }
}
