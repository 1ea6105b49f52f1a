//! Why a request is not answered by the backend or upstream, and what the other side sees of it.
//!
//! A request ends in a response, never in an error: `RequestError` says whose fault it was, and one table here makes a status
//! of it. What the other side sees is less than what the log says.

use crate::jwt::TokenRejection;
use crate::net;
use crate::snapshot::Side;
use crate::trust::{AccessDenied, TrustError};
use http::StatusCode;
use http::header::HeaderValue;

/// Why a request is not answered by the backend or upstream. For the log; the response body never contains it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// A request that RFC 9112 or RFC 9113 forbids, or that two readers could read differently.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// Bytes that leave open where the request ends, or that define it in two ways.
    #[error("{}", .0.explanation())]
    Framing(crate::http::framing::FramingFault),
    /// Another host than the one that the connection is for, where that chose the key pair.
    #[error("the connection is for {named:?}, but the request names another host")]
    Misdirected {
        /// The server name of the handshake.
        named: String,
    },
    /// Fields that cannot be forwarded.
    #[error(transparent)]
    Fields(#[from] super::fields::FieldViolation),
    /// More fields than the limit.
    #[error("the request has more than {limit} fields")]
    TooManyFields {
        /// The limit.
        limit: usize,
    },
    /// `CONNECT`, `TRACE` or `*`.
    #[error("CONNECT, TRACE and the target * are not forwarded")]
    Method,
    /// A browser marks the request as another site's.
    #[error("a browser sent this request on behalf of another site (Sec-Fetch-Site, Origin)")]
    CrossSite,
    /// A host that is not the egress' own: a page could have brought a browser here by DNS rebinding.
    #[error("{named:?} is not a host of this egress (DNS rebinding?): if the application uses it, list it in hosts")]
    HostNotAllowed {
        /// The Host of the request, its port included.
        named: String,
    },
    /// The peer sent no part of its content for too long.
    #[error("the request body timed out (limits.body_idle)")]
    BodyLate,
    /// A rule denies the request.
    #[error(transparent)]
    Denied(#[from] AccessDenied),
    /// The request's token is not valid.
    #[error("token refused: {0}")]
    Jwt(#[from] TokenRejection),
    /// No token for the upstream could be obtained: a stable code, and one sentence.
    #[error("{explanation}")]
    Token {
        /// The code.
        reason: &'static str,
        /// The sentence.
        explanation: String,
    },
    /// The other side of the hop cannot be reached.
    #[error(transparent)]
    Connect(#[from] net::SocketError),
    /// The TLS handshake with the upstream failed: reason and explanation of its handshake line.
    #[error("{explanation}")]
    Handshake {
        /// Its code.
        reason: &'static str,
        /// Its sentence.
        explanation: String,
    },
    /// The upstream refuses the key pair that it was shown, and has processed nothing.
    #[error("{explanation}")]
    Refused {
        /// The code of its handshake or proof line.
        reason: &'static str,
        /// Its sentence.
        explanation: String,
        /// By an alert; otherwise it only ended the handshake, which may mean something else.
        said: bool,
    },
    /// The upstream ended the connection before its first answer, and without an alert: it may refuse our key pair.
    #[error("{explanation}")]
    Unanswered {
        /// The code of its proof line.
        reason: &'static str,
        /// Its sentence.
        explanation: String,
    },
    /// The exchange broke off, or was not HTTP.
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    /// A 101 that was not requested, or to another protocol.
    #[error("received 101 for an upgrade that was not requested")]
    Unasked,
    /// A WebSocket towards a backend or an upstream that speaks HTTP/2 only.
    #[error("a WebSocket needs HTTP/1.1, but the other side speaks only HTTP/2")]
    UpgradeNeedsHttp1,
    /// As many connections to the backend are open as may be, or the system has none left for us.
    #[error("no connection to the backend is available: {0}")]
    UsedUp(String),
    /// No response head in time.
    #[error("no response before the deadline")]
    Late,
    /// This listener has no key pair to show now.
    #[error("no key pair to show")]
    NoKeyPair,
    /// The trust that accepted the peer does not any more: the connection drains.
    #[error("the peer is no longer trusted: {0}")]
    Untrusted(#[from] TrustError),
}

impl From<crate::jwt::TokenSigningError> for RequestError {
    fn from(error: crate::jwt::TokenSigningError) -> Self {
        Self::Token { reason: "token_unsigned", explanation: error.to_string() }
    }
}

impl RequestError {
    /// A backend could not be reached: through its own fault, or because the sidecar has no descriptor or port left.
    pub(crate) fn from_dial_error(error: net::SocketError) -> Self {
        use rustix::io::Errno;
        let used_up = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN];
        match &error {
            net::SocketError::Connect { source, .. }
                if used_up.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error())) =>
            {
                Self::UsedUp(error.to_string())
            }
            _ => Self::Connect(error),
        }
    }

    /// The one table from what happened to what the other side sees (contract section 11).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Framing(fault) => fault.status(),
            Self::Misdirected { .. } | Self::HostNotAllowed { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Malformed(_) | Self::Fields(_) | Self::Denied(AccessDenied::Path(_)) => StatusCode::BAD_REQUEST,
            Self::TooManyFields { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Denied(_) | Self::CrossSite => StatusCode::FORBIDDEN,
            Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::Jwt(TokenRejection::NotBearer) => StatusCode::BAD_REQUEST,
            Self::Jwt(TokenRejection::Full) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Jwt(_) => StatusCode::UNAUTHORIZED,
            Self::Connect(net::SocketError::Late { .. }) | Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_)
            | Self::Handshake { .. }
            | Self::Refused { .. }
            | Self::Token { .. }
            | Self::Unanswered { .. }
            | Self::Exchange(_)
            | Self::Unasked
            | Self::UpgradeNeedsHttp1 => StatusCode::BAD_GATEWAY,
            Self::NoKeyPair | Self::Untrusted(_) | Self::UsedUp(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The side at fault: `peer`, `backend` (the application, on either side), `upstream` or `sidecar`.
    pub(crate) fn fault(&self, side: Side) -> &'static str {
        let (asks, answers) = match side {
            Side::Ingress => ("peer", "backend"),
            Side::Egress => ("backend", "upstream"),
        };
        match self {
            _ if self.is_refusal() => asks,
            Self::NoKeyPair | Self::UsedUp(_) => "sidecar",
            _ => answers,
        }
    }

    /// A stable code for the log.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Framing(fault) => fault.reason(),
            Self::Misdirected { .. } => "misdirected",
            Self::Malformed(_) => "malformed_request",
            Self::Fields(_) => "malformed_fields",
            Self::TooManyFields { .. } => "too_many_fields",
            Self::Method => "method_not_allowed",
            Self::Denied(AccessDenied::Path(_)) => "ambiguous_path",
            Self::Denied(_) => "not_allowed",
            Self::CrossSite => "cross_site",
            Self::HostNotAllowed { .. } => "host_not_allowed",
            Self::BodyLate => "body_late",
            Self::Jwt(refused) => refused.reason(),
            Self::Connect(net::SocketError::Late { .. }) => "connect_late",
            Self::Connect(_) => "connect_failed",
            Self::Handshake { reason, .. }
            | Self::Refused { reason, .. }
            | Self::Unanswered { reason, .. }
            | Self::Token { reason, .. } => reason,
            Self::Exchange(_) => "exchange_failed",
            Self::Unasked => "unasked_upgrade",
            Self::UpgradeNeedsHttp1 => "upgrade_needs_http1",
            Self::UsedUp(_) => "connections_used_up",
            Self::Late => "response_late",
            Self::NoKeyPair => "no_key_pair",
            Self::Untrusted(_) => "peer_untrusted",
        }
    }

    /// The key of the limit that was reached, if one was.
    pub(crate) fn limit(&self) -> Option<&'static str> {
        use crate::http::framing::FramingFault;
        Some(match self {
            Self::BodyLate => "body_idle",
            Self::Late => "response",
            Self::Connect(net::SocketError::Late { .. }) => "connect",
            Self::UsedUp(_) => "connections",
            Self::TooManyFields { .. } | Self::Framing(FramingFault::TooManyFields) => "fields",
            Self::Framing(FramingFault::HeadTooLarge | FramingFault::TargetTooLong) => "head_size",
            _ => return None,
        })
    }

    /// Whether the request itself is at fault. What a peer can cause at will is not logged as a warning.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::Framing(_)
                | Self::Misdirected { .. }
                | Self::Fields(_)
                | Self::TooManyFields { .. }
                | Self::Method
                | Self::Denied(_)
                | Self::CrossSite
                | Self::HostNotAllowed { .. }
                | Self::BodyLate
                | Self::Jwt(_)
                | Self::Untrusted(_)
        )
    }

    /// The challenge in the response to a refused token (RFC 6750 3), without the reason.
    pub(crate) fn bearer_challenge(&self, realm: &str) -> Option<HeaderValue> {
        let error = match self {
            Self::Jwt(TokenRejection::Full) => return None,
            Self::Jwt(TokenRejection::Missing) => "",
            Self::Jwt(TokenRejection::NotBearer) => ", error=\"invalid_request\"",
            Self::Jwt(_) => ", error=\"invalid_token\"",
            _ => return None,
        };
        HeaderValue::try_from(format!("Bearer realm=\"{realm}\"{error}")).ok()
    }

    /// Whether the connection that the request came on cannot be trusted any further.
    pub(crate) fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::Framing(_)
                | Self::Fields(_)
                | Self::TooManyFields { .. }
                | Self::BodyLate
                | Self::Untrusted(_)
        )
    }
}

#[cfg(test)]
mod tests {
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
        let says = |refused| {
            RequestError::Jwt(refused).bearer_challenge("api").map(|value| value.to_str().unwrap().to_owned())
        };
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
            (RequestError::Method, 405, "peer", "method_not_allowed", false),
            (RequestError::Denied(AccessDenied::Path("%2f")), 400, "peer", "ambiguous_path", false),
            (
                RequestError::Denied(AccessDenied::Allow { identity: "dns:a".to_owned() }),
                403,
                "peer",
                "not_allowed",
                false,
            ),
            (handshake, 502, "backend", "untrusted", false),
            (refused, 502, "backend", "refused_unknown_ca", false),
            (unanswered, 502, "backend", "closed_after_handshake", false),
            (RequestError::Unasked, 502, "backend", "unasked_upgrade", false),
            (RequestError::UpgradeNeedsHttp1, 502, "backend", "upgrade_needs_http1", false),
            (RequestError::UsedUp("all 3 are open".to_owned()), 503, "sidecar", "connections_used_up", false),
            (RequestError::Late, 504, "backend", "response_late", false),
            (RequestError::CrossSite, 403, "peer", "cross_site", false),
            (RequestError::HostNotAllowed { named: "a.b".to_owned() }, 421, "peer", "host_not_allowed", false),
            (RequestError::BodyLate, 408, "peer", "body_late", true),
            (RequestError::NoKeyPair, 503, "sidecar", "no_key_pair", false),
            (untrusted, 503, "peer", "peer_untrusted", true),
        ] {
            assert_eq!((error.status().as_u16(), error.fault(Side::Ingress)), (status, fault), "{error}");
            assert_eq!((error.reason(), error.closes_connection()), (reason, closes), "{error}");
        }
    }
}
