//! What an HTTP library says of an exchange that broke off: hyper on HTTP/1.1 and of what clients send, h2 of what comes
//! back over HTTP/2.

/// Why an exchange broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenExchange {
    /// As hyper reports it.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// As h2 reports it.
    #[error("{0}")]
    Http2(#[from] h2::Error),
}

impl BrokenExchange {
    /// Whether the other side ended the connection or the stream, rather than that something was malformed or ours.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Hyper(error) => !error.is_parse() && !error.is_user(),
            Self::Http2(error) => error.is_remote() || error.is_io(),
        }
    }
}
