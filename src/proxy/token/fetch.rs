//! Asks a token endpoint: one small POST over the egress' own mutual TLS, no redirect followed, and the answer read (RFC 6749
//! 5, RFC 7521 4).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use super::super::Error;
use super::super::attempt::Attempt;
use super::super::egress::authority;
use super::super::upstream::Towards;
use super::assertion;
use crate::keyring::ChosenBy;
use crate::net::{Stream, dial};
use crate::pki::{Fingerprint, KeyPair, printable};
use crate::snapshot::bearer::{Endpoint, Grant, Way};
use crate::snapshot::{Bearer, Side};
use crate::tls::Outcome;
use crate::tls::handshake::{ClientStream, connect};
use crate::trust::{Partners, Peer};

/// The longest answer that is read.
const LARGEST: usize = 64 * 1024;
/// The longest that an endpoint may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is shown of what it says.
const SHOWN: usize = 300;

/// Who asks.
pub(super) struct Asker<'a> {
    pub(super) towards: Towards<'a>,
    pub(super) bearer: &'a Bearer,
    pub(super) way: &'a Way,
    /// The pair that requests show, and the endpoint first.
    pub(super) shown: Fingerprint,
}

/// What was given.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) access_token: String,
    pub(super) expires_in: Option<Duration>,
}

/// Why nothing was given. Shared by all who waited for it.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// It says no (RFC 6749 5.2).
    Refused { code: String, description: String, status: u16, signer: Fingerprint },
    /// It answers something else.
    Malformed(&'static str),
    /// Another status, which is no answer of a token endpoint.
    Status(u16),
    /// Not in time.
    Late,
    /// It cannot be reached, or the handshake fails: code and sentence.
    Unreachable(&'static str, String),
    /// There is nobody to sign, or the signer fails.
    NoSigner,
    /// The signer's words.
    Sign(String),
}

impl Failure {
    /// Whether another pair's assertion may be taken (RFC 7521 4.1, RFC 6749 5.2).
    pub(super) fn blames_the_pair(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "invalid_grant" || code == "invalid_client")
    }

    /// Code and sentence.
    pub(super) fn said(&self) -> (&'static str, String) {
        match self {
            Self::Refused { code, description, status, signer } => (
                "token_refused",
                format!(
                    "the token endpoint refuses the assertion by key pair {} with {status} {code}: {description}",
                    signer.short()
                ),
            ),
            Self::Malformed(why) => ("token_malformed", format!("the token endpoint's answer is none: {why}")),
            Self::Status(status @ 300..=399) => (
                "token_redirect",
                format!(
                    "the token endpoint answers {status}; a redirect is not followed: name the new address in token_url"
                ),
            ),
            Self::Status(status) => ("token_status", format!("the token endpoint answers {status}, without a reason")),
            Self::Late => ("token_late", "the token endpoint did not answer in time".to_owned()),
            Self::Unreachable(reason, why) => (reason, format!("the token endpoint is not reached: {why}")),
            Self::NoSigner => ("token_unsigned", "there is no key pair to sign with".to_owned()),
            Self::Sign(why) => ("token_unsigned", why.clone()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (reason, explanation) = failure.said();
        Self::Token { reason, explanation }
    }
}

impl Asker<'_> {
    /// Exchanges one assertion by this pair.
    pub(super) async fn ask(&self, signer: &Arc<KeyPair>) -> Result<Granted, Failure> {
        let Some(endpoint) = &self.bearer.settings.endpoint else { return Err(Failure::NoSigner) };
        let limits = &self.towards.egress.settings.limits;
        let deadline = Instant::now() + limits.response.min(PATIENCE);
        let stream = self.connect(endpoint).await?;
        // After the handshake: a slow one must not make the assertion old.
        let signed = assertion(self.bearer, signer, self.towards.worker.clock().now());
        let signed = signed.map_err(|error| Failure::Sign(error.to_string()))?;
        let request = request(endpoint, form(endpoint, &signed));
        match timeout_at(deadline, exchange(stream, request)).await {
            Ok(answer) => read(answer?, signer.fingerprint()),
            Err(_) => Err(Failure::Late),
        }
    }

    /// With the pair that requests show; where that one is refused, with another that may be shown.
    async fn connect(&self, endpoint: &Endpoint) -> Result<ClientStream<Stream>, Failure> {
        let candidates = &self.towards.egress.candidates.0;
        let first = candidates.iter().position(|candidate| candidate.key_pair == self.shown).unwrap_or(0);
        let mut failed = None;
        for index in (first..candidates.len()).chain(0..first) {
            match self.handshake(endpoint, index).await {
                Ok(stream) => return Ok(stream),
                Err(Error::Refused { reason, explanation, .. }) => {
                    failed = Some(Failure::Unreachable(reason, explanation))
                }
                Err(Error::Handshake { reason, explanation }) => return Err(Failure::Unreachable(reason, explanation)),
                Err(error) => return Err(Failure::Unreachable("token_unreachable", error.to_string())),
            }
        }
        Err(failed.unwrap_or(Failure::NoSigner))
    }

    /// Dials, shakes hands, and records it like every handshake.
    async fn handshake(&self, endpoint: &Endpoint, index: usize) -> Result<ClientStream<Stream>, Error> {
        let towards = self.towards;
        let settings = &towards.egress.settings;
        let (events, clock) = (towards.worker.events(), towards.worker.clock());
        let mut attempt = Attempt {
            side: Side::Egress,
            listener: Arc::clone(&settings.name),
            connection: towards.worker.number(),
            address: None,
            epoch: towards.epoch,
            started: std::time::Instant::now(),
            quiet: false,
            shown: Some((towards.egress.candidates.0[index].clone(), ChosenBy::Prefer)),
            shown_next: None,
        };
        let began = Instant::now();
        let terms =
            dial::Terms { deadline: began + settings.limits.connect, keepalive: None, refresh: settings.dns_refresh };
        let stream = match towards.worker.dialler().tcp(&endpoint.to, terms).await {
            Ok(stream) => stream,
            Err(error) => {
                events.emit(attempt.not_reached(&endpoint.to.to_string(), &error, clock.now()));
                return Err(Error::Connect(error));
            }
        };
        attempt.address = stream.peer_addr();
        let tls = match connect(stream, &self.way.connectors[index], began + settings.limits.handshake).await {
            Ok(tls) => tls,
            Err(failed) => {
                let (said, silent) = (failed.refuses_key_pair(), failed.lets_go_of_key_pair());
                let (event, reason, explanation) = attempt.failed(&failed, &self.way.trust, clock.now());
                events.emit(event);
                return Err(if said || silent {
                    Error::Refused { reason, explanation, said }
                } else {
                    Error::Handshake { reason, explanation }
                });
            }
        };
        let now = clock.now();
        match self.way.trust.verify(&tls.chain, &self.way.expects, now) {
            Ok(verified) => {
                let peer = Peer::new(verified, &Partners::default());
                let outcome = if tls.facts.version == Some("1.3") { Outcome::Unproved } else { Outcome::Accepted };
                events.emit(attempt.succeeded(outcome, (tls.facts.clone(), &tls.chain), Some(&peer), now));
                Ok(tls.stream)
            }
            Err(untrusted) => {
                let (event, reason, explanation) =
                    attempt.untrusted(&untrusted, &self.way.trust, tls.facts.clone(), &tls.chain, now);
                events.emit(event);
                Err(Error::Handshake { reason, explanation })
            }
        }
    }
}

/// The form that a grant is asked for with.
fn form(endpoint: &Endpoint, assertion: &str) -> String {
    let mut fields = match endpoint.grant {
        Grant::JwtBearer => {
            vec![("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)]
        }
        Grant::ClientCredentials => vec![
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ],
    };
    fields.extend(endpoint.scope.as_deref().map(|scope| ("scope", scope)));
    fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect::<Vec<_>>().join("&")
}

/// For a form (RFC 3986 2.1): everything but unreserved characters as %XX.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn request(endpoint: &Endpoint, form: String) -> Request<Full<Bytes>> {
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
async fn exchange(stream: ClientStream<Stream>, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Failure> {
    let broken = |error: hyper::Error| Failure::Unreachable("token_unreachable", printable(&error.to_string()));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driven = spawn_local(connection);
    let answered = sender.send_request(request).await.map_err(broken);
    let read = async {
        let response = answered?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|_| Failure::Malformed("it broke off, or is larger than 64 KiB"))?;
        Ok((status, body.to_bytes()))
    };
    let read = read.await;
    driven.abort();
    read
}

/// An answer that gives a token.
#[derive(Deserialize)]
struct Success {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// An answer that gives none.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

/// What an answer means.
fn read((status, body): (u16, Bytes), signer: Fingerprint) -> Result<Granted, Failure> {
    if status != 200 {
        let shown = |text: &str| printable(text).chars().take(SHOWN).collect::<String>();
        return Err(match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) if (400..500).contains(&status) => Failure::Refused {
                code: shown(&refusal.error),
                description: shown(refusal.error_description.as_deref().unwrap_or("without a description")),
                status,
                signer,
            },
            _ => Failure::Status(status),
        });
    }
    let success: Success =
        serde_json::from_slice(&body).map_err(|_| Failure::Malformed("it has no access_token and token_type"))?;
    if !success.token_type.eq_ignore_ascii_case("bearer") {
        return Err(Failure::Malformed("its token_type is not Bearer"));
    }
    // RFC 6750 2.1: what a Bearer field can have.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=!".contains(&byte);
    if success.access_token.is_empty() || !success.access_token.bytes().all(is_token) {
        return Err(Failure::Malformed("its access_token has characters that no Bearer token can have"));
    }
    // A number, or a number in quotes, as some write it.
    let seconds = success.expires_in.and_then(|value| match value {
        serde_json::Value::Number(number) => {
            number.as_u64().or_else(|| number.as_f64().map(|seconds| seconds.max(0.0) as u64))
        }
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    });
    Ok(Granted { access_token: success.access_token, expires_in: seconds.map(Duration::from_secs) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Fingerprint {
        Fingerprint::from_bytes([1; 32])
    }

    fn answer(status: u16, body: &str) -> Result<Granted, Failure> {
        read((status, Bytes::from(body.to_owned())), signer())
    }

    #[test]
    fn an_answer_that_gives_a_token_is_read_with_and_without_its_end() {
        let granted = answer(200, r#"{"access_token":"00D!a.b-c","token_type":"bearer","expires_in":"3600"}"#).unwrap();
        assert_eq!((granted.access_token.as_str(), granted.expires_in), ("00D!a.b-c", Some(Duration::from_hours(1))));
        let unsaid = answer(200, r#"{"access_token":"a","token_type":"Bearer","scope":"api","id":"x"}"#).unwrap();
        assert_eq!(unsaid.expires_in, None);
        assert_eq!(
            answer(200, r#"{"access_token":"a","token_type":"Bearer","expires_in":-5}"#).unwrap().expires_in,
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn an_answer_that_gives_none_says_why_without_breaking_a_line() {
        let refused =
            answer(400, r#"{"error":"invalid_grant","error_description":"user hasn't\napproved"}"#).unwrap_err();
        assert!(refused.blames_the_pair());
        assert!(refused.said().1.contains("invalid_grant: user hasn't\\u{a}approved"), "{}", refused.said().1);
        assert!(answer(401, r#"{"error":"invalid_client"}"#).unwrap_err().blames_the_pair());
        for (status, body, reason) in [
            (400, r#"{"error":"invalid_scope"}"#, "token_refused"),
            (400, "<html>", "token_status"),
            (500, r#"{"error":"invalid_grant"}"#, "token_status"),
            (302, "", "token_redirect"),
            (200, "{}", "token_malformed"),
            (200, r#"{"access_token":"a","token_type":"DPoP"}"#, "token_malformed"),
            (200, r#"{"access_token":"","token_type":"Bearer"}"#, "token_malformed"),
            (200, r#"{"access_token":"a\r\nX: y","token_type":"Bearer"}"#, "token_malformed"),
            (200, r#"{"access_token":"a b","token_type":"Bearer"}"#, "token_malformed"),
        ] {
            let failure = answer(status, body).unwrap_err();
            assert_eq!((failure.said().0, failure.blames_the_pair()), (reason, false), "{status} {body}");
        }
    }

    #[test]
    fn a_form_escapes_what_a_form_must() {
        let mut endpoint = Endpoint {
            to: crate::net::HostPort { host: "login.example".into(), port: 443 },
            path: "/token".to_owned(),
            grant: Grant::JwtBearer,
            scope: Some("api refresh&x=y".to_owned()),
            trust: None,
        };
        let jwt_bearer = form(&endpoint, "a.b-c_d");
        assert_eq!(
            jwt_bearer,
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b-c_d&scope=api%20refresh%26x%3Dy"
        );
        endpoint.grant = Grant::ClientCredentials;
        assert!(form(&endpoint, "a").starts_with("grant_type=client_credentials&client_assertion_type=urn"));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(status in 100u16..600, body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = read((status, Bytes::from(body)), signer());
        }

        #[test]
        fn a_field_of_a_form_is_read_back(value in "\\PC{0,60}") {
            let escaped = escaped(&value);
            proptest::prop_assert!(escaped.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
            let mut bytes = Vec::new();
            let mut rest = escaped.as_bytes();
            while let [first, more @ ..] = rest {
                if *first == b'%' {
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&more[..2]).unwrap(), 16).unwrap());
                    rest = &more[2..];
                } else {
                    bytes.push(*first);
                    rest = more;
                }
            }
            proptest::prop_assert_eq!(String::from_utf8(bytes).unwrap(), value);
        }
    }
}
