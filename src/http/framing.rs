//! HTTP/1 message boundaries, judged on the bytes as they came: a request that two readers could cut differently goes no further.
//!
//! hyper tidies up what it hands over (RFC 9112 6.3 lets it), so a service cannot see both lengths or a bare line feed.
//! The [`FramingScanner`] is pure and follows every message, pipelined ones too; `guard` stands with it between the stream and
//! hyper. In place of a refused request hyper reads one of ours, so that answers keep their order and a refusal has its
//! access line like any request. Host, target and `Connection`, which hyper shows as they came, are `target`'s and `fields`'.

mod chunks;
pub(crate) mod guard;
mod head;
pub(crate) mod held;
mod scanner;
pub(crate) mod verdict;

pub(crate) use head::parse_decimal;
pub use scanner::{FramingAction, FramingScanner, FramingStep};

use http::StatusCode;

use crate::http::refusal::ExplainedRefusal;

/// What a request head may be.
#[derive(Clone, Copy, Debug)]
pub struct FramingLimits {
    /// Bytes of a head, and of a trailer section.
    pub head_size: usize,
    /// Fields of a head, and of a trailer section.
    pub fields: usize,
}

/// Which rule a request broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingFault {
    /// Not method, target and version with one space between.
    RequestLine,
    /// `CONNECT`, `TRACE` or the target `*`.
    NotForwarded,
    /// A method longer than any known one.
    MethodTooLong,
    /// A target with bytes that it may not hold, or in none of the forms.
    Target,
    /// A target beyond the limit.
    TargetTooLong,
    /// A version other than HTTP/1.1 and HTTP/1.0.
    Version,
    /// A line feed without its carriage return.
    BareLineFeed,
    /// NUL, a carriage return alone, or another control character.
    Control,
    /// A field line that begins with a blank.
    Folded,
    /// A field name that is not a token followed by a colon.
    Name,
    /// A head beyond the limit.
    HeadTooLarge,
    /// More fields than the limit.
    TooManyFields,
    /// A length that is not a plain decimal number.
    Length,
    /// Several lengths, equal ones too.
    SeveralLengths,
    /// A length beside a transfer coding.
    BothLengths,
    /// A transfer coding other than `chunked`, or several.
    Coding,
    /// A transfer coding in HTTP/1.0.
    CodingInHttp10,
    /// A name that some backends read as `Content-Length` or `Transfer-Encoding`.
    Twin,
    /// A chunk size that is not a plain hexadecimal number.
    ChunkSize,
    /// A chunk extension that is malformed or too long.
    ChunkExtension,
    /// A chunk longer or shorter than its size.
    ChunkEnd,
    /// A trailer field that frames or routes a message.
    Trailer,
    /// The connection ended within the content.
    Incomplete,
}

impl FramingFault {
    /// Every one, for tests and for the page that explains them.
    pub const ALL: [Self; 23] = [
        Self::RequestLine,
        Self::NotForwarded,
        Self::MethodTooLong,
        Self::Target,
        Self::TargetTooLong,
        Self::Version,
        Self::BareLineFeed,
        Self::Control,
        Self::Folded,
        Self::Name,
        Self::HeadTooLarge,
        Self::TooManyFields,
        Self::Length,
        Self::SeveralLengths,
        Self::BothLengths,
        Self::Coding,
        Self::CodingInHttp10,
        Self::Twin,
        Self::ChunkSize,
        Self::ChunkExtension,
        Self::ChunkEnd,
        Self::Trailer,
        Self::Incomplete,
    ];

    /// The status that the client receives.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NotForwarded => StatusCode::METHOD_NOT_ALLOWED,
            Self::MethodTooLong => StatusCode::NOT_IMPLEMENTED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl ExplainedRefusal for FramingFault {
    fn reason_and_explanation(self) -> (&'static str, &'static str) {
        match self {
            Self::RequestLine => (
                "bad_request_line",
                "the request line is not method, target and version separated by single spaces (RFC 9112 3)",
            ),
            Self::NotForwarded => ("method_not_allowed", "CONNECT, TRACE and the target * are not forwarded"),
            Self::MethodTooLong => ("method_too_long", "the method is longer than any known method (RFC 9112 3)"),
            Self::Target => (
                "bad_target",
                "the target has none of the forms of RFC 9112 3.2, or contains bytes that a URI must not",
            ),
            Self::TargetTooLong => ("target_too_long", "the request line is longer than head_size"),
            Self::Version => ("bad_version", "the version is neither HTTP/1.1 nor HTTP/1.0"),
            Self::BareLineFeed => ("bare_line_feed", "a line ends without a carriage return (RFC 9112 2.2)"),
            Self::Control => (
                "control_character",
                "the request contains a NUL, a bare CR or another control character (RFC 9110 5.5)",
            ),
            Self::Folded => {
                ("folded_field", "a field line begins with a blank: line folding is obsolete (RFC 9112 5.2)")
            }
            Self::Name => ("bad_field_name", "a field name is not a token followed at once by a colon (RFC 9112 5.1)"),
            Self::HeadTooLarge => ("head_too_large", "the head is larger than head_size"),
            Self::TooManyFields => ("too_many_fields", "the request has more fields than the limit"),
            Self::Length => ("bad_content_length", "Content-Length is not a plain decimal number (RFC 9112 6.3)"),
            Self::SeveralLengths => {
                ("several_content_lengths", "the request has several Content-Length fields (RFC 9112 6.3)")
            }
            Self::BothLengths => {
                ("two_framings", "the request has both Content-Length and Transfer-Encoding (RFC 9112 6.1)")
            }
            Self::Coding => {
                ("bad_transfer_encoding", "Transfer-Encoding is not exactly one chunked coding (RFC 9112 6.1)")
            }
            Self::CodingInHttp10 => {
                ("transfer_encoding_in_http10", "an HTTP/1.0 request has Transfer-Encoding (RFC 9112 6.1)")
            }
            Self::Twin => {
                ("framing_twin", "some backends would read a field name as Content-Length or Transfer-Encoding")
            }
            Self::ChunkSize => ("bad_chunk_size", "a chunk size is not a plain hexadecimal number (RFC 9112 7.1)"),
            Self::ChunkExtension => {
                ("bad_chunk_extension", "a chunk extension is malformed or too long (RFC 9112 7.1.1)")
            }
            Self::ChunkEnd => ("bad_chunk_end", "a chunk does not end where its size says (RFC 9112 7.1)"),
            Self::Incomplete => {
                ("incomplete_request", "the connection ended before the request's content did (RFC 9112 8)")
            }
            Self::Trailer => ("bad_trailer", "a trailer field frames or routes the message (RFC 9110 6.5.1)"),
        }
    }
}

#[cfg(test)]
mod tests;
