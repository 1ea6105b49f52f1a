use super::*;
use crate::clock::Clock;
use crate::process::{ShutdownWatch, shutdown_channel};

const HOUR: Duration = Duration::from_secs(3600);
const IMMEDIATE_SHUTDOWN: ShutdownSettings =
    ShutdownSettings { delay: Duration::ZERO, drain: HOUR, egress_linger: Duration::ZERO };

struct ShutdownFixture {
    told: mpsc::Sender<ProcessSignal>,
    shutdown: ShutdownWatch,
    progress: Arc<DrainProgress>,
    reload: Arc<Notify>,
}

/// With an egress, and clients that watch `/readyz` or none.
fn shutdown_fixture(
    settings: ShutdownSettings,
    is_watched: bool,
) -> (ShutdownFixture, impl Future<Output = ShutdownOutcome>) {
    let (told, receiver) = mpsc::channel(4);
    let (stopping, shutdown) = shutdown_channel();
    let (progress, reload) = (DrainProgress::new(), Arc::new(Notify::new()));
    let (clock, _) = Clock::manual("2026-11-25T09:00:00Z".parse().unwrap());
    let rules = ShutdownRules { settings, has_egress: true, on_terminal: false, readiness: Arc::default(), clock };
    if is_watched {
        rules.readiness.record_request(rules.clock.now());
    }
    let end = run_shutdown(receiver, stopping, rules, Arc::clone(&progress), Arc::clone(&reload), async {});
    (ShutdownFixture { told, shutdown, progress, reload }, end)
}

#[tokio::test]
async fn stopping_waits_for_ingress_then_for_egress() {
    let (mut stage, end) = shutdown_fixture(IMMEDIATE_SHUTDOWN, false);
    let (peer, application) = (stage.progress.ingress.track_connection(), stage.progress.egress.track_connection());
    let follow = async {
        stage.told.send(ProcessSignal::Stop).await.unwrap();
        stage.shutdown.wait_for_phase(ShutdownPhase::DrainIngress).await;
        assert_eq!(stage.shutdown.phase(), ShutdownPhase::DrainIngress);
        assert_eq!(stage.progress.ingress.open_connections(), 1);
        drop(peer);
        stage.shutdown.wait_for_phase(ShutdownPhase::DrainEgress).await;
        assert_eq!(stage.shutdown.phase(), ShutdownPhase::DrainEgress);
        drop(application);
        stage.shutdown.wait_for_phase(ShutdownPhase::Over).await;
    };
    let (ended, ()) = tokio::join!(end, follow);
    assert_eq!(ended, ShutdownOutcome::Drained { left: 0 });
}

#[tokio::test]
async fn what_a_listener_has_accepted_when_it_closes_is_waited_for() {
    let (mut stage, end) = shutdown_fixture(IMMEDIATE_SHUTDOWN, false);
    let listeners = stage.progress.ingress.track_listeners();
    let follow = async {
        stage.told.send(ProcessSignal::Stop).await.unwrap();
        stage.shutdown.wait_for_phase(ShutdownPhase::DrainIngress).await;
        assert_eq!(stage.shutdown.phase(), ShutdownPhase::DrainIngress);
        let peer = stage.progress.ingress.track_connection();
        drop(listeners);
        tokio::task::yield_now().await;
        assert_eq!(stage.shutdown.phase(), ShutdownPhase::DrainIngress);
        drop(peer);
    };
    assert_eq!(tokio::join!(end, follow).0, ShutdownOutcome::Drained { left: 0 });
}

#[tokio::test]
async fn a_second_signal_leaves_at_once() {
    let (stage, end) = shutdown_fixture(ShutdownSettings { delay: HOUR, ..IMMEDIATE_SHUTDOWN }, true);
    let _peer = stage.progress.ingress.track_connection();
    stage.told.send(ProcessSignal::Stop).await.unwrap();
    stage.told.send(ProcessSignal::Stop).await.unwrap();
    assert_eq!(end.await, ShutdownOutcome::Hurried);
    assert_eq!(stage.shutdown.phase(), ShutdownPhase::Over);
}

#[tokio::test]
async fn the_delay_is_left_out_where_no_client_watches_readyz() {
    let (stage, end) = shutdown_fixture(ShutdownSettings { delay: HOUR, ..IMMEDIATE_SHUTDOWN }, false);
    stage.told.send(ProcessSignal::Stop).await.unwrap();
    assert_eq!(end.await, ShutdownOutcome::Drained { left: 0 });
}

#[tokio::test]
async fn the_deadline_closes_what_is_left() {
    let (stage, end) = shutdown_fixture(ShutdownSettings { drain: Duration::ZERO, ..IMMEDIATE_SHUTDOWN }, false);
    let _peer = stage.progress.ingress.track_connection();
    stage.told.send(ProcessSignal::Stop).await.unwrap();
    assert_eq!(end.await, ShutdownOutcome::Drained { left: 1 });
}

#[tokio::test]
async fn egress_has_what_ingress_leaves_of_the_drain() {
    let drain = Duration::from_millis(20);
    let (mut stage, end) = shutdown_fixture(ShutdownSettings { drain, ..IMMEDIATE_SHUTDOWN }, false);
    let _peer = stage.progress.ingress.track_connection();
    let _application = stage.progress.egress.track_connection();
    let follow = async {
        stage.told.send(ProcessSignal::Stop).await.unwrap();
        stage.shutdown.wait_for_phase(ShutdownPhase::DrainEgress).await;
        assert_eq!(stage.shutdown.phase(), ShutdownPhase::Over, "it has waited a second time");
    };
    assert_eq!(tokio::join!(end, follow).0, ShutdownOutcome::Drained { left: 2 });
}

#[tokio::test]
async fn a_reload_is_passed_on_and_stops_nothing() {
    let (stage, end) = shutdown_fixture(IMMEDIATE_SHUTDOWN, false);
    stage.told.send(ProcessSignal::Reload).await.unwrap();
    let follow = async {
        stage.reload.notified().await;
        assert_eq!(stage.shutdown.phase(), ShutdownPhase::Running);
        stage.told.send(ProcessSignal::Stop).await.unwrap();
    };
    assert_eq!(tokio::join!(end, follow).0, ShutdownOutcome::Drained { left: 0 });
}

#[test]
fn the_first_line_says_what_is_waited_for() {
    let progress = DrainProgress::new();
    let settings = ShutdownSettings { delay: Duration::from_millis(4500), ..ShutdownSettings::default() };
    let nothing = ShutdownSettings { delay: Duration::ZERO, egress_linger: Duration::ZERO, ..settings };
    assert_eq!(describe_waits(nothing, &progress), "nothing");
    let _peers = [progress.ingress.track_connection(), progress.ingress.track_connection()];
    let _application = progress.egress.track_connection();
    assert_eq!(
        describe_waits(settings, &progress),
        "readiness delay of 5 s, 2 ingress connections, egress linger of 5 s, 1 egress connection"
    );
}
