//! What is said of an exchange that broke off: by hyper of what clients send and of content that is sent on over HTTP/1.1, by
//! `server_connection` of what comes back over it, by h2 of what comes back over HTTP/2.

use super::server_connection::fault::ResponseFault;

/// Why an exchange broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenExchange {
    /// As hyper reports it.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// Of a response over HTTP/1.1 to a request without content.
    #[error(transparent)]
    Http1(#[from] ResponseFault),
    /// As h2 reports it.
    #[error("{0}")]
    Http2(#[from] h2::Error),
}

impl BrokenExchange {
    /// Whether the other side ended the connection or the stream, rather than that something was malformed or ours.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Hyper(error) => !error.is_parse() && !error.is_user(),
            Self::Http1(fault) => !matches!(fault, ResponseFault::Malformed(_)),
            Self::Http2(error) => error.is_remote() || error.is_io(),
        }
    }
}
