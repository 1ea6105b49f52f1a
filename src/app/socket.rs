//! The control socket of this process: its path, and which users may use it. Failing to make it costs a warning and the
//! commands, never the start.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::control::place::default_place;
use crate::control::server::SocketAccess;
use crate::net::{BoundSocket, InheritedSockets, ListenAddress};

/// Permissions with a group: it may connect, as the owner may.
const WITH_GROUP: u32 = 0o660;

/// What it is passed on as.
pub(super) const CONTROL_ROLE: &str = "control";

/// Binds it, or uses the old process'. A sidecar inside another process has one only where the configuration says so.
pub(super) fn bind(
    config: &Config,
    is_process: bool,
    sockets: &mut InheritedSockets,
) -> Option<(BoundSocket, SocketAccess)> {
    let path = place(config, is_process)?;
    match bind_socket(&path, config, sockets) {
        Ok(bound) => Some(bound),
        Err(error) => {
            tracing::warn!(
                target: "control", %error, path = %path.display(),
                "cannot create the control socket; commands cannot reach this sidecar: set admin.control or --control"
            );
            None
        }
    }
}

/// Where it is.
pub(super) fn place(config: &Config, is_process: bool) -> Option<PathBuf> {
    let environment = |name: &str| std::env::var(name).ok();
    let default = || is_process.then(|| default_place(config.state.as_deref(), &environment));
    config.admin.control.clone().or_else(default)
}

fn bind_socket(
    path: &PathBuf,
    config: &Config,
    sockets: &mut InheritedSockets,
) -> Result<(BoundSocket, SocketAccess), crate::net::SocketError> {
    let listen = |source| crate::net::SocketError::Listen { address: path.display().to_string(), source };
    make_folder(path, config).map_err(listen)?;
    let group = config.admin.control_group.as_deref();
    let mode = group.map(|_| WITH_GROUP);
    let address = ListenAddress::Unix { path: path.clone(), mode, group: group.map(str::to_owned) };
    let bound = sockets.bind(CONTROL_ROLE, CONTROL_ROLE, &address)?;
    let file = std::fs::symlink_metadata(path).map_err(listen)?;
    Ok((bound, SocketAccess { owner: file.uid(), group: group.map(|_| file.gid()) }))
}

/// The socket's own mode decides which users may connect; its folder may be listed by all, unless it is `state` and the socket
/// for no group: then other users need not even see which files are there.
pub(super) fn make_folder(path: &Path, config: &Config) -> std::io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let is_private = config.admin.control_group.is_none();
    if let Some(state) = config.state.as_ref().filter(|state| is_private && folder.starts_with(state)) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)
}
