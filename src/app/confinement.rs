//! Confines a sidecar that is a process of its own to the files and ports of its configuration, before its first thread.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use crate::config::{Config, process_access};
use crate::process::landlock::{ConfinementError, ConfinementLevel, confine};

/// What became of it, to be logged once there is a log.
pub(super) struct ConfinementReport(Result<ConfinementLevel, ConfinementError>);

/// Makes the folders that the sidecar writes into, and confines this thread and its children, unless `landlock` is off. The folders
/// come first: a rule is for what is there, and who may use the control socket decides on the mode of the state around it.
pub(super) fn confine_process(config: &mut Config) -> Option<ConfinementReport> {
    let control = super::socket::place(config, true)?;
    // What cannot be made is reported where it is used.
    drop(super::socket::make_folder(&control, config));
    if !config.landlock {
        return None;
    }
    if let Some(state) = &config.state {
        drop(std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state));
    }
    let access = process_access(config, &control);
    let confined = confine(&access);
    config.confined_to = confined.is_ok().then(|| Arc::new(access));
    Some(ConfinementReport(confined))
}

impl ConfinementReport {
    /// Logs it.
    pub(super) fn log_level(&self) {
        match &self.0 {
            Ok(ConfinementLevel::Full) => {
                tracing::info!(target: "process", "Landlock confines the process to the files and ports of its configuration");
            }
            Ok(ConfinementLevel::Partial) => tracing::info!(
                target: "process",
                "Landlock confines the process in part: this kernel cannot limit TCP ports (Linux 6.7 can)"
            ),
            Ok(ConfinementLevel::None) => tracing::info!(
                target: "process",
                "this kernel has no Landlock, or a filter of system calls hides it: the process is not confined to the files of its \
                 configuration"
            ),
            Err(error) => tracing::warn!(
                target: "process", %error,
                "Landlock failed, so the process is not confined: landlock = \"off\" silences this"
            ),
        }
    }
}
