//! `[egress.jwt_bearer]`: the token that an egress adds, over real mutual TLS and against a strict partner.
//!
//! Must hold: a token is fetched once however many ask and kept until shortly before it expires; nothing goes out without
//! one, and the application's own is replaced; a 401 costs one more token and nothing else; after a rotation that the
//! partner has not heard of the previous pair signs, and the owner is told; nothing that a partner answers breaks a line or
//! leaks.

mod rotation;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use sidekey::event::{Event, KeyringRecord, TokenOutcome, TokenRecord, VerdictRecord};
use sidekey::keyring::{KeyringEvent, Standing};
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::IssuedKeyPair;
use tokio::net::TcpStream;

use crate::support::ca::{Ca, certificate, fingerprint, today};
use crate::support::partner::{AUDIENCE, CLIENT, Partner, TOKEN, pass};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

/// An egress with a token, its partner, and a second pair to rotate to.
pub struct Scene {
    pub sidecar: Sidecar,
    pub partner: Partner,
    pub now: Timestamp,
    pub old: IssuedKeyPair,
    pub new: IssuedKeyPair,
    /// The new pair's probe is over: a worker may say so before the writer has told of the rotation.
    is_probed: bool,
}

impl Scene {
    /// The partner has the old pair's certificate, and trusts the CA of both.
    pub async fn set(extra: &str) -> Self {
        let ca = Ca::new("Our CA");
        let new = ca.client("ours", 1);
        Self::with(&ca, new, "", extra).await
    }

    /// The partner trusts `ca`, which has issued the old pair; settings of the egress, and of its token.
    async fn with(ca: &Ca, new: IssuedKeyPair, of_egress: &str, extra: &str) -> Self {
        let old = ca.client("ours", 5);
        let now = today();
        let partner = Partner::start(&ca.server(5), &[ca.pem()], &[&old], now).await;
        let folder = folder();
        drop_pair(folder.path(), "out/old", &old);
        put(folder.path(), "out/ca.crt", ca.pem());
        let port = partner.address.port();
        let extra = extra.replace("ENDPOINT", &format!("token_url = \"https://localhost:{port}{TOKEN}\""));
        let toml = format!(
            "certs = \"certs\"\nworkers = 2\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://localhost:{port}\"\nkeyring = \"out\"\n{of_egress}\n[egress.jwt_bearer]\nissuer = \"{CLIENT}\"\nsubject = \"sync@example.com\"\naudience = \"{AUDIENCE}\"\n{extra}\n"
        );
        let sidecar = Sidecar::start_at(folder, &toml, now).await;
        Self { sidecar, partner, now, old, new, is_probed: false }
    }

    /// One request of the application, on a connection of its own.
    pub async fn send(&self, method: Method, body: &str) -> (StatusCode, String) {
        send(self.sidecar.egress("out"), method, body).await
    }

    /// Drops the new pair and waits until it is current.
    pub async fn rotate(&mut self) {
        drop_pair(self.sidecar.folder.path(), "out/new", &self.new);
        let (new, is_probed) = (fingerprint(&self.new), &mut self.is_probed);
        let current = |event: &Event| match event {
            Event::Upstream(VerdictRecord { key_pair, .. }) => {
                *is_probed |= *key_pair == new;
                None
            }
            Event::Keyring(KeyringRecord {
                event: KeyringEvent::Moved { key_pair, to: Standing::Current, .. },
                ..
            }) => Some(*key_pair),
            _ => None,
        };
        assert_eq!(self.sidecar.event("a rotation", current).await, new);
    }

    /// Waits until the new pair's probe is over: until then no request shows it.
    async fn probed(&mut self) {
        if self.is_probed {
            return;
        }
        let new = fingerprint(&self.new);
        let told = |event: &Event| match event {
            Event::Upstream(VerdictRecord { key_pair, .. }) => (*key_pair == new).then_some(()),
            _ => None,
        };
        self.sidecar.event("a probe", told).await;
    }

    /// Both clocks, so many seconds on.
    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.partner.state().now = self.now;
        self.sidecar.move_to(self.now);
    }

    /// The next word about a token that is not that one was fetched.
    async fn told(&mut self) -> (TokenOutcome, &'static str, Fingerprint, String) {
        let token = |event: &Event| match event {
            Event::Token(TokenRecord { outcome, reason, key_pair, explanation, .. })
                if *outcome != TokenOutcome::Fetched =>
            {
                Some((*outcome, *reason, *key_pair, explanation.clone()))
            }
            _ => None,
        };
        self.sidecar.event("a word about a token", token).await
    }
}

pub async fn send(to: SocketAddr, method: Method, body: &str) -> (StatusCode, String) {
    let stream = TcpStream::connect(to).await.expect("connected");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let mut request = Request::new(Full::new(Bytes::from(body.to_owned())));
    *request.method_mut() = method;
    *request.uri_mut() = "/sync".parse().expect("a path");
    request.headers_mut().insert("host", "app".parse().expect("a value"));
    request.headers_mut().insert("authorization", "Bearer the-application-s-own".parse().expect("a value"));
    let response = sender.send_request(request).await.expect("answered");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

const OK: StatusCode = StatusCode::OK;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_however_many_ask_and_says_what_it_must() {
    let scene = Scene::set("ENDPOINT\nscope = \"api refresh_token\"").await;
    let address = scene.sidecar.egress("out");
    let all: Vec<_> = (0..24).map(|_| tokio::spawn(send(address, Method::GET, ""))).collect();
    for one in all {
        assert_eq!(one.await.expect("joined"), (OK, "synced".to_owned()));
    }
    let state = scene.partner.state();
    assert_eq!((state.forms.len(), state.served.len()), (1, 24));
    assert!(state.authorizations.iter().all(|field| field == "Bearer 00D1!secret.1"), "{:?}", state.authorizations);
    assert_eq!(state.forms[0]["scope"], "api refresh_token");
    let (header, claims, client) = &state.assertions[0];
    let ours = certificate(&scene.old);
    assert_eq!(*client, ours.fingerprint(), "the token was fetched over another pair");
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"]),
        (&CLIENT.into(), &"sync@example.com".into(), &AUDIENCE.into())
    );
    let (now, seconds) = (scene.now.as_second(), |name: &str| claims[name].as_i64().expect("seconds"));
    assert_eq!((seconds("exp") - now, seconds("iat") - now), (120, -30));
    assert_eq!(header["kid"], sidekey::jwt::key_set::thumbprint(&ours).expect("a thumbprint"));
    assert_eq!(header["x5t#S256"], sidekey::jwt::key_set::x5t(&ours));
    drop(state);
    let log = scene.sidecar.log();
    assert!(log.iter().any(|line| line["target"] == "token" && line["message"] == "token fetched"), "{log:?}");
    for secret in ["secret.1", "eyJ", "the-application-s-own"] {
        assert!(!log.iter().any(|line| line.to_string().contains(secret)), "{secret} is in the log");
    }
    assert!(
        scene
            .sidecar
            .app
            .metrics_text()
            .contains("sidekey_tokens_total{listener=\"out\",outcome=\"fetched\",reason=\"ok\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_given_up_shortly_before_it_expires_and_one_that_says_nothing_after_minutes() {
    let mut scene = Scene::set("ENDPOINT").await;
    assert_eq!(scene.send(Method::GET, "").await.0, OK);
    scene.wait(3500);
    assert_eq!(scene.send(Method::GET, "").await.0, OK);
    assert_eq!(scene.partner.state().forms.len(), 1);
    scene.wait(60);
    scene.partner.state().expires_in = None;
    assert_eq!(scene.send(Method::GET, "").await.0, OK);
    assert_eq!(scene.partner.state().forms.len(), 2);
    scene.wait(400);
    assert_eq!(scene.send(Method::GET, "").await.0, OK);
    assert_eq!(scene.partner.state().forms.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_costs_one_token_more_and_the_application_sees_nothing_of_it() {
    let mut scene = Scene::set("ENDPOINT\n").await;
    assert_eq!(scene.send(Method::GET, "").await.0, OK);
    scene.partner.state().tokens.clear();
    assert_eq!(scene.send(Method::POST, "orders").await, (OK, "synced".to_owned()));
    assert_eq!(scene.partner.state().served.last().expect("served").0, "orders");
    assert_eq!(scene.partner.state().forms.len(), 2);
    // Many at once: still one.
    scene.wait(11);
    scene.partner.state().tokens.clear();
    let address = scene.sidecar.egress("out");
    let all: Vec<_> = (0..16).map(|_| tokio::spawn(send(address, Method::POST, "more"))).collect();
    for one in all {
        assert_eq!(one.await.expect("joined").0, OK);
    }
    assert_eq!(scene.partner.state().forms.len(), 3, "{:?}", scene.partner.state().authorizations);
    // A body that is no longer there is not sent again, but the next request has another token.
    scene.wait(11);
    scene.partner.state().tokens.clear();
    let large = "x".repeat(200 * 1024);
    assert_eq!(scene.send(Method::POST, &large).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(scene.send(Method::POST, &large).await.0, OK);
    assert_eq!(scene.partner.state().forms.len(), 4);
    assert!(scene.sidecar.app.metrics_text().contains("sidekey_replays_total{listener=\"out\",why=\"token\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_to_a_fresh_token_too_is_the_applications_to_see() {
    let mut scene = Scene::set("ENDPOINT").await;
    scene.partner.state().direct = true;
    assert_eq!(scene.send(Method::GET, "").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(scene.partner.state().forms.len(), 2);
    assert_eq!(scene.partner.state().authorizations.len(), 2);
    // An application that polls what is forbidden to it causes no fetch each time.
    for _ in 0..5 {
        assert_eq!(scene.send(Method::GET, "").await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(scene.partner.state().forms.len(), 2);
    scene.wait(11);
    assert_eq!(scene.send(Method::GET, "").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(scene.partner.state().forms.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_no_pair_makes_better_is_told_as_it_is() {
    let mut scene = Scene::set("ENDPOINT").await;
    scene.rotate().await;
    scene.partner.state().registered.clear();
    assert_eq!(scene.send(Method::GET, "").await.0, StatusCode::BAD_GATEWAY);
    let (outcome, reason, _, explanation) = scene.told().await;
    assert_eq!((outcome, reason), (TokenOutcome::Failed, "token_refused"), "{explanation}");
    assert_eq!(scene.partner.state().forms.len(), 2, "each pair signs once");
    assert!(scene.partner.state().authorizations.is_empty(), "a request went out without a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_without_a_token_whatever_the_endpoint_answers() {
    for (status, body, reason) in [
        (302, "", "token_redirect"),
        (200, "<html>", "token_malformed"),
        (200, "{\"access_token\":\"a\\r\\nx: y\",\"token_type\":\"Bearer\"}", "token_malformed"),
        (500, "{\"error\":\"invalid_grant\"}", "token_status"),
        (400, "{\"error\":\"invalid_scope\",\"error_description\":\"\\u001b[31mred\\n\"}", "token_refused"),
        (200, &"x".repeat(100_000), "token_malformed"),
    ] {
        let mut scene = Scene::set("ENDPOINT").await;
        scene.partner.state().instead = Some((status, body.to_owned()));
        let (got, said) = scene.send(Method::GET, "").await;
        assert_eq!((got, said.as_str()), (StatusCode::BAD_GATEWAY, "502 Bad Gateway\n"), "{status} {body:.30}");
        let told = scene.told().await;
        assert_eq!((told.0, told.1), (TokenOutcome::Failed, reason), "{}", told.3);
        assert!(!told.3.contains(['\n', '\u{1b}']), "{}", told.3);
        assert!(scene.partner.state().authorizations.is_empty(), "a request went out without a token");
        // For a moment the sidecar does not ask again.
        assert_eq!(scene.send(Method::GET, "").await.0, StatusCode::BAD_GATEWAY);
        assert_eq!(scene.partner.state().forms.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_there_or_not_trusted_is_502_and_explained() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let mut scene = Scene::set(&format!("token_url = \"https://localhost:{gone}/token\"")).await;
    assert_eq!(scene.send(Method::GET, "").await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(scene.told().await.1, "token_unreachable");
    let mut scene = Scene::set("ENDPOINT\ntoken_trust = \"system\"").await;
    assert_eq!(scene.send(Method::GET, "").await.0, StatusCode::BAD_GATEWAY);
    let told = scene.told().await;
    assert!(told.1 == "unknown_issuer" || told.1 == "untrusted", "{told:?}");
    assert!(scene.partner.state().forms.is_empty(), "an assertion went to a server that is not trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_an_assertion_of_its_own_without_an_endpoint() {
    let mut scene = Scene::set("").await;
    scene.partner.state().direct = true;
    for _ in 0..10 {
        assert_eq!(scene.send(Method::POST, "a").await.0, OK, "{:?}", scene.partner.state().refusals);
    }
    assert_eq!(scene.partner.state().served.len(), 10);
    // After a rotation that the partner has not heard of, what goes on with the previous pair is signed by it, so that also
    // what cannot be sent again arrives.
    scene.rotate().await;
    let large = "x".repeat(200 * 1024);
    assert_eq!(scene.send(Method::POST, &large).await.0, OK, "{:?}", scene.partner.state().refusals);
    assert!(scene.partner.state().refusals.is_empty(), "{:?}", scene.partner.state().refusals);
    // What shows the new pair is signed by that one; where it is not taken, the previous one's is, and that is remembered.
    scene.probed().await;
    assert_eq!(scene.send(Method::PUT, "b").await.0, OK, "{:?}", scene.partner.state().refusals);
    let told = scene.told().await;
    assert_eq!((told.0, told.1, told.2), (TokenOutcome::Refused, "status_401", fingerprint(&scene.new)));
    assert_eq!(scene.partner.state().served.last().expect("served").0, "b");
    // Each worker learns it once.
    for _ in 0..20 {
        assert_eq!(scene.send(Method::POST, "c").await.0, OK);
    }
    assert!(scene.partner.state().refusals.len() <= 2, "{:?}", scene.partner.state().refusals);
    // When it has rested, and the partner has the certificate, the new pair's are taken, and that is told, too.
    scene.partner.state().registered.push(certificate(&scene.new));
    scene.wait(3700);
    for _ in 0..20 {
        assert_eq!(scene.send(Method::POST, "d").await.0, OK);
    }
    let new = fingerprint(&scene.new);
    let again = |event: &Event| match event {
        Event::Token(TokenRecord { outcome: TokenOutcome::Fetched, key_pair, .. }) => (*key_pair == new).then_some(()),
        _ => None,
    };
    scene.sidecar.event("the new pair's tokens are taken", again).await;
}

/// The story of the page `docs/stories/nightly-sync.md`.
#[tokio::test(flavor = "multi_thread")]
async fn a_nightly_sync_runs_unattended_through_a_rotation() {
    let mut scene = Scene::set("ENDPOINT").await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    let mut signed = Vec::new();
    for night in 1..=40 {
        scene.now = pass(&scene.partner, 1);
        scene.sidecar.move_to(scene.now);
        match night {
            // The new pair is dropped; the partner has not been told.
            10 => scene.rotate().await,
            // The operator reads the warning, and sends the partner the new certificate.
            15 => scene.partner.state().registered.push(certificate(&scene.new)),
            // It throws the old one away when the overlap is over.
            39 => scene.partner.state().registered.retain(|known| known.fingerprint() == new),
            _ => {}
        }
        let (status, body) = scene.send(Method::POST, &format!("night {night}")).await;
        assert_eq!((status, body.as_str()), (OK, "synced"), "night {night}: {:?}", scene.partner.state().refusals);
        let state = scene.partner.state();
        let (header, claims, _) = state.assertions.last().expect("an assertion");
        assert_eq!(claims["iat"], scene.now.as_second() - 30, "night {night} had yesterday's token");
        signed.push(header["x5t#S256"].clone());
    }
    let of = |issued: &IssuedKeyPair| serde_json::Value::from(sidekey::jwt::key_set::x5t(&certificate(issued)));
    let by_old = signed.iter().filter(|x5t| **x5t == of(&scene.old)).count();
    assert!(signed[..14].iter().all(|x5t| *x5t == of(&scene.old)) && by_old == 14, "{by_old} by the old pair");
    assert!(signed[14..].iter().all(|x5t| *x5t == of(&scene.new)));
    let served = scene.partner.state().served.clone();
    assert_eq!(
        served.iter().map(|(body, _)| body.clone()).collect::<Vec<_>>(),
        (1..=40).map(|night| format!("night {night}")).collect::<Vec<_>>()
    );
    assert!(served.iter().any(|(_, pair)| *pair == old) && served.last().expect("served").1 == new);
    let told = scene.told().await;
    assert_eq!((told.0, told.2), (TokenOutcome::Refused, new), "the owner was not told: {}", told.3);
}
