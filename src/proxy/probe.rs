//! Probes: a new key pair is tried at each upstream before traffic uses it, and again after a refusal.
//!
//! One worker does this for all. A probe is a handshake, which can only find a pair refused, or a HEAD of a configured
//! path, which can prove it. `keyring::proved` decides what is due, and when; a probe that cannot connect proves
//! nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderValue, USER_AGENT};
use http::uri::Scheme;
use http::{Method, Request, Uri};
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::Error;
use super::body::Outgoing;
use super::egress::authority;
use super::fields::Strip;
use super::forward::Terms;
use super::link::Destination;
use super::proof::{self, Proof, fact};
use super::replay::Replay;
use super::token::Bearing;
use super::upstream::{Chosen, Showing, Towards};
use super::worker::Worker;
use crate::keyring::Probe;
use crate::snapshot::{Egress, Epoch};
use crate::tls::recorder::{Recorder, Settled};

/// How long a probe waits for an upstream to refuse a pair after the handshake.
const REFUSES_WITHIN: Duration = Duration::from_secs(1);

/// Starts the probes that are due. Called at each epoch and each tick, by one worker.
pub(super) fn look(worker: &Rc<Worker>) {
    for (egress, epoch) in worker.egresses() {
        let upstream = worker.upstream(&egress.settings.name);
        let towards = Towards { worker, egress: &egress, epoch, upstream: &upstream };
        // Also where there is nothing to probe: a pair that is alone now is trusted when another one replaces it.
        worker.shared.verdicts.take(towards.of());
        if egress.settings.probe == Probe::Off || upstream.probing.get() {
            continue;
        }
        let Ok(chosen) = towards.choose() else { continue };
        if !chosen.is_only() && worker.shared.verdicts.probe_due(towards.of(), &chosen.order).is_some() {
            upstream.probing.set(true);
            spawn_local(run(Rc::clone(worker), Arc::clone(&egress), epoch, chosen));
        }
    }
}

async fn run(worker: Rc<Worker>, egress: Arc<Egress>, epoch: Epoch, chosen: Rc<Chosen>) {
    let upstream = worker.upstream(&egress.settings.name);
    let towards = Towards { worker: &worker, egress: &egress, epoch, upstream: &upstream };
    let key_pair = chosen.order.pairs[0];
    let made = match &egress.settings.probe {
        Probe::Head(path) => head(towards, chosen, path).await,
        Probe::Handshake | Probe::Off => {
            handshake(towards, chosen).await;
            true
        }
    };
    if made {
        worker.shared.verdicts.probed(towards.of(), key_pair);
    }
    upstream.probing.set(false);
}

/// Performs a handshake, then waits a moment for an alert.
async fn handshake(towards: Towards<'_>, chosen: Rc<Chosen>) {
    let key_pair = chosen.order.pairs[0];
    let showing = Showing::preferred(towards, chosen);
    let ready = match showing.attempt(false).await {
        Ok(ready) => ready,
        Err(Error::Refused { said: true, reason, explanation }) => {
            fact::alert(towards, key_pair, reason, &explanation);
            return;
        }
        // The handshake's own line explains why; traffic will show the same.
        Err(_) => return,
    };
    let (mut stream, heard) = Recorder::new(ready.tls.stream);
    let proof = Proof::new(towards, (ready.connection, key_pair), ready.tls.facts, heard);
    let waits = Instant::now() + REFUSES_WITHIN.max(ready.round * 2);
    let settled = if proof.is_open_question() { stream.settle(waits, true).await } else { Settled::Taken };
    if settled != Settled::Ended {
        // Sends close_notify, so that the upstream logs no error. The probe does not wait for it.
        spawn_local(async move { timeout(REFUSES_WITHIN, stream.shutdown()).await });
        towards.worker.shared.verdicts.probed(towards.of(), key_pair);
        fact::handshake(towards, key_pair);
    } else if let Some(Error::Refused { reason, explanation, .. }) = proof.failed(towards) {
        fact::alert(towards, key_pair, reason, &explanation);
    }
}

/// Sends a HEAD of `path` as the canary. False if a request is the canary now: then the probe is made later.
async fn head(towards: Towards<'_>, chosen: Rc<Chosen>, path: &str) -> bool {
    let settings = &towards.egress.settings;
    let host = HeaderValue::try_from(authority(&settings.upstream)).expect("a configured host and port are plain text");
    let uri = Uri::try_from(path).expect("a configured path was parsed as one");
    let Some(showing) = Showing::canary(towards, chosen) else { return false };
    let mut request = Request::new(Outgoing::Empty);
    *request.method_mut() = Method::HEAD;
    *request.uri_mut() = uri;
    request.headers_mut().insert(HOST, host.clone());
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("sidekey-probe"));
    let mut replay = Replay::new(request, 0);
    // Without its token a request may be refused whatever pair it shows, which would prove nothing.
    let mut bearing = towards.egress.bearer.as_ref().map(|bearer| Bearing::new(towards, bearer));
    let strip = Rc::<Strip>::default();
    let terms = Terms { limits: &settings.limits, strip: &strip, waits: towards.worker.waits() };
    let to = Destination { host, scheme: Scheme::HTTPS };
    if let Ok((_, link)) = proof::exchange(&showing, &mut replay, bearing.as_mut(), &to, &terms).await {
        link.finish();
    }
    true
}
