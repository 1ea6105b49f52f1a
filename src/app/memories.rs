//! The two that remember and remind: the registry and the alerts, following the Events from the first one on.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{Config, platform};
use crate::event::EventFollower;
use crate::process::{ShutdownPhase, ShutdownWatch};
use crate::views::RuntimeViews;
use crate::{alerts, offline, process, registry};

/// What they need beside what every part has.
pub(super) struct RecorderParts {
    /// Subscribed before anything has happened.
    pub(super) followers: [EventFollower; 2],
    /// When the process ends.
    pub(super) shutdown: ShutdownWatch,
    /// Told after the last write to the registry.
    pub(super) recorded: watch::Sender<bool>,
}

/// The channel for changed alert settings, the registry while it is connected, and both tasks in one future, which ends
/// with the registry's last write, when the process ends or a new one has taken over.
pub(super) fn start(
    parts: RecorderParts,
    config: &Config,
    views: &RuntimeViews,
    clock: &Clock,
) -> (watch::Sender<alerts::AlertSettings>, registry::task::CurrentStore, impl Future<Output = ()> + Send + 'static) {
    let [of_registry, of_alerts] = parts.followers;
    let (ending, shutdown) = process::shutdown_channel();
    let mut ends = (parts.shutdown.clone(), parts.shutdown);
    let end = async move {
        tokio::select! {
            () = ends.0.wait_until_handed_over() => {}
            () = ends.1.wait_for_phase(ShutdownPhase::Over) => {}
        }
        ending.advance(ShutdownPhase::Over);
    };
    let (current, following) = registry::task::follow_events(registry::task::RegistryTaskParts {
        settings: offline::registry::registry_settings(config),
        reader: views.reader.clone(),
        follower: of_registry,
        events: Arc::clone(&views.events),
        metrics: Arc::clone(&views.metrics),
        clock: clock.clone(),
        shutdown: shutdown.clone(),
        public: platform::platform_anchors,
    });
    let (sender, settings) = watch::channel(config.alerts.clone());
    let alerting = alerts::task::run(alerts::task::AlertTaskParts {
        settings,
        reader: views.reader.clone(),
        follower: of_alerts,
        events: Arc::clone(&views.events),
        metrics: Arc::clone(&views.metrics),
        clock: clock.clone(),
        registry: current.clone(),
        shutdown,
    });
    let both = async move {
        // Both end with the process; the registry is closed when both are done with it.
        if let (Some(store), (), ()) = tokio::join!(following, alerting, end) {
            store.close().await;
        }
        parts.recorded.send_replace(true);
    };
    (sender, current, both)
}
