//! What must hold: nothing that came in looks like an identity afterwards, and what ends at this hop ends here.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect()
}

/// In alphabetical order: removing a field moves others, and the order of different names is irrelevant.
fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

fn cleaned(fields: &[(&str, &str)]) -> (HeaderMap, Cleaned) {
    let mut headers = map(fields);
    let cleaned = clean_request(&mut headers, &Strip::default(), Forwarding::Strip).unwrap();
    (headers, cleaned)
}

#[test]
fn identity_is_stripped_whatever_its_spelling() {
    let (headers, _) = cleaned(&[
        ("Client_Cert", "a"),
        ("client.cert-chain", "a"),
        ("x.forwarded.client.cert", "a"),
        ("X-SIDEKEY-Anything", "a"),
        ("x_sidekey_peer", "a"),
        ("x-sidekeys", "stays"),
        ("client-certificate", "stays"),
    ]);
    assert_eq!(names(&headers), ["client-certificate", "x-sidekeys"]);
}

#[test]
fn forwarding_fields_go_on_ingress_and_stay_on_egress() {
    let fields = [
        ("x-forwarded-for", "a"),
        ("x_forwarded_port", "a"),
        ("forwarded", "for=a"),
        ("x-real-ip", "a"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    assert_eq!(names(&cleaned(&fields).0), ["traceparent"]);
    let mut headers = map(&fields);
    headers.insert("x-forwarded-client-cert", HeaderValue::from_static("a"));
    clean_request(&mut headers, &Strip::default(), Forwarding::Keep).unwrap();
    assert_eq!(headers.len(), 5);
    assert!(!headers.contains_key("x-forwarded-client-cert"));
}

#[test]
fn a_believed_peers_forwarding_fields_stay_and_their_look_alikes_go() {
    let fields = [
        ("x-forwarded-for", "a"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=a"),
        ("x_forwarded_for", "b"),
        ("x-forwarded_for", "b"),
        ("x-real-ip", "b"),
        ("x-forwarded-client-cert", "b"),
    ];
    let mut headers = map(&fields);
    clean_request(&mut headers, &Strip::default(), Forwarding::Continue).unwrap();
    assert_eq!(headers.keys().count(), 3);
    assert!(headers.values().all(|value| value != "b"));
}

#[test]
fn also_strip_takes_names_and_beginnings() {
    let strip = Strip::new(&["X-SSL-*".to_owned(), "remote-user".to_owned(), "*".to_owned(), String::new()]);
    let mut headers = map(&[("x_ssl_dn", "a"), ("REMOTE_USER", "a"), ("remote-users", "b"), ("accept", "b")]);
    clean_request(&mut headers, &strip, Forwarding::Strip).unwrap();
    assert_eq!(names(&headers), ["accept", "remote-users"]);
}

#[test]
fn hop_by_hop_fields_end_here_and_so_does_what_connection_names() {
    let (headers, _) = cleaned(&[
        ("connection", "close, X-Mine ,,"),
        ("connection", "Keep-Alive"),
        ("x-mine", "a"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "a"),
        ("proxy-authenticate", "a"),
        ("proxy-authorization", "a"),
        ("transfer-encoding", "chunked"),
        ("transfer_encoding", "chunked"),
        ("content_length", "3"),
        ("upgrade", "h2c"),
        ("http2-settings", "a"),
        ("te", "gzip"),
        ("trailer", "x-sum"),
        ("content-length", "3"),
        ("host", "a"),
    ]);
    assert_eq!(names(&headers), ["content-length", "host", "trailer"]);
}

#[test]
fn connection_must_not_name_what_others_rely_on() {
    for name in ["Host", "authorization", "COOKIE", "Content-Length", "Transfer-Encoding"] {
        let mut headers = map(&[("connection", &format!("close, {name}"))]);
        let violation = clean_request(&mut headers, &Strip::default(), Forwarding::Strip).unwrap_err();
        assert_eq!(violation, Violation::ConnectionNames(name.to_lowercase()));
    }
    let mut headers = map(&[("connection", "a b")]);
    let violation = clean_request(&mut headers, &Strip::default(), Forwarding::Strip).unwrap_err();
    assert_eq!(violation, Violation::Malformed("Connection"));
}

#[test]
fn what_the_request_asks_for_is_told() {
    let (headers, asked) = cleaned(&[
        ("connection", "Upgrade, TE"),
        ("upgrade", "WebSocket"),
        ("te", "deflate;q=0.5, trailers"),
        ("expect", "100-Continue"),
    ]);
    assert_eq!(asked, Cleaned { websocket: true, te_trailers: true, expect_continue: true });
    assert_eq!(headers["te"], "trailers");
    assert_eq!(names(&headers).len(), 2);
    for fields in [
        &[("upgrade", "websocket")][..],
        &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
        &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "websocket")],
    ] {
        assert!(!cleaned(fields).1.websocket, "{fields:?}");
    }
}

#[test]
fn a_response_keeps_its_own_fields_only() {
    let mut headers = map(&[
        ("connection", "x-mine, content-length, a b"),
        ("x-mine", "a"),
        ("content-length", "3"),
        ("x-sidekey-peer", "dns:evil"),
        ("upgrade", "h2c"),
        ("set-cookie", "a=b"),
        ("forwarded", "for=a"),
    ]);
    clean_response(&mut headers);
    assert_eq!(names(&headers), ["content-length", "forwarded", "set-cookie"]);
}

#[test]
fn trailers_carry_no_framing_identity_or_routing() {
    let mut trailers = map(&[
        ("host", "a"),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
        ("authorization", "a"),
        ("x_forwarded_client_cert", "a"),
        ("x-forwarded-for", "a"),
        ("x-ssl-dn", "a"),
        ("grpc-status", "0"),
        ("grpc-message", "ok"),
    ]);
    clean_trailers(&mut trailers, &Strip::new(&["x-ssl-*".to_owned()]));
    assert_eq!(names(&trailers), ["grpc-message", "grpc-status"]);
}

/// The slow and obvious second version.
fn looks_like_identity(name: &str) -> bool {
    let normal: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    ["client-cert", "client-cert-chain", "x-forwarded-client-cert"].contains(&normal.as_str())
        || normal.starts_with("x-sidekey-")
}

fn spelled(name: &'static str) -> impl Strategy<Value = String> {
    proptest::collection::vec((any::<bool>(), prop::sample::select(b"-_.!#$%&'*+^`|~".to_vec())), name.len()).prop_map(
        move |choices| {
            let respell = |(c, (upper, separator)): (char, (bool, u8))| match (c, upper) {
                ('-', _) => char::from(separator),
                (c, true) => c.to_ascii_uppercase(),
                (c, false) => c,
            };
            name.chars().zip(choices).map(respell).collect()
        },
    )
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        spelled("client-cert"),
        spelled("client-cert-chain"),
        spelled("x-forwarded-client-cert"),
        spelled("x-sidekey-peer"),
        spelled("x-sidekey-"),
        spelled("connection"),
        "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,24}",
    ]
}

proptest! {
    #[test]
    fn no_identity_is_left_whatever_comes_in(names in proptest::collection::vec((any_name(), "[ -~]{0,20}"), 0..12)) {
        let mut headers = HeaderMap::new();
        for (name, value) in &names {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let mut trailers = headers.clone();
        let mut response = headers.clone();
        if clean_request(&mut headers, &Strip::default(), Forwarding::Strip).is_ok() {
            prop_assert!(!headers.keys().any(|name| looks_like_identity(name.as_str())), "{headers:?}");
            let again = headers.clone();
            clean_request(&mut headers, &Strip::default(), Forwarding::Strip).unwrap();
            prop_assert_eq!(headers, again);
        }
        clean_trailers(&mut trailers, &Strip::default());
        clean_response(&mut response);
        prop_assert!(!trailers.keys().chain(response.keys()).any(|name| looks_like_identity(name.as_str())));
    }
}
