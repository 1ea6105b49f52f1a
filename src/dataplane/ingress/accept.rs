//! A peer's connection up to its first request: PROXY header, hello, choose, finish, verify, record.
//!
//! All of it under one deadline that began at accept, and one Event whatever happens. The chain is verified again after
//! every handshake, because TLS does not verify it when a session is resumed. `admission` decides which connections are
//! closed when there are too many.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::first_data::FirstDataWatch;
use super::learning;
use crate::dataplane::admission::{AdmissionSlot, EvictionReason, HandshakeCaps, PartnerSlot};
use crate::dataplane::attempt::HandshakeAttempt;
use crate::dataplane::context::{ListenerContext, WorkerContext};
use crate::event::Event;
use crate::keyring::choose_with_hints;
use crate::net::proxy_protocol::{self, ProxyHeaderViolation};
use crate::net::{SocketStream, source_network};
use crate::pki::Fingerprint;
use crate::snapshot::ingress::is_in_networks;
use crate::snapshot::{Epoch, IngressSnapshot, Side};
use crate::tls::handshake::{CompletedHandshake, HandshakeFailureCause, ServerStream, read_client_hello};
use crate::tls::late_alert::refuse_established;
use crate::tls::seen::HandshakeObservation;
use crate::tls::{ClientAuth, FailedHandshake, HandshakeFacts, HandshakeOutcome};
use crate::trust::{Peer, PeerRole};

/// What accepting needs besides the connection.
pub(super) struct AcceptContext<'a> {
    pub(super) context: &'a WorkerContext,
    pub(super) listener: &'a ListenerContext,
    pub(super) ingress: &'a IngressSnapshot,
}

impl AcceptContext<'_> {
    /// Counts a limit that was reached.
    fn count_limit(&self, limit: &'static str) {
        self.listener.request_context.cells.count_limit(limit);
    }

    /// The present time.
    fn now(&self) -> Timestamp {
        self.context.clock().now()
    }

    /// The time to record what a sender shows.
    fn recording_now(&self) -> Timestamp {
        self.context.clock().read_recording_time().now
    }
}

/// A connection that was accepted and has sent nothing yet.
pub(super) struct IncomingConnection {
    pub(super) from: Option<SocketAddr>,
    /// Its number.
    pub(super) connection: u64,
    /// When it was accepted, and the epoch then.
    pub(super) at: Instant,
    pub(super) epoch: Epoch,
}

/// A peer that may send requests.
pub(super) struct AcceptedPeer {
    pub(super) tls: CompletedHandshake<ServerStream<SocketStream>>,
    /// `None`: it presented no certificate, and none is required.
    pub(super) peer: Option<Arc<Peer>>,
    /// The key pair that we presented.
    pub(super) key_pair: Fingerprint,
    /// Its source address, from the PROXY header or the socket.
    pub(super) from: Option<SocketAddr>,
    /// Its place among the connections of its partner.
    pub(super) place: Option<PartnerSlot>,
    /// Waits for its first data, while the key pair's keyring is in overlap.
    pub(super) watch: Option<Box<FirstDataWatch>>,
}

/// Runs the handshake; `None` = it failed, and the Event explains why. `turn` is returned when it ends; `told` signals
/// that it must make room for others.
pub(super) async fn accept(
    stream: SocketStream,
    arrived: &IncomingConnection,
    (turn, told): (AdmissionSlot, oneshot::Receiver<EvictionReason>),
    terms: &AcceptContext<'_>,
) -> Option<AcceptedPeer> {
    let (ingress, events) = (terms.ingress, terms.context.events());
    let mut attempt = new_attempt(ingress, arrived);
    let ended = tokio::select! {
        biased;
        Ok(crowded) = told => Err(AcceptRefusal::Crowded(crowded)),
        ended = handshake(stream, &mut attempt, (&turn, arrived.at), terms) => ended,
    };
    drop(turn);
    let now = terms.now();
    let event = match ended {
        Ok((accepted, event)) => {
            events.emit(event);
            return Some(accepted);
        }
        Err(AcceptRefusal::Failed(failed)) => {
            if matches!(failed.cause, HandshakeFailureCause::TimedOut { .. }) {
                terms.count_limit("handshake");
            }
            attempt.failure_event(&failed, &ingress.trust, now).0
        }
        Err(AcceptRefusal::Crowded(crowded)) => {
            let (limit, reason, explanation) = crowded.explain(&attempt, ingress);
            terms.count_limit(limit);
            attempt.rejection_event(reason, explanation, now)
        }
        Err(AcceptRefusal::Header(reason, explanation)) => attempt.rejection_event(reason, explanation, now),
        Err(AcceptRefusal::Told(event)) => *event,
    };
    events.emit(event);
    None
}

/// Reports a connection that is rejected before its handshake.
pub(super) fn reject_before_handshake(
    context: &WorkerContext,
    listener: &ListenerContext,
    arrived: &IncomingConnection,
    (reason, explanation): (&'static str, String),
) {
    let attempt = HandshakeAttempt {
        side: Side::Ingress,
        listener: Arc::clone(&listener.id.name),
        connection: arrived.connection,
        address: arrived.from,
        epoch: arrived.epoch,
        started: arrived.at.into_std(),
        quiet: false,
        shown: None,
        shown_next: None,
        request: None,
    };
    context.events().emit(attempt.rejection_event(reason, explanation, context.clock().now()));
}

fn new_attempt(ingress: &IngressSnapshot, arrived: &IncomingConnection) -> HandshakeAttempt {
    let mut attempt = HandshakeAttempt {
        side: Side::Ingress,
        listener: Arc::clone(&ingress.settings.name),
        connection: arrived.connection,
        address: None,
        epoch: arrived.epoch,
        started: arrived.at.into_std(),
        quiet: false,
        shown: None,
        shown_next: None,
        request: None,
    };
    set_source(&mut attempt, arrived.from, ingress);
    attempt
}

fn set_source(attempt: &mut HandshakeAttempt, from: Option<SocketAddr>, ingress: &IngressSnapshot) {
    attempt.address = from;
    attempt.quiet = from.is_some_and(|from| is_in_networks(&ingress.settings.quiet_from, from.ip()));
}

enum AcceptRefusal {
    Failed(Box<FailedHandshake>),
    /// Too many connections.
    Crowded(EvictionReason),
    /// No PROXY header where one is required: reason and explanation.
    Header(&'static str, String),
    /// The Event is ready.
    Told(Box<Event>),
}

impl EvictionReason {
    /// The limit's key, the reason and the sentence.
    fn explain(self, attempt: &HandshakeAttempt, ingress: &IngressSnapshot) -> (&'static str, &'static str, String) {
        let limits = &ingress.settings.limits;
        let who = attempt.address.map_or_else(|| "a source".to_owned(), |from| source_network(from.ip()).to_string());
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
                     (limits.handshakes_per_source), and this one is the oldest of them",
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
    mut stream: SocketStream,
    attempt: &mut HandshakeAttempt,
    (turn, accepted_at): (&AdmissionSlot, Instant),
    terms: &AcceptContext<'_>,
) -> Result<(AcceptedPeer, Event), AcceptRefusal> {
    let (ingress, lessons) = (terms.ingress, &terms.context.shared.lessons);
    let limits = &ingress.settings.limits;
    let deadline = accepted_at + limits.handshake;
    if let Some(named) = read_proxy_header(&mut stream, attempt.address, deadline, ingress).await? {
        set_source(attempt, Some(named), ingress);
    }
    let mut hello = read_client_hello(stream, deadline).await.map_err(AcceptRefusal::Failed)?;
    hello.restrict_versions(&ingress.settings.tls);
    let caps = HandshakeCaps { handshakes: limits.handshakes, of_one_source: limits.handshakes_per_source };
    turn.begin_handshake(source_address(attempt), caps);
    let (known, learning) =
        learning::recall_source(ingress, lessons, attempt.address, hello.asked(), terms.recording_now());
    let Some(choice) = choose_with_hints(&ingress.candidates, hello.asked(), &known, terms.now()) else {
        return Err(AcceptRefusal::Failed(hello.refuse().await));
    };
    let candidate = &ingress.candidates.0[choice.index];
    attempt.shown = Some((candidate.clone(), choice.chosen_by));
    let finished = hello.finish(&ingress.acceptors[choice.index], deadline).await;
    let now = terms.now();
    let mut tls = match finished {
        Ok(tls) => tls,
        Err(failed) => {
            attempt.shown_next = learning
                .and_then(|learning| learning.record_failure(&failed, candidate, ingress, terms.recording_now()));
            return Err(AcceptRefusal::Failed(failed));
        }
    };
    let anonymous = tls.chain.is_empty() && ingress.settings.client_auth == ClientAuth::Optional;
    let peer = if anonymous {
        None
    } else {
        match ingress.trust.verify_presented(&tls.chain, &PeerRole::Client, now) {
            Ok(verified) => Some(Peer::new(verified, &ingress.partners)),
            Err(untrusted) => {
                let CompletedHandshake { stream, facts, chain, .. } = tls;
                let alert = timeout_at(deadline, refuse_established(stream, &untrusted)).await.ok().flatten();
                let told = attempt.untrusted_event(&untrusted, &ingress.trust, (facts, &chain, alert), now);
                return Err(AcceptRefusal::Told(Box::new(told.0)));
            }
        }
    };
    if let Some(peer) = &peer {
        ingress.trust.record_verified(peer, now);
        // A resumed session brought a copy of its own.
        tls.chain = peer.verified().presented.clone();
    }
    let place = reserve_partner_slot(peer.as_deref(), &tls.facts, attempt, terms)?;
    let event =
        attempt.success_event(HandshakeOutcome::Accepted, (tls.facts.clone(), &tls.chain), peer.as_deref(), now);
    let lesson = learning.map(|learning| learning.into_connection_lesson(candidate, ingress, now));
    let watch =
        (ingress.candidates.keyring_in_overlap(&candidate.keyring) && !(attempt.quiet && peer.is_none())).then(|| {
            FirstDataWatch::new(&terms.context.shared.events, candidate, (&tls.facts, peer.as_deref()), attempt, lesson)
        });
    Ok((AcceptedPeer { tls, peer, key_pair: candidate.key_pair, from: attempt.address, place, watch }, event))
}

fn source_address(attempt: &HandshakeAttempt) -> IpAddr {
    attempt.address.map_or(Ipv4Addr::UNSPECIFIED.into(), |from| source_network(from.ip()))
}

/// Reads the PROXY header where one is required, and returns the address that it names.
async fn read_proxy_header(
    stream: &mut SocketStream,
    from: Option<SocketAddr>,
    deadline: Instant,
    ingress: &IngressSnapshot,
) -> Result<Option<SocketAddr>, AcceptRefusal> {
    let Some(balancer) =
        from.map(|from| from.ip()).filter(|ip| is_in_networks(&ingress.settings.proxy_protocol_from, *ip))
    else {
        return Ok(None);
    };
    let failed = |cause: HandshakeFailureCause| {
        AcceptRefusal::Failed(Box::new(FailedHandshake {
            cause,
            facts: HandshakeFacts::default(),
            seen: HandshakeObservation::default(),
            first_bytes: Vec::new(),
        }))
    };
    match timeout_at(deadline, proxy_protocol::read_header(stream)).await {
        Ok(Ok(named)) => Ok(named),
        Ok(Err(proxy_protocol::ProxyHeaderError::Wrong { wrong: ProxyHeaderViolation::Absent, first })) => {
            let why = format!(
                "{balancer} is listed in proxy_protocol_from but sent {} instead of a PROXY header: enable the \
                 header there, also for health checks",
                first.iter().take(5).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
            );
            Err(AcceptRefusal::Header("proxy_header_missing", why))
        }
        Ok(Err(proxy_protocol::ProxyHeaderError::Wrong { wrong: ProxyHeaderViolation::Malformed(what), .. })) => {
            let why = format!("malformed PROXY header from {balancer}: {what}");
            Err(AcceptRefusal::Header("proxy_header_malformed", why))
        }
        Ok(Err(proxy_protocol::ProxyHeaderError::Io { source, no_byte })) => {
            Err(failed(HandshakeFailureCause::from_io_error(source, no_byte)))
        }
        Err(_) => Err(failed(HandshakeFailureCause::TimedOut { hello: true })),
    }
}

/// Reserves the peer's place among the connections of its partner, where those are limited.
fn reserve_partner_slot(
    peer: Option<&Peer>,
    facts: &HandshakeFacts,
    attempt: &HandshakeAttempt,
    terms: &AcceptContext<'_>,
) -> Result<Option<PartnerSlot>, AcceptRefusal> {
    let limited = peer.and_then(|peer| {
        let partner = peer.partner()?;
        Some((peer, partner, terms.ingress.partners.max_connections(partner)?))
    });
    let Some((peer, partner, limit)) = limited else { return Ok(None) };
    if let Some(place) = terms.context.shared.partnered.admit(partner, limit) {
        return Ok(Some(place));
    }
    terms.count_limit("partner");
    let why = format!("partner {:?} has {limit} open connections, which is its limit (max_connections)", &**partner);
    Err(AcceptRefusal::Told(Box::new(attempt.partner_limit_event(peer, facts.clone(), why, terms.now()))))
}
