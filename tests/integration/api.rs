//! The API of the admin listener, as its readers' tools see it, on a sidecar that has something to show.
//!
//! Must hold: every answer is one that the OpenAPI document describes, whatever is asked (schemathesis); the same facts as the
//! commands say; foreign names and other methods are refused; metrics are clean for Prometheus and for OpenMetrics.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::egress::ask;
use crate::handshake::{Stand, stand_with};
use crate::support::ca::{Ca, fingerprint, today};
use crate::support::database::until;
use crate::support::peer::Peer;
use crate::support::raw_ca::RawCa;
use crate::support::sidecar::{drop_pair, put};
use crate::support::upstream::Upstream;

/// What no stand of these tests has: chains that end early, peers to contact, other replicas, upstreams in doubt.
const HIDDEN: [&str; 4] = ["ChainEnd", "FirstContact", "Replica", "UpstreamProblem"];

/// An ingress and an egress in overlap, with a peer that came, one that was refused, and an upstream.
async fn busy_stand() -> (Stand, Upstream, SocketAddr) {
    let upstream_ca = Ca::new("Upstream CA");
    let upstream = Upstream::start(&upstream_ca.server(5), &[Ca::new("Test CA").pem()], &["http/1.1"]).await;
    let port = upstream.address.port();
    let top = "registry = \"registry.db\"\ninstance = \"one\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
               [keyring.default]\nowner = \"integrations\"\nrotate_every = \"1d\"\n";
    let egress = format!(
        "[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://127.0.0.1:{port}\"\n\
         server_name = \"localhost\"\nkeyring = \"out\"\n"
    );
    let fill = |folder: &Path, ca: &Ca| {
        drop_pair(folder, "out/tls", &ca.client("ours", 5));
        put(folder, "out/ca.crt", upstream_ca.pem());
        put(folder, "out/revoked.crl", &RawCa::new("Revoking CA").crl(&[7, 9], 30));
    };
    let mut stand = stand_with(top, &egress, None, fill).await;
    upstream.accept(&[stand.ca.pem()]);
    let client = stand.ca.client("etl", 5);
    let (address, trusted) = (stand.sidecar.ingress("api"), stand.ca.pem().to_owned());
    Peer::new(&[&trusted], Some(&client)).get(address, "/").await.expect("answered");
    ask(stand.sidecar.egress("out"), http::Method::GET, "").await.expect("answered");
    let stranger = Ca::new("Unknown CA").client("etl", 5);
    assert!(Peer::new(&[&trusted], Some(&stranger)).get(address, "/").await.is_err());
    drop_pair(stand.sidecar.folder.path(), "2027", &stand.ca.server(1));
    stand.sidecar.rotation("default").await;
    Peer::new(&[&trusted], Some(&client)).fresh().get(address, "/").await.expect("answered");
    ask(stand.sidecar.egress("out"), http::Method::GET, "").await.expect("answered");
    let admin = stand.sidecar.app.admin_address().expect("TCP");
    until("the registry has all of it", async || {
        let has = async |path: &str| json(admin, path).await["total"].as_u64().filter(|total| *total > 0);
        has("/api/v1/peers?side=egress").await?;
        has("/api/v1/peers?side=ingress").await?;
        has("/api/v1/failures").await?;
        has("/api/v1/history?name=default").await
    })
    .await;
    (stand, upstream, admin)
}

/// An answer as it comes over the wire.
async fn exchange(admin: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("text")
}

pub async fn get(admin: SocketAddr, target: &str) -> String {
    exchange(admin, &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

async fn json(admin: SocketAddr, target: &str) -> Value {
    let answer = get(admin, target).await;
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a head").1).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_fault_and_every_answer_is_as_the_document_says() {
    let (stand, _upstream, admin) = busy_stand().await;
    put(stand.sidecar.folder.path(), "broken.crt", "not a certificate");
    until("an alert", async || json(admin, "/api/v1/findings").await["alerts"][0].as_object().map(|_| ())).await;
    let check = move || {
        let shell = ". tests/tools && exec \"$(venv_api)\" tests/api.py \"$@\"";
        let mut command = Command::new("bash");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-c", shell, "api", &format!("http://{admin}")]);
        command.args(HIDDEN).stdin(Stdio::null()).output().expect("bash")
    };
    let done = tokio::task::spawn_blocking(check).await.expect("done");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{}\n{}", text(&done.stdout), text(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_the_metrics_clean() {
    let (_stand, _upstream, admin) = busy_stand().await;
    let answer = get(admin, "/metrics").await;
    let text = answer.split_once("\r\n\r\n").expect("a head").1.to_owned();
    let check = move || {
        let shell = ". tests/tools && debian promtool:prometheus >&2 && promtool check metrics";
        let mut command = Command::new("bash");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-c", shell]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("bash");
        let mut input = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut input, text.as_bytes()).expect("written");
        drop(input);
        child.wait_with_output().expect("promtool")
    };
    let done = tokio::task::spawn_blocking(check).await.expect("done");
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && said.trim().is_empty(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_other_methods_and_tricks_with_paths_are_refused_as_problems() {
    let (_stand, _upstream, admin) = busy_stand().await;
    let refused = [
        ("GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\n", "421"),
        ("GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\n", "421"),
        ("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", "400"),
        ("POST /api/v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n", "405"),
        ("DELETE /api/v1/keyrings/default HTTP/1.1\r\nHost: localhost\r\n", "405"),
        ("OPTIONS /api/v1/status HTTP/1.1\r\nHost: localhost\r\n", "405"),
        ("GET /api/v1/keyrings/..%2F..%2Fetc%2Fpasswd HTTP/1.1\r\nHost: localhost\r\n", "404"),
        ("GET /api/v1/keyrings/../status HTTP/1.1\r\nHost: localhost\r\n", "404"),
        ("GET /api//v1/status HTTP/1.1\r\nHost: localhost\r\n", "404"),
        ("GET /api/v1/status%00 HTTP/1.1\r\nHost: localhost\r\n", "404"),
    ];
    for (request, status) in refused {
        let answer = exchange(admin, &format!("{request}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.contains("content-type: application/problem+json\r\n"), "{request}: {answer}");
        assert!(!answer.contains("evil") && !answer.contains("passwd"), "{request}: {answer}");
    }
    let head = exchange(admin, "HEAD /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_says_what_happened_with_the_same_facts_everywhere() {
    let (stand, upstream, admin) = busy_stand().await;
    let status = json(admin, "/api/v1/status").await;
    assert_eq!((&status["ready"], &status["failures"]["reasons"][0][0]), (&true.into(), &"unknown_issuer".into()));
    let keyring = json(admin, "/api/v1/keyrings/default").await;
    let pairs = keyring["key_pairs"].as_array().expect("a list");
    let previous = pairs.iter().find(|pair| pair["standing"] == "previous").expect("a previous pair");
    assert_eq!((pairs.len(), &previous["key_pair"]), (2, &fingerprint(&stand.server).to_string().into()));
    assert_eq!(keyring["listeners"], serde_json::json!(["ingress api"]));
    assert_eq!(keyring["rotation"], status["rotations"][0], "the page of a keyring says what the status says");
    assert!(
        keyring["history"].as_array().expect("a list").iter().any(|line| line["becomes"] == "current"),
        "{keyring}"
    );

    let failed = json(admin, "/api/v1/handshakes?failed=true&keyring=default").await;
    assert_eq!((&failed["total"], &failed["entries"][0]["reason"]), (&1.into(), &"unknown_issuer".into()));
    let connection = &failed["entries"][0]["connection"];
    let one = json(admin, &format!("/api/v1/handshakes/{connection}")).await;
    assert!(one["chain_pem"][0].as_str().expect("PEM").starts_with("-----BEGIN CERTIFICATE-----"), "{one}");
    assert_eq!(json(admin, "/api/v1/handshakes?keyring=other").await["total"], 0);

    let peers = json(admin, "/api/v1/peers?side=ingress").await;
    let certificate = peers["entries"][0]["certificates"][0].as_str().expect("a fingerprint").to_owned();
    let known = json(admin, &format!("/api/v1/certificates/{certificate}")).await;
    assert_eq!((&known["roles"][0]["as"], &known["certificate"]["fingerprint"]), (&"peer".into(), &certificate.into()));
    let sorted = async |query: &str| {
        let peers = json(admin, &format!("/api/v1/peers?{query}")).await;
        let names = peers["entries"].as_array().expect("a list").iter().map(|peer| peer["identity"].to_string());
        names.collect::<Vec<_>>()
    };
    let (up, mut down) = (sorted("sort=identity").await, sorted("sort=identity&descending=true").await);
    down.reverse();
    assert!(up.len() == 2 && up.is_sorted() && up == down, "{up:?} {down:?}");
    let upstreams = json(admin, "/api/v1/upstreams").await;
    let node = &upstreams["upstreams"][0]["nodes"][0];
    assert_eq!(
        (&node["address"], &node["outcome"]),
        (&upstream.address.to_string().into(), &"unproved".into()),
        "{node}"
    );
    let findings = json(admin, "/api/v1/findings").await;
    assert!(findings["findings_unread"].is_null(), "{findings}");
    let anchors = until("the matched anchor in the registry", async || {
        let anchors = json(admin, "/api/v1/anchors?sort=last_matched&descending=true&kind=anchor").await;
        let is_there = anchors["total"] == 2 && anchors["entries"][1]["last_matched"].is_string();
        is_there.then_some(anchors)
    });
    let anchors = anchors.await;
    let entries = anchors["entries"].as_array().expect("a list");
    let mut users: Vec<_> = entries.iter().map(|entry| entry["listeners"].to_string()).collect();
    users.sort();
    assert_eq!(users, [r#"["egress out"]"#, r#"["ingress api"]"#]);
    assert!(entries.iter().all(|entry| entry["standing"] == "accepted" && entry["instances"][0] == "one"), "{anchors}");
    let lists = json(admin, "/api/v1/crls").await;
    let list = &lists["entries"][0];
    assert_eq!((&lists["total"], &list["issuer"], &list["revoked"]), (&1.into(), &"CN=Revoking CA".into(), &2.into()));
    assert_eq!(
        (&list["stale"], &list["in_use"], &list["listeners"][0]),
        (&false.into(), &true.into(), &"egress out".into())
    );
    // The registry is written a moment after what it is told of.
    let table = until("a previous pair in the registry", async || {
        let table = json(admin, "/api/v1/key-pairs?standing=previous&sort=not_after&descending=true").await;
        (table["total"] == 1).then_some(table)
    });
    assert_eq!(table.await["registry_unread"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_of_a_moment_ago_are_shown_while_they_are_read_anew_for_the_next_reader() {
    let top =
        "registry = \"registry.db\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[keyring.default]\nrotate_every = \"100d\"\n";
    let stand = stand_with(top, "", Some(today()), |_, _| ()).await;
    let admin = stand.sidecar.app.admin_address().expect("TCP");
    // Peers are served first.
    until("the admin listener", async || TcpStream::connect(admin).await.ok()).await;
    // Without the registry the answer has the pair as well.
    let begins = until("the pair in the registry", async || {
        let table = json(admin, "/api/v1/key-pairs").await;
        let begins = table["entries"][0]["not_before"].as_str().filter(|_| table["registry_unread"].is_null())?;
        begins.parse::<jiff::Timestamp>().ok()
    });
    let due = begins.await + jiff::SignedDuration::from_hours(24 * 100);
    let clock = stand.sidecar.clock.as_ref().expect("by hand");
    let is_late = async || {
        let found = json(admin, "/api/v1/findings").await;
        assert!(found["findings_unread"].is_null(), "{found}");
        found["findings"].as_array().expect("a list").iter().any(|finding| finding["finding"] == "past_schedule")
    };
    clock.set(due - jiff::SignedDuration::from_secs(5));
    assert!(!is_late().await);
    clock.set(due + jiff::SignedDuration::from_secs(15));
    assert!(!is_late().await, "those of twenty seconds ago");
    until("findings that were read anew", async || is_late().await.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_made_on_a_thread_of_their_own_behind_those_that_serve() {
    let (_stand, _upstream, admin) = busy_stand().await;
    assert!(json(admin, "/api/v1/status").await["ready"].is_boolean());
    let mut niceness = std::collections::BTreeMap::new();
    for thread in std::fs::read_dir("/proc/self/task").expect("the threads").flatten() {
        // A thread may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(thread.path().join("stat")) else { continue };
        let (name, fields) = stat.split_once('(').expect("a name").1.rsplit_once(')').expect("fields");
        let nice: i32 = fields.split_whitespace().nth(16).expect("the niceness").parse().expect("a number");
        niceness.insert(name.to_owned(), nice);
    }
    // Handshakes and requests first, then rotations, the registry, probes and the page.
    let [traffic, control, page] = ["worker-0", "control", "admin"].map(|name| niceness[name]);
    assert!(control >= (traffic + 1).min(19) && page >= control, "{niceness:?}");
}
