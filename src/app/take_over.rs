//! What a process of its own begins with: sockets of systemd, and the sidecar that it takes over from; and how that ends.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::config::Config;
use crate::control::old_process::{OldProcess, TakeOverEnd, TakeOverError};
use crate::net::{InheritedSockets, SocketHandle};
use crate::process::notify;
use crate::views::RuntimeViews;
use crate::writer::WriterInput;

/// How long its own listeners may take until they accept.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
/// How often they are looked at.
const OPENING: Duration = Duration::from_millis(5);

/// What a process of its own begins with.
#[derive(Default)]
pub(super) struct ProcessOrigin {
    pub(super) sockets: InheritedSockets,
    /// It serves until this process takes its place.
    pub(super) old: Option<OldProcess>,
}

/// Sockets that systemd has passed; and with `take_over` those of the sidecar that answers at the control socket. Where none
/// does, this process starts by itself.
pub(super) fn find_origin(config: &Config, take_over: bool) -> Result<ProcessOrigin, TakeOverError> {
    let (mut sockets, problems) = InheritedSockets::from_service_manager();
    for problem in problems {
        tracing::warn!(target: "process", "{problem}");
    }
    let mut old = None;
    if let (true, Some(place)) = (take_over, super::socket::place(config, true)) {
        match OldProcess::request_sockets(&place)? {
            Some((asked, passed)) => {
                tracing::info!(
                    target: "process", old_process = asked.facts.process, old_version = asked.facts.version,
                    "takes over from a running sidecar"
                );
                sockets.add_all(passed);
                old = Some(asked);
            }
            None => tracing::info!(
                target: "process", control = %place.display(),
                "no sidecar answers at the control socket: this process takes over from none and starts by itself"
            ),
        }
    }
    Ok(ProcessOrigin { sockets, old })
}

/// Waits until every listener accepts, and then takes the place of the old process: the state is written here from now on.
pub(super) async fn complete(
    mut old: OldProcess,
    views: &RuntimeViews,
    inputs: &mpsc::Sender<WriterInput>,
    sockets: &[SocketHandle],
) -> Result<(), TakeOverError> {
    let all = async {
        while !(views.is_listening() && views.is_ready()) {
            sleep(OPENING).await;
        }
    };
    if tokio::time::timeout(OPENING_PATIENCE, all).await.is_err() {
        let missing: Vec<String> = views.missing().iter().map(ToString::to_string).collect();
        return Err(TakeOverError::NotReady(missing.join(", ")));
    }
    let (process, supervisor) = (old.facts.process, old.facts.supervisor.clone());
    // One that both have (NotifyAccess=all) has to be told of its new main process by the old one, like one that only the old has.
    let own = notify::supervisor_access().socket;
    let is_supervised = own.is_some() && own != supervisor.socket;
    let done = tokio::task::spawn_blocking(move || old.commit(is_supervised)).await;
    let end = done.map_err(|error| TakeOverError::Broken(std::io::Error::other(error)))??;
    if !is_supervised {
        notify::adopt_supervisor(supervisor);
    }
    let (reply, saved) = oneshot::channel();
    if inputs.send(WriterInput::BeginWriting { reply }).await.is_ok() {
        let _ = saved.await;
    }
    for handle in sockets {
        if let Err(error) = handle.claim_file() {
            tracing::warn!(target: "process", address = %handle.address, %error, "cannot set mode or group of a socket file");
        }
    }
    match end {
        TakeOverEnd::Released => tracing::info!(target: "process", old_process = process, "has taken over"),
        TakeOverEnd::Vanished => {
            tracing::warn!(target: "process", old_process = process, "the old process has ended by itself; this one serves");
        }
    }
    Ok(())
}
