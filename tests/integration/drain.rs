//! Stopping: what runs is finished, nothing new is taken, ingress before egress, and it never goes back.
//!
//! Must hold, under load too: whatever has reached the application is answered whole; uploads and downloads that run go on to
//! their end; the application can still ask its upstreams meanwhile; the process ends with 0 inside its deadline, at once where there is nothing to wait for, and says what it waits for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use sidekey::process::ShutdownPhase;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::command::{Running, free_port, output, sidekey, text};
use crate::http::Received;

use crate::support::backend::{Backend, full};
use crate::support::ca::Ca;
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::Upstream;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_finished_and_nothing_new_is_taken() {
    let (release, released) = tokio::sync::watch::channel(false);
    let backend = Backend::with(move |seen, _| {
        if seen.uri.path() != "/slow" {
            return Response::new(full("quick"));
        }
        let mut released = released.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<hyper::body::Frame<Bytes>, hyper::Error>>(1);
        tokio::spawn(async move {
            let _ = released.wait_for(|go| *go).await;
            let _ = sender.send(Ok(hyper::body::Frame::data(Bytes::from_static(b"late but whole")))).await;
        });
        Response::new(http_body_util::StreamBody::new(crate::http::Received(receiver)).boxed_unsync())
    })
    .await;
    let ca = Ca::new("Test CA");
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.server(1));
    put(folder.path(), "ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{}\"\n\
         [shutdown]\ndelay = \"0s\"\ndrain = \"15s\"\negress_linger = \"0s\"\n",
        backend.address
    );
    let sidecar = Sidecar::start(folder, &toml).await;
    let client = ca.client("etl", 5);
    let address = sidecar.ingress("api");
    let mut waiting = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&[alpn]);
        let mut connection = peer.connect(address).await.expect("connected");
        waiting.push(tokio::spawn(async move { connection.get("/slow").await }));
    }
    eventually("both requests reached the backend", || backend.seen().len() == 2).await;
    sidecar.app.begin_stop();
    eventually("ingress drains", || sidecar.app.phase() >= ShutdownPhase::DrainIngress).await;
    let refused = async {
        let peer = Peer::new(&[ca.pem()], Some(&client)).fresh();
        loop {
            if peer.get(address, "/").await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, refused).await.expect("new connections are still taken");
    release.send_replace(true);
    for request in waiting {
        let answer = request.await.expect("joined").expect("a request in flight was lost");
        assert_eq!(&*answer.body, b"late but whole");
    }
    eventually("it is over", || sidecar.app.phase() == ShutdownPhase::Over).await;
}

/// A process whose only listener is an ingress, with waits that no test outlasts; it has bound its ports.
fn start_idle_ingress(folder: &Path) -> Running {
    let ca = Ca::new("Test CA");
    put(folder, "ca.crt", ca.pem());
    drop_pair(folder, "tls", &ca.server(1));
    let (port, probes) = (free_port(), free_port());
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{port}\"\nkeyrings = [\"default\"]\nbackend = \"http://127.0.0.1:9\"\n\
         [admin]\nprobes = \"127.0.0.1:{probes}\"\ncontrol = \"own.sock\"\n[shutdown]\ndelay = \"10m\"\negress_linger = \"10m\"\n[log]\nformat = \"json\"\n"
    );
    std::fs::write(folder.join("sidekey.toml"), toml).expect("written");
    Running::start(sidekey().current_dir(folder).arg("run"))
}

/// Until the control socket answers, which says nothing of `/readyz`.
async fn wait_for_control(folder: &Path) {
    eventually("the control socket answers", || {
        output(sidekey().current_dir(folder).args(["keyring", "list"])).status.success()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_ingress_that_no_probe_asks_ends_at_once_by_signal_and_by_command() {
    for by_command in [false, true] {
        let folder = folder();
        let mut running = start_idle_ingress(folder.path());
        wait_for_control(folder.path()).await;
        if by_command {
            let stopped = output(sidekey().current_dir(folder.path()).arg("stop"));
            let told = text(&stopped.stdout);
            assert!(told.contains("within 15 s") && !told.contains("epoch"), "{told}");
        } else {
            running.signal(Signal::INT);
        }
        let line = running.line(&["\"message\":\"stopping\""]);
        for part in ["\"waits_for\":\"nothing\"", "\"longest_s\":15", "\"second_signal\":\"stops immediately\""] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert_eq!(running.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_signal_in_the_moment_of_the_first_snapshot_ends_with_0() {
    for _ in 0..5 {
        let folder = folder();
        let mut running = start_idle_ingress(folder.path());
        // The first line about a snapshot, before anything is started that serves it.
        running.line(&["\"epoch\":1"]);
        running.signal(Signal::TERM);
        assert_eq!(running.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_before_the_first_key_pair_does_not_say_that_the_process_is_ready() {
    let folder = folder();
    let socket = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
    let told = |what: &str| {
        let mut message = [0; 512];
        loop {
            let count = socket.recv(&mut message).expect("a message");
            let message = text(&message[..count]);
            if message.contains(what) {
                return;
            }
            assert!(!message.contains("READY=1"), "{message}");
        }
    };
    let toml = "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\n\
                backend = \"http://127.0.0.1:9\"\n[admin]\ncontrol = \"own.sock\"\n[log]\nformat = \"json\"\n";
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let mut command = sidekey();
    command.current_dir(folder.path()).arg("run").env("NOTIFY_SOCKET", folder.path().join("notify"));
    let mut running = Running::start(&mut command);
    wait_for_control(folder.path()).await;
    running.signal(Signal::HUP);
    running.line(&["reload"]);
    running.signal(Signal::TERM);
    told("STOPPING=1");
    assert_eq!(running.code(), Some(0));
    // With a pair it says so.
    let ca = Ca::new("Test CA");
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(1));
    let running = Running::start(&mut command);
    told("READY=1");
    running.signal(Signal::HUP);
    told("RELOADING=1");
    told("READY=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_names_the_readiness_delay_that_it_waits_for() {
    let folder = folder();
    let mut running = start_idle_ingress(folder.path());
    assert_eq!(output(sidekey().current_dir(folder.path()).arg("wait")).status.code(), Some(0));
    running.signal(Signal::TERM);
    let line = running.line(&["\"message\":\"stopping\""]);
    assert!(line.contains("\"waits_for\":\"readiness delay of 600 s\""), "{line}");
    running.line(&["\"message\":\"readiness delay: ", "\"seconds\":600"]);
    running.signal(Signal::TERM);
    assert_eq!(running.code(), Some(1));
}

/// What a load was promised: paths that were answered whole, by any of its clients.
type Answered = Arc<Mutex<BTreeSet<String>>>;

/// One client that asks again and again until its connection ends, each time for another path.
async fn ask_on(peer: Peer, to: SocketAddr, name: String, answered: Answered) {
    let mut number = 0;
    while let Ok(mut connection) = peer.connect(to).await {
        // A connection that was told to close is left, and a new one tried.
        loop {
            number += 1;
            let path = format!("/{name}/{number}");
            match connection.get(&path).await {
                Ok(answer) if answer.status == 200 && *answer.body == *b"quick" => {
                    answered.lock().expect("lock").insert(path);
                }
                Ok(answer) => panic!("{path}: {}", answer.status),
                Err(_) => break,
            }
        }
    }
}

/// Clients on both protocols; they end when no listener is left.
fn load(ca: &Ca, to: SocketAddr, answered: &Answered) -> Vec<tokio::task::JoinHandle<()>> {
    let client = ca.client("etl", 5);
    let clients = (0..8).map(|number| {
        let alpn = if number % 2 == 0 { "h2" } else { "http/1.1" };
        let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&[alpn]);
        tokio::spawn(ask_on(peer, to, format!("{alpn}-{number}"), Arc::clone(answered)))
    });
    clients.collect()
}

fn assert_all_answered(backend: &Backend, answered: &Answered) {
    let answered = answered.lock().expect("lock");
    let lost: Vec<_> = backend
        .seen()
        .iter()
        .map(|seen| seen.uri.path().to_owned())
        .filter(|path| path.starts_with("/h") && !answered.contains(path))
        .collect();
    assert_eq!(lost, Vec::<String>::new(), "reached the application and were not answered, of {}", answered.len());
    assert!(answered.len() > 50, "no load: {}", answered.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_ends_with_0_and_loses_nothing_that_was_accepted() {
    let (ca, backend) = (Ca::new("Test CA"), Backend::with(|_, _| Response::new(full("quick"))).await);
    let folder = folder();
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(1));
    let (port, probes) = (free_port(), free_port());
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{port}\"\nkeyrings = [\"default\"]\nbackend = \"http://{}\"\n\
         [admin]\nprobes = \"127.0.0.1:{probes}\"\n[shutdown]\ndelay = \"0s\"\ndrain = \"10s\"\negress_linger = \"0s\"\n[log]\naccess = false\n",
        backend.address
    );
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let mut running = Running::start(sidekey().current_dir(folder.path()).arg("run"));
    assert_eq!(output(sidekey().current_dir(folder.path()).arg("wait")).status.code(), Some(0));
    let answered = Answered::default();
    let clients = load(&ca, ([127, 0, 0, 1], port).into(), &answered);
    eventually("there is load", || answered.lock().expect("lock").len() > 200).await;
    running.signal(Signal::TERM);
    let code = tokio::task::spawn_blocking(move || running.code()).await.expect("joined");
    assert_eq!(code, Some(0));
    for client in clients {
        client.await.expect("a client was answered wrongly");
    }
    assert_all_answered(&backend, &answered);
}

/// An upload over HTTP/1.1 or HTTP/2 whose pieces come when the test sends them; it answers with what was echoed.
async fn upload(
    peer: &Peer,
    to: SocketAddr,
    path: &str,
) -> (mpsc::Sender<Result<Frame<Bytes>, hyper::Error>>, tokio::task::JoinHandle<anyhow::Result<Bytes>>) {
    let stream = peer.tls(to).await.expect("a handshake");
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let (pieces, receiver) = mpsc::channel(1);
    let body = StreamBody::new(Received(receiver));
    let io = TokioIo::new(stream);
    let request = if h2 {
        Request::post(format!("https://localhost{path}"))
    } else {
        Request::post(path).header("host", "localhost")
    };
    let request = request.body(body).expect("a request");
    let sent = tokio::spawn(async move {
        let response = if h2 {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        };
        anyhow::ensure!(response.status() == 200, "{}", response.status());
        Ok(response.into_body().collect().await?.to_bytes())
    });
    (pieces, sent)
}

/// One request to an egress, by hand: its status.
async fn through(egress: SocketAddr) -> String {
    let mut stream = tokio::net::TcpStream::connect(egress).await.expect("egress still listens");
    stream.write_all(b"GET /late HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer.get(9..12).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_on_to_their_end_and_the_application_still_reaches_its_upstream() {
    let (ca, backend) = (Ca::new("Test CA"), Backend::echo().await);
    let upstream = Upstream::start(&ca.server(1), &[ca.pem()], &["http/1.1"]).await;
    let folder = folder();
    for keyring in ["default", "out"] {
        put(folder.path(), &format!("{keyring}/ca.crt"), ca.pem());
    }
    drop_pair(folder.path(), "default/tls", &ca.server(1));
    drop_pair(folder.path(), "out/tls", &ca.client("us", 5));
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{}\"\n\
         [[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://{}\"\nserver_name = \"localhost\"\nkeyring = \"out\"\n\
         [shutdown]\ndelay = \"0s\"\ndrain = \"15s\"\negress_linger = \"0s\"\n",
        backend.address, upstream.address
    );
    let sidecar = Sidecar::start(folder, &toml).await;
    let client = ca.client("etl", 5);
    let mut running = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&[alpn]);
        let (pieces, sent) = upload(&peer, sidecar.ingress("api"), "/upload").await;
        pieces.send(Ok(Frame::data(Bytes::from_static(b"begun, ")))).await.expect("taken");
        running.push((pieces, sent));
    }
    eventually("both uploads reached the backend", || backend.seen().len() == 2).await;
    sidecar.app.begin_stop();
    eventually("ingress drains", || sidecar.app.phase() == ShutdownPhase::DrainIngress).await;
    assert_eq!(through(sidecar.egress("out")).await, "200");
    for (pieces, sent) in running {
        pieces.send(Ok(Frame::data(Bytes::from_static(b"and done")))).await.expect("taken");
        drop(pieces);
        assert_eq!(sent.await.expect("joined").expect("an answer"), "begun, and done");
    }
    eventually("it is over", || sidecar.app.phase() == ShutdownPhase::Over).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_an_open_websocket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let backend = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let granted = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(granted).await?;
        let (mut reads, mut writes) = stream.split();
        tokio::io::copy(&mut reads, &mut writes).await
    });
    let ca = Ca::new("Test CA");
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.server(1));
    put(folder.path(), "ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{backend}\"\n\
         [shutdown]\ndelay = \"0s\"\ndrain = \"15s\"\negress_linger = \"0s\"\n"
    );
    let sidecar = Sidecar::start(folder, &toml).await;
    let peer = Peer::new(&[ca.pem()], Some(&ca.client("etl", 5))).alpn(&["http/1.1"]);
    let mut stream = peer.tls(sidecar.ingress("api")).await.expect("a handshake");
    let asked = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(asked).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    sidecar.app.begin_stop();
    eventually("ingress drains", || sidecar.app.phase() == ShutdownPhase::DrainIngress).await;
    for _ in 0..20 {
        stream.write_all(b"still").await.expect("the tunnel is open");
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await.expect("the tunnel is open");
        assert_eq!((&echo, sidecar.app.phase()), (b"still", ShutdownPhase::DrainIngress));
    }
    stream.shutdown().await.expect("closed");
    drop(stream);
    eventually("it is over", || sidecar.app.phase() == ShutdownPhase::Over).await;
}
