//! Why a request is not answered by the backend or upstream, and what the other side sees of it.
//!
//! A request ends in a response, never in an error: `RequestError` says whose fault it was, and one table here makes a status
//! of it. What the other side sees is less than what the log says.

use crate::http::broken::BrokenExchange;
use crate::http::framing::{FramingFault, FramingLimits};
use crate::http::refusal::ExplainedRefusal;
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
    Framing(FramingFault),
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
    #[error("the request has more than {limit} fields (limits.fields)")]
    TooManyFields {
        /// The limit.
        limit: usize,
    },
    /// A head, or a trailer section, larger than the limit.
    #[error("the request's head is larger than {limit} bytes (limits.head_size)")]
    HeadTooLarge {
        /// The limit.
        limit: usize,
    },
    /// A request line larger than the limit.
    #[error("the request line is longer than {limit} bytes (limits.head_size)")]
    TargetTooLong {
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
    /// The peer sends its content too slowly.
    #[error("the request body is sent too slowly (limits.upload_rate)")]
    BodySlow,
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
    Exchange(#[from] BrokenExchange),
    /// A response with several lengths that are not one and the same number.
    #[error("the response has several Content-Length fields that differ, or one that is not a number (RFC 9110 8.6)")]
    ResponseLengths,
    /// A 101 that was not requested, or to another protocol.
    #[error("received 101 for an upgrade that was not requested")]
    Unasked,
    /// A WebSocket towards a backend or an upstream that speaks HTTP/2 only.
    #[error("a WebSocket needs HTTP/1.1, but the other side speaks only HTTP/2")]
    UpgradeNeedsHttp1,
    /// A backend that is spoken to over HTTP/2 alone asks for HTTP/1.1.
    #[error("the backend asks for HTTP/1.1 (HTTP_1_1_REQUIRED): set http:// instead of h2c:// in backend")]
    Http1Required,
    /// As many connections to the backend are open as may be, or the system has none left for us.
    #[error("no connection to the backend is available: {0}")]
    UsedUp(String),
    /// No response head in time.
    #[error("no response before the deadline")]
    Late,
    /// This listener has no key pair to show now.
    #[error("no key pair to show")]
    NoKeyPair,
    /// The same of an egress, which listens all the same: what it waits for.
    #[error("no key pair to show to the upstream: this egress waits for {waits_for}")]
    EgressWaits {
        /// What it waits for.
        waits_for: String,
    },
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

    /// The same with the value of the limit that was reached: the guard of an HTTP/1 connection tells the rule alone.
    pub(crate) fn with_limit_value(self, limits: FramingLimits) -> Self {
        match self {
            Self::Framing(FramingFault::HeadTooLarge) => Self::HeadTooLarge { limit: limits.head_size },
            Self::Framing(FramingFault::TargetTooLong) => Self::TargetTooLong { limit: limits.head_size },
            Self::Framing(FramingFault::TooManyFields) => Self::TooManyFields { limit: limits.fields },
            other => other,
        }
    }

    /// The one table from what happened to what the other side sees (contract section 11).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Framing(fault) => fault.status(),
            Self::Misdirected { .. } | Self::HostNotAllowed { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Malformed(_) | Self::Fields(_) | Self::Denied(AccessDenied::Path(_)) => StatusCode::BAD_REQUEST,
            Self::TooManyFields { .. } | Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Denied(_) | Self::CrossSite => StatusCode::FORBIDDEN,
            Self::BodyLate | Self::BodySlow => StatusCode::REQUEST_TIMEOUT,
            Self::Jwt(TokenRejection::NotBearer) => StatusCode::BAD_REQUEST,
            Self::Jwt(TokenRejection::Full) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Jwt(_) => StatusCode::UNAUTHORIZED,
            Self::Connect(error) if is_late(error) => StatusCode::GATEWAY_TIMEOUT,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_)
            | Self::Handshake { .. }
            | Self::Refused { .. }
            | Self::Token { .. }
            | Self::Unanswered { .. }
            | Self::Exchange(_)
            | Self::Unasked
            | Self::UpgradeNeedsHttp1
            | Self::Http1Required
            | Self::ResponseLengths => StatusCode::BAD_GATEWAY,
            Self::NoKeyPair | Self::EgressWaits { .. } | Self::Untrusted(_) | Self::UsedUp(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
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
            Self::NoKeyPair | Self::EgressWaits { .. } | Self::UsedUp(_) => "sidecar",
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
            Self::HeadTooLarge { .. } => FramingFault::HeadTooLarge.reason(),
            Self::TargetTooLong { .. } => FramingFault::TargetTooLong.reason(),
            Self::Method => "method_not_allowed",
            Self::Denied(AccessDenied::Path(_)) => "ambiguous_path",
            Self::Denied(_) => "not_allowed",
            Self::CrossSite => "cross_site",
            Self::HostNotAllowed { .. } => "host_not_allowed",
            Self::BodyLate => "body_late",
            Self::BodySlow => "body_slow",
            Self::Jwt(refused) => refused.reason(),
            Self::Connect(error) if is_late(error) => "connect_late",
            Self::Connect(_) => "connect_failed",
            Self::Handshake { reason, .. }
            | Self::Refused { reason, .. }
            | Self::Unanswered { reason, .. }
            | Self::Token { reason, .. } => reason,
            Self::Exchange(_) => "exchange_failed",
            Self::Unasked => "unasked_upgrade",
            Self::UpgradeNeedsHttp1 => "upgrade_needs_http1",
            Self::Http1Required => "http1_required",
            Self::ResponseLengths => "response_lengths",
            Self::UsedUp(_) => "connections_used_up",
            Self::Late => "response_late",
            Self::NoKeyPair | Self::EgressWaits { .. } => "no_key_pair",
            Self::Untrusted(_) => "peer_untrusted",
        }
    }

    /// The key of the limit that was reached, if one was.
    pub(crate) fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::BodyLate => "body_idle",
            Self::BodySlow => "upload_rate",
            Self::Late => "response",
            Self::Connect(error) if is_late(error) => "connect",
            Self::UsedUp(_) => "connections",
            Self::TooManyFields { .. } | Self::Framing(FramingFault::TooManyFields) => "fields",
            Self::HeadTooLarge { .. }
            | Self::TargetTooLong { .. }
            | Self::Framing(FramingFault::HeadTooLarge | FramingFault::TargetTooLong) => "head_size",
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
                | Self::HeadTooLarge { .. }
                | Self::TargetTooLong { .. }
                | Self::Method
                | Self::Denied(_)
                | Self::CrossSite
                | Self::HostNotAllowed { .. }
                | Self::BodyLate
                | Self::BodySlow
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
                | Self::HeadTooLarge { .. }
                | Self::TargetTooLong { .. }
                | Self::BodyLate
                | Self::BodySlow
                | Self::Untrusted(_)
        )
    }
}

/// Whether the deadline passed: of the connection, or of a first look-up of its name.
fn is_late(error: &net::SocketError) -> bool {
    match error {
        net::SocketError::Late { .. } => true,
        net::SocketError::Resolve { source, .. } => source.kind() == std::io::ErrorKind::TimedOut,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
