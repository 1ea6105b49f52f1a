use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::sample::{SIGNING_KEY_KINDS, claims, generate_key_pair, key_pair, now};
use super::super::{TokenClaims, encode_base64url, sign};
use super::*;
use crate::pki::KeyPair;
use crate::pki::issue::NewKeyKind;

fn settings() -> TokenVerifierSettings {
    TokenVerifierSettings {
        partner: "acme".into(),
        certificates: Vec::new(),
        audience: "https://orders.example.com".to_owned(),
        issuer: Some("acme".to_owned()),
        max_lifetime: Duration::from_hours(1),
    }
}

fn verifier(pairs: &[&KeyPair]) -> TokenVerifier {
    let certificates: Vec<_> = pairs.iter().map(|pair| Arc::clone(pair.end_entity())).collect();
    TokenVerifier::new(settings(), &certificates)
}

fn acme_presenter() -> TokenPresenter<'static> {
    TokenPresenter { partner: Some("acme"), certificate: Fingerprint::from_bytes([7; 32]) }
}

/// A token with this header and these claims, signed by the pair whatever they say.
fn forge_token(pair: &KeyPair, header: &Value, claims: &Value) -> String {
    let text = format!(
        "{}.{}",
        encode_base64url(header.to_string().as_bytes()),
        encode_base64url(claims.to_string().as_bytes())
    );
    let algorithm = SignatureAlgorithm::for_key(pair.end_entity().key()).unwrap();
    let signature = pair.sign_fixed(algorithm.scheme(), algorithm.width(), text.as_bytes()).unwrap();
    format!("{text}.{}", encode_base64url(&signature))
}

fn valid_claims() -> Value {
    let at = now().as_second();
    json!({ "iss": "acme", "sub": "sync", "aud": "https://orders.example.com", "exp": at + 120, "iat": at, "jti": "1" })
}

/// The good claims with some changed; null takes one out.
fn claims_with(changes: &Value) -> Value {
    let mut claims = valid_claims();
    for (name, value) in changes.as_object().unwrap().clone() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(&name)),
            value => claims[name] = value,
        }
    }
    claims
}

fn verify_claims(claims: &Value) -> Result<AcceptedToken, TokenRejection> {
    let pair = key_pair(NewKeyKind::P256);
    verifier(&[&pair]).verify(&forge_token(&pair, &json!({ "alg": "ES256" }), claims), acme_presenter(), now())
}

#[test]
fn every_certificate_is_tried_and_every_kind_of_key_verifies() {
    let pairs: Vec<_> = SIGNING_KEY_KINDS.iter().map(|kind| key_pair(*kind)).collect();
    let second = generate_key_pair(NewKeyKind::P256);
    let mut all: Vec<&KeyPair> = pairs.iter().map(AsRef::as_ref).collect();
    all.push(&second);
    let verifier = verifier(&all);
    for pair in &all {
        let token = sign(pair, None, &claims(), now()).unwrap();
        let accepted = verifier.verify(&token, acme_presenter(), now()).unwrap();
        assert_eq!(accepted.certificate, pair.fingerprint());
        assert_eq!(accepted.until, now() + Duration::from_secs(180));
    }
    let pss = sign(&pairs[3], Some(SignatureAlgorithm::Ps256), &claims(), now()).unwrap();
    assert!(verifier.verify(&pss, acme_presenter(), now()).is_ok());
}

#[test]
fn a_token_cannot_choose_how_it_is_verified() {
    let (pair, other) = (key_pair(NewKeyKind::P256), generate_key_pair(NewKeyKind::P256));
    let verifier = verifier(&[&pair]);
    let verify = |token: &str| verifier.verify(token, acme_presenter(), now()).unwrap_err();
    let unsigned = |header: Value| {
        format!(
            "{}.{}.",
            encode_base64url(header.to_string().as_bytes()),
            encode_base64url(valid_claims().to_string().as_bytes())
        )
    };
    assert_eq!(verify(&unsigned(json!({ "alg": "none" }))), TokenRejection::Algorithm("none".to_owned()));
    assert!(matches!(
        verify(&unsigned(json!({ "alg": "ES256" }))),
        TokenRejection::Signature(_) | TokenRejection::Malformed(_)
    ));
    // A MAC with the public key as the secret, in each of its forms.
    for secret in [pair.end_entity().public_key(), pair.end_entity().spki(), pair.end_entity().pem().as_bytes()] {
        let text = format!(
            "{}.{}",
            encode_base64url(br#"{"alg":"HS256"}"#),
            encode_base64url(valid_claims().to_string().as_bytes())
        );
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let token = format!("{text}.{}", encode_base64url(aws_lc_rs::hmac::sign(&key, text.as_bytes()).as_ref()));
        assert_eq!(verify(&token), TokenRejection::Algorithm("HS256".to_owned()));
    }
    // Another key, however it is brought along.
    let jwk = &key_set::key_set([&**other.end_entity()])["keys"][0];
    let x5c = json!([base64::Engine::encode(&base64::engine::general_purpose::STANDARD, other.end_entity().der())]);
    for header in [
        json!({ "alg": "ES256", "jwk": jwk }),
        json!({ "alg": "ES256", "x5c": x5c }),
        json!({ "alg": "ES256", "jku": "https://evil.example/jwks.json", "x5u": "https://evil.example/x.pem" }),
        json!({ "alg": "ES256", "kid": key_set::thumbprint(pair.end_entity()) }),
    ] {
        assert_eq!(
            verify(&forge_token(&other, &header, &valid_claims())),
            TokenRejection::Signature("acme".to_owned()),
            "{header}"
        );
        assert!(
            verifier.verify(&forge_token(&pair, &header, &valid_claims()), acme_presenter(), now()).is_ok(),
            "{header} is not ignored"
        );
    }
    for alg in ["RS256", "ES384", "EdDSA", "PS256"] {
        let token = forge_token(&pair, &json!({ "alg": alg }), &valid_claims());
        assert_eq!(verify(&token), TokenRejection::Algorithm(alg.to_owned()));
    }
    for crit in [json!(["b64"]), json!([]), json!("exp")] {
        assert_eq!(
            verify(&forge_token(&pair, &json!({ "alg": "ES256", "crit": crit }), &valid_claims())),
            TokenRejection::Critical
        );
    }
    for malformed in ["", "a", "a.b", "a.b.c", "a.b.c.d", "..", &"a".repeat(20_000)] {
        assert!(matches!(verify(malformed), TokenRejection::Malformed(_)), "{malformed:.20}");
    }
    let twice = format!("{}.{}.x", encode_base64url(br#"{"alg":"none","alg":"ES256"}"#), encode_base64url(b"{}"));
    assert!(matches!(verify(&twice), TokenRejection::Malformed(_)));
}

#[test]
fn claims_are_needed_and_of_the_form_they_must_have() {
    assert!(verify_claims(&valid_claims()).is_ok());
    let at = now().as_second();
    for (changes, refused) in [
        (json!({ "exp": null }), TokenRejection::Claim("exp".to_owned())),
        (json!({ "aud": null }), TokenRejection::Claim("aud".to_owned())),
        (json!({ "aud": "https://else.example" }), TokenRejection::Audience),
        (json!({ "aud": [] }), TokenRejection::Audience),
        (json!({ "iss": null }), TokenRejection::Claim("iss".to_owned())),
        (json!({ "iss": "another" }), TokenRejection::Issuer),
        (json!({ "nbf": at + 61 }), TokenRejection::NotYet(now() + Duration::from_secs(61))),
        (json!({ "iat": at + 61 }), TokenRejection::NotYet(now() + Duration::from_secs(61))),
        (json!({ "exp": at - 61 }), TokenRejection::Expired(now() - Duration::from_secs(61))),
        (json!({ "exp": -1 }), TokenRejection::Claim("exp".to_owned())),
    ] {
        assert_eq!(verify_claims(&claims_with(&changes)), Err(refused), "{changes}");
    }
    for changes in [
        json!({ "exp": "2099-01-01" }),
        json!({ "exp": at.to_string() }),
        json!({ "exp": 1e300 }),
        json!({ "exp": at + 3661 }),
        json!({ "aud": [["https://orders.example.com"]] }),
        json!({ "aud": 1 }),
        json!({ "iss": [["acme"]] }),
        json!({ "iss": ["acme", "another"] }),
        json!({ "nbf": "soon" }),
        json!({ "jti": 1 }),
        json!({ "cnf": "x" }),
    ] {
        assert!(verify_claims(&claims_with(&changes)).is_err(), "{changes}");
    }
    for fine in [
        json!({ "aud": ["https://else.example", "https://orders.example.com"] }),
        json!({ "exp": at - 59, "nbf": at + 59, "iat": null }),
        json!({ "exp": at + 3660 }),
        json!({ "exp": at as f64 + 100.5 }),
    ] {
        assert!(verify_claims(&claims_with(&fine)).is_ok(), "{fine}: {:?}", verify_claims(&claims_with(&fine)));
    }
    assert_eq!(verify_claims(&claims_with(&json!({ "jti": null }))).unwrap().id, None);
}

#[test]
fn the_partner_must_be_the_peer_and_a_bound_token_its_certificate_s() {
    let pair = key_pair(NewKeyKind::P256);
    let verifier = verifier(&[&pair]);
    let token = sign(&pair, None, &claims(), now()).unwrap();
    for partner in [None, Some("other"), Some("")] {
        let refused = verifier.verify(&token, TokenPresenter { partner, ..acme_presenter() }, now()).unwrap_err();
        assert_eq!(refused, TokenRejection::OtherPeer("acme".to_owned()));
    }
    let bound = |cnf: Value| verify_claims(&claims_with(&json!({ "cnf": cnf }))).map(|_| ());
    assert_eq!(bound(json!({ "x5t#S256": encode_base64url(&[7; 32]) })), Ok(()));
    for cnf in [
        json!({ "x5t#S256": encode_base64url(&[8; 32]) }),
        json!({ "jkt": "x" }),
        json!({}),
        json!({ "x5t#S256": encode_base64url(&[7; 32]), "jkt": "x" }),
    ] {
        assert_eq!(bound(cnf.clone()), Err(TokenRejection::Bound), "{cnf}");
    }
}

#[test]
fn a_certificate_that_is_over_verifies_nothing() {
    let pair = key_pair(NewKeyKind::P256);
    let later = pair.validity().not_after + Duration::from_secs(1);
    let token = sign(&pair, None, &claims(), later).unwrap();
    assert!(matches!(
        verifier(&[&pair]).verify(&token, acme_presenter(), later),
        Err(TokenRejection::Certificate { .. })
    ));
}

#[test]
fn identifiers_of_two_issuers_are_not_mixed_up() {
    assert_ne!(token_id("ab", "c"), token_id("a", "bc"));
    assert_eq!(token_id("a", "b"), token_id("a", "b"));
}

proptest! {
    #[test]
    fn any_claims_that_are_signed_verify_again(subject in "\\PC{0,40}", jti in "\\PC{1,40}", kind in 0usize..4) {
        let pair = key_pair(SIGNING_KEY_KINDS[kind]);
        let more = Map::new();
        let token = sign(&pair, None, &TokenClaims { subject: &subject, id: &jti, more: &more, ..claims() }, now()).unwrap();
        let accepted = verifier(&[&pair]).verify(&token, acme_presenter(), now()).unwrap();
        prop_assert_eq!(accepted.id, Some(token_id("acme", &jti)));
    }

    #[test]
    fn no_changed_character_passes(at in 0usize..10_000, change in 1u8..63, kind in 0usize..4) {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let pair = key_pair(SIGNING_KEY_KINDS[kind]);
        let mut token = sign(&pair, None, &claims(), now()).unwrap().into_bytes();
        let at = at % token.len();
        let Some(was) = ALPHABET.iter().position(|letter| *letter == token[at]) else { return Ok(()) };
        token[at] = ALPHABET[(was + usize::from(change)) % 64];
        let token = String::from_utf8(token).unwrap();
        prop_assert!(verifier(&[&pair]).verify(&token, acme_presenter(), now()).is_err(), "{}", token);
    }

    #[test]
    fn no_text_makes_it_panic_or_passes(text in ".{0,200}") {
        prop_assert!(verifier(&[&key_pair(NewKeyKind::P256)]).verify(&text, acme_presenter(), now()).is_err());
    }
}
