//! A request becomes answers: what is only looked at comes from the views, what changes something goes through the writer
//! or to whoever conducts the process.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::handshakes::{self, Follow};
use super::status::{self, Known};
use super::{Answer, Change, Done, Reason, Refused, Request, Rotation, change};
use crate::admin::Views;
use crate::event::Event;
use crate::keyring::Lessons;
use crate::process::{Phase, Told};
use crate::snapshot::{KeyringView, Snapshot};
use crate::writer::{Input, Look, NotDone};

/// Lines of an answer that may wait for a slow command.
const LINES: usize = 64;
/// How long a reload may take until it says how it went.
const RELOAD: Duration = Duration::from_secs(20);

/// What answering needs.
pub struct Desk {
    /// What may be looked at.
    pub views: Views,
    /// The writer's queue.
    pub inputs: mpsc::Sender<Input>,
    /// Whoever conducts the process.
    pub told: mpsc::Sender<Told>,
    /// What sources have taught us.
    pub lessons: Arc<Lessons>,
    /// When the process started.
    pub started: Timestamp,
    /// `state` is configured: what is decided survives a restart.
    pub remembers: bool,
    /// The longest that stopping can take.
    pub longest_stop: Duration,
}

/// The answers to a request, one after the other, until the channel ends.
pub(super) fn to(request: Request, by: Arc<str>, desk: &Arc<Desk>) -> mpsc::Receiver<Answer> {
    let (answers, receiver) = mpsc::channel(LINES);
    let desk = Arc::clone(desk);
    tokio::spawn(async move {
        let answer = match request {
            Request::Handshakes { filter, follow, form } => {
                let follow = if follow { Follow::On(desk.views.events.subscribe()) } else { Follow::Off };
                return handshakes::list(&desk.views.events, &filter, form, follow, &answers).await;
            }
            request => answer(request, by, &desk).await.unwrap_or_else(Answer::Refused),
        };
        // Who asked may be gone.
        let _ = answers.send(answer).await;
    });
    receiver
}

async fn answer(request: Request, by: Arc<str>, desk: &Desk) -> Result<Answer, Refused> {
    let snapshot = desk.views.reader.clone().take();
    Ok(match request {
        Request::Status {} => Answer::Status(Box::new(status(desk, &snapshot).await?)),
        Request::Keyrings {} => Answer::Keyrings(snapshot.keyrings.clone()),
        Request::Keyring { keyring } => Answer::Keyring(Box::new(find(&snapshot, &keyring)?.clone())),
        Request::Change { keyring, change, key_pair, until_restart } => {
            let wanted = Wanted { change, key_pair: key_pair.as_deref(), until_restart };
            Answer::Done(command(desk, find(&snapshot, &keyring)?, &wanted, by).await?)
        }
        Request::Rotation {} => Answer::Rotation(Rotation {
            keyrings: desk.views.events.report(&snapshot.in_overlap(), &snapshot.contacts()),
            trusts: snapshot.vouchers(),
        }),
        Request::Forget { source } => Answer::Done(forget(desk, &source)?),
        Request::Handshake { id } => Answer::Handshake(handshakes::one(&desk.views.events, id)?),
        Request::Reload {} => Answer::Done(reload(desk).await?),
        Request::Stop {} => Answer::Done(stop(desk).await?),
        // Answered in its own way.
        Request::Handshakes { .. } => return Err(Refused::new(Reason::NotUnderstood, "handshakes are many answers")),
    })
}

async fn status(desk: &Desk, snapshot: &Snapshot) -> Result<status::Status, Refused> {
    let (reply, answer) = oneshot::channel();
    desk.inputs.send(Input::Look { reply }).await.map_err(|_| stopping())?;
    let look: Look = answer.await.map_err(|_| stopping())?;
    let events = &desk.views.events;
    let known = Known {
        snapshot,
        look: &look,
        reports: &events.report(&snapshot.in_overlap(), &snapshot.contacts()),
        handshakes: &events.recent(),
        reload_error: events.reload_error(),
        phase: desk.views.shutdown.phase(),
        ready: desk.views.is_ready(),
        remembers: desk.remembers,
        started: desk.started,
    };
    Ok(status::of(&known, events.now()))
}

struct Wanted<'a> {
    change: Change,
    key_pair: Option<&'a str>,
    until_restart: bool,
}

async fn command(desk: &Desk, keyring: &KeyringView, wanted: &Wanted<'_>, by: Arc<str>) -> Result<Done, Refused> {
    let (command, key_pair) = change::command(keyring, wanted.change, wanted.key_pair)?;
    if wanted.change == Change::Revoke && !desk.remembers && !wanted.until_restart {
        return Err(Refused::new(
            Reason::UntilRestart,
            "sidekey has no state folder, so a revocation lasts only until it restarts: add --until-restart to revoke \
             all the same, or write the fingerprint into the keyring's `revoked` in the configuration",
        ));
    }
    let (reply, answer) = oneshot::channel();
    let input = Input::Command { keyring: Arc::clone(&keyring.name), command, by, reply };
    desk.inputs.send(input).await.map_err(|_| stopping())?;
    let (epoch, events) = answer.await.map_err(|_| stopping())?.map_err(|not_done| {
        let reason = match &not_done {
            NotDone::NoKeyring(_) | NotDone::Keyring(crate::keyring::rotation::NotDone::Unknown { .. }) => {
                Reason::NotFound
            }
            NotDone::Keyring(crate::keyring::rotation::NotDone::NotNow(_)) => Reason::NotNow,
            NotDone::Unreadable(..) | NotDone::Build(_) => Reason::Failed,
        };
        Refused::new(reason, not_done.to_string())
    })?;
    let after = desk.views.reader.clone().take();
    let told = change::Told { change: wanted.change, key_pair, events: &events, before: keyring, after: &after };
    Ok(Done { epoch: Some(epoch.0), survives_restart: Some(desk.remembers), ..change::done(&told, desk.remembers) })
}

fn forget(desk: &Desk, source: &str) -> Result<Done, Refused> {
    match desk.lessons.forget(source) {
        0 => Err(Refused::new(
            Reason::NotFound,
            format!(
                "nothing was learned from {:?}: `sidekey rotation` names the sources",
                crate::pki::printable(source)
            ),
        )),
        count => Ok(Done {
            changed: true,
            did: format!(
                "forgot what {} has taught{}",
                crate::pki::printable(source),
                if count == 1 { String::new() } else { format!(" ({count} times)") }
            ),
            means: "It is shown the new key pair from its next connection on; if it refuses that again, one more \
                    handshake fails and it is shown the previous one."
                .to_owned(),
            ..Done::nothing()
        }),
    }
}

async fn reload(desk: &Desk) -> Result<Done, Refused> {
    let mut events = desk.views.events.subscribe();
    desk.told.send(Told::Reload).await.map_err(|_| stopping())?;
    let told = async {
        loop {
            match events.next().await {
                Some(Event::Reloaded { error, needs_restart }) => return Some((error, needs_restart)),
                Some(_) => {}
                None => return None,
            }
        }
    };
    match tokio::time::timeout(RELOAD, told).await {
        Ok(Some((None, needs_restart))) => Ok(Done {
            changed: true,
            did: "read the configuration and the folder again".to_owned(),
            means: if needs_restart.is_empty() {
                "Everything in it is in use.".to_owned()
            } else {
                format!("In use, but for what needs a restart: {}.", needs_restart.join(", "))
            },
            ..Done::nothing()
        }),
        Ok(Some((Some(error), _))) => {
            Err(Refused::new(Reason::Failed, format!("not taken over, the old settings stay in use: {error}")))
        }
        Ok(None) => Err(stopping()),
        Err(_) => Err(Refused::new(Reason::Failed, "asked for, but not done yet: the log says how it goes")),
    }
}

async fn stop(desk: &Desk) -> Result<Done, Refused> {
    if desk.views.shutdown.phase() > Phase::Running {
        return Err(Refused::new(Reason::NotNow, "it is stopping already; a signal ends it at once"));
    }
    desk.told.send(Told::Stop).await.map_err(|_| stopping())?;
    Ok(Done {
        changed: true,
        did: "stopping".to_owned(),
        means: format!(
            "What runs is finished: ingress drains, then egress; it has ended after {} s at the latest.",
            desk.longest_stop.as_secs()
        ),
        ..Done::nothing()
    })
}

fn find<'s>(snapshot: &'s Snapshot, name: &str) -> Result<&'s KeyringView, Refused> {
    snapshot.keyrings.iter().find(|keyring| *keyring.name == *name).ok_or_else(|| {
        let known: Vec<&str> = snapshot.keyrings.iter().map(|keyring| &*keyring.name).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Refused::new(
            Reason::NotFound,
            format!("there is no keyring {:?}; there is: {known}", crate::pki::printable(name)),
        )
    })
}

fn stopping() -> Refused {
    Refused::new(Reason::NotNow, "sidekey is stopping")
}
