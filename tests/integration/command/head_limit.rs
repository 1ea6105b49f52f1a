//! What an operator reads where a head is over its limit: the same on both protocols, with the value of the limit.

use http::Request;
use http_body_util::Full;

use super::{Running, free_port, output, sidekey};
use crate::support::ca::Ca;
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::sidecar::{drop_pair, folder, put};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_the_limit_has_an_access_line_and_one_with_the_limits_value_on_both_protocols() {
    let (ca, folder, port) = (Ca::new("Test CA"), folder(), free_port());
    put(folder.path(), "ca.crt", ca.pem());
    drop_pair(folder.path(), "tls", &ca.server(1));
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:{port}\"\nkeyrings = [\"default\"]\nbackend = \"http://127.0.0.1:9\"\n\
         [ingress.limits]\nhead_size = \"8KiB\"\n[admin]\nprobes = \"127.0.0.1:{}\"\ncontrol = \"own.sock\"\n[log]\nformat = \"json\"\n",
        free_port()
    );
    std::fs::write(folder.path().join("sidekey.toml"), toml).expect("written");
    let running = Running::start(sidekey().current_dir(folder.path()).arg("run"));
    eventually("it is ready", || {
        output(sidekey().current_dir(folder.path()).args(["wait", "--timeout", "0"])).status.success()
    })
    .await;
    let client = ca.client("etl", 5);
    for (alpn, protocol, target) in [("http/1.1", "1.1", "/large"), ("h2", "2", "https://localhost/large")] {
        let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&[alpn]);
        let mut connection = peer.connect(([127, 0, 0, 1], port).into()).await.expect("connected");
        let request = Request::get(target).header("host", "localhost").header("x-large", "y".repeat(9000));
        let answer = connection.send(request.body(Full::default()).expect("a request")).await.expect("answered");
        assert_eq!(answer.status, 431, "{alpn}");
        let protocol = format!("\"protocol\":\"{protocol}\"");
        running.lines(&[
            &["\"target\":\"proxy\"", "\"status\":431", "\"reason\":\"head_too_large\"", "larger than 8192 bytes"],
            &["\"target\":\"access\"", "\"status\":431", "\"reason\":\"head_too_large\"", "\"/large\"", &protocol],
        ]);
    }
}
