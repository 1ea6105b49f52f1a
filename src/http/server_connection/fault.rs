//! Why a response over HTTP/1.1 does not come, or not whole; and how large its head may be.

use std::io;

/// Bytes of a response's head, or of its trailer section, at most: as many as of a request's by default.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Fields of a response, or of its trailer section, at most.
pub(super) const MAX_FIELDS: usize = 100;

/// Why a response, or the rest of it, does not come.
#[derive(Debug, thiserror::Error)]
pub enum ResponseFault {
    /// The server ended the connection.
    #[error("the connection was closed before the response was complete")]
    Ended,
    /// The connection broke.
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// What came is not HTTP/1.1.
    #[error("the response is malformed: {0}")]
    Malformed(&'static str),
}

/// What is wrong with a head.
pub(super) fn describe_fault(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "the name of a field is invalid",
        httparse::Error::HeaderValue => "the value of a field is invalid",
        httparse::Error::NewLine => "a line does not end with CR LF",
        httparse::Error::Status | httparse::Error::Token => "its first line is not one of HTTP/1.1",
        httparse::Error::TooManyHeaders => "it has more than 100 fields",
        httparse::Error::Version => "its version is neither HTTP/1.1 nor HTTP/1.0",
    }
}
