//! `[ingress.jwt]` and the JWK Set, over real mutual TLS, with tokens of our own and of PyJWT.
//!
//! Must hold: a request passes with a token that a listed certificate of the partner signed, that the peer itself is, and
//! once; nothing else passes, and the answer says what kind of wrong and not why; the set holds what signs now, what will and
//! what did, and an independent library verifies our tokens with it.

mod pyjwt;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value};
use sidekey::jwt::{TokenClaims, sign};
use sidekey::pki::issue::IssuedKeyPair;
use sidekey::pki::{KeyPair, blocks};

use crate::handshake::{Stand, stand_with};
use crate::support::ca::{Ca, certificate, fingerprint, later, today};
use crate::support::peer::{Answer, Peer};
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, eventually};

const AUDIENCE: &str = "https://orders.example.com";

/// An ingress that wants tokens of partner acme, which is every peer that shows `acme.example`.
struct Scene {
    stand: Stand,
    acme: IssuedKeyPair,
    other: IssuedKeyPair,
    /// What acme signs tokens with: the second of two listed certificates.
    signer: IssuedKeyPair,
}

const PARTNERS: &str = r#"
[partner.acme]
anchors = ["trust/ca.pem"]
peers = [{ uri = "spiffe://acme.example/**" }]
[partner.other]
anchors = ["trust/ca.pem"]
peers = [{ uri = "spiffe://other.example/**" }]
"#;

const JWT: &str = r#"
jwks = true
[ingress.jwt]
partner = "acme"
certificates = ["trust/acme-jwt.pem"]
audience = "https://orders.example.com"
"#;

impl Scene {
    async fn set() -> Self {
        let theirs = Ca::new("Acme CA");
        let (first, signer) = (theirs.client("signer-1", 20), theirs.client("signer-2", 5));
        let listed = format!("{}{}", first.chain_pem, signer.chain_pem);
        let fill = |folder: &Path, ca: &Ca| {
            put(folder, "trust/acme-jwt.pem", &listed);
            put(folder, "trust/ca.pem", ca.pem());
        };
        let stand = stand_with(PARTNERS, JWT, None, fill).await;
        let (acme, other) = (stand.ca.client("acme", 5), stand.ca.client("other", 5));
        Self { stand, acme, other, signer }
    }

    async fn ask(&self, pair: &IssuedKeyPair, fields: &[(&str, &str)]) -> Answer {
        let peer = Peer::new(&[self.stand.ca.pem()], Some(pair));
        let mut request = Request::get("/orders").body(Full::<Bytes>::default()).expect("a request");
        for (name, value) in fields {
            request
                .headers_mut()
                .append(http::HeaderName::try_from(*name).expect("a name"), value.parse().expect("a value"));
        }
        let mut connection = peer.connect(self.stand.sidecar.ingress("api")).await.expect("connected");
        connection.send(request).await.expect("answered")
    }

    async fn with(&self, pair: &IssuedKeyPair, token: &str) -> Answer {
        self.ask(pair, &[("authorization", &format!("Bearer {token}"))]).await
    }

    fn challenge(answer: &Answer) -> &str {
        answer.headers.get("www-authenticate").and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The reason of the last refusal in the access log.
    fn reason(&self) -> String {
        let log = self.stand.sidecar.log();
        let line = log.iter().rev().find(|line| line["target"] == "access").expect("an access line");
        line["reason"].as_str().unwrap_or_default().to_owned()
    }
}

fn key_pair(issued: &IssuedKeyPair) -> Arc<KeyPair> {
    let both = format!("{}{}", issued.chain_pem, *issued.key_pem);
    let read = blocks::read(&zeroize::Zeroizing::new(both.into_bytes()), None);
    KeyPair::new(read.certificates, Arc::clone(&read.keys[0]), Vec::new()).expect("a pair")
}

fn token(issued: &IssuedKeyPair, id: &str) -> String {
    let more = Map::new();
    let lifetime = std::time::Duration::from_secs(120);
    let claims = TokenClaims { issuer: "acme", subject: "sync", audience: AUDIENCE, lifetime, id, more: &more };
    sign(&key_pair(issued), None, &claims, today()).expect("a token")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_passes_with_a_token_of_the_partner_that_the_peer_is_and_once() {
    let scene = Scene::set().await;
    let good = token(&scene.signer, "1");
    let answer = scene.with(&scene.acme, &good).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        scene.stand.backend.last().header("authorization"),
        format!("Bearer {good}"),
        "the application may read it"
    );
    let again = scene.with(&scene.acme, &good).await;
    assert_eq!(
        (again.status, Scene::challenge(&again)),
        (StatusCode::UNAUTHORIZED, "Bearer realm=\"api\", error=\"invalid_token\"")
    );
    assert_eq!(&again.body[..], b"401 Unauthorized\n");
    assert_eq!(scene.reason(), "jwt_replayed");
    // Another partner's certificate with acme's token.
    let stolen = scene.with(&scene.other, &token(&scene.signer, "2")).await;
    assert_eq!(stolen.status, StatusCode::UNAUTHORIZED);
    assert_eq!(scene.reason(), "jwt_other_peer");
    for (fields, status, challenge, reason) in [
        (&[][..], 401, "Bearer realm=\"api\"", "jwt_missing"),
        (&[("authorization", "Basic YTpi")], 401, "Bearer realm=\"api\"", "jwt_missing"),
        (
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
            400,
            "Bearer realm=\"api\", error=\"invalid_request\"",
            "jwt_not_bearer",
        ),
        (&[("authorization", "Bearer a.b.c")], 401, "Bearer realm=\"api\", error=\"invalid_token\"", "jwt_malformed"),
    ] {
        let answer = scene.ask(&scene.acme, fields).await;
        assert_eq!((answer.status.as_u16(), Scene::challenge(&answer)), (status, challenge), "{fields:?}");
        assert_eq!(scene.reason(), reason);
    }
    assert_eq!(scene.stand.backend.seen().len(), 1, "a refused request reached the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_many_requests_with_one_token_passes() {
    let scene = Scene::set().await;
    let peer = Peer::new(&[scene.stand.ca.pem()], Some(&scene.acme));
    let address = scene.stand.sidecar.ingress("api");
    for round in 0..3 {
        let field = format!("Bearer {}", token(&scene.signer, &format!("round {round}")));
        let ask = |peer: Peer, field: String| async move {
            let request = Request::get("/orders").header("authorization", field).body(Full::default());
            let mut connection = peer.connect(address).await.expect("connected");
            connection.send(request.expect("a request")).await.expect("answered").status
        };
        let all: Vec<_> = (0..12).map(|_| tokio::spawn(ask(peer.clone(), field.clone()))).collect();
        let mut passed = 0;
        for one in all {
            passed += usize::from(one.await.expect("joined") == StatusCode::OK);
        }
        assert_eq!(passed, 1);
    }
}

/// The set that a sidecar's admin listener serves over this folder.
fn key_set(folder: &Path) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let socket = folder.join("admin.sock");
    let toml = format!(
        "certs = \"certs\"\n[admin]\nlisten = \"unix:{}\"\n[[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"p256\"]\nbackend = \"http://127.0.0.1:1\"\n",
        socket.display()
    );
    let config = sidekey::config::parse(&toml, folder).expect("a configuration");
    let (lines, _shown) = sidekey::log::LogQueue::channel(sidekey::log::LogFormat::Json);
    let surroundings = sidekey::app::AppEnvironment { clock: sidekey::clock::Clock::system(), lines };
    let app = sidekey::app::Application::start(config, surroundings).expect("a sidecar");
    let fetched = runtime.block_on(async {
        eventually("the admin listener answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        let stream = tokio::net::UnixStream::connect(&socket).await.expect("connected");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = Request::get("/.well-known/jwks.json").body(Full::<Bytes>::default()).expect("a request");
        request.headers_mut().insert("host", "localhost".parse().expect("a value"));
        let response = sender.send_request(request).await.expect("answered");
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &"application/json".parse().expect("a value"))
        );
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
        String::from_utf8(body.to_vec()).expect("text")
    });
    drop(app);
    fetched
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_that_peers_get_holds_what_waits_what_signs_and_what_signed() {
    let mut scene = Scene::set().await;
    let peer = Peer::new(&[scene.stand.ca.pem()], Some(&scene.other));
    let address = scene.stand.sidecar.ingress("api");
    let kids = || async {
        // No token is needed for it: it is what tokens are verified with.
        let answer = peer.get(address, "/.well-known/jwks.json").await.expect("answered");
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (StatusCode::OK, &"application/json".parse().expect("a value"))
        );
        let set: Value = serde_json::from_slice(&answer.body).expect("JSON");
        set["keys"]
            .as_array()
            .expect("keys")
            .iter()
            .map(|key| key["x5t#S256"].as_str().expect("x5t").to_owned())
            .collect::<Vec<_>>()
    };
    let x5t = |issued: &IssuedKeyPair| sidekey::jwt::key_set::x5t(&certificate(issued));
    let old = scene.stand.server.clone();
    assert_eq!(kids().await, [x5t(&old)]);
    let (staged, new) = (scene.stand.ca.server(3), scene.stand.ca.server(1));
    let marked =
        IssuedKeyPair { chain_pem: format!("{}\n{}", blocks::STAGED_LINE, staged.chain_pem), ..staged.clone() };
    drop_pair(scene.stand.sidecar.folder.path(), "staged", &marked);
    let wanted = fingerprint(&staged);
    let is_staged = |event: &sidekey::event::Event| match event {
        sidekey::event::Event::Keyring(sidekey::event::KeyringRecord {
            event: sidekey::keyring::KeyringEvent::Moved { key_pair, to, .. },
            ..
        }) => (*key_pair == wanted && *to == sidekey::keyring::Standing::Staged).then_some(()),
        _ => None,
    };
    scene.stand.sidecar.event("staged", is_staged).await;
    assert_eq!(kids().await.len(), 2);
    drop_pair(scene.stand.sidecar.folder.path(), "new", &new);
    scene.stand.sidecar.rotation("default").await;
    let mut all = kids().await;
    assert_eq!(all[0], x5t(&new), "what signs comes first");
    all.sort();
    let mut expected = [x5t(&old), x5t(&staged), x5t(&new)].to_vec();
    expected.sort();
    assert_eq!(all, expected);
    assert!(scene.stand.backend.seen().is_empty(), "the application was asked for our keys");
    // Another method is the application's.
    let mut request = Request::post("/.well-known/jwks.json").body(Full::<Bytes>::default()).expect("a request");
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {}", token(&scene.signer, "p")).parse().expect("a value"));
    let post = Peer::new(&[scene.stand.ca.pem()], Some(&scene.acme))
        .connect(address)
        .await
        .expect("connected")
        .send(request)
        .await;
    assert_eq!(post.expect("answered").status, StatusCode::OK);
    assert_eq!(scene.stand.backend.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sidecar_signs_what_another_verifies() {
    let scene = Scene::set().await;
    let folder = folder();
    drop_pair(folder.path(), "out/tls", &scene.acme);
    put(folder.path(), "out/ca.crt", scene.stand.ca.pem());
    drop_pair(folder.path(), "jwt/signer", &scene.signer);
    let port = scene.stand.sidecar.ingress("api").port();
    let toml = format!(
        "certs = \"certs\"\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://localhost:{port}\"\nkeyring = \"out\"\n[egress.jwt_bearer]\nkeyring = \"jwt\"\nissuer = \"acme\"\naudience = \"{AUDIENCE}\"\n"
    );
    let sidecar = Sidecar::start(folder, &toml).await;
    for _ in 0..5 {
        let sent = crate::token::send(sidecar.egress("out"), http::Method::POST, "orders");
        let (status, body) = tokio::time::timeout(PATIENCE, sent).await.expect("in time");
        assert_eq!((status, body.as_str()), (StatusCode::OK, "orders"), "{}", scene.reason());
    }
}

/// The story of the page `docs/stories/identity-provider.md`.
#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_with_an_identity_provider_is_rotated_with_both_pairs_valid_for_thirty_days() {
    let (ours, idp) = (Ca::new("Our CA"), Ca::new("IdP CA"));
    let now = today();
    let (old, new) = (ours.client("app", 5), ours.client("app", 1));
    let (server_old, server_new) = (ours.server(5), ours.server(1));
    // Out: we ask the provider. In: it calls us back.
    let provider = Upstream::start(&idp.server(5), &[ours.pem()], &["http/1.1"]).await;
    let backend = crate::support::backend::Backend::echo().await;
    let folder = folder();
    drop_pair(folder.path(), "idp/2026", &old);
    put(folder.path(), "idp/ca.crt", idp.pem());
    drop_pair(folder.path(), "callback/2026", &server_old);
    put(folder.path(), "callback/ca.crt", idp.pem());
    let toml = format!(
        "certs = \"certs\"\nstate = \"state\"\n[keyring.idp]\noverlap = \"30d\"\n[keyring.callback]\noverlap = \"30d\"\n[[ingress]]\nname = \"callback\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"callback\"]\nbackend = \"http://{}\"\n[[egress]]\nname = \"idp\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://localhost:{}\"\nkeyring = \"idp\"\n",
        backend.address,
        provider.address.port()
    );
    let mut sidecar = Sidecar::start_at(folder, &toml, now).await;
    let (callback, out) = (sidecar.ingress("callback"), sidecar.egress("idp"));
    let back = idp.client("idp", 5);
    // Two nodes of the provider: one has our new certificate's pin, one still the old one's.
    let node = |pinned: &IssuedKeyPair| (Peer::new(&[ours.pem()], Some(&back)).fresh(), fingerprint(pinned));
    let ask = || crate::token::send(out, http::Method::GET, "");
    assert_eq!(ask().await.0, StatusCode::OK);
    assert_eq!(provider.seen().last().expect("seen").0, fingerprint(&old));

    // The day of the rotation: both pairs are dropped, nothing else is done.
    drop_pair(sidecar.folder.path(), "idp/2027", &new);
    sidecar.rotation("idp").await;
    drop_pair(sidecar.folder.path(), "callback/2027", &server_new);
    sidecar.rotation("callback").await;
    let standing = |sidecar: &Sidecar, of: &IssuedKeyPair| {
        let snapshot = sidecar.app.reader().latest();
        let pairs = snapshot.keyrings.iter().flat_map(|keyring| &keyring.key_pairs);
        pairs.filter(|pair| pair.key_pair == fingerprint(of)).map(|pair| pair.standing).next()
    };
    // For ten days the provider refuses the new one, by a status, as such servers do.
    provider.refuse(fingerprint(&new), 403);
    for day in [0, 5, 10, 20, 29] {
        if day == 10 {
            provider.accept_every_pair();
        }
        sidecar.move_to(later(now, day));
        assert_eq!(ask().await.0, StatusCode::OK, "day {day}");
        let shown = || provider.seen().last().expect("seen").0;
        // A pair that was refused rests for a while, and is then tried again, after a probe in its own time.
        let tried = async {
            while day >= 10 && shown() != fingerprint(&new) {
                assert_eq!(ask().await.0, StatusCode::OK, "day {day}");
            }
        };
        tokio::time::timeout(PATIENCE, tried).await.expect("the new pair is shown again");
        assert_eq!(shown(), fingerprint(if day < 10 { &old } else { &new }), "day {day}");
        for (one, other) in [(&old, &new), (&server_old, &server_new)] {
            assert_eq!(standing(&sidecar, one), Some(sidekey::keyring::Standing::Previous), "day {day}");
            assert_eq!(standing(&sidecar, other), Some(sidekey::keyring::Standing::Current), "day {day}");
        }
        let (peer, pinned) = node(&server_new);
        let mut connection = peer.connect(callback).await.expect("the provider calls back");
        assert_eq!(connection.shown, pinned, "day {day}");
        assert_eq!(connection.get("/callback").await.expect("answered").status, StatusCode::OK);
    }
    // The overlap is over: only the new pairs are left, and everything goes on.
    sidecar.move_to(later(now, 31));
    eventually("the old pairs are retired", || {
        [&old, &server_old].iter().all(|one| standing(&sidecar, one) == Some(sidekey::keyring::Standing::Retired))
    })
    .await;
    assert_eq!(ask().await.0, StatusCode::OK);
    assert_eq!(provider.seen().last().expect("seen").0, fingerprint(&new));
}
