//! A request becomes answers: what is only read comes from the views, what changes something goes through the writer
//! or to the control thread.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::{
    ChangeOutcome, CommandRefusal, ControlAnswer, ControlRequest, PairChange, RefusalReason, RotationAnswer, change,
};
use crate::event::{Event, ReloadRecord};
use crate::evidence::RefusalMemory;
use crate::process::{ProcessSignal, ShutdownPhase};
use crate::snapshot::{KeyringView, Snapshot};
use crate::views::RuntimeViews;
use crate::views::handshakes;
use crate::views::handshakes::HandshakeFollow;
use crate::views::status;
use crate::views::status::StatusInputs;
use crate::writer::{CommandRejection, WriterInput, WriterView};

/// Lines of an answer that may wait for a slow command.
const LINES: usize = 64;
/// How long a reload may take until its result is known.
const RELOAD: Duration = Duration::from_secs(20);

/// What the answers need.
pub struct CommandContext {
    /// What may be read.
    pub views: RuntimeViews,
    /// The writer's queue.
    pub inputs: mpsc::Sender<WriterInput>,
    /// Signals to the control thread.
    pub told: mpsc::Sender<ProcessSignal>,
    /// Which sources have refused our pairs.
    pub lessons: Arc<RefusalMemory>,
    /// When the process started.
    pub started: Timestamp,
    /// `state` is configured: what is decided survives a restart.
    pub remembers: bool,
    /// The longest that stopping can take.
    pub longest_stop: Duration,
}

/// The answers to a request, one after the other, until the channel ends.
pub(super) fn answer_request(
    request: ControlRequest,
    by: Arc<str>,
    desk: &Arc<CommandContext>,
) -> mpsc::Receiver<ControlAnswer> {
    let (answers, receiver) = mpsc::channel(LINES);
    let desk = Arc::clone(desk);
    tokio::spawn(async move {
        let answer = match request {
            ControlRequest::Handshakes { filter, follow, form } => {
                let follow =
                    if follow { HandshakeFollow::On(desk.views.events.subscribe()) } else { HandshakeFollow::Off };
                return handshakes::list(&desk.views.events, &filter, form, follow, &answers).await;
            }
            request => answer(request, by, &desk).await.unwrap_or_else(ControlAnswer::Refused),
        };
        // The caller may be gone.
        let _ = answers.send(answer).await;
    });
    receiver
}

async fn answer(request: ControlRequest, by: Arc<str>, desk: &CommandContext) -> Result<ControlAnswer, CommandRefusal> {
    let snapshot = desk.views.reader.clone().latest();
    Ok(match request {
        ControlRequest::Status {} => ControlAnswer::Status(Box::new(status(desk, &snapshot).await?)),
        ControlRequest::Keyrings {} => ControlAnswer::Keyrings(snapshot.keyrings.clone()),
        ControlRequest::Keyring { keyring } => ControlAnswer::Keyring(Box::new(find(&snapshot, &keyring)?.clone())),
        ControlRequest::Change { keyring, change, key_pair, until_restart } => {
            let wanted = CommandEffect { change, key_pair: key_pair.as_deref(), until_restart };
            ControlAnswer::Done(command(desk, find(&snapshot, &keyring)?, &wanted, by).await?)
        }
        ControlRequest::Rotation {} => ControlAnswer::Rotation(RotationAnswer {
            keyrings: desk.views.events.report(&snapshot.keyrings_in_overlap(), &snapshot.contacts()),
            trusts: snapshot.anchor_usages(),
        }),
        ControlRequest::Forget { source } => ControlAnswer::Done(forget(desk, &source)?),
        ControlRequest::Handshake { id } => {
            ControlAnswer::Handshake(handshakes::find_handshake(&desk.views.events, id)?)
        }
        ControlRequest::Reload {} => ControlAnswer::Done(reload(desk).await?),
        ControlRequest::Stop {} => ControlAnswer::Done(stop(desk).await?),
        // Answered in its own way.
        ControlRequest::Handshakes { .. } => {
            return Err(CommandRefusal::new(RefusalReason::NotUnderstood, "it has several answers"));
        }
    })
}

async fn status(desk: &CommandContext, snapshot: &Snapshot) -> Result<status::StatusReport, CommandRefusal> {
    let (reply, answer) = oneshot::channel();
    desk.inputs.send(WriterInput::Look { reply }).await.map_err(|_| stopping())?;
    let look: WriterView = answer.await.map_err(|_| stopping())?;
    let events = &desk.views.events;
    let known = StatusInputs {
        snapshot,
        look: &look,
        reports: &events.report(&snapshot.keyrings_in_overlap(), &snapshot.contacts()),
        handshakes: &events.recent(),
        reload_error: events.reload_error(),
        phase: desk.views.shutdown.phase(),
        ready: desk.views.is_ready(),
        remembers: desk.remembers,
        started: desk.started,
    };
    Ok(status::build_status(&known, events.now()))
}

struct CommandEffect<'a> {
    change: PairChange,
    key_pair: Option<&'a str>,
    until_restart: bool,
}

async fn command(
    desk: &CommandContext,
    keyring: &KeyringView,
    wanted: &CommandEffect<'_>,
    by: Arc<str>,
) -> Result<ChangeOutcome, CommandRefusal> {
    let (command, key_pair) = change::command(keyring, wanted.change, wanted.key_pair)?;
    if wanted.change == PairChange::Revoke && !desk.remembers && !wanted.until_restart {
        return Err(CommandRefusal::new(
            RefusalReason::UntilRestart,
            "sidekey has no state folder, so a revocation lasts only until it restarts: add --until-restart to revoke \
             anyway, or add the fingerprint to the keyring's `revoked` in the configuration",
        ));
    }
    let (reply, answer) = oneshot::channel();
    let input = WriterInput::Command { keyring: Arc::clone(&keyring.name), command, by, reply };
    desk.inputs.send(input).await.map_err(|_| stopping())?;
    let (epoch, events) = answer.await.map_err(|_| stopping())?.map_err(|not_done| {
        let reason = match &not_done {
            CommandRejection::NoKeyring(_)
            | CommandRejection::Keyring(crate::keyring::rotation::CommandError::Unknown { .. }) => {
                RefusalReason::NotFound
            }
            CommandRejection::Keyring(crate::keyring::rotation::CommandError::NotNow(_)) => RefusalReason::NotNow,
            CommandRejection::Unreadable(..) | CommandRejection::Build(_) => RefusalReason::Failed,
        };
        CommandRefusal::new(reason, not_done.to_string())
    })?;
    let after = desk.views.reader.clone().latest();
    let told =
        change::ChangeReport { change: wanted.change, key_pair, events: &events, before: keyring, after: &after };
    Ok(ChangeOutcome {
        epoch: Some(epoch.0),
        survives_restart: Some(desk.remembers),
        ..change::done(&told, desk.remembers)
    })
}

fn forget(desk: &CommandContext, source: &str) -> Result<ChangeOutcome, CommandRefusal> {
    match desk.lessons.forget(source) {
        0 => Err(CommandRefusal::new(
            RefusalReason::NotFound,
            format!(
                "no refusals are recorded for source {:?}: see `sidekey rotation` for the sources",
                crate::pki::printable(source)
            ),
        )),
        count => Ok(ChangeOutcome {
            changed: true,
            did: format!(
                "forgot the refusals of {}{}",
                crate::pki::printable(source),
                if count == 1 { String::new() } else { format!(" ({count} times)") }
            ),
            means: "It is shown the new key pair from its next connection on; if it refuses that again, one more \
                    handshake fails and it is shown the previous key pair."
                .to_owned(),
            ..ChangeOutcome::nothing()
        }),
    }
}

async fn reload(desk: &CommandContext) -> Result<ChangeOutcome, CommandRefusal> {
    let mut events = desk.views.events.subscribe();
    desk.told.send(ProcessSignal::Reload).await.map_err(|_| stopping())?;
    let told = async {
        loop {
            match events.next().await {
                Some(Event::Reloaded(ReloadRecord { error, needs_restart })) => return Some((error, needs_restart)),
                Some(_) => {}
                None => return None,
            }
        }
    };
    match tokio::time::timeout(RELOAD, told).await {
        Ok(Some((None, needs_restart))) => Ok(ChangeOutcome {
            changed: true,
            did: "reloaded the configuration and the folder".to_owned(),
            means: if needs_restart.is_empty() {
                "All settings are in use.".to_owned()
            } else {
                format!("All settings are in use, except those that need a restart: {}.", needs_restart.join(", "))
            },
            ..ChangeOutcome::nothing()
        }),
        Ok(Some((Some(error), _))) => Err(CommandRefusal::new(
            RefusalReason::Failed,
            format!("configuration rejected; keeping the previous one: {error}"),
        )),
        Ok(None) => Err(stopping()),
        Err(_) => {
            Err(CommandRefusal::new(RefusalReason::Failed, "the reload has started but not finished yet: see the log"))
        }
    }
}

async fn stop(desk: &CommandContext) -> Result<ChangeOutcome, CommandRefusal> {
    if desk.views.shutdown.phase() > ShutdownPhase::Running {
        return Err(CommandRefusal::new(
            RefusalReason::NotNow,
            "sidekey is already stopping; a second signal stops it immediately",
        ));
    }
    desk.told.send(ProcessSignal::Stop).await.map_err(|_| stopping())?;
    Ok(ChangeOutcome {
        changed: true,
        did: "stopping".to_owned(),
        means: format!("Ingress drains, then egress; the process exits within {} s.", desk.longest_stop.as_secs()),
        ..ChangeOutcome::nothing()
    })
}

fn find<'s>(snapshot: &'s Snapshot, name: &str) -> Result<&'s KeyringView, CommandRefusal> {
    snapshot.keyrings.iter().find(|keyring| *keyring.name == *name).ok_or_else(|| {
        let known: Vec<&str> = snapshot.keyrings.iter().map(|keyring| &*keyring.name).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        CommandRefusal::new(
            RefusalReason::NotFound,
            format!("keyring {:?} does not exist; known keyrings: {known}", crate::pki::printable(name)),
        )
    })
}

fn stopping() -> CommandRefusal {
    CommandRefusal::new(RefusalReason::NotNow, "sidekey is stopping")
}
