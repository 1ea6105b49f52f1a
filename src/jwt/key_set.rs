//! The JWK Set (RFC 7517): the public keys that partners verify our tokens with, each with `kid` and `x5t#S256`.

use serde_json::{Map, Value, json};

use super::{SignatureAlgorithm, encode_base64url};
use crate::pki::{Certificate, Fingerprint, KeyKind};

/// The set of these certificates' keys. A key in several certificates, as after a renewal with it, is there once; a
/// key that cannot sign tokens is left out.
pub fn key_set<'c>(certificates: impl IntoIterator<Item = &'c Certificate>) -> Value {
    let mut keys: Vec<Value> = Vec::new();
    for certificate in certificates {
        let Some(mut key) = members(certificate) else { continue };
        let kid = Value::from(digest_members(&key));
        if keys.iter().any(|known| known["kid"] == kid) {
            continue;
        }
        key.insert("kid".into(), kid);
        key.insert("use".into(), "sig".into());
        // An RSA key has two algorithms.
        if let (Some(algorithm), false) =
            (SignatureAlgorithm::for_key(certificate.key()), matches!(certificate.key(), KeyKind::Rsa(_)))
        {
            key.insert("alg".into(), algorithm.as_str().into());
        }
        key.insert("x5t#S256".into(), x5t(certificate).into());
        keys.push(Value::Object(key));
    }
    json!({ "keys": keys })
}

/// The name of a key (RFC 7638): SHA-256 of its members, base64url; partners that know the key compute the same. `None` for
/// a key that cannot sign tokens.
pub fn thumbprint(certificate: &Certificate) -> Option<String> {
    members(certificate).map(|key| digest_members(&key))
}

/// SHA-256 of the certificate (RFC 7515 4.1.8).
pub fn x5t(certificate: &Certificate) -> String {
    encode_base64url(certificate.fingerprint().as_bytes())
}

/// serde_json keeps members in the order of their names, which is the order that RFC 7638 3.2 wants.
fn digest_members(members: &Map<String, Value>) -> String {
    let text = Value::Object(members.clone()).to_string();
    encode_base64url(Fingerprint::of(text.as_bytes()).as_bytes())
}

/// The members that a key of this kind must have, and no others (RFC 7638 3.2, RFC 8037 2).
fn members(certificate: &Certificate) -> Option<Map<String, Value>> {
    SignatureAlgorithm::for_key(certificate.key())?;
    let public = certificate.public_key();
    let key = match certificate.key() {
        KeyKind::Rsa(_) => {
            let (modulus, exponent) = certificate.rsa_public_key()?;
            json!({ "kty": "RSA", "n": encode_base64url(modulus), "e": encode_base64url(exponent) })
        }
        KeyKind::Ed25519 => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode_base64url(public) }),
        curve => {
            // An uncompressed point (RFC 5480 2.2): 4, x, y.
            let point = public.strip_prefix(&[4])?;
            let (x, y) = point.split_at(point.len() / 2);
            let name = if curve == KeyKind::P256 { "P-256" } else { "P-384" };
            json!({ "kty": "EC", "crv": name, "x": encode_base64url(x), "y": encode_base64url(y) })
        }
    };
    match key {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{SIGNING_KEY_KINDS, key_pair};
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_the_standard() {
        // The key of RFC 7638 3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let Value::Object(members) = json!({ "kty": "RSA", "n": n, "e": "AQAB" }) else { panic!("an object") };
        assert_eq!(digest_members(&members), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn every_kind_of_key_is_there_once_and_named() {
        let pairs: Vec<_> = SIGNING_KEY_KINDS.iter().map(|kind| key_pair(*kind)).collect();
        let twice = pairs.iter().chain(&pairs).map(|pair| &**pair.end_entity());
        let set = key_set(twice);
        let keys = set["keys"].as_array().unwrap();
        assert_eq!(keys.len(), SIGNING_KEY_KINDS.len());
        for (key, pair) in keys.iter().zip(&pairs) {
            assert_eq!(key["kid"], thumbprint(pair.end_entity()).unwrap());
            assert_eq!((&key["use"], &key["x5t#S256"]), (&"sig".into(), &x5t(pair.end_entity()).into()));
            assert!(key.get("d").is_none() && key.get("p").is_none());
        }
        // jsonwebtoken takes each of them, and names it alike.
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(set).unwrap();
        for key in &set.keys {
            jsonwebtoken::DecodingKey::from_jwk(key).unwrap();
            let thumbprint = key.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap();
            assert_eq!(key.common.key_id.as_ref(), Some(&thumbprint));
        }
    }
}
