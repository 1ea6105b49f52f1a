//! Verifies a partner's token against its certificates: every one is tried, and each only with the algorithms of its own
//! key, so that a token cannot choose how it is verified (RFC 8725 3.1).
//!
//! The library checks form, signature, audience and issuer; time is checked here, because its clock cannot be given, and
//! what a header may not say is refused here. `jku`, `x5u`, `jwk` and `x5c` are ignored.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;

use super::replay::TokenId;
use super::{ALLOWED_CLOCK_SKEW, SignatureAlgorithm, key_set};
use crate::pki::{Certificate, Fingerprint, KeyKind, Validity, printable};

/// The longest token that is verified, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// `[ingress.jwt]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenVerifierSettings {
    /// The partner that issues these tokens, and that the peer must be.
    pub partner: Arc<str>,
    /// Its certificates: files under the watched folder.
    pub certificates: Vec<PathBuf>,
    /// `aud` must name this.
    pub audience: String,
    /// `iss` must be this, where it is given.
    pub issuer: Option<String>,
    /// A token may not be valid for longer than this from now on.
    pub max_lifetime: Duration,
}

/// Verifies the tokens of one partner, for one epoch.
pub struct TokenVerifier {
    settings: TokenVerifierSettings,
    keys: Vec<VerificationKey>,
}

/// One certificate's key.
struct VerificationKey {
    certificate: Fingerprint,
    validity: Validity,
    kind: KeyKind,
    thumbprint: Option<String>,
    decoding: DecodingKey,
}

/// The peer of the connection that a token came on.
#[derive(Clone, Copy, Debug)]
pub struct TokenPresenter<'a> {
    /// The partner that it is.
    pub partner: Option<&'a str>,
    /// Its certificate.
    pub certificate: Fingerprint,
}

/// A token that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedToken {
    /// Its identifier, where it has one: it may be used once.
    pub id: Option<TokenId>,
    /// Until when the identifier must be remembered.
    pub until: Timestamp,
    /// Which certificate's key signed it.
    pub certificate: Fingerprint,
}

/// Why a token was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRejection {
    /// The request carries no token.
    #[error("the request carries no token: it needs Authorization: Bearer")]
    Missing,
    /// Several Authorization fields, or another scheme.
    #[error("the request does not carry exactly one Bearer token in Authorization")]
    NotBearer,
    /// It is not a token.
    #[error("the token is not a signed JWT: {0}")]
    Malformed(&'static str),
    /// The header asks for an extension.
    #[error("the token's header has crit; the sidecar supports no critical extension")]
    Critical,
    /// No certificate of the partner has a key for its algorithm.
    #[error("the token names the algorithm {0:?}, but no certificate of the partner has a key for it")]
    Algorithm(String),
    /// No key signed it.
    #[error("the token is not signed with the key of any certificate of partner {0:?}")]
    Signature(String),
    /// The certificate that signed it is not valid.
    #[error("the certificate that signed the token ({certificate}) is not valid now (from {from} to {until})")]
    Certificate {
        /// Short fingerprint.
        certificate: String,
        /// Its first second.
        from: Timestamp,
        /// Its last second.
        until: Timestamp,
    },
    /// A claim is missing or malformed.
    #[error("the token's claim {0} is missing or malformed")]
    Claim(String),
    /// For another audience.
    #[error("the token is meant for another audience")]
    Audience,
    /// By another issuer.
    #[error("the token comes from another issuer")]
    Issuer,
    /// Expired.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// Valid for too long.
    #[error("the token is valid until {until}, longer than the {} s that max_lifetime allows", allowed.as_secs())]
    TooLong {
        /// Its end.
        until: Timestamp,
        /// `max_lifetime`.
        allowed: Duration,
    },
    /// Not valid yet.
    #[error("the token is not valid before {0}")]
    NotYet(Timestamp),
    /// The peer is not the partner.
    #[error("the peer is not partner {0:?}; only that partner may present this token")]
    OtherPeer(String),
    /// Bound to another certificate.
    #[error("the token is bound to another certificate than the peer's, or by an unknown confirmation method")]
    Bound,
    /// Used before.
    #[error("the token has been used before")]
    Replayed,
    /// The window is full.
    #[error("the replay window is full: no further token is accepted until some have expired")]
    Full,
}

impl TokenRejection {
    /// A stable code for the log.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "jwt_missing",
            Self::NotBearer => "jwt_not_bearer",
            Self::Malformed(_) => "jwt_malformed",
            Self::Critical => "jwt_critical",
            Self::Algorithm(_) => "jwt_algorithm",
            Self::Signature(_) => "jwt_signature",
            Self::Certificate { .. } => "jwt_certificate",
            Self::Claim(_) => "jwt_claim",
            Self::Audience => "jwt_audience",
            Self::Issuer => "jwt_issuer",
            Self::Expired(_) => "jwt_expired",
            Self::TooLong { .. } => "jwt_too_long",
            Self::NotYet(_) => "jwt_not_yet_valid",
            Self::OtherPeer(_) => "jwt_other_peer",
            Self::Bound => "jwt_bound",
            Self::Replayed => "jwt_replayed",
            Self::Full => "jwt_window_full",
        }
    }
}

/// The header parameters that matter here.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    #[serde(default)]
    kid: Option<serde_json::Value>,
    #[serde(default, rename = "x5t#S256")]
    x5t: Option<serde_json::Value>,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// The claims that are checked here; the library checks `aud` and `iss`.
#[derive(Deserialize)]
struct CheckedClaims {
    #[serde(default)]
    exp: Option<serde_json::Number>,
    #[serde(default)]
    nbf: Option<serde_json::Number>,
    #[serde(default)]
    iat: Option<serde_json::Number>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    cnf: Option<serde_json::Map<String, serde_json::Value>>,
}

impl TokenVerifier {
    /// A verifier with these certificates; keys that cannot sign tokens are left out.
    pub fn new(settings: TokenVerifierSettings, certificates: &[Arc<Certificate>]) -> Self {
        let keys = certificates.iter().filter_map(|certificate| {
            Some(VerificationKey {
                certificate: certificate.fingerprint(),
                validity: certificate.validity(),
                kind: certificate.key(),
                thumbprint: key_set::thumbprint(certificate),
                decoding: decoding_key(certificate)?,
            })
        });
        Self { keys: keys.collect(), settings }
    }

    /// The settings that it was made from.
    pub fn settings(&self) -> &TokenVerifierSettings {
        &self.settings
    }

    /// Whether it can verify anything at all.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Verifies the token of an Authorization field.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify(
        &self,
        token: &str,
        from: TokenPresenter<'_>,
        now: Timestamp,
    ) -> Result<AcceptedToken, TokenRejection> {
        if from.partner != Some(&*self.settings.partner) {
            return Err(TokenRejection::OtherPeer(self.settings.partner.to_string()));
        }
        let header = parse_header(token)?;
        let algorithm: SignatureAlgorithm = header
            .alg
            .parse()
            .map_err(|_| TokenRejection::Algorithm(printable(&header.alg).chars().take(32).collect()))?;
        let (key, claims) = self.find_signing_key(token, algorithm, &header)?;
        if !key.validity.contains(now) {
            let Validity { not_before: from, not_after: until } = key.validity;
            return Err(TokenRejection::Certificate { certificate: key.certificate.short(), from, until });
        }
        let until = self.check_times(&claims, now)?;
        if let Some(confirmation) = &claims.cnf {
            check_binding(confirmation, from.certificate)?;
        }
        let id = claims.jti.as_deref().map(|jti| token_id(claims.iss.as_deref().unwrap_or_default(), jti));
        Ok(AcceptedToken { id, until, certificate: key.certificate })
    }

    /// The key that signed it, and its claims. A key that the header names is tried first.
    fn find_signing_key(
        &self,
        token: &str,
        algorithm: SignatureAlgorithm,
        header: &TokenHeader,
    ) -> Result<(&VerificationKey, CheckedClaims), TokenRejection> {
        let is_named = |key: &VerificationKey| {
            let text =
                |value: &Option<serde_json::Value>| value.as_ref().and_then(|value| value.as_str().map(str::to_owned));
            let kid = text(&header.kid);
            kid.is_some() && kid == key.thumbprint
                || text(&header.x5t).is_some_and(|x5t| x5t == super::encode_base64url(key.certificate.as_bytes()))
        };
        let fit = || self.keys.iter().filter(|key| algorithm.fits(key.kind));
        if fit().next().is_none() {
            return Err(TokenRejection::Algorithm(algorithm.as_str().to_owned()));
        }
        let (named, others): (Vec<&VerificationKey>, Vec<&VerificationKey>) = fit().partition(|key| is_named(key));
        let validation = self.validation(algorithm);
        for key in named.into_iter().chain(others) {
            match jsonwebtoken::decode::<CheckedClaims>(token, &key.decoding, &validation) {
                Ok(decoded) => return Ok((key, decoded.claims)),
                Err(error) => match error.kind() {
                    // Another certificate may have signed it.
                    ErrorKind::InvalidSignature | ErrorKind::InvalidKeyFormat | ErrorKind::InvalidEcdsaKey => {}
                    ErrorKind::InvalidAudience => return Err(TokenRejection::Audience),
                    ErrorKind::InvalidIssuer => return Err(TokenRejection::Issuer),
                    ErrorKind::MissingRequiredClaim(claim) => return Err(TokenRejection::Claim(claim.clone())),
                    ErrorKind::Json(_) => {
                        return Err(TokenRejection::Claim("exp, nbf, iat, iss, jti or cnf".to_owned()));
                    }
                    ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
                        return Err(TokenRejection::Algorithm(algorithm.as_str().to_owned()));
                    }
                    _ => return Err(TokenRejection::Malformed("it does not parse")),
                },
            }
        }
        Err(TokenRejection::Signature(self.settings.partner.to_string()))
    }

    fn validation(&self, algorithm: SignatureAlgorithm) -> Validation {
        let mut validation = Validation::new(match algorithm {
            SignatureAlgorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            SignatureAlgorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
            SignatureAlgorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            SignatureAlgorithm::Es384 => jsonwebtoken::Algorithm::ES384,
            SignatureAlgorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        });
        // A claim of another form counts as missing, so what is checked must be asked for, too.
        let mut required = vec!["exp", "aud"];
        validation.set_audience(&[&self.settings.audience]);
        if let Some(issuer) = &self.settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation
    }

    /// `exp`, `nbf` and `iat`; until when the token is to be remembered.
    fn check_times(&self, claims: &CheckedClaims, now: Timestamp) -> Result<Timestamp, TokenRejection> {
        let time = |number: &serde_json::Number, name: &str| {
            let refused = || TokenRejection::Claim(name.to_owned());
            // RFC 7519 2: seconds, which may have a fraction.
            let whole = number
                .as_i64()
                .or_else(|| number.as_f64().filter(|seconds| seconds.abs() < 1e11).map(|s| s.floor() as i64));
            Timestamp::from_second(whole.ok_or_else(refused)?).map_err(|_| refused())
        };
        let expires = claims.exp.as_ref().ok_or_else(|| TokenRejection::Claim("exp".to_owned()))?;
        let expires = time(expires, "exp")?;
        let remembered = expires.saturating_add(ALLOWED_CLOCK_SKEW).unwrap_or(Timestamp::MAX);
        if remembered < now {
            return Err(TokenRejection::Expired(expires));
        }
        let allowed = self.settings.max_lifetime;
        if expires > now.saturating_add(allowed + ALLOWED_CLOCK_SKEW).unwrap_or(Timestamp::MAX) {
            return Err(TokenRejection::TooLong { until: expires, allowed });
        }
        let latest = now.saturating_add(ALLOWED_CLOCK_SKEW).unwrap_or(Timestamp::MAX);
        for (number, name) in [(&claims.nbf, "nbf"), (&claims.iat, "iat")] {
            if let Some(from) =
                number.as_ref().map(|number| time(number, name)).transpose()?.filter(|from| *from > latest)
            {
                return Err(TokenRejection::NotYet(from));
            }
        }
        Ok(remembered)
    }
}

/// Parses the header, before anything is verified.
fn parse_header(token: &str) -> Result<TokenHeader, TokenRejection> {
    use base64::Engine as _;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenRejection::Malformed("it is longer than 16 KiB"));
    }
    let mut parts = token.split('.');
    let (Some(first), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(TokenRejection::Malformed("it does not have three parts"));
    };
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(first);
    let bytes = bytes.map_err(|_| TokenRejection::Malformed("its header is not base64url"))?;
    let header: TokenHeader =
        serde_json::from_slice(&bytes).map_err(|_| TokenRejection::Malformed("its header does not parse"))?;
    if header.crit.is_some() {
        return Err(TokenRejection::Critical);
    }
    Ok(header)
}

/// RFC 8705 3.1: the certificate that the token is bound to is the peer's. Other methods are unsupported: a
/// token that asks for one must not pass without it.
fn check_binding(
    confirmation: &serde_json::Map<String, serde_json::Value>,
    peer: Fingerprint,
) -> Result<(), TokenRejection> {
    let named = confirmation.get("x5t#S256").and_then(|value| value.as_str());
    let is_only = confirmation.len() == 1;
    if is_only && named == Some(&super::encode_base64url(peer.as_bytes())) {
        Ok(())
    } else {
        Err(TokenRejection::Bound)
    }
}

fn token_id(issuer: &str, jti: &str) -> TokenId {
    // The length keeps one issuer's identifiers apart from another's.
    *Fingerprint::of(format!("{}:{issuer}{jti}", issuer.len()).as_bytes()).as_bytes()
}

fn decoding_key(certificate: &Certificate) -> Option<DecodingKey> {
    let public = certificate.public_key();
    Some(match certificate.key() {
        KeyKind::Rsa(bits) if bits >= 2048 => DecodingKey::from_rsa_der(public),
        KeyKind::P256 | KeyKind::P384 => DecodingKey::from_ec_der(public),
        KeyKind::Ed25519 => DecodingKey::from_ed_der(public),
        KeyKind::Rsa(_) | KeyKind::P521 | KeyKind::Other => return None,
    })
}

#[cfg(test)]
mod tests;
