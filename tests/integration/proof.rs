//! Is our new pair accepted by an upstream, and what becomes of requests where it is not.
//!
//! Must hold, across a rotation that an upstream refuses, by an alert or by a status, in TLS 1.2 and 1.3, HTTP/1.1 and
//! HTTP/2: the application sees no failure, the upstream's application sees no request twice, the refusal is told, and once
//! the upstream accepts the new pair all requests move to it by themselves.

mod alert;
mod answers;
mod nodes;
mod turns;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use sidekey::event::{DrainRecord, Event, KeyringRecord, UpstreamVerdict, VerdictRecord};
use sidekey::evidence::report::RetireAdvice;
use sidekey::keyring::KeyringEvent::Moved;
use sidekey::keyring::Standing;
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::IssuedKeyPair;
use tokio::net::TcpStream;

use crate::support::ca::{Ca, fingerprint, today};
use crate::support::eventually;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};
use crate::support::upstream::{Plan, Upstream};

/// An egress whose pair is about to be replaced by one of another CA.
struct Scene {
    sidecar: Sidecar,
    upstream: Upstream,
    now: Timestamp,
    old_ca: Ca,
    new_ca: Ca,
    old: IssuedKeyPair,
    new: IssuedKeyPair,
    /// Verdicts on the new pair that came while something else was waited for.
    verdicts: VecDeque<(UpstreamVerdict, &'static str)>,
}

impl Scene {
    /// An upstream that accepts only the old CA and does not say so in its CertificateRequest.
    async fn set(extra: &str, plan: impl FnOnce(&mut Plan)) -> Self {
        let (old_ca, new_ca) = (Ca::new("Old CA"), Ca::new("New CA"));
        let (old, new) = (old_ca.client("ours", 5), new_ca.client("ours", 1));
        let mut planned = Plan { names_authorities: false, ..Plan::new(&old_ca.server(5), &["http/1.1"]) };
        plan(&mut planned);
        let upstream = Upstream::with(planned, &[old_ca.pem()]).await;
        let (folder, now) = (folder(), today());
        drop_pair(folder.path(), "out/tls", &old);
        put(folder.path(), "out/ca.crt", old_ca.pem());
        let toml = format!(
            "certs = \"certs\"\nworkers = 2\n[[egress]]\nname = \"out\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://127.0.0.1:{}\"\nserver_name = \"localhost\"\nkeyring = \"out\"\n{extra}\n",
            upstream.address.port()
        );
        let sidecar = Sidecar::start_at(folder, &toml, now).await;
        Self { sidecar, upstream, now, old_ca, new_ca, old, new, verdicts: VecDeque::new() }
    }

    fn address(&self) -> SocketAddr {
        self.sidecar.egress("out")
    }

    /// Drops the new pair, and waits until it is current.
    async fn rotate(&mut self) {
        drop_pair(self.sidecar.folder.path(), "out/new", &self.new);
        let new = fingerprint(&self.new);
        let verdicts = &mut self.verdicts;
        // Workers may have taken the new epoch over before the writer has told that it began.
        let rotated = |event: &Event| match event {
            Event::Keyring(KeyringRecord { event: Moved { key_pair, to: Standing::Current, .. }, .. }) => {
                Some(*key_pair)
            }
            other => {
                verdicts.extend(verdict_on(new, other));
                None
            }
        };
        assert_eq!(self.sidecar.event("a rotation", rotated).await, new);
    }

    /// The next verdict on the new pair: what it is, and why.
    async fn verdict(&mut self) -> (UpstreamVerdict, &'static str) {
        if let Some(verdict) = self.verdicts.pop_front() {
            return verdict;
        }
        let new = fingerprint(&self.new);
        self.sidecar.event("a verdict on the new pair", move |event| verdict_on(new, event)).await
    }

    /// The next verdict on the new pair of this kind.
    async fn until(&mut self, wanted: UpstreamVerdict) -> &'static str {
        loop {
            let (verdict, reason) = self.verdict().await;
            if verdict == wanted {
                return reason;
            }
        }
    }

    fn move_by(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.sidecar.move_to(self.now);
    }

    /// Which pair brought each request to the upstream's application, in order.
    fn pairs(&self) -> Vec<Fingerprint> {
        self.upstream.seen().into_iter().map(|(pair, _)| pair).collect()
    }

    /// What the rotation report advises.
    fn advice(&self) -> RetireAdvice {
        let snapshot = self.sidecar.app.reader().latest();
        let reports = self.sidecar.app.events().report(&snapshot.keyrings_in_overlap(), &snapshot.contacts());
        reports.first().expect("an overlap").verdict.retire
    }

    fn metric(&self, line: &str) -> u64 {
        let text = self.sidecar.app.metrics_text();
        let found = text.lines().filter_map(|found| found.strip_prefix(line)?.trim().parse::<u64>().ok());
        found.sum()
    }
}

fn verdict_on(wanted: Fingerprint, event: &Event) -> Option<(UpstreamVerdict, &'static str)> {
    match event {
        Event::Upstream(VerdictRecord { key_pair, verdict, reason, .. }) if *key_pair == wanted => {
            Some((*verdict, *reason))
        }
        _ => None,
    }
}

/// The application's connection.
struct Application(SendRequest<Full<Bytes>>);

impl Application {
    async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.expect("connected");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self(sender)
    }

    async fn ask(&mut self, method: &Method, id: u64, body: &Bytes) -> (StatusCode, Bytes) {
        self.ask_for("/path", method, id, body).await
    }

    async fn ask_for(&mut self, path: &str, method: &Method, id: u64, body: &Bytes) -> (StatusCode, Bytes) {
        self.0.ready().await.expect("the application's connection was closed");
        let request = Request::builder().method(method).uri(path).header("host", "app").header("id", id);
        let request = request.body(Full::new(body.clone())).expect("a request");
        let response = self.0.send_request(request).await.expect("an answer");
        let status = response.status();
        (status, response.into_body().collect().await.expect("a body").to_bytes())
    }
}

async fn ask(scene: &Scene, method: Method) -> u16 {
    ask_for(scene, "/path", method).await
}

/// Asks once, on a connection of its own.
async fn ask_for(scene: &Scene, path: &str, method: Method) -> u16 {
    let mut application = Application::connect(scene.address()).await;
    application.ask_for(path, &method, 0, &Bytes::from("body")).await.0.as_u16()
}

/// A mixed load until it is told to end: GET and POST, bodies from nothing to 64 KiB, every request with a number.
struct Load {
    done: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: tokio::task::JoinSet<()>,
}

impl Load {
    fn start(to: SocketAddr) -> Self {
        let (done, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..4_usize {
            let (done, sent) = (Arc::clone(&done), Arc::clone(&sent));
            clients.spawn(async move {
                let mut application = Application::connect(to).await;
                for turn in client.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = sent.fetch_add(1, Ordering::Relaxed);
                    let size = [0, 1, 1000, 16 * 1024, 64 * 1024][turn % 5];
                    let body = Bytes::from(vec![b'a' + u8::try_from(turn % 26).expect("small"); size]);
                    let method = [Method::POST, Method::GET, Method::PUT][turn % 3].clone();
                    let body = if method == Method::GET { Bytes::new() } else { body };
                    let (status, answer) = application.ask(&method, id, &body).await;
                    assert_eq!(status, 200, "{method} {id}");
                    assert!(answer == body, "{method} {id}: another body");
                    // A busy loop would leave the machine no time for the rotation itself.
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            });
        }
        Self { done, sent, clients }
    }

    /// Waits until so many more requests have been begun.
    async fn more(&self, count: u64) {
        let wanted = self.sent.load(Ordering::Relaxed) + count;
        eventually("more requests", || self.sent.load(Ordering::Relaxed) >= wanted || self.clients.is_empty()).await;
    }

    async fn end(mut self) {
        self.done.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("the application saw a failure");
        }
    }
}

/// No request reached the upstream's application twice.
fn none_twice(scene: &Scene) {
    let mut ids: Vec<String> = scene.upstream.seen().iter().map(|(_, seen)| seen.header("id")).collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all, "a request was processed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_status_is_never_seen_and_never_a_proof() {
    for (alpn, status, code) in [("http/1.1", 400, "status_400"), ("h2", 403, "status_403")] {
        let mut scene = Scene::set("", |plan| plan.alpn = vec![alpn.to_owned()]).await;
        let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
        // The handshake is completed with every client: what nginx does with ssl_verify_client.
        scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
        scene.upstream.refuse(new, status);
        let load = Load::start(scene.address());
        load.more(50).await;
        scene.rotate().await;
        assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "probe"));
        assert_eq!(scene.verdict().await, (UpstreamVerdict::Refused, code));
        load.more(200).await;
        assert!(scene.pairs().iter().all(|pair| *pair == old));
        scene.move_by(31);
        assert_eq!(scene.verdict().await, (UpstreamVerdict::Refused, code));
        assert_eq!(scene.metric("sidekey_replays_total{listener=\"out\",why=\"status\"}"), 2);
        let refusals = format!("sidekey_key_pair_refusals_total{{side=\"egress\",listener=\"out\",alert=\"{code}\"}}");
        assert_eq!(scene.metric(&refusals), 2, "each on a connection of its own");
        scene.upstream.accept_every_pair();
        scene.move_by(61);
        assert_eq!(scene.verdict().await, (UpstreamVerdict::Proved, "response"));
        load.more(100).await;
        load.end().await;
        none_twice(&scene);
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs().last(), Some(&new));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_with_a_path_proves_the_pair_where_there_are_only_posts() {
    let mut scene = Scene::set("probe = { path = \"/healthz\" }", |_| {}).await;
    let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
    scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
    scene.upstream.refuse(new, 403);
    scene.rotate().await;
    assert_eq!(scene.verdict().await, (UpstreamVerdict::Refused, "status_403"));
    for _ in 0..5 {
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs().last(), Some(&old));
    }
    scene.upstream.accept_every_pair();
    scene.move_by(31);
    assert_eq!(scene.verdict().await, (UpstreamVerdict::Proved, "response"));
    let probes: Vec<_> = scene.upstream.seen().into_iter().filter(|(_, seen)| seen.uri.path() == "/healthz").collect();
    assert!(probes.iter().all(|(_, seen)| seen.header("user-agent") == "sidekey-probe"));
    assert_eq!(probes.last().map(|(pair, _)| *pair), Some(new));
    assert_eq!(ask(&scene, Method::POST).await, 200);
    assert_eq!(scene.pairs().last(), Some(&new));
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_alone_try_the_pair_after_prove_within_and_go_back_at_the_first_refusal() {
    for alpn in ["http/1.1", "h2"] {
        let mut scene = Scene::set("prove_within = \"10m\"", |plan| plan.alpn = vec![alpn.to_owned()]).await;
        let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
        scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
        scene.rotate().await;
        assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "probe"));
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs().last(), Some(&old));
        // Refused with an alert: the request is held until it has come, and goes on with the previous pair.
        scene.upstream.accept(&[scene.old_ca.pem()]);
        scene.move_by(601);
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "prove_within"));
        assert_eq!(scene.verdict().await, (UpstreamVerdict::Refused, "refused_unknown_ca"));
        assert_eq!(scene.pairs(), vec![old; 2]);
        // Refused with a status: the one POST is not sent again, and all others go back to the previous pair.
        scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
        scene.upstream.refuse(new, 403);
        scene.move_by(31);
        assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "probe"));
        assert_eq!(ask(&scene, Method::POST).await, 200);
        scene.move_by(600);
        assert_eq!(ask(&scene, Method::POST).await, 403);
        assert_eq!(scene.until(UpstreamVerdict::Refused).await, "status_403");
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs(), vec![old; 4]);
        // Accepted at last, after the longer pause.
        scene.upstream.accept_every_pair();
        scene.move_by(61);
        scene.move_by(600);
        // A probe comes first, in its own time.
        while scene.pairs().last() != Some(&new) {
            assert_eq!(ask(&scene, Method::POST).await, 200);
        }
        assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proved_pair_that_is_refused_later_is_replayed_whatever_the_method() {
    for alpn in ["http/1.1", "h2"] {
        let mut scene = Scene::set("", |plan| plan.alpn = vec![alpn.to_owned()]).await;
        let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
        scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
        scene.rotate().await;
        assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "probe"));
        assert_eq!(ask(&scene, Method::GET).await, 200);
        assert_eq!(scene.until(UpstreamVerdict::Proved).await, "response");
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs(), vec![new; 2]);
        scene.upstream.accept(&[scene.old_ca.pem()]);
        scene.upstream.hang_up();
        eventually("hung up", || scene.upstream.open(new) == 0).await;
        let mut asking = tokio::task::JoinSet::new();
        let address = scene.address();
        for id in 0..20 {
            asking.spawn(async move {
                let mut application = Application::connect(address).await;
                let body = Bytes::from(vec![b'x'; 64 * 1024]);
                application.ask(&Method::POST, id, &body).await
            });
        }
        while let Some(answer) = asking.join_next().await {
            let (status, body) = answer.expect("an answer");
            assert_eq!((status.as_u16(), body.len()), (200, 64 * 1024));
        }
        assert_eq!(scene.until(UpstreamVerdict::Refused).await, "refused_unknown_ca");
        assert_eq!(scene.pairs()[2..], vec![old; 20]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_names_only_the_new_ca_needs_no_canary() {
    let mut scene = Scene::set("", |plan| plan.names_authorities = true).await;
    let new = fingerprint(&scene.new);
    assert_eq!(ask(&scene, Method::POST).await, 200);
    scene.upstream.accept(&[scene.new_ca.pem()]);
    scene.upstream.hang_up();
    eventually("hung up", || scene.upstream.open(fingerprint(&scene.old)) == 0).await;
    scene.rotate().await;
    for _ in 0..5 {
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs().last(), Some(&new));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_retired_pair_leave_the_pool() {
    for alpn in ["http/1.1", "h2"] {
        let mut scene = Scene::set("[keyring.out]\noverlap = \"1d\"", |plan| plan.alpn = vec![alpn.to_owned()]).await;
        let (old, new) = (fingerprint(&scene.old), fingerprint(&scene.new));
        scene.upstream.accept(&[scene.old_ca.pem(), scene.new_ca.pem()]);
        assert_eq!(ask(&scene, Method::POST).await, 200);
        scene.rotate().await;
        assert_eq!(scene.verdict().await, (UpstreamVerdict::HandshakeOk, "probe"));
        // POSTs alone: the new pair is not proved, the old one goes on serving, with connections that are kept.
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs(), vec![old; 2]);
        assert!(scene.upstream.open(old) > 0);
        scene.move_by(24 * 3600 + 1);
        let drained = |event: &Event| match event {
            Event::Drained(DrainRecord { reason, .. }) => Some(*reason),
            _ => None,
        };
        assert_eq!(scene.sidecar.event("drained", drained).await, "overlap_ended");
        // The pair that is left needs no proof, and shares no connection with the one that has gone.
        assert_eq!(ask(&scene, Method::POST).await, 200);
        assert_eq!(scene.pairs().last(), Some(&new));
        eventually("the retired pair's connections are closed", || scene.upstream.open(old) == 0).await;
    }
}
