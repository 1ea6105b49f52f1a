//! Exchanges that last for hours: two hours by the sidecar's clock, in which nothing is said for longer than every limit, two
//! rotations, the ends of two overlaps (planned drains), and a reload to another backend or upstream.
//!
//! Must hold: an event stream, a gRPC stream, a gRPC exchange in both directions, a download and a WebSocket are not cut, lose
//! nothing, and end as their sender ends them; through ingress and through egress.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use sidekey::event::{DrainRecord, Event, ReloadRecord};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::protocols::{channel, data, soon};
use crate::support::backend::Body;
use crate::support::ca::{Ca, today};
use crate::support::peer::Peer;
use crate::support::raw::{Raw, head, rest};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::Plan;

/// Ten of them are two hours.
const STEP: SignedDuration = SignedDuration::from_mins(12);
/// Every limit that silence could reach, and the deadline of an urgent drain, are over within one step.
const LIMITS: &str = "limits = { idle = \"300ms\", body_idle = \"250ms\", response = \"500ms\" }\n";
const SHUTDOWN: &str = "[shutdown]\ndelay = \"0s\"\ndrain = \"300ms\"\negress_linger = \"0s\"\n";
const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Sends one piece of every response that runs; "end" ends it.
type PiecePrompter = watch::Sender<&'static str>;

/// Answers every request with the content type that its path names, then with the pieces that it is told to send, and what the
/// client sends in between.
async fn serve_streams<S: AsyncRead + AsyncWrite + Unpin>(stream: S, told: watch::Receiver<&'static str>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let mut told = told.clone();
        told.mark_unchanged();
        tokio::spawn(async move {
            let kind = request.uri().path().trim_start_matches('/').replace('.', "/");
            let mut content = request.into_body();
            let head = Response::builder().header("content-type", &kind).header("trailer", "grpc-status");
            let mut sending = respond.send_response(head.body(()).expect("a response"), false).expect("sent");
            loop {
                tokio::select! {
                    Some(Ok(said)) = content.data() => {
                        content.flow_control().release_capacity(said.len()).expect("released");
                        sending.send_data(said, false).expect("sent");
                    }
                    told_so = told.changed() => match (told_so, *told.borrow_and_update()) {
                        (Err(_), _) => return,
                        (Ok(()), "end") => break,
                        (Ok(()), piece) => sending.send_data(Bytes::from_static(piece.as_bytes()), false).expect("sent"),
                    },
                }
            }
            let status = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from(0))]);
            sending.send_trailers(status).expect("sent");
        });
    }
}

/// Grants a WebSocket, and sends back what comes on it; other requests get an empty answer.
async fn echo_websocket<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    while let Some(asked) = head(&mut stream).await {
        if asked.to_lowercase().contains("upgrade: websocket") {
            let granted = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(granted).await.expect("written");
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            return;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("written");
    }
}

/// The exchanges that last.
struct LongExchanges {
    tell: PiecePrompter,
    responses: Vec<(&'static str, Incoming)>,
    /// The content of the gRPC exchange in both directions, which is the last response.
    upload: UploadSender,
    websocket: Box<dyn WebSocketStream>,
}

type UploadSender = mpsc::Sender<Result<Frame<Bytes>, hyper::Error>>;

trait WebSocketStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> WebSocketStream for S {}

const KINDS: [&str; 4] = ["text.event-stream", "application.octet-stream", "application.grpc", "application.grpc"];

/// The requests, the last of which has content.
fn requests() -> (Vec<Request<Body>>, UploadSender) {
    let (upload, content) = channel();
    let mut contents = vec![content];
    let mut all: Vec<_> = KINDS
        .iter()
        .rev()
        .map(|kind| {
            let none = || BodyExt::boxed_unsync(Empty::new().map_err(|never| match never {}));
            let body = contents.pop().unwrap_or_else(none);
            let request = Request::post(format!("https://localhost/{kind}")).header("host", "localhost");
            request.header("te", "trailers").body(body).expect("a request")
        })
        .collect();
    all.reverse();
    (all, upload)
}

impl LongExchanges {
    /// Every sender sends a piece, and each arrives.
    async fn exchange_pieces(&mut self, piece: &'static str) {
        self.tell.send_replace(piece);
        for (kind, body) in &mut self.responses {
            assert_eq!(next_piece(kind, body).await, piece, "{kind}");
        }
        self.upload.send(data("up")).await.expect("the upload goes on");
        let (kind, both) = self.responses.last_mut().expect("responses");
        assert_eq!(next_piece(kind, both).await, "up", "{kind} in both directions");
        self.websocket.write_all(piece.as_bytes()).await.expect("the tunnel is open");
        let mut echo = vec![0; piece.len()];
        soon(self.websocket.read_exact(&mut echo)).await.expect("the tunnel is open");
        assert_eq!(echo, piece.as_bytes());
    }

    /// Every one ends as its sender ends it.
    async fn end(mut self) {
        self.tell.send_replace("end");
        for (kind, mut body) in self.responses {
            let mut trailers = None;
            while let Some(frame) = soon(body.frame()).await {
                trailers = frame.unwrap_or_else(|broken| panic!("{kind} breaks off: {broken}")).into_trailers().ok();
            }
            assert_eq!(trailers.expect("trailers")["grpc-status"], "0", "{kind}");
        }
        self.websocket.shutdown().await.expect("closed");
        assert_eq!(soon(rest(&mut self.websocket)).await, "");
    }
}

async fn next_piece(kind: &str, body: &mut Incoming) -> Bytes {
    let frame = soon(body.frame()).await.unwrap_or_else(|| panic!("{kind} ends"));
    frame.unwrap_or_else(|broken| panic!("{kind} breaks off: {broken}")).into_data().expect("data")
}

/// Two hours: after each step nothing is said until `quiet` is over, and then a piece goes each way.
async fn last_two_hours(
    sidecar: &mut Sidecar,
    exchanges: &mut LongExchanges,
    start: Timestamp,
    (keyring, file, pairs): (&str, &str, [sidekey::pki::issue::IssuedKeyPair; 2]),
    reloaded: &str,
    quiet: impl AsyncFn(&Sidecar),
) {
    let mut drained = Vec::new();
    let mut pairs = pairs.iter();
    for step in 1..=10 {
        sidecar.move_to(start.saturating_add(STEP * step).expect("a time"));
        match step {
            2 | 4 => {
                drop_pair(sidecar.folder.path(), file, pairs.next().expect("a pair"));
                sidecar.rotation(keyring).await;
            }
            // The first overlap is over after 24 and 30 minutes: what was opened with the first pair has to leave.
            5 => drained.push(sidecar.drained().await),
            8 => {
                sidecar.rewrite(reloaded);
                let reload = |event: &Event| match event {
                    Event::Reloaded(ReloadRecord { error, .. }) => Some(error.clone()),
                    Event::Drained(DrainRecord { reason, .. }) => {
                        drained.push(reason);
                        None
                    }
                    _ => None,
                };
                assert_eq!(sidecar.event("a reload", reload).await, None);
            }
            _ => {}
        }
        quiet(sidecar).await;
        exchanges.exchange_pieces(["one", "two", "three"][usize::try_from(step).expect("a number") % 3]).await;
    }
    assert!(drained.contains(&"overlap_ended"), "{drained:?}");
}

fn ingress_toml(streams: &Raw, websockets: &Raw) -> String {
    let ingress = |name: &str, backend: String| {
        format!(
            "[[ingress]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"{backend}\"\n{LIMITS}"
        )
    };
    let (streams, websockets) = (format!("h2c://{}", streams.address), format!("http://{}", websockets.address));
    let both = ingress("api", streams) + &ingress("ws", websockets);
    format!("certs = \"certs\"\n[keyring.default]\noverlap = \"30m\"\n{both}{SHUTDOWN}")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hours_of_silence_rotations_drains_and_a_reload_cut_nothing_through_ingress() {
    let (ca, start) = (Ca::new("Test CA"), today());
    let (tell, told) = watch::channel("");
    let streams = Raw::start(move |_, stream| serve_streams(stream, told.clone())).await;
    let websockets = Raw::start(|_, stream| echo_websocket(stream)).await;
    let other = Raw::start(|_, stream| echo_websocket(stream)).await;
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.server(5));
    put(folder.path(), "ca.crt", ca.pem());
    let mut sidecar = Sidecar::start_from_file_at(folder, &ingress_toml(&streams, &websockets), start).await;
    let peer = Arc::new(Peer::new(&[ca.pem()], Some(&ca.client("etl", 5))).alpn(&["h2"]));
    let stream = peer.tls(sidecar.ingress("api")).await.expect("connected");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let (requests, upload) = requests();
    let mut responses = Vec::new();
    for (kind, request) in KINDS.into_iter().zip(requests) {
        responses.push((kind, soon(sender.clone().send_request(request)).await.expect("answered").into_body()));
    }
    let http1 = Peer::new(&[ca.pem()], Some(&ca.client("etl", 5))).alpn(&["http/1.1"]);
    let mut websocket = http1.tls(sidecar.ingress("ws")).await.expect("connected");
    websocket.write_all(UPGRADE).await.expect("written");
    assert!(soon(head(&mut websocket)).await.expect("an answer").starts_with("HTTP/1.1 101"));
    let mut exchanges = LongExchanges { tell, responses, upload, websocket: Box::new(websocket) };
    let quiet = async |sidecar: &Sidecar| {
        // An idle connection ends: so long, nothing is said.
        let mut idle = http1.tls(sidecar.ingress("ws")).await.expect("connected");
        assert_eq!(soon(rest(&mut idle)).await, "");
    };
    let pairs = [ca.server(4), ca.server(3)];
    let reloaded = ingress_toml(&streams, &other);
    last_two_hours(&mut sidecar, &mut exchanges, start, ("default", "tls", pairs), &reloaded, quiet).await;
    exchanges.end().await;
}

fn egress_toml(upstream: &Raw) -> String {
    format!(
        "certs = \"certs\"\n[keyring.out]\noverlap = \"30m\"\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nkeyring = \"out\"\n\
         upstream = \"https://127.0.0.1:{}\"\nserver_name = \"localhost\"\n{LIMITS}{SHUTDOWN}",
        upstream.address.port()
    )
}

/// An upstream that speaks both protocols.
async fn start_upstream(ca: &Ca, told: &watch::Receiver<&'static str>) -> Raw {
    let acceptor = Plan::new(&ca.server(5), &["h2", "http/1.1"]).acceptor(&[ca.pem()]);
    let told = told.clone();
    Raw::start(move |_, stream| {
        let (acceptor, told) = (acceptor.clone(), told.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                serve_streams(stream, told).await;
            } else {
                echo_websocket(stream).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hours_of_silence_rotations_drains_and_a_reload_cut_nothing_through_egress() {
    let (ca, start) = (Ca::new("Test CA"), today());
    let (tell, told) = watch::channel("");
    let (upstream, other) = (start_upstream(&ca, &told).await, start_upstream(&ca, &told).await);
    let folder = folder();
    drop_pair(folder.path(), "out/tls", &ca.client("ours", 5));
    put(folder.path(), "out/ca.crt", ca.pem());
    let mut sidecar = Sidecar::start_from_file_at(folder, &egress_toml(&upstream), start).await;
    let to = sidecar.egress("out");
    let (requests, upload) = requests();
    let mut responses = Vec::new();
    for (kind, request) in KINDS.into_iter().zip(requests) {
        let stream = TcpStream::connect(to).await.expect("connected");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let (mut parts, body) = request.into_parts();
        parts.uri = parts.uri.path().parse().expect("a path");
        let answer = soon(sender.send_request(Request::from_parts(parts, body))).await.expect("answered");
        responses.push((kind, answer.into_body()));
    }
    let mut websocket = TcpStream::connect(to).await.expect("connected");
    websocket.write_all(UPGRADE).await.expect("written");
    assert!(soon(head(&mut websocket)).await.expect("an answer").starts_with("HTTP/1.1 101"));
    let mut exchanges = LongExchanges { tell, responses, upload, websocket: Box::new(websocket) };
    let quiet = async |_: &Sidecar| {
        let mut idle = TcpStream::connect(to).await.expect("connected");
        assert_eq!(soon(rest(&mut idle)).await, "");
    };
    let pairs = [ca.client("ours", 4), ca.client("ours", 3)];
    let reloaded = egress_toml(&other);
    last_two_hours(&mut sidecar, &mut exchanges, start, ("out", "out/tls", pairs), &reloaded, quiet).await;
    exchanges.end().await;
}
