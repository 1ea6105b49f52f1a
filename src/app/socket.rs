//! The control socket of this process: its path, and which users may use it. Failing to make it costs a warning and the
//! commands, never the start.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::control::place::default_place;
use crate::control::server::SocketAccess;
use crate::net::{BoundSocket, InheritedSockets, ListenAddress, find_group_id};

/// Permissions with a group: it may connect, as the owner may.
const WITH_GROUP: u32 = 0o660;
/// `state`, where the socket of a group lies in it: the group may pass through, and list nothing.
const STATE_WITH_GROUP: u32 = 0o710;

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

/// The socket's own mode decides which users may connect; its folder may be listed by all, unless it is `state`: that lets in
/// `control_group`, which may reach the socket in it and not list what else is there, and otherwise its owner alone.
pub(super) fn make_folder(path: &Path, config: &Config) -> std::io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let make = |folder: &Path, mode| std::fs::DirBuilder::new().recursive(true).mode(mode).create(folder);
    if let Some(state) = config.state.as_ref().filter(|state| folder.starts_with(state) && !state.exists()) {
        match config.admin.control_group.as_deref().and_then(find_group_id) {
            Some(group) => {
                state.parent().map_or(Ok(()), |above| make(above, 0o755))?;
                make(state, 0o700)?;
                std::os::unix::fs::chown(state, None, Some(group))?;
                std::fs::set_permissions(state, std::fs::Permissions::from_mode(STATE_WITH_GROUP))?;
            }
            None => make(state, 0o700)?,
        }
    }
    make(folder, 0o755)
}
