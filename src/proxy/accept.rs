//! A peer's connection up to its first request: hello, choose, finish, verify, record.
//!
//! All of it under one deadline, and one Event whatever happens. The chain is verified again after every handshake, because
//! TLS does not ask about it when a session is resumed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::attempt::Attempt;
use super::learning;
use crate::clock::Clock;
use crate::event::{Event, Events};
use crate::keyring::{Lessons, choose_for};
use crate::net::Stream;
use crate::pki::Fingerprint;
use crate::snapshot::{Epoch, Ingress, Side};
use crate::tls::handshake::{Established, ServerStream, hello};
use crate::tls::{ClientAuth, Outcome};
use crate::trust::{Peer, Role};

/// What accepting needs beside the connection.
pub(super) struct Terms<'a> {
    pub(super) ingress: &'a Ingress,
    pub(super) epoch: Epoch,
    pub(super) events: &'a Events,
    pub(super) clock: &'a Clock,
    pub(super) lessons: &'a Arc<Lessons>,
}

/// A peer that may send requests.
pub(super) struct Accepted {
    pub(super) tls: Established<ServerStream<Stream>>,
    /// `None`: it showed no certificate, and need not.
    pub(super) peer: Option<Arc<Peer>>,
    /// What we showed.
    pub(super) key_pair: Fingerprint,
}

/// Runs the handshake; `None` = it failed, and the Event says why.
pub(super) async fn accept(
    stream: Stream,
    from: Option<SocketAddr>,
    connection: u64,
    terms: &Terms<'_>,
) -> Option<Accepted> {
    let Terms { ingress, epoch, events, clock, .. } = terms;
    let mut attempt = attempt(ingress, from, connection, *epoch);
    match handshake(stream, &mut attempt, terms).await {
        Ok((accepted, event)) => {
            events.emit(event);
            Some(accepted)
        }
        Err(Refused::Failed(failed)) => {
            events.emit(attempt.failed(&failed, &ingress.trust, clock.now()).0);
            None
        }
        Err(Refused::Untrusted(event)) => {
            events.emit(*event);
            None
        }
    }
}

/// A connection that is turned away before its handshake.
pub(super) fn turn_away(
    listener: &Arc<str>,
    from: Option<SocketAddr>,
    connection: u64,
    epoch: Epoch,
    (reason, explanation): (&'static str, String),
    clock: &Clock,
) -> Event {
    let attempt = Attempt {
        side: Side::Ingress,
        listener: Arc::clone(listener),
        connection,
        address: from,
        epoch,
        started: Instant::now(),
        shown: None,
        shown_next: None,
    };
    attempt.turned_away(reason, explanation, clock.now())
}

fn attempt(ingress: &Ingress, from: Option<SocketAddr>, connection: u64, epoch: Epoch) -> Attempt {
    Attempt {
        side: Side::Ingress,
        listener: Arc::clone(&ingress.settings.name),
        connection,
        address: from,
        epoch,
        started: Instant::now(),
        shown: None,
        shown_next: None,
    }
}

enum Refused {
    Failed(Box<crate::tls::Failed>),
    Untrusted(Box<Event>),
}

async fn handshake(stream: Stream, attempt: &mut Attempt, terms: &Terms<'_>) -> Result<(Accepted, Event), Refused> {
    let Terms { ingress, clock, lessons, .. } = terms;
    let deadline = tokio::time::Instant::now() + ingress.settings.limits.handshake;
    let hello = hello(stream, deadline).await.map_err(Refused::Failed)?;
    let (known, learning) = learning::begin(ingress, lessons, attempt.address, hello.asked(), clock.now());
    let Some(choice) = choose_for(&ingress.candidates, hello.asked(), &known, clock.now()) else {
        return Err(Refused::Failed(hello.refuse().await));
    };
    let candidate = &ingress.candidates.0[choice.index];
    attempt.shown = Some((candidate.clone(), choice.chosen_by));
    let finished = hello.finish(&ingress.acceptors[choice.index], deadline).await;
    let now = clock.now();
    let tls = match finished {
        Ok(tls) => tls,
        Err(failed) => {
            attempt.shown_next =
                learning.as_ref().and_then(|learning| learning.refused(failed.alert(), candidate, ingress, now));
            return Err(Refused::Failed(failed));
        }
    };
    let anonymous = tls.chain.is_empty() && ingress.settings.client_auth == ClientAuth::Optional;
    let peer = if anonymous {
        None
    } else {
        match ingress.trust.verify(&tls.chain, &Role::Client, now) {
            Ok(verified) => Some(Peer::new(verified, &ingress.partners)),
            Err(untrusted) => {
                let told = attempt.untrusted(&untrusted, &ingress.trust, tls.facts.clone(), &tls.chain, now);
                return Err(Refused::Untrusted(Box::new(told.0)));
            }
        }
    };
    if let Some(peer) = &peer {
        ingress.trust.note(peer, now);
        if let Some(learning) = &learning {
            learning.accepted(candidate.key_pair, peer, now);
        }
    }
    let event = attempt.succeeded(Outcome::Accepted, (tls.facts.clone(), &tls.chain), peer.as_deref(), now);
    Ok((Accepted { tls, peer, key_pair: candidate.key_pair }, event))
}
