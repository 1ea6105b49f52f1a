//! When session tickets go out: with the first response where that comes at once, else by themselves, and never lost.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::*;
use crate::tls::late_alert::refuse_established;

/// A stream that counts what is written to it, and in how many pieces.
struct CountedStream {
    inner: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for CountedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// An established connection whose server has read and written nothing since the handshake.
struct FreshConnection {
    server: ServerStream<CountedStream>,
    client: ClientStream<DuplexStream>,
    /// Pieces in which the server has written.
    writes: Arc<AtomicUsize>,
}

impl FreshConnection {
    async fn open(acceptor: &IngressAcceptor, connector: &EgressConnector) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let writes = Arc::<AtomicUsize>::default();
        let near = CountedStream { inner: near, writes: Arc::clone(&writes) };
        let serve = async {
            let hello = read_client_hello(near, test_deadline()).await.ok().unwrap();
            hello.finish(acceptor, test_deadline()).await.ok().unwrap()
        };
        let both = async { tokio::join!(serve, connect(far, connector, test_deadline())) };
        let (at_server, at_client) = Box::pin(both).await;
        Self { server: at_server.stream, client: at_client.ok().unwrap().stream, writes }
    }

    fn written_pieces(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    fn received_tickets(&self) -> u32 {
        self.client.get_ref().1.tls13_tickets_received()
    }

    /// The server reads until it would wait.
    fn poll_server_read(&mut self) -> Poll<io::Result<()>> {
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        Pin::new(&mut self.server).poll_read(&mut Context::from_waker(std::task::Waker::noop()), &mut buf)
    }

    /// The client reads what is there, which is nothing but records of TLS.
    async fn read_client(&mut self) {
        let mut space = [0; 64];
        let waits = std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut space);
            Poll::Ready(Pin::new(&mut self.client).poll_read(cx, &mut buf).is_pending())
        });
        assert!(waits.await);
    }
}

fn build_ends() -> (IngressAcceptor, EgressConnector) {
    let HandshakeFixture { server, client, trust, .. } = handshake_fixture();
    let settings = settings_for_version(TlsVersion::Tls13);
    (build_acceptor(&server, &trust, &settings), build_connector(&client.pair(), &trust, &settings))
}

#[tokio::test]
async fn a_ticket_goes_out_in_one_piece_with_the_response_to_a_request_that_comes_at_once() {
    let (acceptor, connector) = build_ends();
    for _ in 0..2 {
        let mut fresh = FreshConnection::open(&acceptor, &connector).await;
        // HTTP reads and flushes before the request is there.
        assert!(fresh.poll_server_read().is_pending());
        fresh.server.flush().await.unwrap();
        fresh.client.write_all(b"request").await.unwrap();
        fresh.client.flush().await.unwrap();
        let mut request = [0; 7];
        fresh.server.read_exact(&mut request).await.unwrap();
        // So it does while the answer is made.
        assert!(fresh.poll_server_read().is_pending());
        fresh.server.flush().await.unwrap();
        assert_eq!(fresh.written_pieces(), 1, "the flight of the handshake, and nothing before there is an answer");
        fresh.server.write_all(b"response").await.unwrap();
        fresh.server.flush().await.unwrap();
        assert_eq!(fresh.written_pieces(), 2);
        let mut response = [0; 8];
        fresh.client.read_exact(&mut response).await.unwrap();
        assert_eq!((&response, fresh.received_tickets()), (b"response", 1));
        fresh.server.write_all(b"next").await.unwrap();
        assert_eq!(fresh.written_pieces(), 3, "the ticket went out once");
    }
    let (at_server, _) = run_handshake(&acceptor, &connector).await;
    assert!(at_server.ok().unwrap().facts.resumed, "the ticket is one that resumes");
}

#[tokio::test]
async fn a_client_that_closes_without_a_request_gets_its_ticket_with_the_close() {
    let (acceptor, connector) = build_ends();
    let mut fresh = FreshConnection::open(&acceptor, &connector).await;
    fresh.client.shutdown().await.unwrap();
    assert_eq!(fresh.server.read(&mut [0; 8]).await.unwrap(), 0);
    fresh.server.shutdown().await.unwrap();
    assert_eq!(fresh.written_pieces(), 2, "the flight of the handshake, and ticket and close in one piece");
    assert_eq!(fresh.client.read(&mut [0; 8]).await.unwrap(), 0, "with close_notify");
    assert_eq!(fresh.received_tickets(), 1);
}

#[tokio::test]
async fn an_alert_goes_out_at_once_behind_the_ticket_that_was_held() {
    let (acceptor, connector) = build_ends();
    let mut fresh = FreshConnection::open(&acceptor, &connector).await;
    let mut forged = vec![23, 3, 3, 0, 40];
    forged.extend_from_slice(&[7; 40]);
    fresh.client.get_mut().0.write_all(&forged).await.unwrap();
    assert!(fresh.server.read_u8().await.is_err());
    let told = fresh.client.read_u8().await.unwrap_err();
    assert_eq!((received_alert(&told), fresh.received_tickets()), (Some("bad_record_mac"), 1), "{told}");

    let fresh = FreshConnection::open(&acceptor, &connector).await;
    let FreshConnection { server, mut client, .. } = fresh;
    assert_eq!(refuse_established(server, &TrustError::Empty).await, Some("certificate_required"));
    let told = client.read_u8().await.unwrap_err();
    assert_eq!(received_alert(&told), Some("certificate_required"), "{told}");
}

#[tokio::test]
async fn a_write_that_the_stream_does_not_take_whole_loses_neither_ticket_nor_content() {
    let (acceptor, connector) = build_ends();
    let mut fresh = FreshConnection::open(&acceptor, &connector).await;
    fresh.client.write_all(b"?").await.unwrap();
    fresh.client.flush().await.unwrap();
    assert_eq!(fresh.server.read_u8().await.unwrap(), b'?');
    let response: Vec<u8> = (0..300_000).map(|at: u32| (at % 251) as u8).collect();
    let mut received = vec![0; response.len()];
    let FreshConnection { mut server, mut client, .. } = fresh;
    let respond = async {
        server.write_all(&response).await.unwrap();
        server.flush().await.unwrap();
    };
    let (_, read) = tokio::join!(respond, client.read_exact(&mut received));
    read.unwrap();
    assert!(received == response);
    assert_eq!(client.get_ref().1.tls13_tickets_received(), 1);
    assert_eq!(server.kept_bytes(), 0);
}

#[tokio::test]
async fn a_resumed_session_of_tls_1_2_holds_nothing_back() {
    let HandshakeFixture { server, client, trust, .. } = handshake_fixture();
    let settings = settings_for_version(TlsVersion::Tls12);
    let (acceptor, connector) =
        (build_acceptor(&server, &trust, &settings), build_connector(&client.pair(), &trust, &settings));
    for _ in 0..2 {
        let mut fresh = FreshConnection::open(&acceptor, &connector).await;
        let before = fresh.written_pieces();
        assert!(fresh.poll_server_read().is_pending());
        assert!(fresh.poll_server_read().is_pending());
        fresh.server.flush().await.unwrap();
        fresh.read_client().await;
        assert_eq!(fresh.written_pieces(), before);
    }
}
