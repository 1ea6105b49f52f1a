//! The token that a peer's request must carry (`[ingress.jwt]`), and the JWK Set that peers may request (`jwks`).
//!
//! `jwt::verify` decides whether a token is valid. All workers share the used identifiers, which outlive epochs:
//! the one lock on the request path, held for a look-up, and only where tokens are required.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response};
use jiff::Timestamp;

use super::access::Record;
use super::body::Body;
use crate::jwt::replay::{self, NotTaken, Taken, Window};
use crate::jwt::verify::{Accepted, From};
use crate::jwt::{Refused, Verifier};
use crate::snapshot::Ingress;
use crate::trust::Peer;

/// The path of the JWK Set.
pub(super) const KEY_SET: &str = "/.well-known/jwks.json";

/// The identifiers that were used, by listener: one listener requires the tokens of one partner, so that no partner
/// uses up another one's room.
#[derive(Default)]
pub(super) struct Used(Mutex<BTreeMap<Arc<str>, Window>>);

impl Used {
    /// Records the use of an accepted token.
    pub(super) fn take(&self, listener: &Arc<str>, accepted: &Accepted, now: Timestamp) -> Result<(), Refused> {
        let Some(id) = accepted.id else { return Ok(()) };
        let taken = {
            let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            windows.entry(Arc::clone(listener)).or_default().take(id, accepted.until, now)
        };
        match taken {
            Ok(Taken::Quietly) => Ok(()),
            Ok(Taken::NearlyFull) => {
                let most = replay::MOST;
                tracing::warn!(
                    target: "proxy",
                    listener = &**listener,
                    reason = "jwt_window_nearly_full",
                    "the memory of used tokens is three quarters full ({most} at most, each until it expires); once it \
                     is full, tokens are refused (jwt_window_full): have the partner issue shorter-lived tokens, and \
                     enforce that with ingress.jwt.max_lifetime"
                );
                Ok(())
            }
            Err(NotTaken::Used) => Err(Refused::Replayed),
            Err(NotTaken::Full) => Err(Refused::Full),
        }
    }
}

/// Checks the token of a request, but not whether it was used before.
pub(super) fn check(
    verifier: &Verifier,
    peer: Option<&Peer>,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Accepted, Refused> {
    let token = bearer(headers)?;
    let partner = || Refused::OtherPeer(verifier.settings().partner.to_string());
    let peer = peer.ok_or_else(partner)?;
    let from = From { partner: peer.partner().map(AsRef::as_ref), certificate: peer.certificate().fingerprint() };
    verifier.verify(token, from, now)
}

/// The token of `Authorization: Bearer …` (RFC 6750 2.1). Another scheme counts as a missing token.
fn bearer(headers: &HeaderMap) -> Result<&str, Refused> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let field = fields.next().ok_or(Refused::Missing)?;
    if fields.next().is_some() {
        return Err(Refused::NotBearer);
    }
    let text = field.to_str().map_err(|_| Refused::NotBearer)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::Missing);
    }
    let token = token.trim_matches(' ');
    if token.is_empty() || token.contains([' ', ',']) { Err(Refused::NotBearer) } else { Ok(token) }
}

/// The challenge in the response to a refused token (RFC 6750 3), without the reason.
pub(super) fn challenge(refused: &Refused, realm: &str) -> Option<HeaderValue> {
    let error = match refused {
        Refused::Missing => "",
        Refused::NotBearer => ", error=\"invalid_request\"",
        Refused::Full => return None,
        _ => ", error=\"invalid_token\"",
    };
    HeaderValue::try_from(format!("Bearer realm=\"{realm}\"{error}")).ok()
}

/// The response with the JWK Set, where a request asks for it and the listener serves it.
pub(super) fn key_set(
    ingress: &Ingress,
    method: &Method,
    path: &str,
    record: &mut Option<Record>,
) -> Option<Response<Body>> {
    let set = ingress.key_set.as_ref().filter(|_| path == KEY_SET)?;
    if ![Method::GET, Method::HEAD].contains(method) {
        return None;
    }
    let mut record = record.take()?;
    record.answered(http::StatusCode::OK, None);
    let mut response = Response::new(Body::text(Bytes::from(set.to_string()), Some(record)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A new pair is in the set while it is staged; a peer that polls every few minutes has it before it signs.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Fingerprint;

    fn with(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_one_bearer_token_is_one() {
        for good in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c "] {
            assert_eq!(bearer(&with(&[good])), Ok("a.b.c"));
        }
        for none in [&[][..], &["Basic YTpi"], &["Bearertoken"]] {
            assert_eq!(bearer(&with(none)), Err(Refused::Missing));
        }
        for wrong in [&["Bearer a", "Bearer a"][..], &["Bearer"], &["Bearer a b"], &["Bearer a,Bearer b"]] {
            assert_eq!(bearer(&with(wrong)), Err(Refused::NotBearer));
        }
    }

    #[test]
    fn what_one_listener_remembers_takes_no_room_of_another_and_the_log_warns_before_it_is_full() {
        let (used, now) = (Used::default(), Timestamp::UNIX_EPOCH);
        let (acme, other): (Arc<str>, Arc<str>) = ("acme".into(), "other".into());
        let accepted = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            Accepted { id: Some(id), until: now, certificate: Fingerprint::of(b"") }
        };
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(log.reopen().unwrap())).finish();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..replay::MOST {
                assert_eq!(used.take(&acme, &accepted(number), now), Ok(()));
            }
        });
        assert_eq!(used.take(&acme, &accepted(replay::MOST), now), Err(Refused::Full));
        assert_eq!(used.take(&acme, &accepted(0), now), Err(Refused::Replayed));
        assert_eq!(used.take(&other, &accepted(0), now), Ok(()));
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains(" WARN proxy: ") && log.contains("reason=\"jwt_window_nearly_full\""), "{log}");
    }

    #[test]
    fn a_challenge_says_which_kind_of_wrong_and_not_why() {
        let says = |refused| challenge(&refused, "api").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(says(Refused::Missing).unwrap(), "Bearer realm=\"api\"");
        assert_eq!(says(Refused::NotBearer).unwrap(), "Bearer realm=\"api\", error=\"invalid_request\"");
        assert_eq!(says(Refused::Audience).unwrap(), "Bearer realm=\"api\", error=\"invalid_token\"");
        assert_eq!(says(Refused::Full), None);
    }
}
