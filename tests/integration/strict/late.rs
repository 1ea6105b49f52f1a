//! Limits of HTTP/2 that only frames can show: streams at once, and a header block that never becomes whole.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::corpus::Case;
use super::frames::{outcomes, write};
use super::{Front, in_front_of};
use crate::limits::reached;
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::raw::Raw;

const GET: &str = ":method=GET :scheme=https :authority=a :path=/";

/// In front of a backend that never answers.
async fn silent(limits: &str) -> Front {
    let backend = Raw::start(|_, stream: TcpStream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    in_front_of(backend.address, &format!("[ingress.limits]\n{limits}")).await
}

/// A connection on which these frames have been written, but for so many bytes at the end.
async fn say(front: &Front, lines: &[String], without: usize) -> TlsStream<TcpStream> {
    let peer = Peer::new(&[front.ca.pem()], Some(&front.client)).alpn(&["h2"]);
    let mut stream = peer.tls(front.sidecar.ingress("api")).await.expect("connected");
    let (expected, reaches) = (String::new(), String::new());
    let bytes = write(&Case { name: "by hand".into(), expected, reaches, lines: lines.to_vec() }).bytes;
    stream.write_all(&bytes[..bytes.len() - without]).await.expect("written");
    stream.flush().await.expect("written");
    stream
}

/// What the frames say that came until `enough` of them did, or the end.
async fn until(stream: &mut TlsStream<TcpStream>, enough: impl Fn(&[String]) -> bool) -> (Vec<String>, Vec<u8>) {
    let (mut came, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let found = outcomes(&came);
        if enough(&found) {
            return (found, came);
        }
        let read = tokio::time::timeout(crate::support::PATIENCE, stream.read(&mut buffer)).await;
        match read.unwrap_or_else(|_| panic!("nothing more came, only {found:?}")) {
            Ok(count @ 1..) => came.extend_from_slice(&buffer[..count]),
            _ => return (found, came),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_and_counted() {
    let front = silent("streams = 2").await;
    let lines: Vec<String> = [1, 3, 5, 7].iter().map(|stream| format!("headers {stream} end {GET}")).collect();
    let mut stream = say(&front, &lines, 0).await;
    let (found, came) = until(&mut stream, |found| found.len() == 2).await;
    assert_eq!(found, ["reset", "reset"]);
    // REFUSED_STREAM, so that the peer knows that it may ask again.
    assert!(came.windows(9).any(|window| window == b"\0\0\0\x05\0\0\0\x07\0"), "{}", came.escape_ascii());
    eventually("both are counted", || reached(&front.sidecar, "streams") == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_block_that_does_not_become_whole_ends_the_connection_whatever_else_runs() {
    let front = silent("head = \"500ms\"").await;
    let running = format!("headers 1 end {GET}");
    for (number, (lines, without)) in [
        (vec![format!("headers 1 open {GET}")], 0),
        // Within a frame.
        (vec![format!("headers 1 end {GET}")], 4),
        (vec![running.clone(), format!("headers 3 open {GET}"), "continuation 3 open x=y".to_owned()], 0),
        (vec![running.clone(), format!("headers 3 end {GET}")], 30),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = say(&front, &lines, without).await;
        let (_, came) = until(&mut stream, |_| false).await;
        let goaway = came.windows(5).any(|window| window == b"\x08\x07\0\0\0");
        assert!(goaway, "{lines:?}: {}", came.escape_ascii());
        let due = number + 1;
        eventually("it is counted", || reached(&front.sidecar, "head") == due as u64).await;
    }
}
