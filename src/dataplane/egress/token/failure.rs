//! Why no token was issued, as a code and a sentence.

use crate::http::error::RequestError as Error;
use crate::jwt::grant::TokenResponseError;
use crate::pki::Fingerprint;

/// Why no token was issued. Shared by all requests that waited for it.
#[derive(Clone, Debug)]
pub(super) enum TokenFailure {
    /// The endpoint responded, and refuses an assertion by this pair.
    Answered(TokenResponseError, Fingerprint),
    /// Its response breaks off, or is too large.
    Broken,
    /// The endpoint did not respond in time.
    Late,
    /// It cannot be reached, or the handshake fails.
    Unreachable {
        /// The code.
        reason: &'static str,
        /// The sentence.
        explanation: String,
    },
    /// No key pair can sign.
    NoSigner,
    /// Signing failed, for this reason.
    Sign(String),
}

impl TokenFailure {
    /// Whether another pair's assertion may be accepted.
    pub(super) fn blames_key_pair(&self) -> bool {
        matches!(self, Self::Answered(answer, _) if answer.is_assertion_rejected())
    }

    /// Code and sentence.
    pub(super) fn reason_and_explanation(&self) -> (&'static str, String) {
        match self {
            Self::Answered(answer @ TokenResponseError::Refused { .. }, signer) => {
                (answer.reason(), format!("{answer} (the assertion is signed by key pair {})", signer.short()))
            }
            Self::Answered(answer, _) => (answer.reason(), answer.to_string()),
            Self::Broken => {
                ("token_malformed", "the token endpoint's response breaks off, or is larger than 64 KiB".to_owned())
            }
            Self::Late => ("token_late", "the token endpoint did not respond in time".to_owned()),
            Self::Unreachable { reason, explanation } => {
                (reason, format!("cannot reach the token endpoint: {explanation}"))
            }
            Self::NoSigner => ("token_unsigned", "no key pair is available to sign the assertion".to_owned()),
            Self::Sign(why) => ("token_unsigned", why.clone()),
        }
    }
}

impl From<TokenFailure> for Error {
    fn from(failure: TokenFailure) -> Self {
        let (reason, explanation) = failure.reason_and_explanation();
        Self::Token { reason, explanation }
    }
}
