//! Every error with its status, its party at fault, its reason, and whether it ends the connection.

use super::*;

#[test]
fn a_late_backend_is_504_and_a_missing_one_502() {
    let late = RequestError::Connect(net::SocketError::Late { address: "127.0.0.1:1".to_owned() });
    assert_eq!((late.status().as_u16(), late.fault(Side::Ingress)), (504, "backend"));
    let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let down = RequestError::Connect(net::SocketError::Connect { address: "127.0.0.1:1".to_owned(), source });
    assert_eq!((down.status().as_u16(), down.fault(Side::Egress)), (502, "upstream"));
}

#[test]
fn an_ambiguous_path_is_400_and_a_forbidden_one_403() {
    assert_eq!(RequestError::Denied(AccessDenied::Path("%2f")).status(), 400);
    let denied = RequestError::Denied(AccessDenied::Allow { identity: "dns:a".to_owned() });
    assert_eq!((denied.status().as_u16(), denied.fault(Side::Ingress)), (403, "peer"));
    assert!(!denied.closes_connection() && RequestError::Malformed("missing Host").closes_connection());
}

#[test]
fn a_challenge_says_which_kind_of_wrong_and_not_why() {
    let says =
        |refused| RequestError::Jwt(refused).bearer_challenge("api").map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(says(TokenRejection::Missing).unwrap(), "Bearer realm=\"api\"");
    assert_eq!(says(TokenRejection::NotBearer).unwrap(), "Bearer realm=\"api\", error=\"invalid_request\"");
    assert_eq!(says(TokenRejection::Audience).unwrap(), "Bearer realm=\"api\", error=\"invalid_token\"");
    assert_eq!(says(TokenRejection::Full), None);
}

#[test]
fn every_error_has_its_row_in_the_table() {
    let handshake = RequestError::Handshake { reason: "untrusted", explanation: "why".to_owned() };
    let refused = RequestError::Refused { reason: "refused_unknown_ca", explanation: "why".to_owned(), said: true };
    let unanswered = RequestError::Unanswered { reason: "closed_after_handshake", explanation: "why".to_owned() };
    let untrusted = RequestError::Untrusted(TrustError::Other { why: "why".to_owned() });
    for (error, status, fault, reason, closes) in [
        (RequestError::Malformed("several Host fields"), 400, "peer", "malformed_request", true),
        (RequestError::Framing(crate::http::framing::FramingFault::BothLengths), 400, "peer", "two_framings", true),
        (RequestError::Misdirected { named: "a".to_owned() }, 421, "peer", "misdirected", false),
        (RequestError::TooManyFields { limit: 100 }, 431, "peer", "too_many_fields", true),
        (RequestError::HeadTooLarge { limit: 100 }, 431, "peer", "head_too_large", true),
        (RequestError::TargetTooLong { limit: 100 }, 414, "peer", "target_too_long", true),
        (RequestError::Method, 405, "peer", "method_not_allowed", false),
        (RequestError::Denied(AccessDenied::Path("%2f")), 400, "peer", "ambiguous_path", false),
        (RequestError::Denied(AccessDenied::Allow { identity: "dns:a".to_owned() }), 403, "peer", "not_allowed", false),
        (handshake, 502, "backend", "untrusted", false),
        (refused, 502, "backend", "refused_unknown_ca", false),
        (unanswered, 502, "backend", "closed_after_handshake", false),
        (RequestError::Unasked, 502, "backend", "unasked_upgrade", false),
        (RequestError::UpgradeNeedsHttp1, 502, "backend", "upgrade_needs_http1", false),
        (RequestError::Http1Required, 502, "backend", "http1_required", false),
        (RequestError::ResponseLengths, 502, "backend", "response_lengths", false),
        (RequestError::UsedUp("all 3 are open".to_owned()), 503, "sidecar", "connections_used_up", false),
        (RequestError::Late, 504, "backend", "response_late", false),
        (RequestError::CrossSite, 403, "peer", "cross_site", false),
        (RequestError::HostNotAllowed { named: "a.b".to_owned() }, 421, "peer", "host_not_allowed", false),
        (RequestError::BodyLate, 408, "peer", "body_late", true),
        (RequestError::BodySlow, 408, "peer", "body_slow", true),
        (RequestError::NoKeyPair, 503, "sidecar", "no_key_pair", false),
        (RequestError::EgressWaits { waits_for: "a".to_owned() }, 503, "sidecar", "no_key_pair", false),
        (untrusted, 503, "peer", "peer_untrusted", true),
    ] {
        assert_eq!((error.status().as_u16(), error.fault(Side::Ingress)), (status, fault), "{error}");
        assert_eq!((error.reason(), error.closes_connection()), (reason, closes), "{error}");
    }
}
