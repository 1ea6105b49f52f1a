//! Recent handshakes, and new ones, as a command asks for them.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::control::{CommandRefusal, ControlAnswer, HandshakeFilter, HandshakeFormat, RefusalReason};
use crate::event::{Event, EventBus, EventFollower, HandshakeRecord};
use crate::log::{LineStyle, LogFormat};
use crate::pki::blocks;

/// Whether new handshakes are sent too.
pub(crate) enum HandshakeFollow {
    On(EventFollower),
    Off,
}

/// The recent ones that match the filter, the oldest first; then new ones, until the client has gone.
pub(crate) async fn list(
    events: &EventBus,
    filter: &HandshakeFilter,
    form: HandshakeFormat,
    follow: HandshakeFollow,
    answers: &mpsc::Sender<ControlAnswer>,
) {
    let past = events.recent();
    let passing: Vec<&Arc<HandshakeRecord>> = past.iter().filter(|handshake| passes(handshake, filter)).collect();
    let skipped = filter.last.map_or(0, |last| passing.len().saturating_sub(last));
    for handshake in passing.into_iter().skip(skipped) {
        if answers.send(answer(handshake, form)).await.is_err() {
            return;
        }
    }
    let HandshakeFollow::On(mut follower) = follow else { return };
    // The follower began before the past was read: the first that it gets may be in both.
    let mut may_be_past = true;
    while let Some(event) = follower.next().await {
        let Event::Handshake(handshake) = event else { continue };
        may_be_past = may_be_past && past.iter().any(|past| Arc::ptr_eq(past, &handshake));
        let told = may_be_past || handshake.is_silent() || !passes(&handshake, filter);
        if !told && answers.send(answer(&handshake, form)).await.is_err() {
            return;
        }
    }
}

/// One of them, with the certificates that the other side sent.
///
/// # Errors
/// It is not among the recent ones.
pub(crate) fn find_handshake(events: &EventBus, id: u64) -> Result<Value, CommandRefusal> {
    let found = events.recent().into_iter().rev().find(|handshake| handshake.connection == id);
    let Some(handshake) = found else {
        let why = format!("no recent handshake on connection {id}: the last 2,000 are kept, the log has the others");
        return Err(CommandRefusal::new(RefusalReason::NotFound, why));
    };
    let mut value = object(&handshake);
    if let Some(object) = value.as_object_mut() {
        let chain: Vec<String> = handshake.peer_chain.iter().map(|der| blocks::certificate_pem(der)).collect();
        object.insert("chain_pem".to_owned(), json!(chain));
    }
    Ok(value)
}

fn answer(handshake: &Arc<HandshakeRecord>, form: HandshakeFormat) -> ControlAnswer {
    let style = |colour| LineStyle { format: LogFormat::Text, colour };
    match form {
        HandshakeFormat::Json => ControlAnswer::Handshake(object(handshake)),
        HandshakeFormat::Text | HandshakeFormat::Coloured => {
            let line = handshake.line(style(form == HandshakeFormat::Coloured));
            ControlAnswer::Line(String::from_utf8_lossy(&line).into_owned())
        }
    }
}

/// As in the log.
fn object(handshake: &HandshakeRecord) -> Value {
    let line = handshake.line(LineStyle { format: LogFormat::Json, colour: false });
    serde_json::from_slice(&line).unwrap_or(Value::Null)
}

fn passes(handshake: &HandshakeRecord, filter: &HandshakeFilter) -> bool {
    let peer = |wanted: &String| {
        let wanted = wanted.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        handshake.identity.as_deref().is_some_and(has)
            || handshake.partner.as_deref().is_some_and(|partner| partner.to_lowercase() == wanted)
            || handshake.peer.as_ref().is_some_and(|peer| has(&peer.subject))
            || handshake.peer_addr.is_some_and(|address| has(&address.to_string()))
    };
    (!filter.failed || handshake.is_failure())
        && filter.since.is_none_or(|since| since <= handshake.time)
        && filter.side.as_deref().is_none_or(|side| side == handshake.side.as_str())
        && filter.listener.as_deref().is_none_or(|listener| *listener == *handshake.listener)
        && filter.peer.as_ref().is_none_or(peer)
}
