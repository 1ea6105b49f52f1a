//! A strict partner behind mutual TLS: a token endpoint as Salesforce's is, and an API that answers to its tokens only.
//!
//! It verifies assertions with a library of its own and rules of its own: the algorithm that was registered with the
//! certificate, its audience, issuer and subject, an expiry at most five minutes ahead, each `jti` once.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use sidekey::pki::Fingerprint;
use sidekey::pki::certificate::KeyKind;
use sidekey::pki::issue::IssuedKeyPair;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::ca::{certificate, later};
use super::upstream::Plan;

/// The path of its token endpoint.
pub const TOKEN: &str = "/services/oauth2/token";
/// Its audience.
pub const AUDIENCE: &str = "https://login.partner.example";
/// Who we are to it.
pub const CLIENT: &str = "3MVG9client";

/// A running partner.
#[derive(Clone)]
pub struct Partner {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// What it knows, and what it has seen.
pub struct State {
    /// The time by its clock.
    pub now: Timestamp,
    /// Certificates that assertions may be signed for.
    pub registered: Vec<Arc<sidekey::pki::Certificate>>,
    /// What it says of a token's life; `None`: nothing, as Salesforce.
    pub expires_in: Option<i64>,
    /// Answers the token endpoint gives instead of its own.
    pub instead: Option<(u16, String)>,
    /// The API takes assertions themselves, and no tokens.
    pub direct: bool,
    /// Tokens that are good, and until when.
    pub tokens: BTreeMap<String, Timestamp>,
    /// A client's pair that it answers with this status and a page, whatever is asked: as servers do that judge certificates
    /// behind TLS.
    pub refuses: Option<(Fingerprint, u16)>,
    /// Tokens are good only with the pair that they were fetched with (RFC 8705).
    pub binds: bool,
    /// The pair that each token was fetched with.
    bound: BTreeMap<String, Fingerprint>,
    /// Header and claims of every assertion that was accepted, and whose TLS pair brought it.
    pub assertions: Vec<(Value, Value, Fingerprint)>,
    /// Forms that came to the token endpoint.
    pub forms: Vec<BTreeMap<String, String>>,
    /// Why assertions were refused.
    pub refusals: Vec<String>,
    /// What reached the API with a good token: body, TLS pair.
    pub served: Vec<(String, Fingerprint)>,
    /// Every Authorization that came to the API.
    pub authorizations: Vec<String>,
    used: BTreeSet<String>,
    issued: usize,
}

impl Partner {
    /// Shows `pair`, accepts clients of these roots, and has registered these certificates; its clock stands at `now`.
    pub async fn start(pair: &IssuedKeyPair, roots: &[&str], registered: &[&IssuedKeyPair], now: Timestamp) -> Self {
        let state = State {
            now,
            registered: registered.iter().map(|issued| certificate(issued)).collect(),
            expires_in: Some(3600),
            instead: None,
            direct: false,
            tokens: BTreeMap::new(),
            refuses: None,
            binds: false,
            bound: BTreeMap::new(),
            assertions: Vec::new(),
            forms: Vec::new(),
            refusals: Vec::new(),
            served: Vec::new(),
            authorizations: Vec::new(),
            used: BTreeSet::new(),
            issued: 0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let acceptor = Plan::new(pair, &["h2", "http/1.1"]).acceptor(roots);
        let partner = Self { address, state: Arc::new(Mutex::new(state)) };
        let shared = Arc::clone(&partner.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&shared)));
            }
        });
        partner
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }
}

async fn serve(stream: tokio::net::TcpStream, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let session = stream.get_ref().1;
    let client = Fingerprint::of(session.peer_certificates().expect("a certificate")[0].as_ref());
    let h2 = session.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default();
            let mut state = state.lock().expect("lock");
            let refused = state.refuses.filter(|(pair, _)| *pair == client).map(|(_, status)| status);
            let (status, text) = if let Some(status) = refused {
                (status, "<html>no required SSL certificate was sent</html>".to_owned())
            } else if parts.uri.path() == TOKEN {
                let form =
                    parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-www-form-urlencoded");
                state.grant(parts.method == Method::POST && form, &body, client)
            } else {
                let field = parts.headers.get(AUTHORIZATION).and_then(|field| field.to_str().ok()).unwrap_or_default();
                state.api(field, &body, client)
            };
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            if response.status().is_redirection() {
                response.headers_mut().insert(LOCATION, "https://elsewhere.example/token".parse().expect("a value"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

impl State {
    /// The token endpoint (RFC 6749 5, RFC 7523 2).
    fn grant(&mut self, is_form: bool, body: &[u8], client: Fingerprint) -> (u16, String) {
        let form = form(std::str::from_utf8(body).unwrap_or_default());
        self.forms.push(form.clone());
        if let Some(instead) = &self.instead {
            return instead.clone();
        }
        let field = |name: &str| form.get(name).cloned().unwrap_or_default();
        let (assertion, refusal) = match field("grant_type").as_str() {
            _ if !is_form => return error(400, "invalid_request", "not a form"),
            "urn:ietf:params:oauth:grant-type:jwt-bearer" => (field("assertion"), "invalid_grant"),
            "client_credentials"
                if field("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" =>
            {
                (field("client_assertion"), "invalid_client")
            }
            _ => return error(400, "unsupported_grant_type", "grant type not supported"),
        };
        match self.verify(&assertion) {
            Err(why) => {
                self.refusals.push(why.clone());
                error(if refusal == "invalid_client" { 401 } else { 400 }, refusal, &why)
            }
            Ok((header, claims)) => {
                self.assertions.push((header, claims, client));
                self.issued += 1;
                let token = format!("00D{}!secret.{}", self.issued, self.issued);
                self.bound.insert(token.clone(), client);
                self.tokens
                    .insert(token.clone(), self.now + jiff::SignedDuration::from_secs(self.expires_in.unwrap_or(7200)));
                let mut answer = json!({ "access_token": token, "token_type": "Bearer", "scope": field("scope") });
                if let Some(seconds) = self.expires_in {
                    answer["expires_in"] = seconds.into();
                }
                (200, answer.to_string())
            }
        }
    }

    /// As strict as the strictest partner.
    fn verify(&mut self, assertion: &str) -> Result<(Value, Value), String> {
        let header = jsonwebtoken::decode_header(assertion).map_err(|error| error.to_string())?;
        let mut verified = None;
        for certificate in &self.registered {
            let (algorithm, key) = match certificate.key() {
                KeyKind::Rsa(_) => (Algorithm::RS256, DecodingKey::from_rsa_der(certificate.public_key())),
                KeyKind::P256 => (Algorithm::ES256, DecodingKey::from_ec_der(certificate.public_key())),
                KeyKind::P384 => (Algorithm::ES384, DecodingKey::from_ec_der(certificate.public_key())),
                _ => (Algorithm::EdDSA, DecodingKey::from_ed_der(certificate.public_key())),
            };
            let mut validation = Validation::new(algorithm);
            validation.set_audience(&[AUDIENCE]);
            validation.set_issuer(&[CLIENT]);
            validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
            // Its clock is the test's.
            validation.validate_exp = false;
            match jsonwebtoken::decode::<Value>(assertion, &key, &validation) {
                Ok(token) => verified = Some(token.claims),
                Err(error) if verified.is_none() && self.registered.len() == 1 => return Err(error.to_string()),
                Err(_) => {}
            }
        }
        let claims = verified.ok_or("invalid assertion")?;
        let seconds = |name: &str| claims[name].as_i64().ok_or(format!("{name} is missing"));
        let (now, expires, issued) = (self.now.as_second(), seconds("exp")?, seconds("iat")?);
        if expires <= now || expires > now + 300 {
            return Err("expired or more than 5 minutes ahead".to_owned());
        }
        if issued > now {
            return Err("issued in the future".to_owned());
        }
        if claims["sub"] != "sync@example.com" && claims["sub"] != CLIENT {
            return Err("user hasn't approved this consumer".to_owned());
        }
        let jti = claims["jti"].as_str().ok_or("jti is missing")?;
        if !self.used.insert(jti.to_owned()) {
            return Err("jti was used before".to_owned());
        }
        Ok((serde_json::to_value(&header).expect("JSON"), claims))
    }

    /// The API.
    fn api(&mut self, field: &str, body: &[u8], client: Fingerprint) -> (u16, String) {
        self.authorizations.push(field.to_owned());
        let Some(token) = field.strip_prefix("Bearer ") else { return error(401, "INVALID_AUTH_HEADER", "no bearer") };
        let is_good = if self.direct {
            let verified = self.verify(token);
            verified
                .map_err(|why| self.refusals.push(why))
                .map(|(header, claims)| self.assertions.push((header, claims, client)))
                .is_ok()
        } else {
            let is_bound = !self.binds || self.bound.get(token) == Some(&client);
            is_bound && self.tokens.get(token).is_some_and(|until| self.now < *until)
        };
        if !is_good {
            return error(401, "INVALID_SESSION_ID", "Session expired or invalid");
        }
        self.served.push((String::from_utf8_lossy(body).into_owned(), client));
        (200, "synced".to_owned())
    }
}

fn error(status: u16, code: &str, description: &str) -> (u16, String) {
    (status, json!({ "error": code, "error_description": description }).to_string())
}

/// A form's fields, decoded.
fn form(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => {
                    let hex: String = rest.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&hex, 16).expect("an escape")
                }
                b'+' => b' ',
                other => other,
            });
        }
        String::from_utf8(bytes).expect("UTF-8")
    };
    text.split('&')
        .filter_map(|field| field.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// The partner's clock, so many days on.
pub fn pass(partner: &Partner, days: i64) -> Timestamp {
    let mut state = partner.state();
    state.now = later(state.now, days);
    state.now
}
