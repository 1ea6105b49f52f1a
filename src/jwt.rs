//! JSON Web Tokens with the key pairs that TLS uses (RFC 7515, 7517, 7519, 7523, 7638): signed by ours, verified against a
//! partner's certificates, exchanged at a token endpoint, and the public keys as a set.
//!
//! Pure: time and chance come in as arguments. Where tokens are fetched and where they are asked for is `dataplane`'s.

pub mod grant;
pub mod key_set;
pub mod replay;
pub mod sign;
pub mod verify;

use std::str::FromStr;

use crate::pki::KeyKind;

pub use grant::GrantType;
pub use key_set::key_set;
pub use replay::ReplayWindow;
pub use sign::{TokenClaims, sign};
pub use verify::{TokenRejection, TokenVerifier};

/// How far a partner's clock may be off.
pub const ALLOWED_CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(60);

/// A signature algorithm (RFC 7518 3.1, RFC 8037 3.1); each fits one kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// RSA PKCS#1 with SHA-256.
    Rs256,
    /// RSA PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256.
    Es256,
    /// ECDSA on P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl SignatureAlgorithm {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Rs256, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// Its name in the `alg` header parameter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The default algorithm for a key of this kind; `None`: a key of this kind cannot sign tokens.
    pub const fn for_key(key: KeyKind) -> Option<Self> {
        match key {
            KeyKind::Rsa(_) => Some(Self::Rs256),
            KeyKind::P256 => Some(Self::Es256),
            KeyKind::P384 => Some(Self::Es384),
            KeyKind::Ed25519 => Some(Self::EdDsa),
            KeyKind::P521 | KeyKind::Other => None,
        }
    }

    /// Whether a key of this kind can sign with it: RSA keys have two.
    pub fn fits(self, key: KeyKind) -> bool {
        Self::for_key(key) == Some(self) || (self == Self::Ps256 && matches!(key, KeyKind::Rsa(_)))
    }

    /// The TLS signature scheme (RFC 8446 4.2.3) that makes the same signature.
    const fn scheme(self) -> u16 {
        match self {
            Self::Rs256 => 0x0401,
            Self::Ps256 => 0x0804,
            Self::Es256 => 0x0403,
            Self::Es384 => 0x0503,
            Self::EdDsa => 0x0807,
        }
    }

    /// Bytes of each of the two numbers of an ECDSA signature.
    const fn width(self) -> Option<usize> {
        match self {
            Self::Es256 => Some(32),
            Self::Es384 => Some(48),
            Self::Rs256 | Self::Ps256 | Self::EdDsa => None,
        }
    }
}

impl FromStr for SignatureAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or(UnknownAlgorithm)
    }
}

/// The name of an algorithm that Sidekey does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown signature algorithm: use RS256, PS256, ES256, ES384 or EdDSA")]
pub struct UnknownAlgorithm;

/// Why signing a token failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenSigningError {
    /// The key does not support the algorithm.
    #[error(
        "key pair {key_pair} ({kind}) cannot sign a token with {algorithm}; tokens are signed by RSA, P-256, P-384 or Ed25519 keys"
    )]
    Unfit {
        /// Short fingerprint.
        key_pair: String,
        /// Its key.
        kind: KeyKind,
        /// The requested algorithm.
        algorithm: &'static str,
    },
    /// The provider failed.
    #[error("cannot sign a token: {0}")]
    Sign(String),
}

fn encode_base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
pub(crate) mod sample;
