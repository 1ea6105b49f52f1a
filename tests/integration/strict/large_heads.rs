//! Heads that are as large as the largest limit allows: no buffer below the limit refuses them first.

use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncWriteExt, BufReader};

use super::in_front_of;
use crate::support::peer::Peer;
use crate::support::raw::{self, Raw};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_900_kib_is_forwarded_on_both_protocols_where_the_limit_is_1_mib() {
    let backend = Raw::start(|_, stream| async move {
        let mut stream = BufReader::new(stream);
        while let Some(head) = raw::head(&mut stream).await {
            let length = head.len().to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{length}", length.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let front = in_front_of(backend.await.address, "[ingress.limits]\nhead_size = \"1MiB\"").await;
    for (alpn, target) in [("http/1.1", "/large"), ("h2", "https://localhost/large")] {
        let peer = Peer::new(&[front.ca.pem()], Some(&front.client)).alpn(&[alpn]);
        let mut connection = peer.connect(front.sidecar.ingress("api")).await.expect("connected");
        let request = (0..30).fold(Request::get(target).header("host", "localhost"), |request, number| {
            request.header(format!("x-large-{number}"), "y".repeat(30 * 1024))
        });
        let answer = connection.send(request.body(Full::default()).expect("a request")).await.expect("answered");
        assert_eq!(answer.status, 200, "{alpn}");
        let length: usize = std::str::from_utf8(&answer.body).expect("text").parse().expect("a number");
        assert!(length > 900 * 1024, "{alpn}: {length}");
    }
}
