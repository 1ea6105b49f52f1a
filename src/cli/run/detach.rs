//! `sidekey run --take-over --detach`: starts the new process in the background and returns when it serves, so that a supervisor
//! can run it as one command (`ExecReload=` of systemd). What the new process does is `app`'s.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::failure::CommandFailure;
use crate::config::Config;
use crate::control::{ControlAnswer, ControlRequest, client, place};

/// How often the new process is looked at.
const EVERY: Duration = Duration::from_millis(50);
/// The old process waits at most 20 s for the new one, which opens its listeners in at most 10 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts this program again with these arguments, in a process group of its own, and waits until it answers at the control
/// socket: it has taken over, or found no sidecar there and started by itself.
///
/// # Errors
/// It ended before, with its own exit code; or it does not answer.
pub(super) fn start_in_background(config: &Config, arguments: &[OsString]) -> Result<(), CommandFailure> {
    let places = config.admin.control.clone().map_or_else(
        || place::candidates(config.state.as_deref(), &|name| std::env::var(name).ok()),
        |control| vec![control],
    );
    let mut command = Command::new(std::env::current_exe()?);
    let started = command.args(arguments).stdin(Stdio::null()).process_group(0).spawn()?;
    let process = started.id();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let served = runtime.block_on(async { timeout(PATIENCE, wait_until_it_serves(&places, started)).await });
    served.unwrap_or_else(|_| {
        let why =
            format!("process {process} does not answer at the control socket; it goes on: read its log, or stop it");
        Err(CommandFailure::Failed(anyhow::anyhow!(why)))
    })
}

async fn wait_until_it_serves(places: &[PathBuf], mut started: Child) -> Result<(), CommandFailure> {
    loop {
        if let Some(status) = started.try_wait()? {
            return Err(explain_end(status));
        }
        if answers(places, &started) {
            return Ok(());
        }
        sleep(EVERY).await;
    }
}

/// Whether it is this process that answers commands.
fn answers(places: &[PathBuf], started: &Child) -> bool {
    let answer = client::send_request(places, &ControlRequest::Status {}, false).map(|mut answers| answers.next());
    matches!(answer, Ok(Some(Ok(ControlAnswer::Status(status)))) if status.pid == started.id())
}

/// It has said itself why.
fn explain_end(status: ExitStatus) -> CommandFailure {
    CommandFailure::Said(status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0).unwrap_or(1))
}
