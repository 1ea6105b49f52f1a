//! Rotations without end under load: every way of dropping, two CAs in turn, requests in flight all the while; and both sides
//! of one connection rotating at once.
//!
//! Must hold: no request fails, on kept connections or fresh ones, and neither descriptors nor memory pile up.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sidekey::pki::issue::IssuedKeyPair;

use crate::handshake::stand;
use crate::support::ca::{Ca, fingerprint, today};
use crate::support::peer::Peer;
use crate::support::sidecar::{drop_pair, put};

const ROTATIONS: i32 = 200;

/// How many descriptors this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Drops a pair in one of four ways, chosen by `turn`; the file names of each way are its own.
fn drop_somehow(certs: &Path, turn: i32, pair: &IssuedKeyPair) {
    let root = certs.parent().expect("a folder");
    match turn % 4 {
        0 => drop_pair(root, "tls", pair),
        1 => {
            put(root, "place.crt", &pair.chain_pem);
            put(root, "place.key", pair.key_pem.as_str());
        }
        2 => {
            let real = certs.join(format!("..{turn}"));
            std::fs::create_dir(&real).expect("a folder");
            std::fs::write(real.join("flip.pem"), format!("{}{}", pair.key_pem.as_str(), pair.chain_pem))
                .expect("a file");
            std::os::unix::fs::symlink(format!("..{turn}"), certs.join("..data_tmp")).expect("a link");
            std::fs::rename(certs.join("..data_tmp"), certs.join("..data")).expect("a flip");
            let link = certs.join("flip.pem");
            if !link.is_symlink() {
                std::os::unix::fs::symlink("..data/flip.pem", link).expect("a link");
            }
        }
        _ => {
            // A second file beside the first; the one of two turns ago goes.
            put(root, &format!("beside-{turn}.pem"), &format!("{}{}", pair.chain_pem, pair.key_pem.as_str()));
            let _ = std::fs::remove_file(certs.join(format!("beside-{}.pem", turn - 8)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_rotations_lose_no_request() {
    let mut stand = stand("[keyring.default]\noverlap = \"1m\"").await;
    let other = Ca::new("The other CA");
    let client = stand.ca.client("etl", 5);
    let address = stand.sidecar.ingress("api");
    let done = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let rotations = Arc::new(AtomicU64::new(0));
    let mut load = tokio::task::JoinSet::new();
    for number in 0..20 {
        let peer = Peer::new(&[stand.ca.pem(), other.pem()], Some(&client));
        let peer = if number % 2 == 0 { peer.alpn(&["h2"]) } else { peer.alpn(&["http/1.1"]) };
        let (done, answered, rotations) = (Arc::clone(&done), Arc::clone(&answered), Arc::clone(&rotations));
        load.spawn(async move {
            let (mut since, mut made_at) = (Instant::now(), rotations.load(Ordering::Relaxed));
            let mut kept = peer.connect(address).await.expect("connected");
            while !done.load(Ordering::Relaxed) {
                // At most eight previous pairs are kept, and a rotation takes at least 200 ms: a connection that is older
                // than eight rotations is drained as the contract says, so these are made anew before that.
                if since.elapsed() > Duration::from_secs(1) {
                    (since, made_at) = (Instant::now(), rotations.load(Ordering::Relaxed));
                    kept = peer.connect(address).await.expect("connected");
                }
                let fresh = number >= 16;
                let answer = if fresh { peer.get(address, "/fresh").await } else { kept.get("/kept").await };
                let answer = answer.unwrap_or_else(|error| {
                    let (age, older) = (since.elapsed(), rotations.load(Ordering::Relaxed) - made_at);
                    panic!("a request was lost (fresh: {fresh}) on a connection {age:?} and {older} rotations old: {error:#}")
                });
                assert_eq!(answer.status, 200);
                answered.fetch_add(1, Ordering::Relaxed);
                // Twenty busy loops would leave the machine no time for the rotations themselves.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let certs = stand.sidecar.folder.path().join("certs");
    let mut before = 0;
    for turn in 0..ROTATIONS {
        let ca = if turn % 2 == 0 { &stand.ca } else { &other };
        let mut request = stand.ca.request("localhost");
        request.ips = vec![std::net::Ipv4Addr::LOCALHOST.into()];
        request.validity.not_before = today() - jiff::SignedDuration::from_secs(i64::from(3600 - turn * 10));
        let next = ca.issue(&request);
        drop_somehow(&certs, turn, &next);
        assert_eq!(stand.sidecar.rotation("default").await, fingerprint(&next), "rotation {turn}");
        rotations.fetch_add(1, Ordering::Relaxed);
        assert!(!load.is_empty());
        if turn == 20 {
            before = descriptors();
        }
    }
    let after = descriptors();
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.expect("a client lost a request");
    }
    assert!(answered.load(Ordering::Relaxed) > 1000, "hardly any load");
    assert!(after < before + 40, "descriptors grew from {before} to {after}");
}

/// Rotations of both sides at once; `SIDEKEY_ROTATIONS` says how many where the test is run by hand.
const BOTH_SIDES: i64 = 150;

/// Memory in RAM, in MiB.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim_end_matches("kB").trim().parse::<usize>().expect("a number") / 1024
}

/// One client of the application: requests through our egress until it is told to stop; how many were answered.
async fn application(number: u32, to: std::net::SocketAddr, done: Arc<AtomicBool>) -> u64 {
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(to).await.expect("connected");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP");
        tokio::spawn(connection);
        sender
    };
    let mut sender = connect().await;
    let mut answered = 0;
    while !done.load(Ordering::Relaxed) {
        if number.is_multiple_of(2) || sender.ready().await.is_err() {
            sender = connect().await;
        }
        let body = if number.is_multiple_of(3) {
            format!("{number} {answered} {}", "x".repeat(20_000))
        } else {
            String::new()
        };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = http::Request::builder().method(method).uri("/echo").header("host", "application");
        let request = request.body(http_body_util::Full::new(bytes::Bytes::from(body.clone()))).expect("a request");
        let answer = sender.send_request(request).await.expect("a request was lost");
        assert_eq!(answer.status(), 200, "request {answered} of client {number}");
        let collected = http_body_util::BodyExt::collect(answer.into_body()).await.expect("the body was cut off");
        assert_eq!(collected.to_bytes(), body);
        answered += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_on_both_sides_at_once_lose_no_request() {
    let rotations = std::env::var("SIDEKEY_ROTATIONS").map_or(BOTH_SIDES, |count| count.parse().expect("a number"));
    let other = Ca::new("The other CA");
    let mut partner = stand("[keyring.default]\noverlap = \"30s\"").await;
    let both = format!("{}{}", partner.ca.pem(), other.pem());
    put(partner.sidecar.folder.path(), "ca.crt", &both);
    let upstream = partner.sidecar.ingress("api");
    let extra = "server_name = \"localhost\"\n[keyring.out]\noverlap = \"30s\"";
    let mut ours = crate::egress::egress(&partner.ca, &partner.ca.client("ours", 5), upstream, extra).await;
    put(ours.folder.path(), "out/ca.crt", &both);
    let done = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for number in 0..10 {
        load.spawn(application(number, ours.egress("out"), Arc::clone(&done)));
    }
    let mut before = (0, 0);
    for turn in 0..rotations {
        let ca = if turn % 2 == 0 { &other } else { &partner.ca };
        let dated = |mut request: sidekey::pki::issue::IssueRequest| {
            // Ascending, and all of them long before today.
            request.validity.not_before = today() - jiff::SignedDuration::from_secs(100_000 - turn * 10);
            ca.issue(&request)
        };
        let mut server = ca.request("localhost");
        server.ips = vec![std::net::Ipv4Addr::LOCALHOST.into()];
        let mut client = ca.request("ours.example");
        client.uris = vec!["spiffe://ours.example/app".to_owned()];
        let (server, client) = (dated(server), dated(client));
        drop_pair(partner.sidecar.folder.path(), "tls", &server);
        drop_pair(ours.folder.path(), "out/tls", &client);
        assert_eq!(partner.sidecar.rotation("default").await, fingerprint(&server), "rotation {turn}");
        assert_eq!(ours.rotation("out").await, fingerprint(&client), "rotation {turn}");
        assert!(load.try_join_next().is_none(), "a client ended before its time");
        // What the backend recorded would be taken for the sidecar's memory.
        partner.backend.forget();
        if turn == rotations / 4 {
            before = (descriptors(), memory());
        }
    }
    let after = (descriptors(), memory());
    done.store(true, Ordering::Relaxed);
    let mut answered = 0;
    while let Some(ended) = load.join_next().await {
        answered += ended.expect("a client lost a request");
    }
    println!(
        "{rotations} rotations on both sides, {answered} requests, 0 lost; descriptors and MiB {before:?} to {after:?}"
    );
    assert!(answered > 1000, "hardly any load: {answered}");
    assert!(after.0 < before.0 + 40 && after.1 < before.1 + 100, "grew from {before:?} to {after:?}");
}
