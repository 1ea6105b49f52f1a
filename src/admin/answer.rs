//! An answer before it is sent: status, content, and the fields that keep it from caches, frames and other pages.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// The content of an answer.
pub(crate) type AdminBody = Full<Bytes>;

/// JSON (RFC 8259).
pub(super) const JSON: &str = "application/json";
/// Plain text.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
/// The page.
pub(super) const HTML: &str = "text/html; charset=utf-8";

/// Of what changes: kept in no cache.
const CHANGES: &str = "no-store";
/// Of a file whose path changes with its content.
const STAYS: &str = "private, max-age=31536000, immutable";

/// Sent with every answer: nothing here is for another page.
const ALWAYS: [(HeaderName, &str); 3] = [
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// What a browser may do with an answer (Content Security Policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentPolicy {
    /// Data: nothing.
    Data,
    /// The page: styles, scripts and images of this listener, none written into the page; forms to this listener.
    Page,
}

impl ContentPolicy {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "default-src 'none'; frame-ancestors 'none'",
            Self::Page => {
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                 form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
            }
        }
    }
}

/// One answer.
pub(super) struct AdminAnswer {
    status: StatusCode,
    content_type: &'static str,
    cache: &'static str,
    policy: ContentPolicy,
    body: AdminBody,
}

impl AdminAnswer {
    /// Data, or a sentence.
    pub(super) fn from_text(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Self {
        let body = Full::new(text.into());
        Self { status, content_type, cache: CHANGES, policy: ContentPolicy::Data, body }
    }

    /// A file of the page, whose path changes with its content.
    pub(super) fn from_asset(content_type: &'static str, content: &'static str) -> Self {
        Self { cache: STAYS, ..Self::from_text(StatusCode::OK, content_type, content) }
    }

    /// The page.
    pub(super) fn from_page(status: StatusCode, html: String) -> Self {
        Self { policy: ContentPolicy::Page, ..Self::from_text(status, HTML, html) }
    }

    /// With all its fields.
    pub(super) fn into_response(self) -> Response<AdminBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(self.policy.as_str()));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static(self.cache));
        fields.insert(VARY, HeaderValue::from_static("accept"));
        fields.extend(ALWAYS.map(|(name, value)| (name, HeaderValue::from_static(value))));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            fields.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
