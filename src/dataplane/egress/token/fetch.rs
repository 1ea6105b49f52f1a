//! Fetches a token from an endpoint: one small POST over the egress' own mutual TLS, no redirect followed. `jwt::grant`
//! makes the request and reads the response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::super::upstream::{UpstreamDial, UpstreamRef};
use super::sign_assertion;
use crate::dataplane::egress::request::authority;
use crate::http::error::RequestError as Error;
use crate::jwt::grant::{self, TokenResponse, TokenResponseError};
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

/// Why no token was issued. Shared by all requests that waited for it.
#[derive(Clone, Debug)]
pub(super) enum TokenFailure {
    /// The endpoint responded, and refuses an assertion by this pair.
    Answered(TokenResponseError, Fingerprint),
    /// Its response breaks off, or is too large.
    Broken,
    /// The endpoint did not respond in time.
    Late,
    /// It cannot be reached, or the handshake fails: code and sentence.
    Unreachable(&'static str, String),
    /// No key pair can sign.
    NoSigner,
    /// Signing failed, for this reason.
    Sign(String),
}

impl TokenFailure {
    /// Whether another pair's assertion may be accepted.
    pub(super) fn blames_key_pair(&self) -> bool {
        matches!(self, Self::Answered(answer, _) if answer.is_assertion_rejected())
    }

    /// Code and sentence.
    pub(super) fn explain(&self) -> (&'static str, String) {
        match self {
            Self::Answered(answer @ TokenResponseError::Refused { .. }, signer) => {
                (answer.reason(), format!("{answer} (the assertion is signed by key pair {})", signer.short()))
            }
            Self::Answered(answer, _) => (answer.reason(), answer.to_string()),
            Self::Broken => {
                ("token_malformed", "the token endpoint's response breaks off, or is larger than 64 KiB".to_owned())
            }
            Self::Late => ("token_late", "the token endpoint did not respond in time".to_owned()),
            Self::Unreachable(reason, why) => (reason, format!("cannot reach the token endpoint: {why}")),
            Self::NoSigner => ("token_unsigned", "no key pair is available to sign the assertion".to_owned()),
            Self::Sign(why) => ("token_unsigned", why.clone()),
        }
    }
}

impl From<TokenFailure> for Error {
    fn from(failure: TokenFailure) -> Self {
        let (reason, explanation) = failure.explain();
        Self::Token { reason, explanation }
    }
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
                FetchAttemptFailure { failure: TokenFailure::Unreachable(reason, explanation), another: true }
            }
            Error::Handshake { reason, explanation } => TokenFailure::Unreachable(reason, explanation).into(),
            error => TokenFailure::Unreachable("token_unreachable", error.to_string()).into(),
        })?;
        // After the handshake: a slow one must not age the assertion.
        let signed = sign_assertion(self.bearer, signer, self.towards.worker.clock().now());
        let signed = signed.map_err(|error| TokenFailure::Sign(error.to_string()))?;
        let request =
            token_request(endpoint, grant::token_request_form(endpoint.grant, &signed, endpoint.scope.as_deref()));
        let (status, body) = post_form(stream, request).await.map_err(|failure| {
            // TLS 1.3 refuses our certificate after the handshake.
            let another = matches!(failure, TokenFailure::Unreachable(..));
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
        };
        // The endpoint's CertificateRequest does not apply to the upstream.
        Ok(reach.handshake(drop).await?.tls.stream)
    }
}

fn token_request(endpoint: &TokenEndpoint, form: String) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from(form)));
    *request.method_mut() = Method::POST;
    // Both were checked when the configuration was read.
    *request.uri_mut() = endpoint.path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::try_from(authority(&endpoint.to)) {
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
    let broken = |error: hyper::Error| TokenFailure::Unreachable("token_unreachable", printable(&error.to_string()));
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
