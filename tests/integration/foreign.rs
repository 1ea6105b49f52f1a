//! Peers that are not ours: curl and OpenSSL against the ingress, as an operator would try it.

use std::path::Path;
use std::process::{Command, Stdio};

use sidekey::pki::issue::IssuedKeyPair;
use sidekey::tls::HandshakeOutcome;

use crate::handshake::stand;
use crate::support::ca::{Ca, fingerprint};
use crate::support::sidecar::put;

fn write_pair(folder: &Path, name: &str, pair: &IssuedKeyPair) {
    std::fs::write(folder.join(format!("{name}.crt")), &pair.chain_pem).expect("written");
    std::fs::write(folder.join(format!("{name}.key")), pair.key_pem.as_str()).expect("written");
}

/// Runs a program off the runtime and gives back exit code and all that it printed.
async fn run(mut command: Command) -> (Option<i32>, String) {
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().expect("it runs"));
    let output = output.await.expect("joined");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_served_over_both_protocols_and_refused_without_a_certificate() {
    let mut stand = stand("").await;
    let folder = tempfile::tempdir().expect("a folder");
    write_pair(folder.path(), "client", &stand.ca.client("etl", 5));
    std::fs::write(folder.path().join("ca.crt"), stand.ca.pem()).expect("written");
    let url = format!("https://localhost:{}/orders", stand.sidecar.ingress("api").port());
    let curl = |extra: &[&str]| {
        let mut command = Command::new("curl");
        command.current_dir(folder.path()).args(["-sS", "--cacert", "ca.crt", "-o", "/dev/null"]);
        command.args(["-w", "%{http_code} %{http_version}"]).args(extra).arg(&url);
        command
    };
    let pair = ["--cert", "client.crt", "--key", "client.key"];
    let (code, text) = run(curl(&[&pair[..], &["--http2"]].concat())).await;
    assert_eq!((code, text.as_str()), (Some(0), "200 2"));
    let (code, text) = run(curl(&[&pair[..], &["--http1.1"]].concat())).await;
    assert_eq!((code, text.as_str()), (Some(0), "200 1.1"));
    for _ in 0..2 {
        assert_eq!(stand.sidecar.handshake().await.outcome, HandshakeOutcome::Accepted);
    }
    let served = stand.backend.seen().len();
    let (code, _) = run(curl(&[])).await;
    assert_ne!(code, Some(0));
    assert_eq!(stand.sidecar.handshake().await.reason, "no_certificate");
    write_pair(folder.path(), "client", &Ca::new("Unknown Company").client("etl", 5));
    let (code, _) = run(curl(&pair)).await;
    assert_ne!(code, Some(0));
    assert_eq!(stand.sidecar.handshake().await.reason, "unknown_issuer");
    assert_eq!(stand.backend.seen().len(), served, "a refused peer reached the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_sees_the_chain_the_authorities_and_both_versions() {
    let stand = stand("").await;
    put(stand.sidecar.folder.path(), "unused.txt", "not key material");
    let folder = tempfile::tempdir().expect("a folder");
    write_pair(folder.path(), "client", &stand.ca.client("etl", 5));
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.current_dir(folder.path()).args(["s_client", "-connect"]);
        command.arg(stand.sidecar.ingress("api").to_string());
        command.args([version, "-cert", "client.crt", "-key", "client.key", "-servername", "localhost"]);
        let (_, text) = run(command).await;
        assert!(text.contains("Acceptable client certificate CA names"), "{version}: {text}");
        assert!(text.contains("CN = Test CA"), "{version}: {text}");
        assert!(text.contains("BEGIN CERTIFICATE"), "{version}: {text}");
    }
    let seen = stand.sidecar.app.events().recent();
    assert!(seen.iter().all(|handshake| handshake.key_pair == Some(fingerprint(&stand.server))));
}
