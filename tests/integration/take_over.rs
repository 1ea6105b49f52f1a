//! A new process takes over from a running one, through the real executable.
//!
//! Must hold: under load, with fresh connections, kept ones and both protocols, no request fails, twice in a row; what runs
//! on the old process goes on to its end, and no peer that is never idle holds it; probes and commands are answered
//! throughout; the state goes on, with one writer at a time; a new process that cannot serve leaves the old one as it was;
//! the supervisor learns the new process, which a single command may start in the background; sockets pass to the sidecar's own user alone, and no key with them.

mod detached;
mod given_up;
mod leaving;
mod permission;
mod state;
mod supervisor;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::task::JoinHandle;

use crate::command::{Running, free_port, output, sidekey, text};
use crate::http::Received;
use crate::support::backend::{Backend, full};
use crate::support::ca::Ca;
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::sidecar::{drop_pair, folder, put};

/// A folder, ports and a CA for a row of processes.
pub struct TakeOverScene {
    folder: tempfile::TempDir,
    ca: Ca,
    port: u16,
    probes: u16,
}

impl TakeOverScene {
    /// With this configuration beside the usual one.
    pub fn new(backend: SocketAddr, more: &str) -> Self {
        let (folder, ca) = (folder(), Ca::new("Test CA"));
        put(folder.path(), "ca.crt", ca.pem());
        drop_pair(folder.path(), "tls", &ca.server(1));
        let (port, probes) = (free_port(), free_port());
        let toml = format!(
            "certs = \"certs\"\n{more}\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{port}\"\nkeyrings = [\"default\"]\ntrust = \"own\"\n\
             backend = \"http://{backend}\"\n\
             [[egress]]\nname = \"out\"\nlisten = \"unix:out.sock\"\nupstream = \"https://localhost:{port}\"\nkeyring = \"default\"\n\
             trust = \"own\"\n[trust.own]\nanchors = [\"ca.crt\"]\n\
             [admin]\nprobes = \"127.0.0.1:{probes}\"\ncontrol = \"control.sock\"\n\
             [log]\nformat = \"json\"\naccess = false\nhandshakes = false\n"
        );
        let scene = Self { folder, ca, port, probes };
        scene.configure(&toml);
        scene
    }

    pub fn configure(&self, toml: &str) {
        std::fs::write(self.folder.path().join("sidekey.toml"), toml).expect("written");
    }

    pub fn toml(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("sidekey.toml")).expect("read")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sidekey();
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    pub fn start(&self) -> Running {
        let running = Running::start(&mut self.command(&["run"]));
        let ready = output(&mut self.command(&["wait"]));
        assert_eq!(ready.status.code(), Some(0), "{}", text(&ready.stderr));
        running
    }

    /// The next process, once it serves alone.
    pub fn take_over(&self) -> Running {
        let running = Running::start(&mut self.command(&["run", "--take-over"]));
        running.line(&["\"message\":\"has taken over\""]);
        running
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    fn peer(&self, alpn: &str) -> Peer {
        Peer::new(&[self.ca.pem()], Some(&self.ca.client("etl", 5))).alpn(&[alpn])
    }

    /// What `/readyz` answers now, on a connection of its own.
    pub fn readiness(&self) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.probes)).expect("a probe was refused");
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: probes\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("a probe was reset");
        answer.lines().next().unwrap_or_default().to_owned()
    }
}

/// Clients that ask until they are told to end; a request that fails, or a connection, fails the test.
struct SteadyLoad {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl SteadyLoad {
    /// Each protocol on kept and on fresh connections, and probes.
    async fn start(scene: &Arc<TakeOverScene>) -> Self {
        let (is_over, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let kinds = [("http/1.1", true), ("http/1.1", true), ("http/1.1", false), ("h2", true), ("h2", false)];
        let mut clients: Vec<_> = kinds
            .into_iter()
            .map(|(alpn, is_kept)| {
                let (peer, to) = (scene.peer(alpn), scene.address());
                tokio::spawn(ask_steadily(peer, to, is_kept, Arc::clone(&is_over), Arc::clone(&answered)))
            })
            .collect();
        let (scene, over) = (Arc::clone(scene), Arc::clone(&is_over));
        clients.push(tokio::task::spawn_blocking(move || {
            while !over.load(Ordering::Acquire) {
                assert_eq!(scene.readiness(), "HTTP/1.1 200 OK");
            }
        }));
        let load = Self { is_over, answered, clients };
        load.go_on().await;
        load
    }

    /// Until two hundred more requests were answered.
    async fn go_on(&self) {
        let before = self.answered.load(Ordering::Acquire);
        eventually("the load goes on", || self.answered.load(Ordering::Acquire) >= before + 200).await;
        assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client has failed");
    }

    async fn end(self) -> usize {
        self.is_over.store(true, Ordering::Release);
        for client in self.clients {
            client.await.expect("a request failed");
        }
        self.answered.load(Ordering::Acquire)
    }
}

async fn ask_steadily(peer: Peer, to: SocketAddr, is_kept: bool, is_over: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    while !is_over.load(Ordering::Acquire) {
        let mut connection = peer.connect(to).await.expect("a connection was refused");
        loop {
            let answer = connection.get("/quick").await.expect("a request was lost");
            assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"quick"[..]));
            answered.fetch_add(1, Ordering::AcqRel);
            let is_closed = answer.headers.get("connection").is_some_and(|value| value == "close");
            // What was told to close is left; of HTTP/2 its task ends.
            if !is_kept || is_closed || is_over.load(Ordering::Acquire) {
                break;
            }
        }
    }
}

/// A backend whose `/stream` answers in two pieces, the second when it is told to.
async fn streaming_backend() -> (Backend, tokio::sync::watch::Sender<bool>) {
    let (release, released) = tokio::sync::watch::channel(false);
    let backend = Backend::with(move |seen, _| {
        if seen.uri.path() != "/stream" {
            return Response::new(full("quick"));
        }
        let mut released = released.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
        tokio::spawn(async move {
            for piece in ["first ", "last"] {
                let _ = sender.send(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).await;
                let _ = released.wait_for(|go| *go).await;
            }
        });
        Response::new(StreamBody::new(Received(receiver)).boxed_unsync())
    })
    .await;
    (backend, release)
}

/// Waits off this runtime, which serves the backend.
async fn ended(mut running: Running) -> Option<i32> {
    tokio::task::spawn_blocking(move || running.code()).await.expect("joined")
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_takes_over_under_load_twice_and_no_request_fails() {
    let (backend, release) = streaming_backend().await;
    let scene = Arc::new(TakeOverScene::new(backend.address, "state = \"state\""));
    let first = scene.start();
    let load = SteadyLoad::start(&scene).await;
    let mut streams = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        let mut connection = scene.peer(alpn).connect(scene.address()).await.expect("connected");
        streams.push(tokio::spawn(async move {
            let streamed = connection.get("/stream").await;
            // The head of what streamed has not told HTTP/1.1 to leave, so its client asks again.
            let next = if alpn == "h2" { None } else { Some(connection.get("/quick").await) };
            (streamed, next)
        }));
    }
    eventually("both streams run", || backend.seen().iter().filter(|seen| seen.uri.path() == "/stream").count() == 2)
        .await;

    let one_more = Arc::clone(&scene);
    let second = tokio::task::spawn_blocking(move || one_more.take_over()).await.expect("the second took over");
    first.line(&["a new process has taken over"]);
    load.go_on().await;
    let one_more = Arc::clone(&scene);
    let third = tokio::task::spawn_blocking(move || one_more.take_over()).await.expect("the third took over");
    second.line(&["a new process has taken over"]);
    load.go_on().await;
    assert!(load.end().await > 600);

    assert_eq!(ended(second).await, Some(0), "nothing ran on the second any more");
    // The streams run on the first process, which waits for them.
    release.send_replace(true);
    for stream in streams {
        let (answer, next) = stream.await.expect("joined");
        assert_eq!(&*answer.expect("a stream was cut").body, b"first last");
        if let Some(next) = next {
            let next = next.expect("the request behind the stream was lost");
            assert_eq!(
                (&*next.body, &next.headers["connection"]),
                (&b"quick"[..], &http::HeaderValue::from_static("close"))
            );
        }
    }
    assert_eq!(ended(first).await, Some(0));
    let answer = scene.peer("h2").get(scene.address(), "/quick").await.expect("the third serves alone");
    assert_eq!(answer.status, 200);
    UnixStream::connect(scene.folder.path().join("out.sock")).expect("the egress' socket is still there");
    let listed = output(&mut scene.command(&["keyring", "list"]));
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    third.signal(rustix::process::Signal::TERM);
    assert_eq!(ended(third).await, Some(0));
    for name in ["out.sock", "control.sock"] {
        assert!(!scene.folder.path().join(name).exists(), "{name} stays behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_signal_shortens_what_the_old_process_still_waits_for() {
    let (backend, _release) = streaming_backend().await;
    let scene = Arc::new(TakeOverScene::new(backend.address, "[shutdown]\ndrain = \"1s\""));
    let first = scene.start();
    let mut connection = scene.peer("http/1.1").connect(scene.address()).await.expect("connected");
    let stream = tokio::spawn(async move { connection.get("/stream").await });
    eventually("the stream runs", || backend.seen().len() == 1).await;
    let one_more = Arc::clone(&scene);
    let _second = tokio::task::spawn_blocking(move || one_more.take_over()).await.expect("the second took over");
    first.line(&["a new process has taken over", "\"connections\":1"]);
    first.signal(rustix::process::Signal::TERM);
    assert!(stream.await.expect("joined").is_err(), "the stream was cut at the deadline");
    assert_eq!(ended(first).await, Some(0));
}

#[test]
fn without_a_running_sidecar_it_starts_by_itself() {
    let scene = TakeOverScene::new(([127, 0, 0, 1], 9).into(), "");
    let running = Running::start(&mut scene.command(&["run", "--take-over"]));
    running.line(&["no sidecar answers at the control socket"]);
    assert_eq!(output(&mut scene.command(&["wait"])).status.code(), Some(0));
}
