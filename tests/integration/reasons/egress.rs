//! Upstreams that bring about one reason each.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, SignatureScheme};
use sidekey::pki::issue::IssuedKeyPair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Case, case, reason};
use crate::support::ca::{Ca, later, today};
use crate::support::odd::TLS12;
use crate::support::peer::{chain, roots};
use crate::support::raw_ca::{RawCa, ends};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::{Plan, Upstream};

/// What an egress to this upstream logs of the first request's handshake.
async fn towards(upstream: &str, trusts: &str, extra: &str) -> &'static str {
    let folder = folder();
    drop_pair(folder.path(), "out/tls", &Ca::new("Our CA").client("ours", 5));
    put(folder.path(), "out/ca.crt", trusts);
    let toml = format!(
        "certs = \"certs\"\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://{upstream}\"\nkeyring = \"out\"\nserver_name = \"localhost\"\n{extra}\n"
    );
    let mut sidecar = Sidecar::start(folder, &toml).await;
    let mut application = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
    application.write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n").await.expect("written");
    reason(&mut sidecar).await
}

/// An upstream that reads a ClientHello, says these bytes and is then silent, or closes.
async fn saying(bytes: &'static [u8], closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut hello = [0; 4096];
                let _ = stream.read(&mut hello).await;
                let _ = stream.write_all(bytes).await;
                if closes {
                    let _ = stream.shutdown().await;
                }
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    address
}

async fn said(bytes: &'static [u8], closes: bool) -> &'static str {
    let extra = "[egress.limits]\nhandshake = \"1s\"";
    towards(&saying(bytes, closes).await.to_string(), Ca::new("CA").pem(), extra).await
}

/// A real TLS server with this pair, whose trust in us is `accepts`, for signatures of these schemes only.
async fn serving(
    pair: &IssuedKeyPair,
    accepts: &str,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
    schemes: Option<SignatureScheme>,
) -> SocketAddr {
    let mut verifying = aws_lc_rs::default_provider();
    if let Some(only) = schemes {
        let mapping = &mut verifying.signature_verification_algorithms.mapping;
        let place = mapping.iter().position(|(scheme, _)| *scheme == only).expect("known");
        *mapping = &mapping[place..=place];
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&[accepts])), Arc::new(verifying));
    let (chain, key) = chain(pair);
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(chain, key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut tls) = acceptor.accept(stream).await {
                    let _ = tls.read_to_end(&mut Vec::new()).await;
                }
            });
        }
    });
    address
}

/// A server of this CA that accepts nobody's certificate.
async fn served(pair: IssuedKeyPair, trusts: &str) -> &'static str {
    let address = serving(&pair, Ca::new("Unrelated CA").pem(), rustls::ALL_VERSIONS, None).await;
    towards(&address.to_string(), trusts, "").await
}

pub fn cases() -> Vec<Case> {
    [certificates(), alerts(), streams(), dials()].into_iter().flatten().collect()
}

fn certificates() -> Vec<Case> {
    vec![
        case("no_certificate_asked", async {
            let ca = Ca::new("CA");
            let plan = Plan { asks: false, ..Plan::new(&ca.server(5), &[]) };
            let upstream = Upstream::with(plan, &[ca.pem()]).await;
            towards(&upstream.address.to_string(), ca.pem(), "").await
        }),
        case("wrong_name", async {
            let ca = RawCa::new("CA");
            served(ca.issue("elsewhere.example", &|_| ()), &ca.pem).await
        }),
        case("expired", async {
            let ca = RawCa::new("CA");
            served(ca.issue("localhost", &|params| ends(params, later(today(), -1))), &ca.pem).await
        }),
        case("unknown_issuer", async {
            served(RawCa::new("Other CA").issue("localhost", &|_| ()), &RawCa::new("CA").pem).await
        }),
        // In TLS 1.2 the upstream's refusal comes within the handshake.
        case("refused_unknown_ca", async {
            let ca = RawCa::new("CA");
            let pair = ca.issue("localhost", &|_| ());
            let address = serving(&pair, Ca::new("Unrelated CA").pem(), &TLS12, None).await;
            towards(&address.to_string(), &ca.pem, "").await
        }),
        case("refused_certificate_required", async {
            let ca = RawCa::new("CA");
            let pair = ca.issue("localhost", &|_| ());
            let rsa = Some(SignatureScheme::RSA_PSS_SHA256);
            let address = serving(&pair, Ca::new("Unrelated CA").pem(), &TLS12, rsa).await;
            towards(&address.to_string(), &ca.pem, "").await
        }),
    ]
}

fn alerts() -> Vec<Case> {
    vec![
        case("alert_handshake_failure", said(&[21, 3, 3, 0, 2, 2, 40], true)),
        case("alert_protocol_version", said(&[21, 3, 3, 0, 2, 2, 70], true)),
        case("alert_unrecognized_name", said(&[21, 3, 3, 0, 2, 2, 112], true)),
        case("alert_no_application_protocol", said(&[21, 3, 3, 0, 2, 2, 120], true)),
        case("alert_other", said(&[21, 3, 3, 0, 2, 2, 80], true)),
        case("renegotiation_wanted", said(&[21, 3, 3, 0, 2, 2, 100], true)),
    ]
}

fn streams() -> Vec<Case> {
    vec![
        case("plain_text_upstream", said(b"HTTP/1.1 400 Bad Request\r\n\r\n", true)),
        case("malformed_tls", said(b"\x16\x03\x03\xff\xff\0\0\0", true)),
        case("closed_without_byte", said(b"", true)),
        case("closed", said(b"\x16\x03\x03", true)),
        case("timed_out_before_hello", said(b"", false)),
        case("timed_out_after_hello", said(b"\x16\x03\x03", false)),
    ]
}

fn dials() -> Vec<Case> {
    let unused = || Ca::new("CA").pem().to_owned();
    vec![
        case("connection_refused", async move {
            let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
            towards(&gone.to_string(), &unused(), "").await
        }),
        // No TCP connection can be made to everybody at once.
        case("unreachable", async move { towards("255.255.255.255:8443", &unused(), "").await }),
        case("name_not_resolved", async move { towards("nowhere.invalid:8443", &unused(), "").await }),
        case("connect_timed_out", async move {
            // A queue that is full: the kernel answers no further SYN.
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
            let listener = socket.listen(1).expect("listening");
            let address = listener.local_addr().expect("an address");
            let mut waiting = Vec::new();
            while let Ok(Ok(one)) =
                tokio::time::timeout(std::time::Duration::from_millis(300), TcpStream::connect(address)).await
            {
                waiting.push(one);
            }
            towards(&address.to_string(), &unused(), "[egress.limits]\nconnect = \"1s\"").await
        }),
        // A link-local address without its link.
        case("connect_failed", async move { towards("[fe80::1]:8443", &unused(), "").await }),
    ]
}
