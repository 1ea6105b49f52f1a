//! What one upstream makes of our key pairs, and which of them a request may show to it: contract section 4's egress row.
//!
//! A handshake proves nothing in TLS 1.3, and some servers refuse a certificate only by a status, so a new pair is first
//! probed, then tried by one harmless request at a time (the canary), while all others go on with a pair that is known to
//! work. Pure: facts come in by [`Proved::note`], `now` is an argument, and what changed is what comes out. Which bytes on a
//! connection amount to which fact is for `proxy` to say.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::choice::signs;
use super::{Asked, Candidate, Candidates, Choice, Standing};
use crate::pki::Fingerprint;

/// How long a refused pair rests before it is tried again, the first time; each time in a row twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// It never rests for longer.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// What an upstream makes of one of our pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its handshake went well, which in TLS 1.3 proves nothing.
    HandshakeOk,
    /// It has answered a request with a status that is no refusal.
    Proved,
    /// It refuses the pair.
    Refused,
}

impl Verdict {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandshakeOk => "handshake_ok",
            Self::Proved => "proved",
            Self::Refused => "refused",
        }
    }
}

/// `probe`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Probe {
    /// Traffic alone shows what an upstream makes of a new pair.
    Off,
    /// A handshake, before any traffic uses the pair.
    #[default]
    Handshake,
    /// A HEAD of this path, which can prove the pair.
    Head(String),
}

/// What an egress says about proofs.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// `probe`.
    pub probe: &'a Probe,
    /// `prove_within`: from then on other requests than the canary try an unproved pair too.
    pub prove_within: Duration,
}

/// The pairs that may be shown to an upstream, the preferred one first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Them.
    pub pairs: Vec<Fingerprint>,
    /// The preferred one replaces another that would serve as well: it is proved before all requests use it.
    pub needs_proof: bool,
}

/// Every pair that may be shown, as indexes into the candidates: the choice, then those of its keyring that the upstream's
/// CertificateRequest names as well, then the others. Also: whether the choice has to be proved, which is so where it is the
/// current pair and one of the former would serve as well.
pub fn order(candidates: &Candidates, asked: &Asked, choice: Choice, now: Timestamp) -> (Vec<usize>, bool) {
    let all = &candidates.0;
    let first = &all[choice.index];
    let named = |candidate: &Candidate| candidate.issuers.iter().any(|issuer| asked.authorities.contains(issuer));
    let mut others: Vec<usize> = (0..all.len())
        .filter(|at| *at != choice.index && all[*at].keyring == first.keyring)
        .filter(|at| all[*at].validity.contains(now) && signs(&all[*at], asked))
        .collect();
    others.sort_by_key(|at| !named(&all[*at]));
    let equal = others.first().is_some_and(|at| named(&all[*at]) || !named(first));
    let needs_proof = first.standing == Standing::Current && equal;
    (std::iter::once(choice.index).chain(others).collect(), needs_proof)
}

/// Which pair one request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The pair.
    pub key_pair: Fingerprint,
    /// In which part.
    pub how: How,
}

/// Why a request shows the pair that it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is known to work, or there is no better one.
    Settled,
    /// The request tries an unproved pair. The one canary of its upstream until [`Proved::release`].
    Canary,
    /// `prove_within` is over: the request tries it too.
    Everyone,
    /// The preferred pair is not proved: another one goes on serving. Holds until then where it is known.
    Fallback(Option<Timestamp>),
}

/// A fact about one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A handshake went well.
    Handshake,
    /// A response with a status that is no refusal.
    Response,
    /// Refused with an alert, in or right after the handshake.
    Alert,
    /// Refused with a status, which another pair does not get.
    Status,
    /// The connection ended without an answer, and another pair got one.
    Dropped,
}

/// What a fact, or the time, has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the upstream makes of the pair now.
    pub verdict: Verdict,
    /// For `Refused`: when it is tried again.
    pub next_try: Option<Timestamp>,
}

/// What one upstream has shown about the pairs that it may be shown.
#[derive(Clone, Debug, Default)]
pub struct Proved {
    pairs: Vec<Pair>,
    canary: bool,
}

#[derive(Clone, Debug)]
struct Pair {
    key_pair: Fingerprint,
    verdict: Option<Verdict>,
    /// Its last refusal was an alert: then a good handshake is news.
    by_alert: bool,
    /// Since when it may be tried; `prove_within` counts from here.
    since: Timestamp,
    /// Refusals in a row.
    refusals: u32,
    /// When a probe is due.
    probe: Option<Timestamp>,
    /// Traffic waits for that probe.
    probe_first: bool,
    /// Probes that brought no verdict, in a row.
    probes: u32,
    /// It has been said that everybody tries it.
    announced: bool,
}

impl Proved {
    /// Takes over an epoch's pairs: new ones are unproved, those that are gone are forgotten. A keyring's only pair needs no
    /// proof, and stays trusted when another one replaces it.
    pub fn take(&mut self, pairs: &[Fingerprint], terms: Terms<'_>, now: Timestamp) {
        self.pairs.retain(|known| pairs.contains(&known.key_pair));
        for key_pair in pairs {
            if self.get(*key_pair).is_none() {
                self.pairs.push(Pair::new(*key_pair, terms, now));
            }
        }
        if let [only] = self.pairs.as_mut_slice() {
            only.accepted();
        }
    }

    /// What is known of a pair.
    pub fn verdict(&self, key_pair: Fingerprint) -> Option<Verdict> {
        self.get(key_pair)?.verdict
    }

    /// Chooses for one request; `harmless`: it is idempotent and can be replayed. The second answer is what has to be told:
    /// the time has come for everybody to try the preferred pair.
    pub fn pick(&mut self, order: &Order, harmless: bool, terms: Terms<'_>, now: Timestamp) -> (Pick, Option<Change>) {
        let first = order.pairs[0];
        let pick = |key_pair, how| (Pick { key_pair, how }, None);
        let Some(fallback) = self.fallback(&order.pairs[1..]) else { return pick(first, How::Settled) };
        let busy = self.canary;
        let Some(pair) = self.get_mut(first) else { return pick(fallback, How::Fallback(None)) };
        match pair.verdict {
            Some(Verdict::Proved) => return pick(first, How::Settled),
            Some(Verdict::Refused) => {}
            _ if order.needs_proof => {}
            _ => return pick(first, How::Settled),
        }
        if now < pair.since {
            return pick(fallback, How::Fallback(Some(pair.since)));
        }
        if pair.probe_first {
            return pick(fallback, How::Fallback(None));
        }
        if now >= after(pair.since, terms.prove_within) {
            let said = std::mem::replace(&mut pair.announced, true);
            // A refusal by a status has come after a good handshake.
            if pair.verdict == Some(Verdict::Refused) && !pair.by_alert {
                pair.verdict = Some(Verdict::HandshakeOk);
            }
            let news = !said && pair.verdict == Some(Verdict::HandshakeOk);
            return (Pick { key_pair: first, how: How::Everyone }, news.then(|| pair.change()));
        }
        if harmless && !busy {
            self.canary = true;
            return pick(first, How::Canary);
        }
        pick(fallback, How::Fallback(Some(now)))
    }

    /// The pair to go on with where those in `tried` have been refused: for a request that is known not to have been
    /// processed, or may be processed twice.
    pub fn next(&self, order: &Order, tried: &[Fingerprint]) -> Option<Fingerprint> {
        let left: Vec<_> = order.pairs.iter().copied().filter(|pair| !tried.contains(pair)).collect();
        self.fallback(&left).or_else(|| left.first().copied())
    }

    /// Claims the canary's place for a probe; false if another request has it.
    pub fn claim(&mut self) -> bool {
        !std::mem::replace(&mut self.canary, true)
    }

    /// The canary has come to its end, whatever it found.
    pub fn release(&mut self) {
        self.canary = false;
    }

    /// Notes a fact. `None`: it is no news.
    pub fn note(&mut self, key_pair: Fingerprint, shown: Shown, terms: Terms<'_>, now: Timestamp) -> Option<Change> {
        let pair = self.get_mut(key_pair)?;
        match shown {
            Shown::Handshake => {
                let news = pair.verdict.is_none() || pair.verdict == Some(Verdict::Refused) && pair.by_alert;
                news.then(|| {
                    pair.verdict = Some(Verdict::HandshakeOk);
                    pair.change()
                })
            }
            Shown::Response => {
                let news = pair.verdict != Some(Verdict::Proved);
                pair.accepted();
                news.then(|| pair.change())
            }
            Shown::Alert | Shown::Status | Shown::Dropped => {
                // Others were on their way when the first one was refused: that is one refusal.
                if pair.verdict == Some(Verdict::Refused) && now < pair.since {
                    return None;
                }
                pair.refused(shown == Shown::Alert, terms, now);
                Some(pair.change())
            }
        }
    }

    /// The pair that has to be probed now, if one has.
    pub fn probe_due(&self, order: &Order, now: Timestamp) -> Option<Fingerprint> {
        self.fallback(&order.pairs[1..])?;
        let pair = self.get(order.pairs[0])?;
        let due = pair.verdict != Some(Verdict::Proved) && pair.probe.is_some_and(|probe| now >= probe);
        (due && (order.needs_proof || pair.verdict == Some(Verdict::Refused))).then_some(pair.key_pair)
    }

    /// A probe is over; what it found was noted. A probe that can prove the pair is made again until it has.
    pub fn probed(&mut self, key_pair: Fingerprint, terms: Terms<'_>, now: Timestamp) {
        let Some(pair) = self.get_mut(key_pair) else { return };
        if now < pair.since || pair.verdict == Some(Verdict::Proved) {
            return;
        }
        pair.probe_first = false;
        pair.probe = match terms.probe {
            Probe::Head(_) => {
                pair.probes = pair.probes.saturating_add(1);
                Some(after(now, pause(pair.probes)))
            }
            Probe::Off | Probe::Handshake => None,
        };
    }

    /// The best of these: one that is proved, else the first that is not refused.
    fn fallback(&self, pairs: &[Fingerprint]) -> Option<Fingerprint> {
        let with = |wanted: fn(Option<Verdict>) -> bool| {
            pairs.iter().copied().find(|key_pair| wanted(self.verdict(*key_pair)))
        };
        with(|verdict| verdict == Some(Verdict::Proved)).or_else(|| with(|verdict| verdict != Some(Verdict::Refused)))
    }

    fn get(&self, key_pair: Fingerprint) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.key_pair == key_pair)
    }

    fn get_mut(&mut self, key_pair: Fingerprint) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| pair.key_pair == key_pair)
    }
}

impl Pair {
    fn new(key_pair: Fingerprint, terms: Terms<'_>, now: Timestamp) -> Self {
        let probes = *terms.probe != Probe::Off;
        Self {
            key_pair,
            verdict: None,
            by_alert: false,
            since: now,
            refusals: 0,
            probe: probes.then_some(now),
            probe_first: probes,
            probes: 0,
            announced: false,
        }
    }

    fn accepted(&mut self) {
        self.verdict = Some(Verdict::Proved);
        self.refusals = 0;
        self.probes = 0;
        self.probe = None;
        self.probe_first = false;
    }

    /// It rests, and is then tried as if it were new.
    fn refused(&mut self, by_alert: bool, terms: Terms<'_>, now: Timestamp) {
        let refusals = self.refusals.saturating_add(1);
        let since = after(now, pause(refusals));
        *self = Self { verdict: Some(Verdict::Refused), by_alert, refusals, ..Self::new(self.key_pair, terms, since) };
    }

    fn change(&self) -> Change {
        let verdict = self.verdict.unwrap_or(Verdict::HandshakeOk);
        Change { verdict, next_try: (verdict == Verdict::Refused).then_some(self.since) }
    }
}

/// The pause after so many times in a row.
fn pause(times: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE)
}

fn after(from: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| from.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
