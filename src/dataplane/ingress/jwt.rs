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

use crate::dataplane::exchange::access::AccessRecord;
use crate::dataplane::exchange::response_body::ResponseBody;
use crate::jwt::replay::{self, ReplayRejection, ReplayWindow, WindowOccupancy};
use crate::jwt::verify::{AcceptedToken, TokenPresenter};
use crate::jwt::{TokenRejection, TokenVerifier};
use crate::pki::Fingerprint;
use crate::snapshot::IngressSnapshot;
use crate::trust::Peer;

/// The path of the JWK Set.
pub(crate) const KEY_SET_PATH: &str = "/.well-known/jwks.json";

/// The identifiers that were used, by listener: one listener requires the tokens of one partner, so that no partner
/// uses up another one's room; and no client of a partner that of its other clients.
#[derive(Default)]
pub(crate) struct UsedTokenIds(Mutex<BTreeMap<Arc<str>, ReplayWindow>>);

impl UsedTokenIds {
    /// Records the use of an accepted token.
    pub(crate) fn record_use(
        &self,
        listener: &Arc<str>,
        accepted: &AcceptedToken,
        client: Fingerprint,
        now: Timestamp,
    ) -> Result<(), TokenRejection> {
        let Some(id) = accepted.id else { return Ok(()) };
        let taken = {
            let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            windows.entry(Arc::clone(listener)).or_default().mark_used(id, client, accepted.until, now)
        };
        match taken {
            Ok(WindowOccupancy::Quietly) => Ok(()),
            Ok(WindowOccupancy::NearlyFull) => {
                let most = replay::MAX_TOKEN_IDS / 2;
                tracing::warn!(
                    target: "proxy",
                    listener = &**listener,
                    reason = "jwt_window_nearly_full",
                    client = %client.short(),
                    "the memory of this client's used tokens is three quarters full ({most} at most, each until it \
                     expires); once it is full, tokens are refused (jwt_window_full): have the partner issue shorter-lived tokens, and \
                     enforce that with ingress.jwt.max_lifetime"
                );
                Ok(())
            }
            Err(ReplayRejection::Used) => Err(TokenRejection::Replayed),
            Err(ReplayRejection::Full) => Err(TokenRejection::Full),
        }
    }
}

/// Checks the token of a request, but not whether it was used before.
pub(crate) fn check_token(
    verifier: &TokenVerifier,
    peer: Option<&Peer>,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<AcceptedToken, TokenRejection> {
    let token = bearer_token(headers)?;
    let partner = || TokenRejection::OtherPeer(verifier.settings().partner.to_string());
    let peer = peer.ok_or_else(partner)?;
    let from =
        TokenPresenter { partner: peer.partner().map(AsRef::as_ref), certificate: peer.certificate().fingerprint() };
    verifier.verify(token, from, now)
}

/// The token of `Authorization: Bearer …` (RFC 6750 2.1). Another scheme counts as a missing token.
fn bearer_token(headers: &HeaderMap) -> Result<&str, TokenRejection> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let field = fields.next().ok_or(TokenRejection::Missing)?;
    if fields.next().is_some() {
        return Err(TokenRejection::NotBearer);
    }
    let text = field.to_str().map_err(|_| TokenRejection::NotBearer)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(TokenRejection::Missing);
    }
    let token = token.trim_matches(' ');
    if token.is_empty() || token.contains([' ', ',']) { Err(TokenRejection::NotBearer) } else { Ok(token) }
}

/// The response with the JWK Set, where a request asks for it and the listener serves it.
pub(crate) fn serve_key_set(
    ingress: &IngressSnapshot,
    method: &Method,
    path: &str,
    record: &mut Option<AccessRecord>,
) -> Option<Response<ResponseBody>> {
    let set = ingress.key_set.as_ref().filter(|_| path == KEY_SET_PATH)?;
    if ![Method::GET, Method::HEAD].contains(method) {
        return None;
    }
    let mut record = record.take()?;
    record.set_status(http::StatusCode::OK, None);
    let mut response = Response::new(ResponseBody::from_text(Bytes::from(set.to_string()), Some(record)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A new pair is in the set while it is staged; a peer that polls every few minutes has it before it signs.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization_headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_one_bearer_token_is_one() {
        for good in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c "] {
            assert_eq!(bearer_token(&authorization_headers(&[good])), Ok("a.b.c"));
        }
        for none in [&[][..], &["Basic YTpi"], &["Bearertoken"]] {
            assert_eq!(bearer_token(&authorization_headers(none)), Err(TokenRejection::Missing));
        }
        for wrong in [&["Bearer a", "Bearer a"][..], &["Bearer"], &["Bearer a b"], &["Bearer a,Bearer b"]] {
            assert_eq!(bearer_token(&authorization_headers(wrong)), Err(TokenRejection::NotBearer));
        }
    }

    #[test]
    fn what_one_listener_remembers_takes_no_room_of_another_and_the_log_warns_before_it_is_full() {
        let (used, now) = (UsedTokenIds::default(), Timestamp::UNIX_EPOCH);
        let (acme, other): (Arc<str>, Arc<str>) = ("acme".into(), "other".into());
        let client = Fingerprint::of(b"client");
        let accepted = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            AcceptedToken { id: Some(id), until: now, certificate: Fingerprint::of(b"") }
        };
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(log.reopen().unwrap())).finish();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..replay::MAX_TOKEN_IDS / 2 {
                assert_eq!(used.record_use(&acme, &accepted(number), client, now), Ok(()));
            }
        });
        let next = accepted(replay::MAX_TOKEN_IDS);
        assert_eq!(used.record_use(&acme, &next, client, now), Err(TokenRejection::Full));
        assert_eq!(used.record_use(&acme, &accepted(0), client, now), Err(TokenRejection::Replayed));
        assert_eq!(used.record_use(&other, &accepted(0), client, now), Ok(()));
        // Another client of the same partner.
        assert_eq!(used.record_use(&acme, &next, Fingerprint::of(b"another"), now), Ok(()));
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains(" WARN proxy: ") && log.contains("reason=\"jwt_window_nearly_full\""), "{log}");
    }
}
