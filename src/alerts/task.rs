//! Runs the three steps side by side: `observe` collects, `rounds` evaluates and reports, `deliver` sends.
//!
//! What is known flows one way, from each step to the next; a slow database delays the last step only.

use std::sync::Arc;

use tokio::sync::watch;

use super::AlertSettings;
use super::deliver::{AlertDeliveryTask, DueAlerts};
use super::observe::{AlertObservations, observe_changes};
use super::rounds::AlertEvaluator;
use crate::clock::Clock;
use crate::event::{EventBus, EventFollower};
use crate::metrics::Metrics;
use crate::process::ShutdownWatch;
use crate::registry::task::CurrentStore;
use crate::snapshot::Reader;

/// The task's inputs.
pub struct AlertTaskParts {
    /// The sinks; they may change while the task runs.
    pub settings: watch::Receiver<AlertSettings>,
    /// The snapshots.
    pub reader: Reader,
    /// The Events.
    pub follower: EventFollower,
    /// Where alerts are emitted.
    pub events: Arc<EventBus>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The registry while it is connected.
    pub registry: CurrentStore,
    /// The shutdown of the process.
    pub shutdown: ShutdownWatch,
}

/// Runs until shutdown. A delivery in progress is completed and recorded as sent: else a restart would send it again.
pub async fn run(parts: AlertTaskParts) {
    let observations = AlertObservations::default();
    let observing = observe_changes(&observations, parts.follower, parts.registry, parts.clock.clone());
    let (is_due, due) = watch::channel(DueAlerts::default());
    let evaluator =
        AlertEvaluator::new(parts.reader, Arc::clone(&parts.events), parts.metrics, parts.clock.clone(), is_due);
    let delivery = AlertDeliveryTask::new(parts.settings, due, parts.events, parts.clock, parts.shutdown.clone());
    tokio::select! {
        () = observing => {}
        ((), ()) = async { tokio::join!(evaluator.run(&observations, parts.shutdown), delivery.run()) } => {}
    }
}
