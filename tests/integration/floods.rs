//! Floods over real sockets: silent connections and handshakes that stall behind the ClientHello, from one source and many.
//!
//! Must hold: an honest peer from another address gets its answer meanwhile; who has to go is who waited longest, or came
//! from the source with the most.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::handshake::{Stand, stand};
use crate::limits::{client_hello, reached};
use crate::support::peer::{Connection, Peer};
use crate::support::{PATIENCE, eventually};

/// Connections of a flood.
const FLOOD: usize = 2000;

/// Connects from this loopback address.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(from)), 0))?;
    socket.connect(to).await
}

async fn tls_over(peer: &Peer, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::clone(&peer.config)).connect(name, stream).await
}

/// An honest peer from an address of its own gets its answer.
async fn is_served(stand: &Stand, peer: &Peer) {
    let asked = async {
        let stream = connect_from([127, 0, 0, 100], stand.sidecar.ingress("api")).await.expect("connected");
        let mut connection = Connection::over(tls_over(peer, stream).await.expect("a handshake")).await.expect("HTTP");
        connection.get("/").await.expect("an answer").status
    };
    assert_eq!(tokio::time::timeout(PATIENCE, asked).await.expect("an honest peer waits"), 200);
}

/// Both ends of every connection of a flood are in this process.
fn descriptors_suffice() -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised to the hard one");
    }
    limit.maximum.is_none_or(|most| most >= 3 * FLOOD as u64)
}

#[expect(clippy::print_stderr, reason = "the developer is to see that a test did not run")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Holds [`FLOOD`] connections from so many sources, each of which has sent `bytes`; an honest peer is served meanwhile.
async fn flood(sources: u8, bytes: &dyn Fn(&Peer) -> Vec<u8>) -> Option<(Stand, Vec<TcpStream>)> {
    if !descriptors_suffice() {
        skip("the hard limit of open files is too low for a flood");
        return None;
    }
    let stand = stand("").await;
    let client = stand.ca.client("etl", 5);
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).fresh();
    let (bytes, to) = (bytes(&peer), stand.sidecar.ingress("api"));
    let mut held = Vec::with_capacity(FLOOD);
    for number in 0..FLOOD {
        let from = [127, 0, 0, 2 + u8::try_from(number % usize::from(sources)).expect("few sources")];
        let mut stream = connect_from(from, to).await.expect("connected");
        // A connection may have been closed meanwhile: what it sends is not heard.
        let _ = stream.write_all(&bytes).await;
        held.push(stream);
        if number % 500 == 499 {
            is_served(&stand, &peer).await;
        }
    }
    is_served(&stand, &peer).await;
    Some((stand, held))
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_keep_an_honest_peer_out() {
    for sources in [1, 20] {
        let Some((stand, _held)) = flood(sources, &|_| Vec::new()).await else { return };
        eventually("the oldest went", || reached(&stand.sidecar, "hello_waiting") >= (FLOOD - 1024) as u64).await;
        stand.sidecar.app.stop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_of_one_source_are_bounded() {
    let Some((mut stand, _held)) = flood(1, &client_hello).await else { return };
    eventually("beyond its share it is closed", || reached(&stand.sidecar, "handshakes_per_source") > 0).await;
    assert_eq!(reached(&stand.sidecar, "handshakes"), 0);
    let told = stand.sidecar.event("a reason", |event| match event {
        sidekey::event::Event::Handshake(one) if one.reason == "too_many_from_source" => Some(one.explanation.clone()),
        _ => None,
    });
    assert!(told.await.starts_with("127.0.0.2 has 64 handshakes in progress"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_of_many_sources_make_room_for_an_honest_peer() {
    let Some((stand, _held)) = flood(20, &client_hello).await else { return };
    eventually("the oldest went", || reached(&stand.sidecar, "handshakes") > 0).await;
}
