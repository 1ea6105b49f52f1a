//! `sidekey probe`: handshakes with a partner, explained, and nothing sent.
//!
//! Must hold: each of our pairs is shown once and gets its answer, in TLS 1.3 too; a partner that is not trusted is shown
//! none; no request is ever sent; what it offers and asks for is told.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use sidekey::pki::issue::{IssuedKeyPair, NewKeyKind};

use crate::command::{output, sidekey, text};
use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::{drop_pair, folder, put};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, eventually};

/// Exit code and report, off the runtime.
async fn probe(folder: &Path, to: String, more: &[&str]) -> (Option<i32>, Value) {
    let mut command = sidekey();
    command.current_dir(folder).args(["probe", &to, "--json", "--server-name", "localhost"]).args(more);
    let output = tokio::task::spawn_blocking(move || output(&mut command)).await.expect("joined");
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    (output.status.code(), report)
}

fn verdicts(report: &Value) -> Vec<(String, String)> {
    let of = |answer: &Value, key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    report["answers"]
        .as_array()
        .expect("answers")
        .iter()
        .map(|answer| (of(answer, "standing"), of(answer, "verdict")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_is_shown_and_gets_its_answer_and_no_request_is_sent() {
    let (ours, theirs) = (Ca::new("Our CA"), Ca::new("Other CA"));
    let upstream = Upstream::start(&theirs.server(5), &[ours.pem()], &["h2", "http/1.1"]).await;
    let folder = folder();
    put(folder.path(), "out/ca.crt", theirs.pem());
    let (good, strange) = (ours.client("app", 5), theirs.client("app", 20));
    drop_pair(folder.path(), "out/good", &good);
    drop_pair(folder.path(), "out/strange", &strange);
    let (code, report) = probe(folder.path(), upstream.address.to_string(), &[]).await;
    assert_eq!(code, Some(0), "{report}");
    let told: Vec<_> = verdicts(&report);
    let wanted = [("", "refused"), ("current", "taken"), ("previous", "refused")];
    assert_eq!(told, wanted.map(|(standing, verdict)| (standing.to_owned(), verdict.to_owned())), "{report}");
    assert!(
        report["answers"][0]["says"].as_str().is_some_and(|says| says.starts_with("the server requires")),
        "{report}"
    );
    assert_eq!(report["answers"][1]["key_pair"], fingerprint(&good).to_string());
    assert!(
        report["answers"][2]["says"].as_str().is_some_and(|says| says.contains("not among the authorities")),
        "{report}"
    );
    assert_eq!(report["asks"]["authorities"][0], "CN=Our CA");
    assert!(report["not_trusted"].is_null() && report["shows"].as_array().is_some_and(|shows| !shows.is_empty()));
    assert!(report["offers"].as_array().is_some_and(|all| all.iter().all(|offer| offer["spoken"] == true)), "{report}");
    assert!(upstream.seen().is_empty(), "a request was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_that_is_not_trusted_is_shown_no_pair() {
    let (ours, theirs) = (Ca::new("Our CA"), Ca::new("Other CA"));
    let upstream = Upstream::start(&theirs.server(5), &[ours.pem()], &["http/1.1"]).await;
    let folder = folder();
    put(folder.path(), "out/ca.crt", ours.pem());
    drop_pair(folder.path(), "out/good", &ours.client("app", 5));
    let (code, report) = probe(folder.path(), upstream.address.to_string(), &[]).await;
    assert_eq!(code, Some(1), "{report}");
    assert!(report["not_trusted"].as_str().is_some_and(|why| why.contains("CN=Other CA")), "{report}");
    assert_eq!(verdicts(&report).len(), 1, "a pair was shown: {report}");
}

/// OpenSSL's server; ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// OpenSSL's server with this pair, and where it listens.
async fn openssl(path: &Path, pair: &IssuedKeyPair, more: &[&str]) -> (Server, u16) {
    std::fs::write(path.join("server.pem"), format!("{}{}", pair.chain_pem, *pair.key_pem)).expect("written");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let mut command = Command::new("openssl");
    command.current_dir(path).args(["s_server", "-accept", &port.to_string(), "-cert", "server.pem", "-quiet"]);
    command.args(more).stdin(Stdio::piped());
    let server = Server(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("openssl"));
    eventually("openssl listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    (server, port)
}

/// A certificate is asked for and not demanded, and our key can sign with nothing that is asked for: rustls sends none, and
/// that the server goes on says nothing of the pair.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_fits_no_scheme_was_not_sent_and_so_not_taken() {
    let (ours, theirs) = (Ca::new("Our CA"), Ca::new("Other CA"));
    let folder = folder();
    let path = folder.path().to_owned();
    put(&path, "out/ca.crt", theirs.pem());
    let mut request = ours.request("app.example");
    request.key = NewKeyKind::Ed25519;
    drop_pair(&path, "out/good", &ours.issue(&request));
    let asks = ["-verify", "1", "-client_sigalgs", "ECDSA+SHA256:RSA-PSS+SHA256"];
    for version in ["-tls1_3", "-tls1_2"] {
        let (_server, port) = openssl(&path, &theirs.server(5), &[&asks[..], &[version]].concat()).await;
        let (_, report) =
            tokio::time::timeout(PATIENCE, probe(&path, format!("127.0.0.1:{port}"), &[])).await.expect("in time");
        assert_eq!(verdicts(&report)[1], ("current".to_owned(), "refused".to_owned()), "{report}");
        let says = report["answers"][1]["says"].as_str().unwrap_or_default();
        assert!(says.starts_with("no certificate was sent"), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_told_apart_by_version_and_by_what_it_demands() {
    let (ours, theirs) = (Ca::new("Our CA"), Ca::new("Other CA"));
    let folder = folder();
    let path = folder.path().to_owned();
    put(&path, "out/ca.crt", theirs.pem());
    drop_pair(&path, "out/good", &ours.client("app", 5));
    let server = theirs.server(5);
    std::fs::write(path.join("ours.pem"), ours.pem()).expect("written");
    let demands = ["-tls1_2", "-Verify", "1", "-verify_return_error", "-CAfile", "ours.pem"];
    let (_server, port) = openssl(&path, &server, &demands).await;
    let (code, report) =
        tokio::time::timeout(PATIENCE, probe(&path, format!("127.0.0.1:{port}"), &[])).await.expect("in time");
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(
        (&report["offers"][0]["spoken"], &report["offers"][1]["spoken"]),
        (&false.into(), &true.into()),
        "{report}"
    );
    assert_eq!(verdicts(&report)[1], ("current".to_owned(), "taken".to_owned()), "{report}");
    assert_eq!(verdicts(&report)[0].1, "refused", "{report}");
}

#[test]
fn an_unreachable_server_and_a_missing_pair_are_told_apart() {
    let folder = folder();
    let without_pair = output(sidekey().current_dir(folder.path()).args(["probe", "127.0.0.1:1"]));
    assert!(
        without_pair.status.code() == Some(2) && text(&without_pair.stderr).contains("no usable key pair"),
        "{}",
        text(&without_pair.stderr)
    );
    let ca = Ca::new("CA");
    put(folder.path(), "out/ca.crt", ca.pem());
    drop_pair(folder.path(), "out/good", &ca.client("app", 5));
    let unreachable = output(sidekey().current_dir(folder.path()).args(["probe", "127.0.0.1:1"]));
    assert!(
        unreachable.status.code() == Some(1) && text(&unreachable.stderr).contains("127.0.0.1:1"),
        "{}",
        text(&unreachable.stderr)
    );
    assert_eq!(text(&unreachable.stderr).matches("Connection refused").count(), 1, "{}", text(&unreachable.stderr));
    for wrong in [&["--trust", "none"][..], &["--keyring", "none"], &["--wait", "soon"]] {
        let wrong = output(sidekey().current_dir(folder.path()).args(["probe", "127.0.0.1:1"]).args(wrong));
        assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
    }
}
