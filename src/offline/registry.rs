//! The registry as a command opens it: with or without a running sidecar beside it.

use crate::config::Config;
use crate::pki::printable;
use crate::registry::store::StoreAccess;
use crate::registry::{Error, RegistrySettings, RegistryStore};

/// Where the registry is, and this sidecar's name in it: the configured one, or the host's.
pub fn registry_settings(config: &Config) -> RegistrySettings {
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
