//! What must hold: nothing that came in looks like an identity afterwards, and what ends at this hop ends here.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn header_map(fields: &[(&str, &str)]) -> HeaderMap {
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

fn clean(fields: &[(&str, &str)]) -> (HeaderMap, RequestedFeatures) {
    let mut headers = header_map(fields);
    let cleaned = clean_request(&mut headers, &StripList::default(), ForwardingPolicy::Strip).unwrap();
    (headers, cleaned)
}

#[test]
fn identity_is_stripped_whatever_its_spelling() {
    let (headers, _) = clean(&[
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
fn proxy_is_not_forwarded_as_programs_behind_cgi_would_take_it_for_their_own() {
    let fields = [("Proxy", "http://evil.example"), ("proxy-status", "stays")];
    for forwarding in [ForwardingPolicy::Strip, ForwardingPolicy::Continue, ForwardingPolicy::Keep] {
        let mut headers = header_map(&fields);
        clean_request(&mut headers, &StripList::default(), forwarding).unwrap();
        assert_eq!(names(&headers), ["proxy-status"]);
        let mut trailers = header_map(&fields);
        clean_trailers(&mut trailers, &StripList::default());
        assert_eq!(names(&trailers), ["proxy-status"]);
    }
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
    assert_eq!(names(&clean(&fields).0), ["traceparent"]);
    let mut headers = header_map(&fields);
    headers.insert("x-forwarded-client-cert", HeaderValue::from_static("a"));
    clean_request(&mut headers, &StripList::default(), ForwardingPolicy::Keep).unwrap();
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
    let mut headers = header_map(&fields);
    clean_request(&mut headers, &StripList::default(), ForwardingPolicy::Continue).unwrap();
    assert_eq!(headers.keys().count(), 3);
    assert!(headers.values().all(|value| value != "b"));
}

#[test]
fn also_strip_takes_names_and_beginnings() {
    let strip = StripList::new(&["X-SSL-*".to_owned(), "remote-user".to_owned(), "*".to_owned(), String::new()]);
    let mut headers = header_map(&[("x_ssl_dn", "a"), ("REMOTE_USER", "a"), ("remote-users", "b"), ("accept", "b")]);
    clean_request(&mut headers, &strip, ForwardingPolicy::Strip).unwrap();
    assert_eq!(names(&headers), ["accept", "remote-users"]);
}

#[test]
fn hop_by_hop_fields_end_here_and_so_does_what_connection_names() {
    let (headers, _) = clean(&[
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
        let mut headers = header_map(&[("connection", &format!("close, {name}"))]);
        let violation = clean_request(&mut headers, &StripList::default(), ForwardingPolicy::Strip).unwrap_err();
        assert_eq!(violation, FieldViolation::ConnectionNames(name.to_lowercase()));
    }
    let mut headers = header_map(&[("connection", "a b")]);
    let violation = clean_request(&mut headers, &StripList::default(), ForwardingPolicy::Strip).unwrap_err();
    assert_eq!(violation, FieldViolation::Malformed("Connection"));
}

#[test]
fn what_the_request_asks_for_is_told() {
    let (headers, asked) = clean(&[
        ("connection", "Upgrade, TE"),
        ("upgrade", "WebSocket"),
        ("te", "deflate;q=0.5, trailers"),
        ("expect", "100-Continue"),
    ]);
    assert_eq!(asked, RequestedFeatures { websocket: true, te_trailers: true, expect_continue: true });
    assert_eq!(headers["te"], "trailers");
    assert_eq!(names(&headers).len(), 2);
    for fields in [
        &[("upgrade", "websocket")][..],
        &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
        &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "websocket")],
    ] {
        assert!(!clean(fields).1.websocket, "{fields:?}");
    }
}

#[test]
fn a_response_keeps_its_own_fields_only() {
    let mut headers = header_map(&[
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
    let mut trailers = header_map(&[
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
    clean_trailers(&mut trailers, &StripList::new(&["x-ssl-*".to_owned()]));
    assert_eq!(names(&trailers), ["grpc-message", "grpc-status"]);
}

/// The slow and obvious second version.
fn looks_like_identity(name: &str) -> bool {
    let normal: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    ["client-cert", "client-cert-chain", "x-forwarded-client-cert"].contains(&normal.as_str())
        || normal.starts_with("x-sidekey-")
}

fn any_spelling(name: &'static str) -> impl Strategy<Value = String> {
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
        any_spelling("client-cert"),
        any_spelling("client-cert-chain"),
        any_spelling("x-forwarded-client-cert"),
        any_spelling("x-sidekey-peer"),
        any_spelling("x-sidekey-"),
        any_spelling("connection"),
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
        if clean_request(&mut headers, &StripList::default(), ForwardingPolicy::Strip).is_ok() {
            prop_assert!(!headers.keys().any(|name| looks_like_identity(name.as_str())), "{headers:?}");
            let again = headers.clone();
            clean_request(&mut headers, &StripList::default(), ForwardingPolicy::Strip).unwrap();
            prop_assert_eq!(headers, again);
        }
        clean_trailers(&mut trailers, &StripList::default());
        clean_response(&mut response);
        prop_assert!(!trailers.keys().chain(response.keys()).any(|name| looks_like_identity(name.as_str())));
    }
}
