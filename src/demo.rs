//! `sidekey demo`: two real sidecars, a steady load through both, and a live rotation to pairs of a new CA on both sides.
//!
//! It goes the way an operator goes: first each side adds the new CA to its trust (both are accepted), then the
//! new pairs are dropped into the watched folders. It uses nothing that a user's sidecar does not use; the demonstration
//! is the product. The caller's [`DemoStage`] decides how it is displayed.

mod backend;
mod load;
mod scene;
mod stage;
mod stranger;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{Event, EventFollower};
use crate::pki::Fingerprint;
use crate::snapshot::Side;
use crate::tls::HandshakeOutcome;

pub use load::ServedRequests;
pub use scene::DemoError;
use scene::{DemoAuthority, DemoScene};
pub use stage::{DemoOptions, DemoStage};

/// How long the load runs in each of its three parts.
const PART: Duration = Duration::from_secs(4);
/// Requests a second.
const RATE: u32 = 500;

/// What came results.
pub struct DemoReport {
    /// Requests and latencies.
    pub served: ServedRequests,
    /// The client pair before and after.
    pub client: (Fingerprint, Fingerprint),
    /// The server pair before and after.
    pub server: (Fingerprint, Fingerprint),
    /// From the drop to the first handshake that showed the partner's new server pair.
    pub server_took: Option<Duration>,
    /// From the drop to the first handshake that showed our new client pair.
    pub client_took: Option<Duration>,
    /// Where everything is, if it was kept.
    pub folder: Option<PathBuf>,
}

impl DemoReport {
    /// Nothing lost, and both new pairs were shown.
    pub fn is_good(&self) -> bool {
        self.served.lost == 0
            && self.served.answered > 0
            && self.server_took.is_some()
            && self.client_took.is_some()
            && self.served.by_pair.get(&self.client.1).is_some_and(|count| *count > 0)
    }
}

/// Runs it, start to end.
pub async fn run(stage: Arc<dyn DemoStage>, wishes: DemoOptions) -> Result<DemoReport, DemoError> {
    let mut scene = DemoScene::set(&wishes).await?;
    introduce(&*stage, &scene);

    let total = u64::from(RATE) * PART.as_secs() * 3;
    let load = tokio::spawn(load::start(scene.egress_url(), RATE, PART * 3, {
        let stage = Arc::clone(&stage);
        move |answered, lost| stage.progress(answered, total, lost)
    }));

    stage.part("before: both sides show key pairs from the old CA");
    let before = Instant::now();
    scene.show_handshakes(&*stage, before + Duration::from_secs(1)).await;
    tokio::time::sleep_until((before + PART).into()).await;

    stage.part("both sides add the new CA to their trust: certificates of both CAs are accepted");
    scene.trust_both()?;
    scene.show_changes(&*stage, Duration::from_millis(800)).await;

    stage.part("during: new key pairs from the new CA are dropped into both folders");
    let mut partner_events = scene.partner.events().subscribe();
    let dropped = Instant::now();
    scene.drop_pairs(DemoAuthority::New)?;
    let (client, server) = (scene.fingerprints(Side::Egress), scene.fingerprints(Side::Ingress));
    let (server_took, client_took) = first_shown(&mut partner_events, server.1, client.1, dropped).await;
    scene.show_changes(&*stage, Duration::from_millis(800)).await;

    stage.part("after: the rest of the load runs on the new key pairs");
    let served = load.await.map_err(|error| DemoError::new("the load generator ended early", error))?;
    stage.progress_ends();
    scene.show_changes(&*stage, Duration::from_millis(200)).await;

    stage.part("what a refused handshake looks like");
    stranger::attempt_as_stranger(&scene, &*stage).await?;

    let mut outcomes = DemoReport { served, client, server, server_took, client_took, folder: None };
    if wishes.serve {
        stage.part("try it");
        scene.keep_old_pairs()?;
        scene.try_next(&*stage);
        scene.until_told(&*stage).await;
    }
    outcomes.folder = scene.shut_down(&wishes).await;
    Ok(outcomes)
}

fn introduce(stage: &dyn DemoStage, scene: &DemoScene) {
    stage.part("two sidecars on this machine");
    stage.print_line(&format!("folder      {}", scene.folder().display()));
    stage.print_line(&format!("application → {}  our sidecar, egress \"partner\"", scene.egress_url()));
    stage.print_line(&format!(
        "            ⇒ {}  the partner's sidecar, ingress \"orders\", mutual TLS",
        scene.ingress_url()
    ));
    stage.print_line(&format!("            → {}  the partner's application, an echo server", scene.backend_url()));
}

/// Waits until the partner's ingress has shown `server`, and has been shown `client`; at most five seconds.
async fn first_shown(
    events: &mut EventFollower,
    server: Fingerprint,
    client: Fingerprint,
    since: Instant,
) -> (Option<Duration>, Option<Duration>) {
    let (mut server_took, mut client_took) = (None, None);
    let deadline = since + Duration::from_secs(5);
    while server_took.is_none() || client_took.is_none() {
        let Ok(Some(event)) = tokio::time::timeout_at(deadline.into(), events.next()).await else { break };
        let Event::Handshake(handshake) = event else { continue };
        if handshake.outcome != HandshakeOutcome::Accepted {
            continue;
        }
        if handshake.key_pair == Some(server) {
            server_took.get_or_insert(since.elapsed());
        }
        if handshake.peer.as_ref().is_some_and(|peer| peer.fingerprint == client) {
            client_took.get_or_insert(since.elapsed());
        }
    }
    (server_took, client_took)
}
