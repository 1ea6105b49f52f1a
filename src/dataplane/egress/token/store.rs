//! The tokens of all workers, by egress: fetched once for all requests that wait, kept by the pair that signed and the
//! pair that was shown, and discarded before they expire.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use jiff::Timestamp;

use super::fetch::{TokenFailure, TokenRequester};
use super::{Error, bearer_header, emit_token_event, own_signer};
use crate::event::TokenOutcome;
use crate::jwt::grant::{TokenResponse, TokenResponseError};
use crate::pki::Fingerprint;
use crate::snapshot::bearer::BearerSettings;

/// How long a pair does not sign after its assertions were refused.
const SIGNER_BACKOFF: Duration = Duration::from_hours(1);
/// After a failure the endpoint is not asked again for this long.
const FAILURE_BACKOFF: Duration = Duration::from_secs(1);
/// After this long a persistent failure is reported again.
const FAILURE_REPEAT_INTERVAL: Duration = Duration::from_mins(1);
/// For this long after it replaced a rejected token, a token is not replaced again: a 401 then concerns the request.
const REPLACEMENT_GRACE: Duration = Duration::from_secs(10);
/// The lifetime of a token issued without one: some endpoints never name it.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_mins(5);
/// No token is kept for longer.
const MAX_TOKEN_LIFETIME: Duration = Duration::from_hours(24);

/// A token as it is sent.
#[derive(Clone)]
pub(crate) struct BearerToken {
    pub(super) header: HeaderValue,
    /// Unique in this process.
    pub(super) number: u64,
    /// The pair that signed the assertion for it.
    pub(super) signer: Fingerprint,
    fresh_until: Timestamp,
    /// Until when a 401 does not count against it.
    new_until: Option<Timestamp>,
}

impl BearerToken {
    /// A token that is sent once.
    pub(super) fn new(text: &str, signer: Fingerprint, now: Timestamp) -> Result<Self, Error> {
        let header = bearer_header(text).ok_or(Error::Token {
            reason: "token_malformed",
            explanation: "the token contains characters that a header field cannot carry".to_owned(),
        })?;
        Ok(Self { header, number: 0, signer, fresh_until: now, new_until: None })
    }

    /// Whether it has just replaced one that was answered with 401: another would not help, and a client that polls
    /// a forbidden resource would have one fetched each time.
    pub(super) fn is_new(&self, now: Timestamp) -> bool {
        self.new_until.is_some_and(|until| now < until)
    }

    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        now < self.fresh_until
    }
}

/// By egress.
#[derive(Default)]
pub(crate) struct TokenStore(Mutex<BTreeMap<Arc<str>, Arc<EgressTokens>>>);

impl TokenStore {
    /// The place of an egress.
    pub(super) fn egress_tokens(&self, egress: &Arc<str>) -> Arc<EgressTokens> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(Arc::clone(egress)).or_default())
    }
}

/// The tokens of one egress.
#[derive(Default)]
pub(super) struct EgressTokens {
    /// The last token that was answered with 401.
    rejected: AtomicU64,
    failures: AtomicU64,
    kept: tokio::sync::Mutex<TokenCache>,
}

#[derive(Default)]
struct TokenCache {
    /// By the pair that signed and the pair that was shown.
    tokens: BTreeMap<(Fingerprint, Fingerprint), BearerToken>,
    /// The pair with assertions that are refused while another pair's are accepted, and until when it does not sign.
    refused: Option<(Fingerprint, Timestamp)>,
    failed: Option<(Instant, TokenFailure)>,
    /// The last failure that was reported: a repeated one is reported once a minute.
    told: Option<(Instant, &'static str)>,
    /// The settings that the tokens were requested with.
    settings: Option<Arc<BearerSettings>>,
    last: u64,
}

impl EgressTokens {
    /// A 401 came: this token is not sent again.
    pub(super) fn reject(&self, number: u64) {
        self.rejected.fetch_max(number, Ordering::AcqRel);
    }

    /// Whether it was answered with 401, or is older than one that was.
    pub(super) fn is_rejected(&self, number: u64) -> bool {
        number <= self.rejected.load(Ordering::Acquire)
    }

    /// A fresh token. One request fetches it, the others wait for its result, even a failure.
    pub(super) async fn fresh_token(&self, asker: &TokenRequester<'_>) -> Result<BearerToken, Error> {
        let failures = self.failures.load(Ordering::Acquire);
        let mut kept = self.kept.lock().await;
        let has_failed = self.failures.load(Ordering::Acquire) != failures;
        if let Some((_, failure)) = kept.failed.as_ref().filter(|(at, _)| has_failed || at.elapsed() < FAILURE_BACKOFF)
        {
            return Err(failure.clone().into());
        }
        let got = self.fetch_token(&mut kept, asker).await;
        kept.failed = got.as_ref().err().map(|failure| (Instant::now(), failure.clone()));
        if let Err(failure) = &got {
            self.failures.fetch_add(1, Ordering::AcqRel);
            let signer = asker.bearer.signers[0].fingerprint();
            let (reason, explanation) = failure.explain();
            if kept.told.is_none_or(|(at, told)| told != reason || at.elapsed() >= FAILURE_REPEAT_INTERVAL) {
                kept.told = Some((Instant::now(), reason));
                emit_token_event(asker.towards, asker.bearer, signer, (TokenOutcome::Failed, reason, explanation));
            }
        } else {
            kept.told = None;
        }
        Ok(got?)
    }

    /// The pair that is shown signs first, where it may: a partner that trusts it in TLS knows it here too.
    async fn fetch_token(
        &self,
        kept: &mut TokenCache,
        asker: &TokenRequester<'_>,
    ) -> Result<BearerToken, TokenFailure> {
        let now = asker.towards.worker.clock().now();
        let signers: Vec<Fingerprint> = asker.bearer.signers.iter().map(|pair| pair.fingerprint()).collect();
        kept.remove_stale(&asker.bearer.settings, &signers, now);
        let first = first_signer(&signers, own_signer(asker.towards, asker.bearer, asker.shown), kept.refused, now);
        let order = (first..signers.len()).chain(0..first);
        let mut refused: Option<(Fingerprint, TokenFailure)> = None;
        for at in order {
            let key = (signers[at], asker.shown);
            if let Some(token) = kept.tokens.get(&key).filter(|token| !self.is_rejected(token.number)) {
                let token = token.clone();
                kept.update_refused_signer(asker, refused.as_ref(), signers[at]);
                return Ok(token);
            }
            match asker.fetch(&asker.bearer.signers[at]).await {
                Ok(granted) => {
                    // A rejection in the meantime does not concern this token.
                    let rejected = self.rejected.load(Ordering::Acquire);
                    let replaces = kept.last > 0 && kept.last <= rejected;
                    kept.last = kept.last.max(rejected) + 1;
                    let mut token = self::token_from_response(&granted, kept.last, signers[at], now)?;
                    token.new_until = replaces.then(|| now.saturating_add(REPLACEMENT_GRACE).unwrap_or(Timestamp::MAX));
                    kept.tokens.insert(key, token.clone());
                    kept.update_refused_signer(asker, refused.as_ref(), signers[at]);
                    let explanation = format!(
                        "fetched a token with an assertion by key pair {}, valid for {} s",
                        signers[at].short(),
                        granted.expires_in.unwrap_or(DEFAULT_TOKEN_LIFETIME).as_secs()
                    );
                    emit_token_event(
                        asker.towards,
                        asker.bearer,
                        signers[at],
                        (TokenOutcome::Fetched, "ok", explanation),
                    );
                    return Ok(token);
                }
                Err(failure) if failure.blames_key_pair() && refused.is_none() && signers.len() > 1 => {
                    refused = Some((signers[at], failure));
                }
                // Another pair failed too, so the pair was not at fault: the first answer says more.
                Err(failure) => return Err(refused.map_or(failure, |(_, first)| first)),
            }
        }
        Err(refused.map_or(TokenFailure::NoSigner, |(_, first)| first))
    }
}

impl TokenCache {
    /// Removes tokens that have expired, were requested with other settings, or belong to a pair that is gone.
    fn remove_stale(&mut self, settings: &Arc<BearerSettings>, signers: &[Fingerprint], now: Timestamp) {
        if self.settings.as_ref() != Some(settings) {
            self.tokens.clear();
            self.refused = None;
            self.settings = Some(Arc::clone(settings));
        }
        self.tokens.retain(|(signer, _), token| signers.contains(signer) && token.is_fresh(now));
        self.refused = self.refused.filter(|(pair, _)| signers.contains(pair));
    }

    /// A pair's assertion was accepted: records another's refusal, or clears this one's.
    fn update_refused_signer(
        &mut self,
        asker: &TokenRequester<'_>,
        refused: Option<&(Fingerprint, TokenFailure)>,
        taken: Fingerprint,
    ) {
        let now = asker.towards.worker.clock().now();
        if let Some((pair, failure)) = refused {
            let until = signer_backoff_end(now);
            self.refused = Some((*pair, until));
            let (reason, why) = failure.explain();
            let explanation = format!(
                "{why}; it accepts those by key pair {}, which signs until {until}: send the partner the new \
                 certificate",
                taken.short()
            );
            emit_token_event(asker.towards, asker.bearer, *pair, (TokenOutcome::Refused, reason, explanation));
        } else if self.refused.is_some_and(|(pair, _)| pair == taken) {
            self.refused = None;
        }
    }
}

/// When a refused pair signs again.
pub(super) fn signer_backoff_end(now: Timestamp) -> Timestamp {
    now.saturating_add(SIGNER_BACKOFF).unwrap_or(Timestamp::MAX)
}

/// Which pair signs first: `shown` if it may sign, else the keyring's preferred pair; none that was refused lately.
pub(super) fn first_signer(
    signers: &[Fingerprint],
    shown: Option<Fingerprint>,
    refused: Option<(Fingerprint, Timestamp)>,
    now: Timestamp,
) -> usize {
    let resting = refused.filter(|(_, until)| now < *until).map(|(pair, _)| pair);
    let is_up = |pair: &Fingerprint| Some(*pair) != resting;
    let own = shown.filter(is_up).and_then(|shown| signers.iter().position(|pair| *pair == shown));
    own.or_else(|| signers.iter().position(is_up)).unwrap_or(0)
}

/// For how long a token is sent: a tenth less than it is valid, but no more than a minute less.
pub(super) fn send_lifetime(valid: Option<Duration>) -> Duration {
    let valid = valid.unwrap_or(DEFAULT_TOKEN_LIFETIME).min(MAX_TOKEN_LIFETIME);
    valid - (valid / 10).min(Duration::from_mins(1))
}

/// The issued token, as it is sent.
fn token_from_response(
    granted: &TokenResponse,
    number: u64,
    signer: Fingerprint,
    now: Timestamp,
) -> Result<BearerToken, TokenFailure> {
    let malformed =
        || TokenFailure::Answered(TokenResponseError::Malformed("invalid characters in its access_token"), signer);
    let header = bearer_header(&granted.access_token).ok_or_else(malformed)?;
    let fresh_until = now.saturating_add(send_lifetime(granted.expires_in)).unwrap_or(Timestamp::MAX);
    Ok(BearerToken { header, number, signer, fresh_until, new_until: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timestamp(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn fingerprint(number: u8) -> Fingerprint {
        Fingerprint::from_bytes([number; 32])
    }

    #[test]
    fn a_pair_that_is_refused_rests_while_there_is_another() {
        let both = [fingerprint(1), fingerprint(2)];
        assert_eq!(first_signer(&both, None, None, timestamp(0)), 0);
        assert_eq!(first_signer(&both, None, Some((fingerprint(1), timestamp(10))), timestamp(9)), 1);
        assert_eq!(first_signer(&both, None, Some((fingerprint(1), timestamp(10))), timestamp(10)), 0);
        assert_eq!(first_signer(&both[..1], None, Some((fingerprint(1), timestamp(10))), timestamp(9)), 0);
        // The pair that is shown, unless it rests or does not sign.
        assert_eq!(first_signer(&both, Some(fingerprint(2)), None, timestamp(0)), 1);
        assert_eq!(first_signer(&both, Some(fingerprint(2)), Some((fingerprint(2), timestamp(10))), timestamp(9)), 0);
        assert_eq!(first_signer(&both, Some(fingerprint(9)), None, timestamp(0)), 0);
    }

    #[test]
    fn a_rejected_token_takes_the_older_ones_with_it() {
        let slot = EgressTokens::default();
        slot.reject(3);
        slot.reject(2);
        assert!(slot.is_rejected(3) && slot.is_rejected(1) && !slot.is_rejected(4));
    }

    proptest! {
        #[test]
        fn a_token_is_given_up_before_it_expires(seconds in 0u64..1_000_000) {
            let valid = Duration::from_secs(seconds);
            let kept = send_lifetime(Some(valid));
            prop_assert!(kept <= valid && kept >= (valid.min(MAX_TOKEN_LIFETIME) * 9 / 10).saturating_sub(Duration::from_mins(1)));
            prop_assert!(seconds == 0 || kept < valid);
        }
    }
}
