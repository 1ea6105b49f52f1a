//! Stopping: what runs is finished, nothing new is taken, ingress before egress, and it never goes back.

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use sidekey::process::Phase;

use crate::support::backend::{Backend, full};
use crate::support::ca::Ca;
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

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
    eventually("ingress drains", || sidecar.app.phase() >= Phase::DrainIngress).await;
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
    eventually("it is over", || sidecar.app.phase() == Phase::Over).await;
}
