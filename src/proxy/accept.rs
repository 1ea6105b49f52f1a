//! A peer's connection up to its first request: PROXY header, hello, choose, finish, verify, record.
//!
//! All of it under one deadline that began at accept, and one Event whatever happens. The chain is verified again after
//! every handshake, because TLS does not verify it when a session is resumed. `admission` decides which connections are
//! closed when there are too many.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::admission::{Caps, Crowded, Partnered, Place, Turn};
use super::attempt::Attempt;
use super::learning;
use crate::clock::Clock;
use crate::event::{Event, Events};
use crate::keyring::{Lessons, choose_for};
use crate::metrics::Cells;
use crate::net::proxy_protocol::{self, Wrong};
use crate::net::{Stream, source};
use crate::pki::Fingerprint;
use crate::snapshot::ingress::is_in;
use crate::snapshot::{Epoch, Ingress, Side};
use crate::tls::handshake::{Cause, Established, ServerStream, hello};
use crate::tls::seen::Seen;
use crate::tls::{ClientAuth, Facts, Failed, Outcome};
use crate::trust::{Peer, Role};

/// What accepting needs besides the connection.
pub(super) struct Terms<'a> {
    pub(super) ingress: &'a Ingress,
    pub(super) epoch: Epoch,
    pub(super) events: &'a Events,
    pub(super) clock: &'a Clock,
    pub(super) lessons: &'a Arc<Lessons>,
    pub(super) cells: &'a Cells,
    pub(super) partnered: &'a Arc<Partnered>,
}

/// A connection that was accepted and has sent nothing yet.
pub(super) struct Arrived {
    pub(super) from: Option<SocketAddr>,
    /// Its number.
    pub(super) connection: u64,
    /// When it was accepted.
    pub(super) at: Instant,
}

/// A peer that may send requests.
pub(super) struct Accepted {
    pub(super) tls: Established<ServerStream<Stream>>,
    /// `None`: it presented no certificate, and none is required.
    pub(super) peer: Option<Arc<Peer>>,
    /// The key pair that we presented.
    pub(super) key_pair: Fingerprint,
    /// Its source address, from the PROXY header or the socket.
    pub(super) from: Option<SocketAddr>,
    /// Its place among the connections of its partner.
    pub(super) place: Option<Place>,
}

/// Runs the handshake; `None` = it failed, and the Event explains why. `turn` is returned when it ends; `told` signals
/// that it must make room for others.
pub(super) async fn accept(
    stream: Stream,
    arrived: &Arrived,
    (turn, told): (Turn, oneshot::Receiver<Crowded>),
    terms: &Terms<'_>,
) -> Option<Accepted> {
    let Terms { ingress, events, clock, cells, .. } = terms;
    let mut attempt = attempt(ingress, arrived, terms.epoch);
    let ended = tokio::select! {
        biased;
        Ok(crowded) = told => Err(Refused::Crowded(crowded)),
        ended = handshake(stream, &mut attempt, (&turn, arrived.at), terms) => ended,
    };
    drop(turn);
    let now = clock.now();
    let event = match ended {
        Ok((accepted, event)) => {
            events.emit(event);
            return Some(accepted);
        }
        Err(Refused::Failed(failed)) => {
            if matches!(failed.cause, Cause::TimedOut { .. }) {
                cells.limit("handshake");
            }
            attempt.failed(&failed, &ingress.trust, now).0
        }
        Err(Refused::Crowded(crowded)) => {
            let (limit, reason, explanation) = crowded.explained(&attempt, ingress);
            cells.limit(limit);
            attempt.turned_away(reason, explanation, now)
        }
        Err(Refused::Header(reason, explanation)) => attempt.turned_away(reason, explanation, now),
        Err(Refused::Told(event)) => *event,
    };
    events.emit(event);
    None
}

/// The Event of a connection that is rejected before its handshake.
pub(super) fn turn_away(
    (listener, epoch): (&Arc<str>, Epoch),
    arrived: &Arrived,
    (reason, explanation): (&'static str, String),
    clock: &Clock,
) -> Event {
    let attempt = Attempt {
        side: Side::Ingress,
        listener: Arc::clone(listener),
        connection: arrived.connection,
        address: arrived.from,
        epoch,
        started: arrived.at.into_std(),
        quiet: false,
        shown: None,
        shown_next: None,
    };
    attempt.turned_away(reason, explanation, clock.now())
}

fn attempt(ingress: &Ingress, arrived: &Arrived, epoch: Epoch) -> Attempt {
    let mut attempt = Attempt {
        side: Side::Ingress,
        listener: Arc::clone(&ingress.settings.name),
        connection: arrived.connection,
        address: None,
        epoch,
        started: arrived.at.into_std(),
        quiet: false,
        shown: None,
        shown_next: None,
    };
    comes_from(&mut attempt, arrived.from, ingress);
    attempt
}

fn comes_from(attempt: &mut Attempt, from: Option<SocketAddr>, ingress: &Ingress) {
    attempt.address = from;
    attempt.quiet = from.is_some_and(|from| is_in(&ingress.settings.quiet_from, from.ip()));
}

enum Refused {
    Failed(Box<Failed>),
    /// Too many connections.
    Crowded(Crowded),
    /// No PROXY header where one is required: reason and explanation.
    Header(&'static str, String),
    /// The Event is ready.
    Told(Box<Event>),
}

impl Crowded {
    /// The limit's key, the reason and the sentence.
    fn explained(self, attempt: &Attempt, ingress: &Ingress) -> (&'static str, &'static str, String) {
        let limits = &ingress.settings.limits;
        let who = attempt.address.map_or_else(|| "a source".to_owned(), |from| source(from.ip()).to_string());
        match self {
            Self::Waiting => (
                "hello_waiting",
                "too_many_waiting",
                format!(
                    "{} connections are waiting to send a ClientHello, which is the limit \
                     (limits.hello_waiting), and this one has waited longest",
                    limits.hello_waiting
                ),
            ),
            Self::Connections => (
                "connections",
                "too_many_waiting",
                "the limit on open connections is reached (limits.connections, or file descriptors), and of those \
                 without a ClientHello this one has waited longest"
                    .to_owned(),
            ),
            Self::Source => (
                "handshakes_per_source",
                "too_many_from_source",
                format!(
                    "{who} has {} handshakes in progress, which is the limit for one source \
                     (limits.handshakes_per_source)",
                    limits.handshakes_per_source
                ),
            ),
            Self::Handshakes => (
                "handshakes",
                "too_many_handshakes",
                format!(
                    "{} handshakes are in progress, which is the limit (limits.handshakes), and {who} has the most of \
                     them",
                    limits.handshakes
                ),
            ),
        }
    }
}

async fn handshake(
    mut stream: Stream,
    attempt: &mut Attempt,
    (turn, accepted_at): (&Turn, Instant),
    terms: &Terms<'_>,
) -> Result<(Accepted, Event), Refused> {
    let Terms { ingress, clock, lessons, .. } = terms;
    let limits = &ingress.settings.limits;
    let deadline = accepted_at + limits.handshake;
    if let Some(named) = proxy_header(&mut stream, attempt.address, deadline, ingress).await? {
        comes_from(attempt, Some(named), ingress);
    }
    let hello = hello(stream, deadline).await.map_err(Refused::Failed)?;
    let caps = Caps { handshakes: limits.handshakes, of_one_source: limits.handshakes_per_source };
    turn.hello(source_of(attempt), caps).map_err(Refused::Crowded)?;
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
                return Err(Refused::Told(Box::new(told.0)));
            }
        }
    };
    if let Some(peer) = &peer {
        ingress.trust.note(peer, now);
        if let Some(learning) = &learning {
            learning.accepted(candidate.key_pair, peer, now);
        }
    }
    let place = place(peer.as_deref(), &tls.facts, attempt, terms)?;
    let event = attempt.succeeded(Outcome::Accepted, (tls.facts.clone(), &tls.chain), peer.as_deref(), now);
    Ok((Accepted { tls, peer, key_pair: candidate.key_pair, from: attempt.address, place }, event))
}

fn source_of(attempt: &Attempt) -> IpAddr {
    attempt.address.map_or(Ipv4Addr::UNSPECIFIED.into(), |from| source(from.ip()))
}

/// Reads the PROXY header where one is required, and returns the address that it names.
async fn proxy_header(
    stream: &mut Stream,
    from: Option<SocketAddr>,
    deadline: Instant,
    ingress: &Ingress,
) -> Result<Option<SocketAddr>, Refused> {
    let Some(balancer) = from.map(|from| from.ip()).filter(|ip| is_in(&ingress.settings.proxy_protocol_from, *ip))
    else {
        return Ok(None);
    };
    let failed = |cause: Cause| {
        Refused::Failed(Box::new(Failed {
            cause,
            facts: Facts::default(),
            seen: Seen::default(),
            first_bytes: Vec::new(),
        }))
    };
    match timeout_at(deadline, proxy_protocol::read(stream)).await {
        Ok(Ok(named)) => Ok(named),
        Ok(Err(proxy_protocol::Error::Wrong { wrong: Wrong::Absent, first })) => {
            let why = format!(
                "{balancer} is listed in proxy_protocol_from but sent {} instead of a PROXY header: enable the \
                 header there, also for health checks",
                first.iter().take(5).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
            );
            Err(Refused::Header("proxy_header_missing", why))
        }
        Ok(Err(proxy_protocol::Error::Wrong { wrong: Wrong::Malformed(what), .. })) => {
            let why = format!("malformed PROXY header from {balancer}: {what}");
            Err(Refused::Header("proxy_header_malformed", why))
        }
        Ok(Err(proxy_protocol::Error::Io { source, no_byte })) => Err(failed(Cause::of(source, no_byte))),
        Err(_) => Err(failed(Cause::TimedOut { hello: true })),
    }
}

/// Reserves the peer's place among the connections of its partner, where those are limited.
fn place(peer: Option<&Peer>, facts: &Facts, attempt: &Attempt, terms: &Terms<'_>) -> Result<Option<Place>, Refused> {
    let limited = peer.and_then(|peer| {
        let partner = peer.partner()?;
        Some((peer, partner, terms.ingress.partners.max_connections(partner)?))
    });
    let Some((peer, partner, limit)) = limited else { return Ok(None) };
    if let Some(place) = terms.partnered.enter(partner, limit) {
        return Ok(Some(place));
    }
    terms.cells.limit("partner");
    let why = format!("partner {:?} has {limit} open connections, which is its limit (max_connections)", &**partner);
    Err(Refused::Told(Box::new(attempt.too_many(peer, facts.clone(), why, terms.clock.now()))))
}
