//! A request becomes answers: what is only read comes from the views, what changes something goes through the writer
//! or to the process control.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::context::{CommandContext, stopping};
use super::{
    ChangeOutcome, CommandRefusal, ControlAnswer, ControlRequest, HandshakeFormat, KeyringAnswer, PairChange,
    RefusalReason, change, reload,
};
use crate::event::HandshakeRecord;
use crate::process::{ProcessSignal, ShutdownPhase};
use crate::snapshot::{KeyringView, Snapshot};
use crate::views::handshakes::{self, HandshakeFeed};
use crate::views::keyrings::list_keyrings;
use crate::views::rotation::{build_current_reports, build_rotation};
use crate::views::status;
use crate::writer::{CommandRejection, WriterInput};

/// Lines of an answer that may wait for a slow command.
const LINES: usize = 64;

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
                let mut feed = HandshakeFeed::open(&desk.views.events, filter, follow);
                while let Some(handshake) = feed.next().await {
                    if answers.send(tell_handshake(&handshake, form)).await.is_err() {
                        return;
                    }
                }
                return;
            }
            request => answer(request, by, &desk).await.unwrap_or_else(ControlAnswer::Refused),
        };
        // The requester may be gone.
        let _ = answers.send(answer.in_epoch(desk.snapshot().epoch)).await;
    });
    receiver
}

fn tell_handshake(handshake: &HandshakeRecord, form: HandshakeFormat) -> ControlAnswer {
    match form {
        HandshakeFormat::Json => ControlAnswer::Handshake(handshakes::handshake_object(handshake)),
        HandshakeFormat::Text => ControlAnswer::Line(handshakes::handshake_text(handshake, false)),
        HandshakeFormat::Coloured => ControlAnswer::Line(handshakes::handshake_text(handshake, true)),
    }
}

async fn answer(request: ControlRequest, by: Arc<str>, desk: &CommandContext) -> Result<ControlAnswer, CommandRefusal> {
    let snapshot = desk.snapshot();
    let epoch = snapshot.epoch.0;
    Ok(match request {
        ControlRequest::Status {} => {
            let look = desk.look().await?;
            let reports = build_current_reports(&desk.views).await;
            ControlAnswer::Status(Box::new(status::assemble_status(&desk.views, &look, reports)))
        }
        ControlRequest::Keyrings {} => ControlAnswer::Keyrings(list_keyrings(&desk.views)),
        ControlRequest::Keyring { keyring } => {
            ControlAnswer::Keyring(Box::new(KeyringAnswer { epoch, keyring: find(&snapshot, &keyring)?.clone() }))
        }
        ControlRequest::Change { keyring, change, key_pair, until_restart } => {
            let wanted = CommandEffect { change, key_pair: key_pair.as_deref(), until_restart };
            ControlAnswer::Done(command(desk, find(&snapshot, &keyring)?, &wanted, by).await?)
        }
        ControlRequest::Rotation {} => ControlAnswer::Rotation(build_rotation(&desk.views).await),
        ControlRequest::Forget { source } => ControlAnswer::Done(forget(desk, source).await?),
        ControlRequest::Handshake { id } => {
            ControlAnswer::Handshake(handshakes::find_handshake(&desk.views.events, id).ok_or_else(|| {
                let why =
                    format!("no recent handshake on connection {id}: the last 2,000 are kept, the log has the others");
                CommandRefusal::new(RefusalReason::NotFound, why)
            })?)
        }
        ControlRequest::Reload {} => ControlAnswer::Done(reload::reload(desk).await?),
        ControlRequest::Stop {} => ControlAnswer::Done(stop(desk).await?),
        // Answered in their own way; steps of a take-over come after its begin.
        ControlRequest::Handshakes { .. }
        | ControlRequest::TakeOver {}
        | ControlRequest::Hold {}
        | ControlRequest::Commit { .. } => {
            return Err(CommandRefusal::new(
                RefusalReason::NotUnderstood,
                "it has several answers, or belongs to some",
            ));
        }
    })
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
    if wanted.change == PairChange::Revoke && !desk.views.remembers && !wanted.until_restart {
        return Err(CommandRefusal::new(
            RefusalReason::UntilRestart,
            "sidekey has no state folder, so a revocation lasts only until it restarts: add --until-restart to revoke \
             all the same, or write the fingerprint into the keyring's `revoked` in the configuration",
        ));
    }
    let keyring_name = Arc::clone(&keyring.name);
    let done = desk.ask_writer(|reply| WriterInput::Command { keyring: keyring_name, command, by, reply }).await?;
    let (epoch, events) = done.map_err(|not_done| {
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
    let after = desk.snapshot();
    let told =
        change::ChangeReport { change: wanted.change, key_pair, events: &events, before: keyring, after: &after };
    Ok(ChangeOutcome {
        epoch: Some(epoch.0),
        survives_restart: Some(desk.views.remembers),
        ..change::done(&told, desk.views.remembers)
    })
}

async fn forget(desk: &CommandContext, source: String) -> Result<ChangeOutcome, CommandRefusal> {
    let shown = crate::pki::printable(&source);
    let (epoch, count) = desk.ask_writer(|reply| WriterInput::Forget { source, reply }).await?;
    match count {
        0 => Err(CommandRefusal::new(
            RefusalReason::NotFound,
            format!("nothing was learned from {shown:?}: `sidekey rotation` names the sources"),
        )),
        count => Ok(ChangeOutcome {
            changed: true,
            did: format!(
                "forgot what {shown} has taught{}",
                if count == 1 { String::new() } else { format!(" ({count} times)") }
            ),
            means: "It is shown the new key pair from its next connection on; if it refuses that again, one more \
                    handshake fails and it is shown the previous one."
                .to_owned(),
            epoch: Some(epoch.0),
            ..ChangeOutcome::nothing()
        }),
    }
}

async fn stop(desk: &CommandContext) -> Result<ChangeOutcome, CommandRefusal> {
    if desk.views.shutdown.phase() > ShutdownPhase::Running {
        return Err(CommandRefusal::new(
            RefusalReason::NotNow,
            "sidekey is already stopping; a second signal stops it immediately",
        ));
    }
    let longest = desk.shutdown_rules.plan().max_duration();
    desk.told.send(ProcessSignal::Stop).await.map_err(|_| stopping())?;
    Ok(ChangeOutcome {
        changed: true,
        did: "stopping".to_owned(),
        means: format!("Ingress drains, then egress; the process exits within {} s.", longest.as_secs()),
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
