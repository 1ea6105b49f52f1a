//! The tokens that are kept: of all workers by egress, by the pair that signed and the pair that was shown, until shortly
//! before they expire; and the last one of each worker.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use jiff::Timestamp;

use super::failure::TokenFailure;
use crate::http::error::RequestError as Error;
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;
use crate::snapshot::bearer::BearerSettings;

/// How long a pair does not sign after its assertions were refused.
const SIGNER_BACKOFF: Duration = Duration::from_hours(1);
/// The lifetime of a token issued without one: some endpoints never name it.
pub(super) const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_mins(5);
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
    pub(super) fresh_until: Timestamp,
    /// Until when a 401 does not count against it.
    pub(super) new_until: Option<Timestamp>,
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

/// What a worker remembers of an upstream's tokens, so that no lock is taken while a token is fresh.
#[derive(Default)]
pub(crate) struct WorkerTokenCache {
    /// The last token, for one epoch and one pair that is shown.
    pub(super) token: RefCell<Option<(Epoch, Fingerprint, BearerToken)>>,
    /// Without an endpoint: the pair with assertions that the upstream has refused, and until when.
    pub(super) refused: RefCell<Option<(Fingerprint, Timestamp)>>,
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
    pub(super) rejected: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) kept: tokio::sync::Mutex<TokenCache>,
}

#[derive(Default)]
pub(super) struct TokenCache {
    /// By the pair that signed and the pair that was shown.
    pub(super) tokens: BTreeMap<(Fingerprint, Fingerprint), BearerToken>,
    /// The pair with assertions that are refused while another pair's are accepted, and until when it does not sign.
    pub(super) refused: Option<(Fingerprint, Timestamp)>,
    pub(super) failed: Option<(Instant, TokenFailure)>,
    /// The last failure that was reported: a repeated one is reported once a minute.
    pub(super) told: Option<(Instant, &'static str)>,
    /// The settings that the tokens were requested with.
    pub(super) settings: Option<Arc<BearerSettings>>,
    pub(super) last: u64,
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
}

impl TokenCache {
    /// Removes tokens that have expired, were requested with other settings, or belong to a pair that is gone.
    pub(super) fn remove_stale(&mut self, settings: &Arc<BearerSettings>, signers: &[Fingerprint], now: Timestamp) {
        if self.settings.as_ref() != Some(settings) {
            self.tokens.clear();
            self.refused = None;
            self.settings = Some(Arc::clone(settings));
        }
        self.tokens.retain(|(signer, _), token| signers.contains(signer) && token.is_fresh(now));
        self.refused = self.refused.filter(|(pair, _)| signers.contains(pair));
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

/// A field value that is kept out of logs, HPACK tables and debug output.
pub(super) fn bearer_header(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
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
