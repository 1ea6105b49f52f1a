//! Probes: a new key pair is tried at each upstream before traffic uses it, and again after a refusal.
//!
//! One worker does this for all. A probe is a handshake, which can only find a pair refused, or a HEAD of a configured
//! path, which can prove it. `evidence::proved` decides what is due, and when; a probe that cannot connect proves
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

use super::attempt::UpstreamAttempt;
use super::dial::UpstreamConnection;
use super::resources::{EgressResources, UpstreamRef};
use super::token::RequestTokens;
use super::uncertified::ask_without_certificate;
use super::upstream::UpstreamSelection;
use super::{fact, proof, retry};
use crate::dataplane::exchange::forward::ForwardContext;
use crate::dataplane::exchange::replay::ReplayableRequest;
use crate::dataplane::exchange::request_body::OutgoingBody;
use crate::dataplane::exchange::shape::RequestDestination;
use crate::evidence::ProbeMode;
use crate::http::error::RequestError as Error;
use crate::http::fields::StripList;
use crate::snapshot::{EgressSnapshot, Epoch};
use crate::tls::recorder::{AlertRecorder, SettleOutcome};

/// How long a probe waits for an upstream to refuse a pair after the handshake.
const REFUSAL_WINDOW: Duration = Duration::from_secs(1);

/// Starts the probes that are due. Called at each epoch and each tick, by one worker.
pub(crate) fn start_due_probes(resources: &Rc<EgressResources>) {
    for (egress, epoch) in resources.context.egresses() {
        let upstream = resources.upstream(&egress.settings.name);
        let towards = UpstreamRef { resources, egress: &egress, epoch, upstream: &upstream };
        // Also where there is nothing to probe: a pair that is alone now is trusted when another one replaces it.
        resources.verdicts.sync_epoch(towards.verdict_key());
        if egress.settings.probe == ProbeMode::Off || upstream.probing.get() {
            continue;
        }
        let Ok(chosen) = towards.select() else { continue };
        if !chosen.is_only() && resources.verdicts.probe_due(towards.verdict_key(), &chosen.order).is_some() {
            upstream.probing.set(true);
            spawn_local(run_probe(Rc::clone(resources), Arc::clone(&egress), epoch, chosen));
        }
    }
}

async fn run_probe(
    resources: Rc<EgressResources>,
    egress: Arc<EgressSnapshot>,
    epoch: Epoch,
    chosen: Rc<UpstreamSelection>,
) {
    let upstream = resources.upstream(&egress.settings.name);
    let towards = UpstreamRef { resources: &resources, egress: &egress, epoch, upstream: &upstream };
    match &egress.settings.probe {
        ProbeMode::Head(path) => probe_head(towards, chosen, path).await,
        ProbeMode::Handshake | ProbeMode::Off => {
            let key_pair = chosen.order.pairs[0];
            probe_handshake(towards, chosen).await;
            resources.verdicts.finish_probe(towards.verdict_key(), key_pair);
        }
    }
    upstream.probing.set(false);
}

/// Performs a handshake, then waits a moment for an alert.
async fn probe_handshake(towards: UpstreamRef<'_>, chosen: Rc<UpstreamSelection>) {
    let key_pair = chosen.order.pairs[0];
    let showing = UpstreamAttempt::for_preferred(towards, chosen);
    let ready = match showing.connect_tls(false).await {
        Ok(ready) => ready,
        Err(Error::Refused { said: true, reason, explanation }) => {
            fact::report_alert(towards, (key_pair, showing.node()), reason, &explanation);
            return;
        }
        // The handshake's own line explains why; traffic will show the same.
        Err(_) => return,
    };
    let UpstreamConnection { tls, connection, key_pair: shown, node, round, request, .. } = ready;
    let (mut stream, heard) = AlertRecorder::new(tls.stream);
    if shown != key_pair {
        // The upstream's CertificateRequest led to another pair: nothing was found out about this one.
        spawn_local(async move { timeout(REFUSAL_WINDOW, stream.shutdown()).await });
        return;
    }
    let proof = proof::new_proof(towards, (connection, key_pair, node), (tls.facts, request), heard);
    let waits = Instant::now() + REFUSAL_WINDOW.max(round * 2);
    let settled = if proof.is_undecided() { stream.settle(waits, true).await } else { SettleOutcome::Taken };
    if settled != SettleOutcome::Ended {
        // Sends close_notify, so that the upstream logs no error. The probe does not wait for it.
        spawn_local(async move { timeout(REFUSAL_WINDOW, stream.shutdown()).await });
        towards.resources.verdicts.finish_probe(towards.verdict_key(), key_pair);
        fact::report_handshake(towards, (key_pair, node));
    } else if let Error::Refused { said: true, reason, explanation } = proof::report_early_close(&proof, towards) {
        fact::report_alert(towards, (key_pair, node), reason, &explanation);
    }
}

/// Sends a HEAD of `path` as the canary. If a request is the canary now, the probe is made later.
async fn probe_head(towards: UpstreamRef<'_>, chosen: Rc<UpstreamSelection>, path: &str) {
    let settings = &towards.egress.settings;
    let host =
        HeaderValue::try_from(settings.upstream.https_authority()).expect("a configured host and port are plain text");
    let uri = Uri::try_from(path).expect("a configured path was parsed as one");
    let Some(showing) = UpstreamAttempt::for_canary(towards, chosen) else { return };
    let mut request = Request::new(OutgoingBody::Empty);
    *request.method_mut() = Method::HEAD;
    *request.uri_mut() = uri;
    request.headers_mut().insert(HOST, host.clone());
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("sidekey-probe"));
    let mut replay = ReplayableRequest::new(request, 0);
    // Without its token a request may be refused whatever pair it shows, which would prove nothing.
    let mut bearing = towards.egress.bearer.as_ref().map(|bearer| RequestTokens::new(towards, bearer));
    // Without a certificate, but with the token: the certificate alone must make the difference.
    if let Some(bearing) = &mut bearing {
        let _ = bearing.authorize(&mut replay, showing.pick().key_pair).await;
    }
    let to = RequestDestination { host, scheme: Scheme::HTTPS };
    let public = ask_without_certificate(towards, replay.request(), &to, None).await;
    showing.public.set(public);
    let key_pair = showing.pick().key_pair;
    let strip = Rc::<StripList>::default();
    let client = std::sync::Arc::default();
    let terms =
        ForwardContext { limits: &settings.limits, strip: &strip, waits: towards.context().waits(), client: &client };
    let answered = retry::exchange(&showing, &mut replay, bearing.as_mut(), &to, &terms).await;
    towards.resources.verdicts.finish_probe(towards.verdict_key(), key_pair);
    if let Ok((response, link)) = answered {
        let status = response.status();
        link.finish();
        if public.is_same(status.as_u16()) {
            fact::report_public_path(towards, key_pair, path, status.as_u16());
        }
    }
}
