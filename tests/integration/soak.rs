//! Two hundred rotations under load: every way of dropping, two CAs in turn, twenty requests in flight all the while.
//!
//! Must hold: no request fails, on kept connections or fresh ones, and descriptors do not pile up.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sidekey::pki::issue::Issued;

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
fn drop_somehow(certs: &Path, turn: i32, pair: &Issued) {
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
    let mut load = tokio::task::JoinSet::new();
    for number in 0..20 {
        let peer = Peer::new(&[stand.ca.pem(), other.pem()], Some(&client));
        let peer = if number % 2 == 0 { peer.alpn(&["h2"]) } else { peer.alpn(&["http/1.1"]) };
        let (done, answered) = (Arc::clone(&done), Arc::clone(&answered));
        load.spawn(async move {
            let mut kept = peer.connect(address).await.expect("connected");
            let mut since = Instant::now();
            while !done.load(Ordering::Relaxed) {
                // At most eight previous pairs are kept, and a rotation takes at least 200 ms: a connection that is older
                // than eight rotations is drained as the contract says, so these are made anew before that.
                if since.elapsed() > Duration::from_secs(1) {
                    kept = peer.connect(address).await.expect("connected");
                    since = Instant::now();
                }
                let fresh = number >= 16;
                let answer = if fresh { peer.get(address, "/fresh").await } else { kept.get("/kept").await };
                assert_eq!(answer.expect("a request was lost").status, 200);
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
