//! Behind a load balancer and beside a browser: which peer a connection comes from, and who may say so.
//!
//! Must hold: a PROXY header is believed and required where it is listed, and refused elsewhere; the address that it names
//! goes to the log and to the backend; forwarding fields are continued for believed peers only; health checkers make no
//! noise; an egress refuses what a browser sends for another site, and a host that DNS rebinding could bring.

use std::net::SocketAddr;

use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::handshake::stand;
use crate::support::backend::Backend;
use crate::support::ca::Ca;
use crate::support::peer::{Connection, Peer};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, eventually};

const LISTED: &str = "proxy_protocol_from = [\"127.0.0.0/8\"]";

async fn front(keys: &str) -> (Ca, Backend, Sidecar) {
    let (ca, backend, folder) = (Ca::new("Test CA"), Backend::echo().await, folder());
    drop_pair(folder.path(), "tls", &ca.server(10));
    put(folder.path(), "ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"default\"]\nbackend = \"http://{}\"\n{keys}\n",
        backend.address
    );
    let sidecar = Sidecar::start(folder, &toml).await;
    (ca, backend, sidecar)
}

/// Version 2, TCP over IPv4, with an extension behind the addresses.
fn v2(from: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13".to_vec();
    header.extend(from);
    header.extend([127, 0, 0, 1]);
    header.extend(port.to_be_bytes());
    header.extend([1, 0xbb]);
    header.extend([0x05, 0, 4, 1, 2, 3, 4]);
    header
}

/// A connection that begins with `header`, then TLS.
async fn connect(peer: &Peer, to: SocketAddr, header: &[u8]) -> anyhow::Result<Connection> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(header).await?;
    let name = rustls::pki_types::ServerName::try_from("localhost")?;
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::clone(&peer.config)).connect(name, stream).await?;
    Connection::over(tls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_names_the_peer_to_the_log_and_the_backend() {
    let (ca, backend, mut sidecar) = front(LISTED).await;
    let client = ca.client("etl", 5);
    for (header, from) in [
        (b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 443\r\n".to_vec(), "203.0.113.7:5000"),
        (b"PROXY TCP6 2001:db8::7 ::1 5000 443\r\n".to_vec(), "[2001:db8::7]:5000"),
        (v2([203, 0, 113, 9], 77), "203.0.113.9:77"),
    ] {
        let from: SocketAddr = from.parse().expect("an address");
        let peer = Peer::new(&[ca.pem()], Some(&client)).fresh();
        let mut connection = connect(&peer, sidecar.ingress("api"), &header).await.expect("connected");
        assert_eq!(connection.get("/").await.expect("answered").status, 200);
        assert_eq!(backend.last().header("x-forwarded-for"), from.ip().to_string());
        let handshake = sidecar.handshake().await;
        assert_eq!((handshake.reason, handshake.peer_addr), ("ok", Some(from)));
        let access =
            || sidecar.log().into_iter().any(|line| line["peer.addr"] == from.to_string() && line["path"] == "/");
        eventually("the access line names it", access).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_that_speaks_for_itself_keeps_its_address() {
    let (ca, backend, mut sidecar) = front(LISTED).await;
    let client = ca.client("etl", 5);
    let peer = Peer::new(&[ca.pem()], Some(&client)).fresh();
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let mut connection = connect(&peer, sidecar.ingress("api"), header).await.expect("connected");
        assert_eq!(connection.get("/").await.expect("answered").status, 200);
        assert_eq!(backend.last().header("x-forwarded-for"), "127.0.0.1");
        assert!(sidecar.handshake().await.peer_addr.expect("an address").ip().is_loopback());
    }
    // Its health check: LOCAL, and the end.
    let mut check = TcpStream::connect(sidecar.ingress("api")).await.expect("connected");
    check.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00").await.expect("written");
    drop(check);
    let handshake = sidecar.handshake().await;
    assert_eq!(handshake.reason, "closed_without_byte");
    assert!(handshake.is_silent());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_refused_where_it_is_not_listed_and_required_where_it_is() {
    let client = |ca: &Ca| Peer::new(&[ca.pem()], Some(&ca.client("etl", 5))).fresh();
    let (ca, backend, mut sidecar) = front("").await;
    let header = b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 443\r\n";
    assert!(connect(&client(&ca), sidecar.ingress("api"), header).await.is_err());
    let refused = sidecar.handshake().await;
    assert_eq!(refused.reason, "proxy_header");
    assert!(refused.explanation.contains("proxy_protocol_from") && backend.seen().is_empty());

    let (ca, backend, mut sidecar) = front(LISTED).await;
    for (header, reason, says) in [
        (&b""[..], "proxy_header_missing", "127.0.0.1 is listed in proxy_protocol_from but sent 16"),
        (b"PROXY TCP4 localhost 127.0.0.1 5000 443\r\n", "proxy_header_malformed", "an address that does not parse"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\x00\x0c", "proxy_header_malformed", "not TCP"),
    ] {
        assert!(connect(&client(&ca), sidecar.ingress("api"), header).await.is_err(), "{reason}");
        let refused = sidecar.handshake().await;
        assert_eq!(refused.reason, reason);
        assert!(refused.explanation.contains(says), "{}", refused.explanation);
    }
    assert!(backend.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_counts_into_the_time_of_the_handshake() {
    let (_ca, _backend, mut sidecar) = front(&format!("{LISTED}\n[ingress.limits]\nhandshake = \"300ms\"")).await;
    let mut stream = TcpStream::connect(sidecar.ingress("api")).await.expect("connected");
    stream.write_all(b"PROXY TCP4 203.0.113.7 127").await.expect("written");
    assert_eq!(sidecar.handshake().await.reason, "timed_out_before_hello");
    let _ = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_fields_are_continued_for_believed_peers_only() {
    let (ca, backend, sidecar) = front("forwarded_from = [{ dns = \"edge.example\" }]").await;
    for (name, expected) in [("edge", "198.51.100.1, 127.0.0.1"), ("etl", "127.0.0.1")] {
        let client = ca.client(name, 5);
        for alpn in ["h2", "http/1.1"] {
            let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&[alpn]);
            let request = Request::get("/")
                .header("x-forwarded-for", "198.51.100.1")
                .header("x-forwarded-proto", "http")
                .header("x_forwarded_for", "6.6.6.6")
                .header("forwarded", "for=198.51.100.1")
                .header("x-forwarded-client-cert", "forged");
            let mut connection = peer.connect(sidecar.ingress("api")).await.expect("connected");
            let request = request.body(Full::default()).expect("a request");
            assert_eq!(connection.send(request).await.expect("answered").status, 200);
            let seen = backend.last();
            assert_eq!(seen.header("x-forwarded-for"), expected, "{name} over {alpn}");
            assert_eq!(seen.header("x-forwarded-proto"), if name == "edge" { "http" } else { "https" });
            assert_eq!(seen.header("forwarded").starts_with("for=198.51.100.1, for=127.0.0.1"), name == "edge");
            assert_eq!(seen.header("x_forwarded_for"), "");
            assert!(!seen.header("x-forwarded-client-cert").contains("forged"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn also_strip_removes_more_names_from_peers() {
    let (ca, backend, sidecar) = front("also_strip = [\"X-SSL-*\", \"X-Tenant\"]").await;
    let client = ca.client("etl", 5);
    let mut connection =
        Peer::new(&[ca.pem()], Some(&client)).connect(sidecar.ingress("api")).await.expect("connected");
    let request = Request::get("/").header("x_ssl_client", "a").header("x-tenant", "a").header("x-tenants", "b");
    let request = request.body(Full::default()).expect("a request");
    assert_eq!(connection.send(request).await.expect("answered").status, 200);
    let seen = backend.last();
    assert_eq!(
        (seen.header("x_ssl_client"), seen.header("x-tenant"), seen.header("x-tenants")),
        (String::new(), String::new(), "b".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checkers_make_no_noise_and_are_counted() {
    let (ca, _backend, mut sidecar) = front("quiet_from = [\"127.0.0.0/8\"]").await;
    let stranger = Peer::new(&[ca.pem()], None);
    assert!(stranger.get(sidecar.ingress("api"), "/").await.is_err());
    let handshake = sidecar.handshake().await;
    assert_eq!((handshake.reason, handshake.is_silent()), ("no_certificate", true));
    assert!(sidecar.app.events().recent().is_empty());
    assert!(sidecar.app.metrics_text().contains("reason=\"no_certificate\"} 1"));
    assert!(!sidecar.log().iter().any(|line| line["target"] == "handshake"));
    // A peer that shows a certificate is reported there too.
    let other = Ca::new("Unknown Company").client("etl", 5);
    assert!(Peer::new(&[ca.pem()], Some(&other)).get(sidecar.ingress("api"), "/").await.is_err());
    let handshake = sidecar.handshake().await;
    assert_eq!((handshake.reason, handshake.is_silent()), ("unknown_issuer", false));
}

/// An egress `out` that listens here, with these keys, and its upstream.
async fn out(listen: &str, keys: &str) -> (Upstream, Sidecar, String) {
    let ca = Ca::new("Test CA");
    let upstream = Upstream::start(&ca.server(1), &[ca.pem()], &["http/1.1"]).await;
    let folder = folder();
    drop_pair(folder.path(), "out/tls", &ca.client("us", 5));
    put(folder.path(), "out/ca.crt", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[[egress]]\nname = \"out\"\nlisten = \"{listen}\"\nupstream = \"https://{}\"\nserver_name = \"localhost\"\nkeyring = \"out\"\n",
        upstream.address
    );
    let sidecar = Sidecar::start_from_file(folder, &format!("{toml}{keys}\n")).await;
    (upstream, sidecar, toml)
}

/// The status of one request on a connection of its own; `fields` are whole lines.
async fn status(mut stream: impl AsyncRead + AsyncWrite + Unpin, target: &str, fields: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer.get(9..12).unwrap_or_default().to_owned()
}

/// Likewise, with this Host.
async fn status_for(to: SocketAddr, host: &str) -> String {
    let stream = TcpStream::connect(to).await.expect("connected");
    status(stream, "/", &format!("Host: {host}\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_egress_refuses_what_a_browser_sends_for_another_site() {
    let (upstream, sidecar, _) = out("127.0.0.1:0", "").await;
    let to = sidecar.egress("out");
    let ask = |fields: String| async move {
        let stream = TcpStream::connect(to).await.expect("connected");
        status(stream, "/", &format!("Host: {to}\r\n{fields}")).await
    };
    for fields in ["Sec-Fetch-Site: cross-site\r\n", "Origin: https://evil.example\r\n", "Origin: null\r\n"] {
        assert_eq!(ask(fields.to_owned()).await, "403", "{fields}");
    }
    assert!(upstream.seen().is_empty());
    for fields in [String::new(), "Sec-Fetch-Site: same-origin\r\n".to_owned(), format!("Origin: http://{to}\r\n")] {
        assert_eq!(ask(fields.clone()).await, "200", "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_egress_refuses_a_host_that_dns_rebinding_could_bring() {
    let (upstream, sidecar, _) = out("127.0.0.1:0", "").await;
    let to = sidecar.egress("out");
    for host in ["evil.example:9001", "evil.example", "127.0.0.1.evil.example"] {
        assert_eq!(status_for(to, host).await, "421", "{host}");
    }
    // What such a page's own requests look like, and the absolute form.
    let page = "Host: evil.example\r\nOrigin: http://evil.example\r\nSec-Fetch-Site: same-origin\r\n";
    for (target, fields) in [("/", page), ("http://evil.example/", "Host: evil.example\r\n")] {
        let stream = TcpStream::connect(to).await.expect("connected");
        assert_eq!(status(stream, target, fields).await, "421", "{target} {fields}");
    }
    assert!(upstream.seen().is_empty());
    let count = "sidekey_refused_total{side=\"egress\",listener=\"out\",reason=\"host_not_allowed\"} 5";
    eventually("the refusals are counted", || sidecar.app.metrics_text().contains(count)).await;
    assert!(
        sidecar
            .app
            .metrics_text()
            .contains("sidekey_errors_total{side=\"egress\",listener=\"out\",fault=\"backend\"} 5")
    );
    let mut refused = 0;
    let mut all_logged = || {
        let log = sidecar.log();
        let lines = log.iter().filter(|line| line["target"] == "access" && line["reason"] == "host_not_allowed");
        refused += lines.filter(|line| line["status"] == 421 && line["side"] == "egress").count();
        refused == 5
    };
    eventually("each has its access line", &mut all_logged).await;
    for host in [to.to_string().as_str(), "localhost:9001", "[::1]:9001", "sidekey", "192.0.2.1"] {
        assert_eq!(status_for(to, host).await, "200", "{host}");
    }
    assert_eq!(upstream.seen().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_egress_takes_the_hosts_that_are_listed_and_a_reload_lists_more() {
    let keep = "host = \"keep\"\nhosts = [\"API.internal\"]";
    let (upstream, sidecar, toml) = out("127.0.0.1:0", keep).await;
    let to = sidecar.egress("out");
    assert_eq!(status_for(to, "api.INTERNAL.:9001").await, "200");
    assert_eq!(upstream.seen().pop().expect("a request").1.header("host"), "api.INTERNAL.:9001");
    assert_eq!(status_for(to, "new.internal").await, "421");
    sidecar.rewrite(&format!("{toml}hosts = [\"new.internal\"]\n"));
    let taken = async { while status_for(to, "new.internal").await != "200" {} };
    tokio::time::timeout(PATIENCE, taken).await.expect("the new list never counts");
    // Every worker must have heard of it before the old list can be said to be gone.
    let gone = async { while status_for(to, "api.internal").await != "421" {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the old list still counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_egress_on_a_unix_socket_takes_every_host() {
    let (upstream, sidecar, _) = out("unix:out.sock", "").await;
    let stream = UnixStream::connect(sidecar.folder.path().join("out.sock")).await.expect("connected");
    assert_eq!(status(stream, "/", "Host: evil.example\r\n").await, "200");
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_line_says_which_version_was_spoken() {
    let stand = stand("").await;
    let client = stand.ca.client("etl", 5);
    let peer = Peer::new(&[stand.ca.pem()], Some(&client)).alpn(&["http/1.1"]);
    let mut stream = peer.tls(stand.sidecar.ingress("api")).await.expect("a handshake");
    stream.write_all(b"GET /old HTTP/1.0\r\nHost: a\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let old = || stand.sidecar.log().into_iter().any(|line| line["path"] == "/old" && line["protocol"] == "1.0");
    eventually("the line says 1.0", old).await;
}
