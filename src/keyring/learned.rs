//! What sources have taught us about our pairs: who refused the new one with an alert, and whether that is to be believed
//! (contract section 4, rule 4). Which pair they are shown for it is `choose`'s to say; how a source is told from its
//! connection, and who is told of a change, is the proxy's.
//!
//! An alert is not authenticated: anybody who can reach us could send one. So a lesson is *unconfirmed* at first: one of
//! few, from few of one network, for an hour, without a say in anybody's verdict. It is confirmed when the same source
//! completes a verified handshake on the pair it is shown instead, with the same kind of ClientHello as the one that
//! refused, as a peer that has not itself accepted the refused pair: so a scanner behind the same address, or a flood of
//! alerts, holds nobody on the old pair who takes the new one.

mod lessons;
#[cfg(test)]
mod properties;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::KeyringName;
use super::fit::later;
use crate::pki::Fingerprint;

pub use lessons::Lessons;
pub use source::Source;

/// How long an unconfirmed lesson holds.
pub const UNCONFIRMED_FOR: Duration = Duration::from_hours(1);
/// Unconfirmed lessons at once.
const UNCONFIRMED: Bounds = Bounds { all: 1024, of_network: 16 };
/// Confirmed lessons at once.
const CONFIRMED: Bounds = Bounds { all: 4096, of_network: 256 };
/// Peers of which it is known that they accept a pair: twice as many are remembered.
const ACCEPTING: usize = 4096;

/// Alerts that say something about the certificate that was shown (42 to 46, 48), as RFC 8446 6 names them.
const ALERTS: [&str; 6] = [
    "bad_certificate",
    "unsupported_certificate",
    "certificate_revoked",
    "certificate_expired",
    "certificate_unknown",
    "unknown_ca",
];

/// The alert's name for as long as the process lives, if it teaches anything.
pub fn teaches(alert: &str) -> Option<&'static str> {
    ALERTS.into_iter().find(|known| *known == alert)
}

struct Bounds {
    all: usize,
    of_network: usize,
}

/// How sure what a source has taught us is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lesson {
    /// It sent an alert, which anybody on the way could have.
    Unconfirmed,
    /// It has completed a verified handshake on the previous pair.
    Confirmed,
    /// It no longer holds.
    Forgotten,
}

impl Lesson {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unconfirmed => "unconfirmed",
            Self::Confirmed => "confirmed",
            Self::Forgotten => "forgotten",
        }
    }
}

/// What a source has taught, as `choose` takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taught {
    /// Pairs that it refused.
    pub refused: Vec<Fingerprint>,
    /// The pair that it is shown instead; `None`: to be chosen among those it has not refused.
    pub shown: Option<Fingerprint>,
}

/// One lesson, as people see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Who taught it.
    pub source: Source,
    /// The keyring it is about.
    pub keyring: KeyringName,
    /// Pairs that the source refused, the first one first.
    pub refused: Vec<Fingerprint>,
    /// The pair that it is shown instead.
    pub shown: Fingerprint,
    /// `Unconfirmed` or `Confirmed`.
    pub standing: Lesson,
    /// The alert's name.
    pub reason: &'static str,
    /// When it refused first.
    pub since: Timestamp,
    /// The identity of the peer that confirmed it.
    pub peer: Option<String>,
    /// That peer's certificate.
    pub peer_fingerprint: Option<Fingerprint>,
    /// What kind of ClientHello it sent.
    #[serde(skip)]
    offer: u64,
}

/// What a confirmed lesson is made of again after a restart.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Remembered {
    source: Source,
    keyring: KeyringName,
    refused: Vec<Fingerprint>,
    shown: Fingerprint,
    reason: String,
    since: Timestamp,
    peer: Option<String>,
    peer_fingerprint: Option<Fingerprint>,
    offer: u64,
}

/// A lesson that changed: how it is now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The lesson.
    pub entry: Entry,
    /// What became of it.
    pub standing: Lesson,
    /// Stable code: the alert's name, `verified_on_previous`, `accepts_it_now`, `overlap_ended`, `by_command`, `expired`
    /// or `evicted`.
    pub reason: &'static str,
}

/// A source that refused a pair.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Who.
    pub source: &'a Source,
    /// The keyring of the pair.
    pub keyring: &'a KeyringName,
    /// The pair.
    pub key_pair: Fingerprint,
    /// The alert's name ([`teaches`]).
    pub alert: &'static str,
    /// What kind of ClientHello it had sent.
    pub offer: u64,
}

/// A source that completed a verified handshake.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance<'a> {
    /// Who.
    pub source: &'a Source,
    /// The pair that it was shown.
    pub key_pair: Fingerprint,
    /// The fingerprint of its certificate, and its identity.
    pub peer: (Fingerprint, &'a str),
    /// What kind of ClientHello it had sent.
    pub offer: u64,
}

/// All lessons of a process, by source.
#[derive(Debug, Default)]
pub struct Learned {
    entries: BTreeMap<Source, Entry>,
    accepting: BTreeMap<Fingerprint, Accepting>,
    /// Grows whenever a confirmed lesson comes or goes.
    revision: u64,
}

impl Learned {
    /// What the source has taught; an unconfirmed lesson that is over says nothing.
    pub fn taught(&self, source: &Source, now: Timestamp) -> Option<Taught> {
        let entry = self.entries.get(source).filter(|entry| !entry.is_over(now))?;
        Some(Taught { refused: entry.refused.clone(), shown: Some(entry.shown) })
    }

    /// A source answered `refusal.key_pair` with an alert. `next` is what `choose` would show it now that this is known;
    /// `None`: nothing else.
    pub fn refused(&mut self, refusal: &Refusal<'_>, next: Option<Fingerprint>, now: Timestamp) -> Vec<Change> {
        let known = self.entries.get(refusal.source).filter(|entry| !entry.is_over(now));
        match known {
            // Only one that looks like the peer that confirmed it may put a confirmed lesson in doubt, and only about the
            // pair that it is about: that peer has changed its mind.
            Some(entry) if entry.standing == Lesson::Confirmed => {
                if entry.shown != refusal.key_pair || entry.offer != refusal.offer {
                    return Vec::new();
                }
                self.forget_one(refusal.source, refusal.alert).into_iter().collect()
            }
            Some(entry) => {
                let mut entry = entry.clone();
                if !entry.refused.contains(&refusal.key_pair) {
                    entry.refused.push(refusal.key_pair);
                }
                let Some(shown) = next.filter(|next| !entry.refused.contains(next)) else {
                    return self.forget_one(refusal.source, refusal.alert).into_iter().collect();
                };
                let other = std::mem::replace(&mut entry.shown, shown) != shown;
                entry.offer = refusal.offer;
                self.entries.insert(entry.source.clone(), entry.clone());
                if !other {
                    return Vec::new();
                }
                vec![Change { standing: entry.standing, reason: refusal.alert, entry }]
            }
            None => next.map(|shown| self.begin(refusal, shown, now)).unwrap_or_default(),
        }
    }

    /// A source completed a verified handshake.
    pub fn accepted(&mut self, accepted: &Acceptance<'_>, now: Timestamp) -> Vec<Change> {
        let (peer, identity) = accepted.peer;
        self.accepting.entry(accepted.key_pair).or_default().insert(peer);
        let Some(entry) = self.entries.get(accepted.source).filter(|entry| !entry.is_over(now)) else {
            return Vec::new();
        };
        let accepts = |key_pair: &Fingerprint| self.accepting.get(key_pair).is_some_and(|all| all.contains(peer));
        match entry.standing {
            Lesson::Unconfirmed if entry.refused.contains(&accepted.key_pair) => {
                self.forget_one(accepted.source, "accepts_it_now").into_iter().collect()
            }
            Lesson::Confirmed if entry.refused.contains(&accepted.key_pair) && entry.peer_fingerprint == Some(peer) => {
                self.forget_one(accepted.source, "accepts_it_now").into_iter().collect()
            }
            Lesson::Unconfirmed
                if entry.shown == accepted.key_pair
                    && entry.offer == accepted.offer
                    && !entry.refused.iter().any(accepts) =>
            {
                let mut entry = entry.clone();
                entry.standing = Lesson::Confirmed;
                entry.peer = Some(identity.to_owned());
                entry.peer_fingerprint = Some(peer);
                self.confirm(entry)
            }
            _ => Vec::new(),
        }
    }

    /// Time passes, and epochs do: `is_shown` says whether a listener may show a pair now.
    pub fn tick(&mut self, is_shown: &dyn Fn(&str, Fingerprint) -> bool, now: Timestamp) -> Vec<Change> {
        let ended = |entry: &Entry| {
            let shown = |key_pair: &Fingerprint| is_shown(&entry.source.listener, *key_pair);
            if !shown(&entry.shown) || !entry.refused.iter().any(shown) {
                return Some("overlap_ended");
            }
            entry.is_over(now).then_some("expired")
        };
        let over: Vec<_> =
            self.entries.values().filter_map(|entry| Some((entry.source.clone(), ended(entry)?))).collect();
        over.into_iter().filter_map(|(source, reason)| self.forget_one(&source, reason)).collect()
    }

    /// Lets go of what is known of pairs that nobody shows beside another any more.
    pub fn keep_pairs(&mut self, in_overlap: &HashSet<Fingerprint>) {
        self.accepting.retain(|key_pair, _| in_overlap.contains(key_pair));
    }

    /// Forgets what one source has taught, on every listener: `ADDRESS`, `ADDRESS NAME` or `NETWORK/64` as an [`Entry`]
    /// shows it.
    pub fn forget(&mut self, text: &str) -> Vec<Change> {
        let meant: Vec<Source> = self.entries.keys().filter(|source| source.is(text)).cloned().collect();
        meant.iter().filter_map(|source| self.forget_one(source, "by_command")).collect()
    }

    /// Every lesson.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.values().cloned().collect()
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.accepting.is_empty()
    }

    /// How often the confirmed lessons have changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What must survive a restart: the confirmed lessons.
    pub fn remembered(&self) -> Vec<Remembered> {
        let confirmed = self.entries.values().filter(|entry| entry.standing == Lesson::Confirmed);
        let remember = |entry: &Entry| Remembered {
            source: entry.source.clone(),
            keyring: KeyringName::clone(&entry.keyring),
            refused: entry.refused.clone(),
            shown: entry.shown,
            reason: entry.reason.to_owned(),
            since: entry.since,
            peer: entry.peer.clone(),
            peer_fingerprint: entry.peer_fingerprint,
            offer: entry.offer,
        };
        confirmed.map(remember).collect()
    }

    /// As the last run left it.
    pub fn restore(&mut self, remembered: &[Remembered]) {
        for lesson in remembered.iter().take(CONFIRMED.all) {
            let entry = Entry {
                source: lesson.source.clone(),
                keyring: KeyringName::clone(&lesson.keyring),
                refused: lesson.refused.clone(),
                shown: lesson.shown,
                standing: Lesson::Confirmed,
                reason: teaches(&lesson.reason).unwrap_or("remembered"),
                since: lesson.since,
                peer: lesson.peer.clone(),
                peer_fingerprint: lesson.peer_fingerprint,
                offer: lesson.offer,
            };
            self.entries.insert(entry.source.clone(), entry);
        }
    }

    fn begin(&mut self, refusal: &Refusal<'_>, shown: Fingerprint, now: Timestamp) -> Vec<Change> {
        // One that is over, and was not yet noticed, makes room for itself.
        self.entries.remove(refusal.source);
        // A network that has used up its share teaches nothing more: evicting its oldest would be a line a try.
        if self.count(Lesson::Unconfirmed, refusal.source) >= UNCONFIRMED.of_network {
            return Vec::new();
        }
        let evicted = self.make_room(Lesson::Unconfirmed, &UNCONFIRMED);
        let entry = Entry {
            source: refusal.source.clone(),
            keyring: KeyringName::clone(refusal.keyring),
            refused: vec![refusal.key_pair],
            shown,
            standing: Lesson::Unconfirmed,
            reason: refusal.alert,
            since: now,
            peer: None,
            peer_fingerprint: None,
            offer: refusal.offer,
        };
        self.entries.insert(entry.source.clone(), entry.clone());
        let begun = Change { entry, standing: Lesson::Unconfirmed, reason: refusal.alert };
        evicted.into_iter().chain([begun]).collect()
    }

    fn confirm(&mut self, entry: Entry) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.count(Lesson::Confirmed, &entry.source) >= CONFIRMED.of_network {
            let network = entry.source.network();
            changes.extend(self.evict(Lesson::Confirmed, |source| source.network() == network));
        }
        changes.extend(self.make_room(Lesson::Confirmed, &CONFIRMED));
        self.revision += 1;
        self.entries.insert(entry.source.clone(), entry.clone());
        changes.push(Change { entry, standing: Lesson::Confirmed, reason: "verified_on_previous" });
        changes
    }

    fn count(&self, standing: Lesson, like: &Source) -> usize {
        let network = like.network();
        let of_network =
            self.entries.values().filter(|entry| entry.standing == standing && entry.source.network() == network);
        of_network.count()
    }

    /// Where a table is full, the oldest lesson of the network that has the most goes: lessons of one standing never make
    /// room for those of the other.
    fn make_room(&mut self, standing: Lesson, bounds: &Bounds) -> Option<Change> {
        let of_standing = || self.entries.values().filter(|entry| entry.standing == standing);
        if of_standing().count() < bounds.all {
            return None;
        }
        let mut counts = BTreeMap::<_, usize>::new();
        for entry in of_standing() {
            *counts.entry(entry.source.network()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count)?.0;
        self.evict(standing, |source| source.network() == most)
    }

    fn evict(&mut self, standing: Lesson, among: impl Fn(&Source) -> bool) -> Option<Change> {
        let all = self.entries.values().filter(|entry| entry.standing == standing && among(&entry.source));
        let oldest = all.min_by_key(|entry| entry.since)?.source.clone();
        self.forget_one(&oldest, "evicted")
    }

    fn forget_one(&mut self, source: &Source, reason: &'static str) -> Option<Change> {
        let entry = self.entries.remove(source)?;
        if entry.standing == Lesson::Confirmed {
            self.revision += 1;
        }
        Some(Change { entry, standing: Lesson::Forgotten, reason })
    }
}

impl Entry {
    fn is_over(&self, now: Timestamp) -> bool {
        self.standing == Lesson::Unconfirmed && later(self.since, UNCONFIRMED_FOR) <= now
    }
}

impl Change {
    /// One sentence for people. Names and addresses are printable as they are.
    pub fn explanation(&self) -> String {
        let Entry { source, shown, peer, .. } = &self.entry;
        let refused: Vec<String> = self.entry.refused.iter().map(|key_pair| key_pair.short()).collect();
        let (refused, shown) = (refused.join(", "), shown.short());
        match (self.standing, self.reason) {
            (Lesson::Unconfirmed, alert) => format!(
                "{source} answered key pair {refused} with the alert {alert}: it is shown {shown} from its next \
                 connection on, for an hour unless it completes a verified handshake on that"
            ),
            (Lesson::Confirmed, _) => format!(
                "{} from {source} completed a handshake on {shown} after {refused} was refused: it is shown {shown} until \
                 that pair's overlap ends; tell its operator to trust the issuer of the new one before then",
                peer.as_deref().unwrap_or("a peer"),
            ),
            (Lesson::Forgotten, "overlap_ended") => {
                format!("{shown}, which {source} was shown instead of {refused}, is not beside it any more")
            }
            (Lesson::Forgotten, "expired") => {
                format!(
                    "{source} did not complete a verified handshake on {shown} within an hour of refusing {refused}"
                )
            }
            (Lesson::Forgotten, "by_command") => {
                format!("an operator asked to forget that {source} refused {refused}")
            }
            (Lesson::Forgotten, "accepts_it_now") => format!("{source} completed a verified handshake on {refused}"),
            (Lesson::Forgotten, "evicted") => {
                format!("too many sources teach something at once: that {source} refused {refused} is forgotten")
            }
            (Lesson::Forgotten, alert) => {
                format!("{source} answered {shown} with the alert {alert} too: nothing is held for it any more")
            }
        }
    }
}

/// Peers that accept a pair, by their certificates. Two halves: when the new one is full the old one goes.
#[derive(Debug, Default)]
struct Accepting {
    new: HashSet<Fingerprint>,
    old: HashSet<Fingerprint>,
}

impl Accepting {
    fn insert(&mut self, peer: Fingerprint) {
        if self.new.len() >= ACCEPTING {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(peer);
    }

    fn contains(&self, peer: Fingerprint) -> bool {
        self.new.contains(&peer) || self.old.contains(&peer)
    }
}
