//! What is known of one pair at one sender: when it was shown and why, whether the sender proved it, how it ended.
//!
//! Evidence of several instances is combined here; what it amounts to is for `judged` to say.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};

use crate::keyring::SelectionReason;
use crate::keyring::fit::shift_time;
use crate::pki::Fingerprint;

/// Handshakes further apart are separate visits: a batch opens several connections at once.
const VISIT_GAP: SignedDuration = SignedDuration::from_mins(30);

/// When a sender came, over all time: enough to say how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisitHistory {
    /// Handshakes that came more than half an hour after the one before.
    pub visits: u64,
    /// All handshakes.
    pub handshakes: u64,
    /// The first.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
}

impl VisitHistory {
    /// One handshake.
    pub const fn begin(at: Timestamp) -> Self {
        Self { visits: 1, handshakes: 1, first: at, last: at }
    }

    pub(super) fn add_handshake(&mut self, at: Timestamp) {
        self.visits += u64::from(VISIT_GAP < at.duration_since(self.last));
        self.handshakes += 1;
        (self.first, self.last) = (self.first.min(at), self.last.max(at));
    }

    /// The histories of two instances, or of a former process and this one: a batch that opens connections to two
    /// instances came once.
    fn merge(self, other: Self) -> Self {
        if self.last <= other.first || other.last <= self.first {
            return self.extend(other);
        }
        Self {
            visits: self.visits.max(other.visits),
            handshakes: self.handshakes.max(other.handshakes),
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }

    /// The histories on two pairs, one after the other.
    pub(super) fn extend(self, other: Self) -> Self {
        let gap = self.first.max(other.first).duration_since(self.last.min(other.last));
        let is_one_visit = self.visits > 0 && other.visits > 0 && gap <= VISIT_GAP;
        Self {
            visits: self.visits + other.visits - u64::from(is_one_visit),
            handshakes: self.handshakes + other.handshakes,
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }

    /// The mean time between visits; `None` after a single one.
    pub(super) fn mean_interval(&self) -> Option<SignedDuration> {
        let span = self.last.duration_since(self.first);
        let times = if self.visits > 1 { self.visits } else { self.handshakes };
        let gaps = i32::try_from(times.saturating_sub(1)).unwrap_or(i32::MAX);
        (gaps > 0).then(|| span / gaps)
    }
}

/// Why the old pair had to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairInsistence {
    /// The last time.
    pub at: Timestamp,
    /// Stable code.
    pub reason: Cow<'static, str>,
    /// One sentence.
    pub because: String,
}

/// What is known of one pair at one sender. Everything but `visits` is about the time since the rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairEvidence {
    /// The pair.
    pub key_pair: Fingerprint,
    /// Its handshakes ever.
    pub visits: VisitHistory,
    /// Handshakes since the rotation.
    pub handshakes: u64,
    /// The first of them.
    pub since: Option<Timestamp>,
    /// Why it was shown last, if recorded.
    pub chosen_by: Option<SelectionReason>,
    /// When application data last came on a connection that showed it.
    pub proved: Option<Timestamp>,
    /// Connections in a row that ended without a byte of application data.
    pub unexplained_ends: u64,
    /// The last of them.
    pub ended: Option<Timestamp>,
    /// That the sender caused it to be shown.
    pub insisted: Option<PairInsistence>,
    /// The epoch of the latest of this; 0: of a former process or another instance.
    pub(super) epoch: u64,
}

impl PairEvidence {
    /// A pair that was first shown at this time, which says nothing yet.
    pub const fn new(key_pair: Fingerprint, visits: VisitHistory) -> Self {
        Self {
            key_pair,
            visits,
            handshakes: 0,
            since: None,
            chosen_by: None,
            proved: None,
            unexplained_ends: 0,
            ended: None,
            insisted: None,
            epoch: 0,
        }
    }

    /// Forgets everything that was before the rotation, but when the sender came.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.key_pair, self.visits);
    }

    /// Whether this says the same as `other`, but for how often and when the pair was shown and proved: a verdict is the same by both.
    pub(super) fn says_same(&self, other: &Self) -> bool {
        let what =
            |one: &Self| (one.since.is_some(), one.chosen_by, one.proved.is_some(), one.unexplained_ends, one.ended);
        what(self) == what(other) && self.insisted == other.insisted
    }

    pub(super) fn record_proof(&mut self, at: Timestamp) {
        self.proved = self.proved.max(Some(at));
        (self.unexplained_ends, self.ended) = (0, None);
    }

    pub(super) fn record_end(&mut self, at: Timestamp) {
        self.unexplained_ends += 1;
        self.ended = self.ended.max(Some(at));
    }

    /// The sender caused it to be shown.
    pub(super) fn insist(&mut self, at: Timestamp, reason: Cow<'static, str>, because: String) {
        self.insisted = Some(PairInsistence { at, reason, because });
    }

    /// What two instances know, or this process and a former one.
    pub(super) fn merge(&mut self, other: &Self) {
        if self.visits.last <= other.visits.last && other.chosen_by.is_some() {
            self.chosen_by = other.chosen_by;
        }
        self.visits = self.visits.merge(other.visits);
        self.handshakes += other.handshakes;
        self.since = self.since.into_iter().chain(other.since).min();
        self.proved = self.proved.max(other.proved);
        let proved = self.proved;
        let recent = |one: &Self| if proved < one.ended { one.unexplained_ends } else { 0 };
        self.unexplained_ends = recent(self) + recent(other);
        self.ended = self.ended.max(other.ended).filter(|_| self.unexplained_ends > 0);
        let at = |one: &Option<PairInsistence>| one.as_ref().map(|insisted| insisted.at);
        if at(&self.insisted) < at(&other.insisted) {
            self.insisted.clone_from(&other.insisted);
        }
    }

    /// Moves every time by a step of the clock.
    pub(super) fn shift(&mut self, step: SignedDuration) {
        let moved = |at: Timestamp| shift_time(at, step);
        (self.visits.first, self.visits.last) = (moved(self.visits.first), moved(self.visits.last));
        for at in [&mut self.since, &mut self.proved, &mut self.ended] {
            *at = at.map(moved);
        }
        if let Some(insisted) = &mut self.insisted {
            insisted.at = moved(insisted.at);
        }
    }
}
