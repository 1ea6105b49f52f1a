//! A configuration that changes while connections are open: what was made for the old one carries nothing for the new one.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Response};

use crate::egress::ask;
use crate::support::backend::{Backend, full};
use crate::support::ca::Ca;
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::Upstream;

/// One worker: its connection is the one that the next request would take.
fn egress(upstream: SocketAddr, expects: &str) -> String {
    format!(
        "certs = \"certs\"\nworkers = 1\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nkeyring = \"out\"\n\
         upstream = \"https://127.0.0.1:{}\"\n{expects}\n",
        upstream.port()
    )
}

async fn start(ca: &Ca, toml: &str) -> Sidecar {
    let folder = folder();
    drop_pair(folder.path(), "out/tls", &ca.client("ours", 5));
    put(folder.path(), "out/ca.crt", ca.pem());
    Sidecar::start_from_file(folder, toml).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_the_new_upstream_once_the_settings_name_it() {
    let ca = Ca::new("Test CA");
    for alpn in ["h2", "http/1.1"] {
        let old = Upstream::start(&ca.server(5), &[ca.pem()], &[alpn]).await;
        let new = Upstream::start(&ca.server(5), &[ca.pem()], &[alpn]).await;
        let expects = "server_name = \"localhost\"";
        let mut sidecar = start(&ca, &egress(old.address, expects)).await;
        let to = sidecar.egress("out");
        assert_eq!(ask(to, Method::GET, "").await.expect("answered").0, 200);
        sidecar.rewrite(&egress(new.address, expects));
        assert_eq!(sidecar.drained().await, "upstream_changed");
        for _ in 0..3 {
            assert_eq!(ask(to, Method::GET, "").await.expect("answered").0, 200);
        }
        assert_eq!((old.seen().len(), new.seen().len()), (1, 3), "over {alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_expected_to_have_another_name_gets_nothing_over_what_was_open() {
    let ca = Ca::new("Test CA");
    for alpn in ["h2", "http/1.1"] {
        let upstream = Upstream::start(&ca.server(5), &[ca.pem()], &[alpn]).await;
        let mut sidecar = start(&ca, &egress(upstream.address, "server_name = \"localhost\"")).await;
        let to = sidecar.egress("out");
        assert_eq!(ask(to, Method::GET, "").await.expect("answered").0, 200);
        sidecar.rewrite(&egress(upstream.address, "server_uri = \"spiffe://partner.example/orders\""));
        assert_eq!(sidecar.drained().await, "upstream_changed");
        assert_eq!(ask(to, Method::GET, "").await.expect("answered").0, 502);
        assert_eq!(upstream.seen().len(), 1, "over {alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_an_open_connection_go_to_the_new_backend_once_the_settings_name_it() {
    let ca = Ca::new("Test CA");
    let backend = |name: &'static str| Backend::with(move |_, _| Response::new(full(name)));
    let (old, new) = (backend("old").await, backend("new").await);
    let toml = |backend: &Backend| {
        format!(
            "certs = \"certs\"\nworkers = 1\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\n\
             backend = \"http://{}\"\n",
            backend.address
        )
    };
    let folder = folder();
    drop_pair(folder.path(), "tls", &ca.server(5));
    put(folder.path(), "ca.crt", ca.pem());
    let sidecar = Sidecar::start_from_file(folder, &toml(&old)).await;
    let peer = Peer::new(&[ca.pem()], Some(&ca.client("etl", 5)));
    let mut connection = peer.connect(sidecar.ingress("api")).await.expect("connected");
    assert_eq!(connection.get("/").await.expect("answered").body, Bytes::from("old"));
    sidecar.rewrite(&toml(&new));
    // No connection has to leave, so nothing says that the epoch was heard but the answers themselves.
    let answered = async { while connection.get("/").await.expect("answered").body != "new" {} };
    tokio::time::timeout(crate::support::PATIENCE, answered).await.expect("the old backend still answers");
    let before = old.seen().len();
    for _ in 0..3 {
        assert_eq!(connection.get("/").await.expect("answered").body, Bytes::from("new"));
    }
    assert_eq!(old.seen().len(), before);
}
