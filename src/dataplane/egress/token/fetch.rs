//! Fetches a token from an endpoint: one small POST over the egress' own mutual TLS, no redirect followed. `jwt::grant`
//! makes the request and reads the response.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::failure::TokenFailure;
use crate::dataplane::egress::dial::UpstreamDial;
use crate::dataplane::egress::resources::UpstreamRef;
use crate::event::{Event, TokenOutcome, TokenRecord};
use crate::evidence::proved::UpstreamNode;
use crate::http::error::RequestError as Error;
use crate::jwt::grant::{self, TokenResponse, TokenResponseError};
use crate::jwt::{self, TokenClaims};
use crate::keyring::SelectionReason;
use crate::net::SocketStream;
use crate::pki::{Fingerprint, KeyPair, printable};
use crate::snapshot::EgressBearer;
use crate::snapshot::bearer::{TokenEndpoint, TokenRoute};
use crate::tls::handshake::ClientStream;

/// The longest response that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The longest that an endpoint may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches tokens for one egress.
pub(super) struct TokenRequester<'a> {
    pub(super) towards: UpstreamRef<'a>,
    pub(super) bearer: &'a EgressBearer,
    pub(super) way: &'a TokenRoute,
    /// The pair that requests show; the endpoint is shown it first.
    pub(super) shown: Fingerprint,
}

/// Why one pair got no token, and whether another that may be shown could succeed.
struct FetchAttemptFailure {
    failure: TokenFailure,
    another: bool,
}

impl From<TokenFailure> for FetchAttemptFailure {
    fn from(failure: TokenFailure) -> Self {
        Self { failure, another: false }
    }
}

impl TokenRequester<'_> {
    /// Exchanges one assertion by this pair, over TLS with the pair that requests show; where the endpoint refuses that
    /// one (within the handshake, right after it or by a status), with another that may be shown. Asking twice does no
    /// harm: each time the assertion is a new one.
    pub(super) async fn fetch(&self, signer: &Arc<KeyPair>) -> Result<TokenResponse, TokenFailure> {
        let Some(endpoint) = &self.bearer.settings.endpoint else { return Err(TokenFailure::NoSigner) };
        let limits = &self.towards.egress.settings.limits;
        let deadline = Instant::now() + limits.response.min(FETCH_TIMEOUT);
        let candidates = &self.towards.egress.candidates.0;
        let first = candidates.iter().position(|candidate| candidate.key_pair == self.shown).unwrap_or(0);
        let mut missed = None;
        for index in (first..candidates.len()).chain(0..first) {
            match timeout_at(deadline, self.fetch_with_candidate(endpoint, index, signer)).await {
                Ok(Ok(granted)) => return Ok(granted),
                // Where no pair succeeds, the failure of the pair that requests show says most.
                Ok(Err(FetchAttemptFailure { failure, another: true })) => drop(missed.get_or_insert(failure)),
                Ok(Err(FetchAttemptFailure { failure, another: false })) => return Err(failure),
                Err(_) => return Err(missed.unwrap_or(TokenFailure::Late)),
            }
        }
        Err(missed.unwrap_or(TokenFailure::NoSigner))
    }

    async fn fetch_with_candidate(
        &self,
        endpoint: &TokenEndpoint,
        index: usize,
        signer: &Arc<KeyPair>,
    ) -> Result<TokenResponse, FetchAttemptFailure> {
        let stream = self.handshake(endpoint, index).await.map_err(|error| match error {
            Error::Refused { reason, explanation, .. } => {
                FetchAttemptFailure { failure: TokenFailure::Unreachable { reason, explanation }, another: true }
            }
            Error::Handshake { reason, explanation } => TokenFailure::Unreachable { reason, explanation }.into(),
            error => unreachable_endpoint(error.to_string()).into(),
        })?;
        // After the handshake: a slow one must not age the assertion.
        let signed = sign_assertion(self.bearer, signer, self.towards.now());
        let signed = signed.map_err(|error| TokenFailure::Sign(error.to_string()))?;
        let request =
            token_request(endpoint, grant::token_request_form(endpoint.grant, &signed, endpoint.scope.as_deref()));
        let (status, body) = post_form(stream, request).await.map_err(|failure| {
            // TLS 1.3 refuses our certificate after the handshake.
            let another = matches!(failure, TokenFailure::Unreachable { .. });
            FetchAttemptFailure { failure, another }
        })?;
        grant::parse_response(status, &body).map_err(|answer| {
            let another =
                matches!(answer, TokenResponseError::Status(status) if self.towards.egress.settings.is_refusal_status(status));
            FetchAttemptFailure { failure: TokenFailure::Answered(answer, signer.fingerprint()), another }
        })
    }

    /// Performs a handshake with this one of the egress' pairs.
    async fn handshake(&self, endpoint: &TokenEndpoint, index: usize) -> Result<ClientStream<SocketStream>, Error> {
        let reach = UpstreamDial {
            towards: self.towards,
            to: &endpoint.to,
            connector: &self.way.connectors[index],
            shown: (self.towards.egress.candidates.0[index].clone(), SelectionReason::Prefer),
            trust: &self.way.trust,
            expects: &self.way.expects,
            keepalive: None,
            prefer: None,
            reached: &Cell::new(UpstreamNode::from_address(None)),
        };
        // The endpoint's CertificateRequest does not apply to the upstream.
        Ok(reach.handshake(drop).await?.tls.stream)
    }
}

/// The pair that is shown, where the egress' own keyring signs.
pub(super) fn own_signer(towards: UpstreamRef<'_>, bearer: &EgressBearer, shown: Fingerprint) -> Option<Fingerprint> {
    (bearer.settings.keyring == towards.egress.settings.keyring).then_some(shown)
}

/// Signs an assertion with this pair, valid from now on.
pub(super) fn sign_assertion(bearer: &EgressBearer, pair: &KeyPair, now: Timestamp) -> Result<String, Error> {
    let settings = &bearer.settings;
    let id = jwt::sign::generate_id()?;
    let none = serde_json::Map::new();
    let claims = TokenClaims {
        issuer: &settings.issuer,
        subject: &settings.subject,
        audience: &settings.audience,
        lifetime: settings.lifetime,
        id: &id,
        more: &none,
    };
    Ok(jwt::sign(pair, settings.algorithm, &claims, now)?)
}

/// Reports what became of a token.
pub(super) fn emit_token_event(
    towards: UpstreamRef<'_>,
    bearer: &EgressBearer,
    key_pair: Fingerprint,
    (outcome, reason, explanation): (TokenOutcome, &'static str, String),
) {
    let settings = &bearer.settings;
    let endpoint = settings.endpoint.as_ref().map_or(&towards.egress.settings.upstream, |endpoint| &endpoint.to);
    towards.emit_event(Event::Token(TokenRecord {
        listener: Arc::clone(&towards.egress.settings.name),
        endpoint: endpoint.to_string(),
        keyring: Arc::clone(&settings.keyring),
        key_pair,
        outcome,
        reason,
        explanation,
        epoch: towards.epoch,
    }));
}

/// The endpoint cannot be reached, or the connection to it breaks off.
fn unreachable_endpoint(explanation: String) -> TokenFailure {
    TokenFailure::Unreachable { reason: "token_unreachable", explanation }
}

fn token_request(endpoint: &TokenEndpoint, form: String) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from(form)));
    *request.method_mut() = Method::POST;
    // Both were checked when the configuration was read.
    *request.uri_mut() = endpoint.path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::try_from(endpoint.to.https_authority()) {
        headers.insert(HOST, host);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    request
}

/// Status and body.
async fn post_form(
    stream: ClientStream<SocketStream>,
    request: Request<Full<Bytes>>,
) -> Result<(u16, Bytes), TokenFailure> {
    let broken = |error: hyper::Error| unreachable_endpoint(printable(&error.to_string()));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driven = spawn_local(connection);
    let answered = sender.send_request(request).await.map_err(broken);
    let read = async {
        let response = answered?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|_| TokenFailure::Broken)?;
        Ok((status, body.to_bytes()))
    };
    let read = read.await;
    driven.abort();
    read
}
