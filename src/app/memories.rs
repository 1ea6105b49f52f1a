//! The two that remember and remind: the registry and the alerts, following the Events from the first one on.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::alerts;
use crate::clock::Clock;
use crate::config::Config;
use crate::event::EventFollower;
use crate::pki::{Certificate, Fingerprint, printable};
use crate::process::ShutdownWatch;
use crate::registry::store::StoreAccess;
use crate::registry::{self, Error, RegistrySettings, RegistryStore};
use crate::views::RuntimeViews;

/// What they need beside what everybody has.
pub(super) struct RecorderParts {
    /// Subscribed before anything has happened.
    pub(super) followers: [EventFollower; 2],
    /// When the process ends.
    pub(super) shutdown: ShutdownWatch,
}

/// Where the registry is, and this sidecar's name in it: the configured one, or the host's.
pub(crate) fn registry_settings(config: &Config) -> RegistrySettings {
    let instance = config.instance.clone().unwrap_or_else(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        if host.trim().is_empty() { "sidekey".to_owned() } else { printable(host.trim()) }
    });
    RegistrySettings { place: config.registry.clone(), instance: instance.into() }
}

/// Opens the registry for a command, reads from it or changes it, and closes it.
///
/// # Errors
/// The registry's, also where the configuration has none.
pub fn with_registry<T>(
    config: &Config,
    access: StoreAccess,
    work: impl AsyncFnOnce(&RegistryStore) -> Result<T, Error>,
) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| Error::File { file: "this process".to_owned(), why })?;
    runtime.block_on(async {
        let store = RegistryStore::open(&registry_settings(config), access).await?;
        let done = work(&store).await;
        store.close().await;
        done
    })
}

/// Both in one future, which ends with the registry's last write; and where alerts hear of other settings.
pub(super) fn start(
    parts: RecorderParts,
    config: &Config,
    views: &RuntimeViews,
    clock: &Clock,
) -> (watch::Sender<alerts::AlertSettings>, impl Future<Output = ()> + Send + 'static) {
    let [of_registry, of_alerts] = parts.followers;
    let (current, following) = registry::task::follow_events(registry::task::RegistryTaskParts {
        settings: registry_settings(config),
        reader: views.reader.clone(),
        follower: of_registry,
        events: Arc::clone(&views.events),
        metrics: Arc::clone(&views.metrics),
        clock: clock.clone(),
        shutdown: parts.shutdown.clone(),
        public: platform_anchors,
    });
    let (sender, settings) = watch::channel(config.alerts.clone());
    let alerting = alerts::task::run(alerts::task::AlertTaskParts {
        settings,
        reader: views.reader.clone(),
        follower: of_alerts,
        events: Arc::clone(&views.events),
        metrics: Arc::clone(&views.metrics),
        clock: clock.clone(),
        registry: current,
        shutdown: parts.shutdown,
    });
    let both = async move {
        // Both end with the process; the registry is closed when both are done with it.
        if let (Some(store), ()) = tokio::join!(following, alerting) {
            store.close().await;
        }
    };
    (sender, both)
}

/// Who is vouched for by one of these uses a public CA.
fn platform_anchors() -> HashSet<Fingerprint> {
    let found = rustls_native_certs::load_native_certs().certs;
    found.into_iter().filter_map(|der| Certificate::parse(der).ok()).map(|anchor| anchor.fingerprint()).collect()
}
