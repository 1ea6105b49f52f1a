//! Peers that bring about one reason each.

use std::net::SocketAddr;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, NameConstraints, SerialNumber};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, SignatureScheme};
use sidekey::pki::issue::{IssuedKeyPair, NewKeyKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{Case, case, reason};
use crate::handshake::{Stand, stand_with};
use crate::support::ca::{Ca, later, today};
use crate::support::odd::{Odd, TLS12, TLS13};
use crate::support::peer::{Peer, chain};
use crate::support::raw_ca::{RawCa, begins, ends, pin, self_signed};
use crate::support::sidecar::{drop_pair, put};

/// A certificate with an RSA key of 1024 bits, which rcgen cannot make; signed by itself, valid until 2036.
const WEAK: &str = "-----BEGIN CERTIFICATE-----
MIICBDCCAW2gAwIBAgIUKChXclXb6G0Y/QiDaXW1oE2w4SQwDQYJKoZIhvcNAQELBQAwFDESMBAGA1UEAwwJd2Vhay50ZXN0MB4X
DTI2MTEyNTEwNDMzMVoXDTM2MTEyMjEwNDMzMVowFDESMBAGA1UEAwwJd2Vhay50ZXN0MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB
iQKBgQCtUPgzB74xON2Dh6oQ6Sh+iWR1/mlPYrXT5NC/UEqKrJG3Y03t4tz42XvDQDXxOwyDMUSRRe5gIsLE5fOcZ/gnD99gWaKe
lvdvv4fguq+Rcz51Rd0zIAKOOTGX5KcB3QeMeyyL8aX49Y4eFQfGdJhst/GGHlDE0PkQ2x5Era/lPwIDAQABo1MwUTAdBgNVHQ4E
FgQURjotzdjRmZyoZMNPYJVUAhbsnAcwHwYDVR0jBBgwFoAURjotzdjRmZyoZMNPYJVUAhbsnAcwDwYDVR0TAQH/BAUwAwEB/zAN
BgkqhkiG9w0BAQsFAAOBgQBGBGTtaXlKC6VWi1R1/OsLBVkt77jNhnk0/f325E3s94rYyR4LJjB9SDazORQsJW+23uMJh9u5XOh9
S4EIG4J1xgrwpbOgFQLU9oO9CrSkH5jqw+xHHIelyMnd9YbFdgQUCiLSu6XfQbS/WZ3OK13+q0Ki66yH9nid08jvSdknZA==
-----END CERTIFICATE-----
";

/// An ingress that verifies peers by this CA, with these settings of its trust and of its own.
async fn by(ca: &RawCa, of_trust: &str, of_ingress: &str) -> Stand {
    let top = format!("[trust.partners]\nanchors = [\"trust/p.pem\"]\n{of_trust}");
    let of_ingress = format!("trust = \"partners\"\n{of_ingress}");
    let pem = ca.pem.clone();
    stand_with(&top, &of_ingress, Some(today()), |folder, _| put(folder, "trust/p.pem", &pem)).await
}

/// What is logged of a peer that shows this.
async fn shown(odd: Odd, ca: &RawCa, of_trust: &str) -> &'static str {
    met(odd, by(ca, of_trust, "").await).await
}

async fn met(odd: Odd, mut stand: Stand) -> &'static str {
    odd.connect(stand.sidecar.ingress("api")).await;
    reason(&mut stand.sidecar).await
}

/// What is logged of these bytes, the connection half-closed after them.
async fn sent(bytes: &'static [u8]) -> &'static str {
    let mut stand = by(&RawCa::new("CA"), "", "").await;
    let mut stream = TcpStream::connect(stand.sidecar.ingress("api")).await.expect("connected");
    stream.write_all(bytes).await.expect("written");
    stream.shutdown().await.expect("half-closed");
    let _ = stream.read_to_end(&mut Vec::new()).await;
    reason(&mut stand.sidecar).await
}

/// What is logged of a peer that answers our certificate with this alert, in TLS 1.2.
async fn alert(code: u8) -> &'static str {
    let mut stand = by(&RawCa::new("CA"), "", "").await;
    let odd = Odd { versions: &TLS12, ..Odd::default() };
    let mut stream = TcpStream::connect(stand.sidecar.ingress("api")).await.expect("connected");
    stream.write_all(&odd.hello()).await.expect("written");
    let mut byte = [0];
    stream.read_exact(&mut byte).await.expect("answered");
    stream.write_all(&[21, 3, 3, 0, 2, 2, code]).await.expect("written");
    reason(&mut stand.sidecar).await
}

async fn refused(
    why: CertificateError,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
) -> &'static str {
    shown(Odd { refuses: Some(why), versions, ..Odd::default() }, &RawCa::new("CA"), "").await
}

pub fn cases() -> Vec<Case> {
    [certificates(), alerts(), offers(), bytes(), connections(), crowds()].into_iter().flatten().collect()
}

/// A peer whose handshake runs and goes no further: it has had the first byte of our answer.
async fn stalled(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let mut stream = begun(from, to).await;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.expect("answered");
    stream
}

/// A peer that has sent its ClientHello.
async fn begun(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("an address");
    let mut stream = socket.connect(to).await.expect("connected");
    stream.write_all(&Odd::default().hello()).await.expect("written");
    stream
}

/// Too many peers at once, and load balancers that say nothing sensible.
fn crowds() -> Vec<Case> {
    let crowded = |limits: &'static str, second: [u8; 4]| async move {
        let mut stand = by(&RawCa::new("CA"), "", &format!("[ingress.limits]\n{limits}")).await;
        let address = stand.sidecar.ingress("api");
        let _first = stalled([127, 0, 0, 1], address).await;
        let _second = begun(second, address).await;
        reason(&mut stand.sidecar).await
    };
    let balanced = |bytes: Vec<u8>| async move {
        let mut stand = by(&RawCa::new("CA"), "", "proxy_protocol_from = [\"127.0.0.1\"]").await;
        let mut stream = TcpStream::connect(stand.sidecar.ingress("api")).await.expect("connected");
        stream.write_all(&bytes).await.expect("written");
        reason(&mut stand.sidecar).await
    };
    vec![
        case("too_many_from_source", crowded("handshakes_per_source = 1", [127, 0, 0, 1])),
        case("too_many_handshakes", crowded("handshakes = 1\nhandshakes_per_source = 1", [127, 0, 0, 2])),
        case("too_many_waiting", async {
            let mut stand = by(&RawCa::new("CA"), "", "[ingress.limits]\nhello_waiting = 1").await;
            let address = stand.sidecar.ingress("api");
            let _first = TcpStream::connect(address).await.expect("connected");
            let _second = TcpStream::connect(address).await.expect("connected");
            reason(&mut stand.sidecar).await
        }),
        case("too_many_of_partner", async {
            let ca = RawCa::new("CA");
            let partner = "[partner.a]\nanchors = [\"trust/p.pem\"]\nmax_connections = 1";
            let mut stand = by(&ca, partner, "").await;
            let address = stand.sidecar.ingress("api");
            let client = ca.issue("a.example", &|_| ());
            let mut open = Peer::new(&[stand.ca.pem()], Some(&client)).connect(address).await.expect("connected");
            open.get("/").await.expect("served");
            assert_eq!(reason(&mut stand.sidecar).await, "ok");
            Odd::showing(&client).connect(address).await;
            reason(&mut stand.sidecar).await
        }),
        case("proxy_header_missing", balanced(Odd::default().hello())),
        case("proxy_header_malformed", balanced(b"PROXY nonsense\r\n".to_vec())),
    ]
}

fn certificates() -> Vec<Case> {
    let issued = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let ca = RawCa::new("CA");
        let pair = ca.issue("a.example", change);
        async move { shown(Odd::showing(&pair), &ca, "").await }
    };
    let foreign = |pair: IssuedKeyPair| async move { shown(Odd::showing(&pair), &RawCa::new("CA"), "").await };
    let with_certificate = |certificate: CertificateDer<'static>| async move {
        let ca = RawCa::new("CA");
        shown(Odd::stolen(vec![certificate], &ca.issue("a.example", &|_| ())), &ca, "").await
    };
    vec![
        case("no_certificate", async { shown(Odd::default(), &RawCa::new("CA"), "").await }),
        case("malformed_certificate", with_certificate(vec![0x30, 3, 1, 2, 3].into())),
        case("expired", issued(&|params| ends(params, later(today(), -1)))),
        case("not_yet_valid", issued(&|params| begins(params, later(today(), 1)))),
        case("unknown_issuer", foreign(RawCa::new("Other CA").issue("a.example", &|_| ()))),
        case("self_signed", foreign(self_signed("a.example", &|_| ()))),
        case("bad_signature", foreign(RawCa::new("CA").issue("a.example", &|_| ()))),
        case("bad_proof", async {
            let ca = RawCa::new("CA");
            let (shown_chain, _) = chain(&ca.issue("a.example", &|_| ()));
            shown(Odd::stolen(shown_chain, &ca.issue("b.example", &|_| ())), &ca, "").await
        }),
        case("weak", with_certificate(CertificateDer::from_pem_slice(WEAK.as_bytes()).expect("PEM"))),
        case("wrong_usage", issued(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        case("not_an_end_entity", issued(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        case("no_pin", async {
            let ca = RawCa::new("CA");
            let pins = format!("pins = [\"{}\"]", pin(&ca.issue("b.example", &|_| ())));
            shown(Odd::showing(&ca.issue("a.example", &|_| ())), &ca, &pins).await
        }),
        case("revoked", async {
            let ca = RawCa::new("CA");
            let pair = ca.issue("a.example", &|params| params.serial_number = Some(SerialNumber::from(7)));
            let (pem, crl) = (ca.pem.clone(), ca.crl(&[7], 9));
            let top = "[trust.partners]\nanchors = [\"trust/p.pem\"]\ncrls = [\"trust/p.crl\"]";
            let stand = stand_with(top, "trust = \"partners\"", None, |folder, _| {
                put(folder, "trust/p.pem", &pem);
                put(folder, "trust/p.crl", &crl);
            });
            met(Odd::showing(&pair), stand.await).await
        }),
        case("revocation_unknown", async {
            let ca = RawCa::new("CA");
            shown(Odd::showing(&ca.issue("a.example", &|_| ())), &ca, "crl_required = true").await
        }),
        case("untrusted", async {
            let ca = RawCa::with("CA", &|params| {
                let permitted = vec![GeneralSubtree::DnsName("elsewhere.example".to_owned())];
                params.name_constraints =
                    Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: Vec::new() });
            });
            shown(Odd::showing(&ca.issue("a.example", &|_| ())), &ca, "").await
        }),
        case("expired_accepted", async {
            let ca = RawCa::new("CA");
            let until = later(today(), 1).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let lenient = format!("[partner.a]\nanchors = [\"trust/p.pem\"]\naccept_expired_until = {until}");
            let late = ca.issue("a.example", &|params| ends(params, later(today(), -1)));
            shown(Odd::showing(&late), &ca, &lenient).await
        }),
    ]
}

fn alerts() -> Vec<Case> {
    let both: &'static [&'static rustls::SupportedProtocolVersion] = rustls::ALL_VERSIONS;
    let refusals = |versions| {
        [
            ("refused_unknown_ca", CertificateError::UnknownIssuer),
            ("refused_bad_certificate", CertificateError::BadEncoding),
            ("refused_unsupported_certificate", CertificateError::InvalidPurpose),
            ("refused_certificate_revoked", CertificateError::Revoked),
            ("refused_certificate_expired", CertificateError::Expired),
            ("refused_access_denied", CertificateError::ApplicationVerificationFailure),
            ("refused_decrypt_error", CertificateError::BadSignature),
        ]
        .map(|(reason, why)| case(reason, refused(why, versions)))
    };
    let other = CertificateError::Other(rustls::OtherError(std::sync::Arc::new(std::fmt::Error)));
    let rest = [
        case("refused_certificate_unknown", refused(other, both)),
        case("alert_handshake_failure", alert(40)),
        case("alert_protocol_version", alert(70)),
        case("alert_unrecognized_name", alert(112)),
        case("alert_no_application_protocol", alert(120)),
        case("alert_other", alert(80)),
    ];
    refusals(both).into_iter().chain(refusals(&TLS12)).chain(rest).collect()
}

fn offers() -> Vec<Case> {
    let offering = |change: &dyn Fn(&mut Odd), of_ingress: &'static str| {
        let mut odd = Odd::default();
        change(&mut odd);
        async move { met(odd, by(&RawCa::new("CA"), "", of_ingress).await).await }
    };
    vec![
        case("no_key_pair_fits", offering(&|odd| odd.schemes = vec![SignatureScheme::RSA_PSS_SHA256], "")),
        case("no_common_version", offering(&|odd| odd.versions = &TLS12, "tls_min = \"1.3\"")),
        case(
            "no_common_cipher_suite",
            offering(
                &|odd| {
                    odd.versions = &TLS12;
                    odd.provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
                },
                "",
            ),
        ),
        case(
            "no_common_group",
            offering(&|odd| odd.provider.kx_groups = vec![aws_lc_rs::kx_group::SECP384R1], "groups = [\"X25519\"]"),
        ),
        case("no_common_signature_scheme", async {
            // An RSA key could sign it in TLS 1.2; in TLS 1.3 PKCS#1 signatures are gone (RFC 8446 4.2.3).
            let mut stand = by(&RawCa::new("CA"), "", "").await;
            let mut request = Ca::new("Server CA").request("localhost");
            request.key = NewKeyKind::Rsa(2048);
            request.validity.not_before = later(today(), -1);
            let pair = stand.ca.issue(&request);
            drop_pair(stand.sidecar.folder.path(), "tls", &pair);
            stand.sidecar.rotation("default").await;
            let odd = Odd { versions: &TLS13, schemes: vec![SignatureScheme::RSA_PKCS1_SHA256], ..Odd::default() };
            met(odd, stand).await
        }),
        case("no_common_protocol", offering(&|odd| odd.alpn = vec![b"spdy/3".to_vec()], "")),
    ]
}

fn bytes() -> Vec<Case> {
    vec![
        case("plain_http", sent(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")),
        case("plain_http2", sent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        case("proxy_header", sent(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")),
        case("sslv2", sent(b"\x80\x2e\x01\x03\x01\x00\x15\x00")),
        case("not_tls", sent(b"SSH-2.0-OpenSSH_9.2\r\n")),
        case("malformed_tls", sent(b"\x16\x03\x01\xff\xff\0\0\0")),
        case("peer_misbehaved", sent(b"\x16\x03\x01\x00\x04\x00\x00\x00\x00")),
        case("closed_without_byte", sent(b"")),
        case("closed", sent(b"\x16\x03\x01")),
    ]
}

/// A connection that is reset when it is dropped, whatever waits in it.
async fn resettable(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_zero_linger().expect("set");
    socket.connect(to).await.expect("connected")
}

fn connections() -> Vec<Case> {
    vec![
        case("reset", async {
            let mut stand = by(&RawCa::new("CA"), "", "").await;
            let mut stream = resettable(stand.sidecar.ingress("api")).await;
            stream.write_all(&Odd::default().hello()).await.expect("written");
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect("answered");
            drop(stream);
            reason(&mut stand.sidecar).await
        }),
        case("timed_out_before_hello", async {
            let mut stand = by(&RawCa::new("CA"), "", "[ingress.limits]\nhandshake = \"1s\"").await;
            let _silent = TcpStream::connect(stand.sidecar.ingress("api")).await.expect("connected");
            reason(&mut stand.sidecar).await
        }),
        case("timed_out_after_hello", async {
            let mut stand = by(&RawCa::new("CA"), "", "[ingress.limits]\nhandshake = \"1s\"").await;
            let mut stream = TcpStream::connect(stand.sidecar.ingress("api")).await.expect("connected");
            stream.write_all(&Odd::default().hello()).await.expect("written");
            reason(&mut stand.sidecar).await
        }),
        case("no_key_pair", async {
            let mut stand = stand_with("[keyring.default]\non_expiry = \"refuse\"", "", Some(today()), |_, _| ()).await;
            stand.sidecar.move_to(later(today(), 81));
            crate::support::eventually("nothing is left to show", || {
                stand.sidecar.app.reader().latest().ingresses.is_empty()
            })
            .await;
            Odd::default().connect(stand.sidecar.ingress("api")).await;
            reason(&mut stand.sidecar).await
        }),
        case("too_many_connections", async {
            let ca = RawCa::new("CA");
            let mut stand = by(&ca, "", "[ingress.limits]\nconnections = 1").await;
            let address = stand.sidecar.ingress("api");
            let client = ca.issue("a.example", &|_| ());
            let peer = Peer::new(&[stand.ca.pem()], Some(&client));
            let mut open = peer.connect(address).await.expect("connected");
            open.get("/").await.expect("served");
            assert_eq!(reason(&mut stand.sidecar).await, "ok");
            let late = Odd::showing(&client);
            tokio::time::timeout(crate::support::PATIENCE, late.connect(address)).await.expect("closed at once");
            reason(&mut stand.sidecar).await
        }),
    ]
}
