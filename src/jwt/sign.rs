//! Signs a token with a key pair: the key never leaves the signer that TLS uses.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{SignatureAlgorithm, TokenSigningError, encode_base64url, key_set};
use crate::pki::KeyPair;

/// How far back a token is dated: a partner with a clock that is behind would otherwise refuse it as not yet valid.
const ISSUED_AT_BACKDATE: std::time::Duration = std::time::Duration::from_secs(30);

/// The claims of a token (RFC 7523 3).
#[derive(Clone, Debug)]
pub struct TokenClaims<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `sub`.
    pub subject: &'a str,
    /// `aud`.
    pub audience: &'a str,
    /// How long it is valid from `now` on.
    pub lifetime: std::time::Duration,
    /// Its `jti`: never the same twice ([`generate_id`]).
    pub id: &'a str,
    /// Other claims; none of those above.
    pub more: &'a Map<String, Value>,
}

/// Signs a token at `now`. `kid` is the key's thumbprint and `x5t#S256` the certificate's, so a verifier with either
/// finds the key.
///
/// # Errors
/// The key cannot sign with this algorithm, or not at all.
pub fn sign(
    pair: &KeyPair,
    algorithm: Option<SignatureAlgorithm>,
    claims: &TokenClaims<'_>,
    now: Timestamp,
) -> Result<String, TokenSigningError> {
    let certificate = pair.end_entity();
    let kind = certificate.key();
    let unfit = |algorithm: Option<SignatureAlgorithm>| TokenSigningError::Unfit {
        key_pair: pair.fingerprint().short(),
        kind,
        algorithm: algorithm.map_or("any algorithm here", SignatureAlgorithm::as_str),
    };
    let algorithm = match algorithm {
        Some(asked) if asked.fits(kind) => asked,
        Some(_) => return Err(unfit(algorithm)),
        None => SignatureAlgorithm::for_key(kind).ok_or_else(|| unfit(None))?,
    };
    let header = json!({
        "alg": algorithm.as_str(),
        "typ": "JWT",
        "kid": key_set::thumbprint(certificate),
        "x5t#S256": key_set::x5t(certificate),
    });
    let mut payload = claims.more.clone();
    let expires = now.saturating_add(claims.lifetime).unwrap_or(Timestamp::MAX);
    let issued = now.saturating_sub(ISSUED_AT_BACKDATE).unwrap_or(now);
    for (name, value) in [
        ("iss", Value::from(claims.issuer)),
        ("sub", claims.subject.into()),
        ("aud", claims.audience.into()),
        ("exp", expires.as_second().into()),
        ("iat", issued.as_second().into()),
        ("jti", claims.id.into()),
    ] {
        payload.insert(name.to_owned(), value);
    }
    let mut token = format!(
        "{}.{}",
        encode_base64url(header.to_string().as_bytes()),
        encode_base64url(Value::Object(payload).to_string().as_bytes())
    );
    let signature =
        pair.sign_fixed(algorithm.scheme(), algorithm.width(), token.as_bytes()).map_err(TokenSigningError::Sign)?;
    token.push('.');
    token.push_str(&encode_base64url(&signature));
    Ok(token)
}

/// 128 random bits: a unique identifier.
///
/// # Errors
/// The system provides no random bytes.
pub fn generate_id() -> Result<String, TokenSigningError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| TokenSigningError::Sign("the system provides no random bytes".to_owned()))?;
    Ok(encode_base64url(&bytes))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{SIGNING_KEY_KINDS, claims, key_pair, now};
    use super::*;
    use crate::pki::issue::NewKeyKind;

    #[test]
    fn every_kind_of_key_signs_and_the_header_names_the_pair() {
        for kind in SIGNING_KEY_KINDS {
            let pair = key_pair(kind);
            let token = sign(&pair, None, &claims(), now()).unwrap();
            let header = jsonwebtoken::decode_header(&token).unwrap();
            assert_eq!(header.kid, key_set::thumbprint(pair.end_entity()));
            assert_eq!(header.x5t_s256, Some(key_set::x5t(pair.end_entity())));
        }
    }

    #[test]
    fn an_algorithm_that_does_not_fit_the_key_is_refused() {
        let rsa = key_pair(NewKeyKind::Rsa(2048));
        assert!(sign(&rsa, Some(SignatureAlgorithm::Ps256), &claims(), now()).is_ok());
        for wrong in [SignatureAlgorithm::Es256, SignatureAlgorithm::EdDsa] {
            assert!(matches!(sign(&rsa, Some(wrong), &claims(), now()), Err(TokenSigningError::Unfit { .. })));
        }
    }

    #[test]
    fn identifiers_do_not_repeat() {
        let ids: std::collections::BTreeSet<_> = (0..100).map(|_| generate_id().unwrap()).collect();
        assert_eq!(ids.len(), 100);
    }
}
