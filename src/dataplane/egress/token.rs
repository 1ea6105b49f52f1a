//! The token that an egress adds to each request (`[egress.jwt_bearer]`; RFC 7523): signed here, exchanged at the token
//! endpoint where there is one, kept until shortly before it expires.
//!
//! A 401 costs one fresh token and one more sending, if the request can be sent again. A request that is retried with
//! another pair gets that pair's token. Where an assertion by the new pair is refused after a rotation, the previous
//! pair signs, and that is remembered for a while.

mod failure;
mod fetch;
mod renew;
pub(crate) mod store;

use self::fetch::{TokenRequester, emit_token_event, own_signer, sign_assertion};
use self::store::{BearerToken, first_signer, signer_backoff_end};
use super::resources::UpstreamRef;
use crate::dataplane::exchange::replay::ReplayableRequest;
use crate::event::TokenOutcome;
use crate::http::error::RequestError as Error;
use crate::pki::Fingerprint;
use crate::snapshot::EgressBearer;

/// The tokens of one request, one for each pair that it is sent with: a token may be bound to the certificate that it
/// was fetched with (RFC 8705), and an assertion is valid once.
pub(super) struct RequestTokens<'a> {
    towards: UpstreamRef<'a>,
    bearer: &'a EgressBearer,
    /// The token that it is sent with now.
    sent: Option<(Fingerprint, BearerToken)>,
    /// The pairs with which it was answered 401, each with the token that this cost.
    refused: Vec<(Fingerprint, BearerToken)>,
}

impl<'a> RequestTokens<'a> {
    /// Starts without a token.
    pub(super) fn new(towards: UpstreamRef<'a>, bearer: &'a EgressBearer) -> Self {
        Self { towards, bearer, sent: None, refused: Vec::new() }
    }

    /// Gives the request the token for this pair, unless it has it.
    ///
    /// # Errors
    /// No token can be obtained.
    pub(super) async fn authorize(&mut self, replay: &mut ReplayableRequest, shown: Fingerprint) -> Result<(), Error> {
        if self.sent.as_ref().is_none_or(|(pair, _)| *pair != shown) {
            let token = obtain_token(self.towards, self.bearer, shown, None).await?;
            replay.authorize(&token.header);
            self.sent = Some((shown, token));
        }
        Ok(())
    }

    /// Called after a 401: gives the request another token and returns whether it can be sent again with the same pair.
    /// Once for each pair: a 401 to a fresh token concerns the pair, or is for the application.
    pub(super) async fn refresh_after_401(&mut self, replay: &mut ReplayableRequest) -> bool {
        let Some((shown, sent)) = self.sent.clone() else { return false };
        if sent.is_new(self.towards.now()) {
            return false;
        }
        // The next request needs another token, whether this one can be sent again or not.
        self.towards.upstream.token.token.take();
        if self.refused.iter().any(|(pair, _)| *pair == shown) {
            return false;
        }
        if !replay.is_whole() {
            self.towards.resources.tokens.egress_tokens(&self.towards.egress.settings.name).reject(sent.number);
            return false;
        }
        let Ok(token) = obtain_token(self.towards, self.bearer, shown, Some(&sent)).await else { return false };
        replay.authorize(&token.header);
        self.refused.push((shown, sent));
        self.sent = Some((shown, token));
        true
    }

    /// Called after a response other than 401.
    pub(super) fn record_acceptance(&self) {
        let Some((shown, token)) = &self.sent else { return };
        let refused = self.refused.iter().find(|(pair, refused)| pair == shown && refused.signer != token.signer);
        match refused {
            Some((_, refused)) if self.bearer.way.is_none() => {
                remember_refusal(self.towards, self.bearer, refused, token)
            }
            _ => clear_refusal(self.towards, self.bearer, token),
        }
    }
}

/// Obtains a token to send, `instead` of one that was answered with 401.
async fn obtain_token(
    towards: UpstreamRef<'_>,
    bearer: &EgressBearer,
    shown: Fingerprint,
    instead: Option<&BearerToken>,
) -> Result<BearerToken, Error> {
    let now = towards.now();
    let memory = &towards.upstream.token;
    let Some(way) = &bearer.way else {
        // The assertion itself is the token: an upstream that accepts each only once must never get one twice.
        let pairs: Vec<Fingerprint> = bearer.signers.iter().map(|pair| pair.fingerprint()).collect();
        let mut signer = first_signer(&pairs, own_signer(towards, bearer, shown), *memory.refused.borrow(), now);
        if let Some(refused) = instead {
            signer = pairs.iter().position(|pair| *pair != refused.signer).unwrap_or(signer);
        }
        let pair = &bearer.signers[signer];
        return BearerToken::new(&sign_assertion(bearer, pair, now)?, pair.fingerprint(), now);
    };
    let slot = towards.resources.tokens.egress_tokens(&towards.egress.settings.name);
    if let Some(refused) = instead {
        slot.reject(refused.number);
    } else if let Some((epoch, of, token)) = &*memory.token.borrow()
        && (*epoch, *of) == (towards.epoch, shown)
        && token.is_fresh(now)
        && !slot.is_rejected(token.number)
    {
        return Ok(token.clone());
    }
    let token = TokenRequester { towards, bearer, way, shown }.fresh_token(&slot).await?;
    *memory.token.borrow_mut() = Some((towards.epoch, shown, token.clone()));
    Ok(token)
}

/// The upstream accepts the other pair's assertions: for a while these come first.
fn remember_refusal(towards: UpstreamRef<'_>, bearer: &EgressBearer, refused: &BearerToken, taken: &BearerToken) {
    let until = signer_backoff_end(towards.now());
    *towards.upstream.token.refused.borrow_mut() = Some((refused.signer, until));
    let explanation = format!(
        "the upstream answers 401 to tokens signed by key pair {} and accepts those of {}, which are sent until \
         {until}; send the partner the new certificate",
        refused.signer.short(),
        taken.signer.short()
    );
    emit_token_event(towards, bearer, refused.signer, (TokenOutcome::Refused, "status_401", explanation));
}

/// Clears a refusal once the upstream accepts the pair's assertions again.
fn clear_refusal(towards: UpstreamRef<'_>, bearer: &EgressBearer, token: &BearerToken) {
    let mut refused = towards.upstream.token.refused.borrow_mut();
    if refused.is_some_and(|(pair, _)| pair == token.signer) {
        refused.take();
        let explanation = format!("the upstream accepts tokens signed by key pair {} again", token.signer.short());
        emit_token_event(towards, bearer, token.signer, (TokenOutcome::Fetched, "ok", explanation));
    }
}
