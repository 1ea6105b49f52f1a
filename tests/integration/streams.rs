//! HTTP/2 towards a backend: what is not processed is sent again, and a broken connection is left without cutting what runs on it.
//!
//! The backends speak frames by hand: no library says at will what it has not processed, or falls silent.

mod upstream;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidekey::pki::issue::IssuedKeyPair;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::support::ca::Ca;
use crate::support::peer::Peer;
use crate::support::raw::Raw;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// `:status: 200`, from the static table.
const OK: &[u8] = &[0x88];

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A connection, frame by frame.
struct Frames<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Reads the preface; the SETTINGS that answer it are the caller's.
    async fn of(mut stream: S) -> Option<Self> {
        stream.read_exact(&mut [0; 24]).await.ok()?;
        Some(Self(stream))
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).expect("a short frame").to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        let _ = self.0.write_all(&frame).await;
    }

    /// The next frame that is about a request.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            match kind {
                HEADERS | DATA => return Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }),
                SETTINGS | PING if flags & ACK == 0 => {
                    let said: &[u8] = if kind == PING { &payload } else { &[] };
                    self.write(kind, ACK, 0, said).await;
                }
                _ => {}
            }
        }
    }

    /// The next whole request, if requests come one after the other: its stream and its content.
    async fn request(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut content = Vec::new();
        loop {
            let frame = self.next().await?;
            if frame.kind == DATA {
                content.extend(frame.payload);
            }
            if frame.flags & END_STREAM != 0 {
                return Some((frame.stream, content));
            }
        }
    }

    async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_STREAM | END_HEADERS, stream, OK).await;
    }

    /// Ends the connection, the last stream that is processed being this one, for this reason.
    async fn leave(&mut self, last: u32, code: u32) {
        self.write(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    async fn answer_all(&mut self) {
        while let Some(frame) = self.next().await {
            if frame.flags & END_STREAM != 0 {
                self.answer(frame.stream).await;
            }
        }
    }
}

/// An ingress of one worker before this backend, and a pair that may come to it.
async fn stand_with(ca: &Ca, backend: &Raw, limits: &str) -> (Sidecar, IssuedKeyPair) {
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.server(5));
    put(folder.path(), "ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\nworkers = 1\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\n\
         backend = \"h2c://{}\"\n{limits}\n",
        backend.address
    );
    (Sidecar::start(folder, &toml).await, ca.client("etl", 5))
}

/// The same, and a peer's HTTP/2 connection to it.
async fn stand(backend: &Raw, limits: &str) -> (Sidecar, SendRequest<Full<Bytes>>) {
    let ca = Ca::new("Test CA");
    let (sidecar, client) = stand_with(&ca, backend, limits).await;
    let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&["h2"]);
    let stream = peer.tls(sidecar.ingress("api")).await.expect("a handshake");
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("connected");
    tokio::spawn(connection);
    (sidecar, sender)
}

fn request(method: &Method, content: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri("https://localhost/");
    request.body(Full::new(Bytes::from(content))).expect("a request")
}

async fn ask(sender: &SendRequest<Full<Bytes>>, method: &Method, content: &'static str) -> u16 {
    sender.clone().send_request(request(method, content)).await.expect("an answer").status().as_u16()
}

/// So many requests at once; each is answered.
async fn ask_at_once(sender: &SendRequest<Full<Bytes>>, count: usize, method: Method) {
    let ask_one = |_| {
        let (sender, method) = (sender.clone(), method.clone());
        tokio::spawn(async move { ask(&sender, &method, "").await })
    };
    for one in (0..count).map(ask_one).collect::<Vec<_>>() {
        assert_eq!(one.await.expect("joined"), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_processed_is_sent_again_whatever_its_method() {
    let cases = [
        (GOAWAY, Method::POST, "content"),
        (RST_STREAM, Method::POST, "content"),
        (GOAWAY, Method::POST, ""),
        (RST_STREAM, Method::GET, ""),
    ];
    for (says, method, content) in cases {
        // Once on a connection that is in use, once as the first of a new one.
        for before in [0, 1] {
            let processed = Arc::new(Mutex::new(Vec::new()));
            let processes = Arc::clone(&processed);
            let backend = Raw::start(move |number, stream| {
                let processed = Arc::clone(&processes);
                async move {
                    let Some(mut frames) = Frames::of(stream).await else { return };
                    frames.write(SETTINGS, 0, 0, &[]).await;
                    let mut count = 0;
                    while let Some((stream, content)) = frames.request().await {
                        if number > 0 || count < before {
                            processed.lock().expect("lock").push(content);
                            frames.answer(stream).await;
                        } else if says == GOAWAY {
                            let last = if before == 0 { 0_u32 } else { 1 };
                            frames.write(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0; 4]].concat()).await;
                        } else {
                            frames.write(RST_STREAM, 0, stream, &7_u32.to_be_bytes()).await;
                        }
                        count += 1;
                    }
                }
            })
            .await;
            let (_sidecar, sender) = stand(&backend, "").await;
            for _ in 0..before {
                assert_eq!(ask(&sender, &Method::GET, "").await, 200);
            }
            assert_eq!(ask(&sender, &method, content).await, 200, "{says} {method} {content:?} after {before}");
            let processed = processed.lock().expect("lock").clone();
            assert_eq!(processed.len(), before + 1);
            assert_eq!(processed.last().map(Vec::as_slice), Some(content.as_bytes()), "{says} {method}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_have_been_processed_is_not_sent_again() {
    let backend = Raw::start(|_, stream| async move {
        let Some(mut frames) = Frames::of(stream).await else { return };
        frames.write(SETTINGS, 0, 0, &[]).await;
        while let Some((stream, _)) = frames.request().await {
            // CANCEL, and a GOAWAY that counts the stream in.
            frames.write(RST_STREAM, 0, stream, &8_u32.to_be_bytes()).await;
            frames.write(GOAWAY, 0, 0, &[&stream.to_be_bytes()[..], &[0; 4]].concat()).await;
        }
    })
    .await;
    let (_sidecar, sender) = stand(&backend, "").await;
    assert_eq!(ask(&sender, &Method::POST, "content").await, 502);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_on_a_new_connection_that_allows_few_streams_is_answered_whole() {
    let backend = Raw::start(|number, stream| async move {
        let Some(mut frames) = Frames::of(stream).await else { return };
        if number == 0 {
            let mut opened = Vec::new();
            while opened.len() < 16 {
                let Some(frame) = frames.next().await else { return };
                opened.push(frame.stream);
            }
            // MAX_CONCURRENT_STREAMS is 2, which comes too late for the others.
            frames.write(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 2]).await;
            for stream in opened.split_off(2) {
                frames.write(RST_STREAM, 0, stream, &7_u32.to_be_bytes()).await;
            }
            for stream in opened {
                frames.answer(stream).await;
            }
        } else {
            frames.write(SETTINGS, 0, 0, &[]).await;
        }
        frames.answer_all().await;
    })
    .await;
    let (_sidecar, sender) = stand(&backend, "").await;
    ask_at_once(&sender, 40, Method::POST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_fallen_silent_is_left_and_what_runs_on_it_is_not_cut() {
    let speak = Arc::new(Notify::new());
    let spoken = Arc::clone(&speak);
    let backend = Raw::start(move |number, stream| {
        let speak = Arc::clone(&spoken);
        async move {
            let Some(mut frames) = Frames::of(stream).await else { return };
            frames.write(SETTINGS, 0, 0, &[]).await;
            if number == 0 {
                let Some((stream, _)) = frames.request().await else { return };
                frames.write(HEADERS, END_HEADERS, stream, OK).await;
                speak.notified().await;
                frames.write(DATA, END_STREAM, stream, b"late but whole").await;
            }
            frames.answer_all().await;
        }
    })
    .await;
    let (_sidecar, sender) = stand(&backend, "limits = { response = \"1s\" }").await;
    let slow = sender.clone().send_request(request(&Method::GET, "")).await.expect("a head");
    assert_eq!(ask(&sender, &Method::POST, "").await, 504);
    for _ in 0..3 {
        assert_eq!(ask(&sender, &Method::POST, "").await, 200);
    }
    assert_eq!(backend.connections(), 2);
    speak.notify_one();
    assert_eq!(slow.into_body().collect().await.expect("a body").to_bytes(), "late but whole");
}
