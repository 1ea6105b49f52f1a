//! Fetches a token once for all requests that wait for it, and finds out which pair's assertions are accepted.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::failure::TokenFailure;
use super::fetch::{TokenRequester, emit_token_event, own_signer};
use super::store::{
    BearerToken, DEFAULT_TOKEN_LIFETIME, EgressTokens, TokenCache, bearer_header, first_signer, send_lifetime,
    signer_backoff_end,
};
use crate::event::TokenOutcome;
use crate::http::error::RequestError as Error;
use crate::jwt::grant::{TokenResponse, TokenResponseError};
use crate::pki::Fingerprint;

/// After a failure the endpoint is not asked again for this long.
const FAILURE_BACKOFF: Duration = Duration::from_secs(1);
/// After this long a persistent failure is reported again.
const FAILURE_REPEAT_INTERVAL: Duration = Duration::from_mins(1);
/// For this long after it replaced a rejected token, a token is not replaced again: a 401 then concerns the request.
const REPLACEMENT_GRACE: Duration = Duration::from_secs(10);

impl TokenRequester<'_> {
    /// A fresh token. One request fetches it, the others wait for its result, even a failure.
    pub(super) async fn fresh_token(&self, slot: &EgressTokens) -> Result<BearerToken, Error> {
        let failures = slot.failures.load(Ordering::Acquire);
        let mut kept = slot.kept.lock().await;
        let has_failed = slot.failures.load(Ordering::Acquire) != failures;
        if let Some((_, failure)) = kept.failed.as_ref().filter(|(at, _)| has_failed || at.elapsed() < FAILURE_BACKOFF)
        {
            return Err(failure.clone().into());
        }
        let got = self.fetch_token(slot, &mut kept).await;
        kept.failed = got.as_ref().err().map(|failure| (Instant::now(), failure.clone()));
        if let Err(failure) = &got {
            slot.failures.fetch_add(1, Ordering::AcqRel);
            let signer = self.bearer.signers[0].fingerprint();
            let (reason, explanation) = failure.reason_and_explanation();
            if kept.told.is_none_or(|(at, told)| told != reason || at.elapsed() >= FAILURE_REPEAT_INTERVAL) {
                kept.told = Some((Instant::now(), reason));
                emit_token_event(self.towards, self.bearer, signer, (TokenOutcome::Failed, reason, explanation));
            }
        } else {
            kept.told = None;
        }
        Ok(got?)
    }

    /// The pair that is shown signs first, where it may: a partner that trusts it in TLS knows it here too.
    async fn fetch_token(&self, slot: &EgressTokens, kept: &mut TokenCache) -> Result<BearerToken, TokenFailure> {
        let now = self.towards.now();
        let signers: Vec<Fingerprint> = self.bearer.signers.iter().map(|pair| pair.fingerprint()).collect();
        kept.remove_stale(&self.bearer.settings, &signers, now);
        let first = first_signer(&signers, own_signer(self.towards, self.bearer, self.shown), kept.refused, now);
        let order = (first..signers.len()).chain(0..first);
        let mut refused: Option<(Fingerprint, TokenFailure)> = None;
        for at in order {
            let key = (signers[at], self.shown);
            if let Some(token) = kept.tokens.get(&key).filter(|token| !slot.is_rejected(token.number)) {
                let token = token.clone();
                self.update_refused_signer(kept, refused.as_ref(), signers[at]);
                return Ok(token);
            }
            match self.fetch(&self.bearer.signers[at]).await {
                Ok(granted) => {
                    // A rejection in the meantime does not concern this token.
                    let rejected = slot.rejected.load(Ordering::Acquire);
                    let replaces = kept.last > 0 && kept.last <= rejected;
                    kept.last = kept.last.max(rejected) + 1;
                    let mut token = token_from_response(&granted, kept.last, signers[at], now)?;
                    token.new_until = replaces.then(|| now.saturating_add(REPLACEMENT_GRACE).unwrap_or(Timestamp::MAX));
                    kept.tokens.insert(key, token.clone());
                    self.update_refused_signer(kept, refused.as_ref(), signers[at]);
                    let explanation = format!(
                        "fetched a token with an assertion by key pair {}, valid for {} s",
                        signers[at].short(),
                        granted.expires_in.unwrap_or(DEFAULT_TOKEN_LIFETIME).as_secs()
                    );
                    emit_token_event(
                        self.towards,
                        self.bearer,
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

    /// A pair's assertion was accepted: records another's refusal, or clears this one's.
    fn update_refused_signer(
        &self,
        kept: &mut TokenCache,
        refused: Option<&(Fingerprint, TokenFailure)>,
        taken: Fingerprint,
    ) {
        let now = self.towards.now();
        if let Some((pair, failure)) = refused {
            let until = signer_backoff_end(now);
            kept.refused = Some((*pair, until));
            let (reason, why) = failure.reason_and_explanation();
            let explanation = format!(
                "{why}; it accepts those by key pair {}, which signs until {until}: send the partner the new \
                 certificate",
                taken.short()
            );
            emit_token_event(self.towards, self.bearer, *pair, (TokenOutcome::Refused, reason, explanation));
        } else if kept.refused.is_some_and(|(pair, _)| pair == taken) {
            kept.refused = None;
        }
    }
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
