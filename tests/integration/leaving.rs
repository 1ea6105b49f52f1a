//! Connections that have to leave: a planned drain waits for what runs, an urgent one until its deadline, and what it cuts is said.

use std::net::SocketAddr;

use http::Request;
use http_body_util::BodyExt;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::command::{Running, free_port, output, sidekey};
use crate::protocols::{soon, stand};
use crate::silence::prompted;
use crate::slow::a_while;
use crate::support::ca::Ca;
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::raw::{Raw, head, rest, until};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::Upstream;

/// A response that has begun without `connection: close` promises the client that it may ask again.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_behind_a_response_that_had_begun_before_a_planned_drain_is_answered() {
    let limits = "[ingress.limits]\nidle = \"500ms\"\nconnection_age = \"500ms\"\n";
    let (tell, backend) = prompted("text/plain").await;
    let mut stand = stand(&format!("http://{}", backend.address), limits).await;
    let (mut client, request) = (stand.wire().await, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.write_all(request).await.expect("written");
    let first = soon(head(&mut client)).await.expect("a head");
    assert!(first.starts_with("HTTP/1.1 200 ") && !first.contains("connection: close"), "{first}");
    assert_eq!(stand.sidecar.drained().await, "connection_age");
    tell.send_replace("whole");
    soon(until(&mut client, b"0\r\n\r\n")).await.expect("the end of the first");
    tell.send_replace("end");
    // In two pieces, with more time between them than an idle connection has.
    client.write_all(&request[..9]).await.expect("written");
    for _ in 0..3 {
        a_while(&stand).await;
    }
    client.write_all(&request[9..]).await.expect("written");
    let second = soon(head(&mut client)).await.expect("the second is answered");
    assert!(second.starts_with("HTTP/1.1 200 ") && second.contains("connection: close"), "{second}");
    tell.send_replace("whole");
    assert!(soon(rest(&mut client)).await.ends_with("0\r\n\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_drain_waits_for_a_response_that_outlasts_the_urgent_deadline() {
    let limits = "[ingress.limits]\nidle = \"500ms\"\nconnection_age = \"500ms\"\n\
                  [shutdown]\ndelay = \"0s\"\ndrain = \"500ms\"\negress_linger = \"0s\"\n";
    for alpn in ["http/1.1", "h2"] {
        let (tell, backend) = prompted("text/plain").await;
        let mut stand = stand(&format!("http://{}", backend.address), limits).await;
        let request = Request::get("https://localhost/").header("host", "localhost").body(Default::default());
        let mut body = stand.send(alpn, request.expect("a request")).await.expect("answered").into_body();
        assert_eq!(stand.sidecar.drained().await, "connection_age");
        for _ in 0..3 {
            a_while(&stand).await;
            tell.send_replace("x");
            let frame = soon(body.frame()).await.expect("a piece").expect("it is not cut");
            assert_eq!(frame.into_data().expect("data"), "x", "{alpn}");
        }
        tell.send_replace("whole");
        let rest = soon(body.collect()).await.expect("whole").to_bytes();
        assert_eq!(rest, "", "{alpn}");
    }
}

/// One worker: its connection is the one that the next request would take.
fn egress(upstream: SocketAddr) -> String {
    format!(
        "certs = \"certs\"\nworkers = 1\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nkeyring = \"out\"\n\
         upstream = \"https://127.0.0.1:{}\"\nserver_name = \"localhost\"\nlimits = {{ idle = \"500ms\" }}\n\
         [shutdown]\ndelay = \"0s\"\ndrain = \"500ms\"\negress_linger = \"0s\"\n",
        upstream.port()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_to_another_upstream_waits_for_what_the_old_one_has_begun() {
    let ca = Ca::new("Test CA");
    for alpn in ["h2", "http/1.1"] {
        let old = Upstream::start(&ca.server(5), &[ca.pem()], &[alpn]).await;
        let new = Upstream::start(&ca.server(5), &[ca.pem()], &[alpn]).await;
        let folder = folder();
        drop_pair(folder.path(), "out/tls", &ca.client("ours", 5));
        put(folder.path(), "out/ca.crt", ca.pem());
        let mut sidecar = Sidecar::start_from_file(folder, &egress(old.address)).await;
        let to = sidecar.egress("out");
        let mut app = TcpStream::connect(to).await.expect("connected");
        let head = "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 8\r\nConnection: close\r\n\r\nhalf";
        app.write_all(head.as_bytes()).await.expect("written");
        eventually("the old upstream has it", || old.seen().len() == 1).await;
        sidecar.rewrite(&egress(new.address));
        assert_eq!(sidecar.drained().await, "upstream_changed");
        // Each lasts as long as the limit `idle`, and the drain's deadline.
        for _ in 0..3 {
            assert_eq!(soon(rest(&mut TcpStream::connect(to).await.expect("connected"))).await, "");
        }
        app.write_all(b"rest").await.expect("written");
        let answer = soon(rest(&mut app)).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("halfrest"), "over {alpn}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_counts_what_it_cuts_and_the_access_line_does_not_blame_the_client() {
    let asked = watch::Sender::new(0);
    let tell = asked.clone();
    let backend = Raw::start(move |_, mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            head(&mut stream).await;
            tell.send_modify(|count| *count += 1);
            std::future::pending::<()>().await;
        }
    })
    .await;
    let (ca, folder) = (Ca::new("Test CA"), folder());
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(1));
    let (port, probes) = (free_port(), free_port());
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{port}\"\nkeyrings = [\"default\"]\nbackend = \"http://{}\"\n\
         [admin]\nprobes = \"127.0.0.1:{probes}\"\n[shutdown]\ndelay = \"0s\"\ndrain = \"2s\"\negress_linger = \"0s\"\n[log]\nformat = \"json\"\n",
        backend.address
    );
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let mut running = Running::start(sidekey().current_dir(folder.path()).arg("run"));
    assert_eq!(output(sidekey().current_dir(folder.path()).arg("wait")).status.code(), Some(0));
    let mut told = asked.subscribe();
    let mut waiting = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        let peer = Peer::new(&[ca.pem()], Some(&ca.client("etl", 5))).alpn(&[alpn]);
        let mut connection = peer.connect(([127, 0, 0, 1], port).into()).await.expect("connected");
        waiting.push(tokio::spawn(async move { connection.get("/cut").await }));
    }
    soon(told.wait_for(|count| *count == 2)).await.expect("both requests reached the backend");
    running.signal(Signal::TERM);
    let lines = tokio::task::spawn_blocking(move || {
        let cut: &[&str] = &["\"path\":\"/cut\"", "\"reason\":\"drain_deadline\"", "\"status\":503"];
        let lines = running.lines(&[cut, cut, &["\"closed_at_the_deadline\":2"]]);
        assert_eq!(running.code(), Some(0));
        lines
    });
    lines.await.expect("the lines");
    for request in waiting {
        assert!(request.await.expect("joined").is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_egress_without_a_usable_pair_listens_and_says_what_it_waits_for() {
    let ca = Ca::new("Test CA");
    let upstream = Upstream::start(&ca.server(5), &[ca.pem()], &["http/1.1"]).await;
    let folder = folder();
    put(folder.path(), "out/ca.crt", ca.pem());
    let path = folder.path().to_owned();
    let sidecar = Sidecar::begin(folder, &egress(upstream.address), None);
    let to = sidecar.egress("out");
    let mut app = soon(async {
        loop {
            if let Ok(stream) = TcpStream::connect(to).await {
                return stream;
            }
        }
    })
    .await;
    app.write_all(b"GET /early HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    soon(app.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after"), "{answer}");
    let access = |line: &serde_json::Value| {
        (&line["path"], &line["status"], &line["reason"]) == (&"/early".into(), &503.into(), &"no_key_pair".into())
    };
    eventually("it has its access line", || sidecar.log().iter().any(access)).await;
    assert!(sidecar.app.ready(std::time::Duration::ZERO).await.is_err(), "it is not ready");
    drop_pair(&path, "out/tls", &ca.client("ours", 5));
    sidecar.app.ready(crate::support::PATIENCE).await.expect("ready");
    let answer = crate::egress::ask(to, http::Method::GET, "").await.expect("answered");
    assert_eq!(answer.0, 200);
}
