//! What an explanation is made of: the circumstances of a failure, a reason with its sentence, and how texts name things.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::keyring::{KeyPairCandidate, Standing};
use crate::pki::{Fingerprint, format_day, format_minute};
use crate::trust::Trust;

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HandshakeOutcome {
    /// It served.
    Accepted,
    /// One side refused the other's certificate, name or offer.
    Refused,
    /// Anything else.
    Failed,
    /// Egress in TLS 1.3: whether the upstream accepts our pair is not known yet.
    Unproved,
    /// Egress, of a handshake that was accepted or unproved: what followed may be a refusal of our pair.
    Doubted,
}

impl HandshakeOutcome {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unproved => "unproved",
            Self::Doubted => "doubted",
        }
    }
}

/// What an explanation needs to know beside the failure.
pub struct FailureContext<'a> {
    /// True on ingress.
    pub ingress: bool,
    /// Listener or upstream name.
    pub listener: &'a str,
    /// The trust that the peer was verified against.
    pub trust: &'a Trust,
    /// What we showed.
    pub shown: Option<(Fingerprint, Standing)>,
    /// The standing of what it is shown next time, because it refused this (ingress, while an overlap lasts).
    pub shown_next: Option<Standing>,
    /// What else is known of the pair that we showed.
    pub presented: PresentedPair<'a>,
    /// Now.
    pub now: Timestamp,
}

/// What an explanation may say of the pair that we showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PresentedPair<'a> {
    /// Its issuer, printable, where we sent one certificate that another issued.
    pub sent_alone: Option<&'a str>,
    /// Its keyring is in overlap.
    pub in_overlap: bool,
}

impl<'a> From<&'a KeyPairCandidate> for PresentedPair<'a> {
    fn from(candidate: &'a KeyPairCandidate) -> Self {
        Self { sent_alone: candidate.sent_alone.as_deref(), in_overlap: candidate.in_overlap }
    }
}

/// The explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureExplanation {
    /// `Refused` or `Failed`.
    pub outcome: HandshakeOutcome,
    /// One of [`super::REASONS`].
    pub reason: &'static str,
    /// One printable sentence with the values and what to do.
    pub explanation: String,
    /// The alert we sent (snake_case name of RFC 8446 6).
    pub alert_sent: Option<&'static str>,
    /// The alert the other side sent.
    pub alert_received: Option<&'static str>,
}

/// A reason and its sentence, before the alerts are added.
pub(super) struct FailureReason {
    outcome: HandshakeOutcome,
    reason: &'static str,
    explanation: String,
}

impl FailureReason {
    pub(super) fn refused(reason: &'static str, explanation: String) -> Self {
        Self { outcome: HandshakeOutcome::Refused, reason, explanation }
    }
    pub(super) fn failed(reason: &'static str, explanation: String) -> Self {
        Self { outcome: HandshakeOutcome::Failed, reason, explanation }
    }
    pub(super) fn with_alerts(
        self,
        alert_sent: Option<&'static str>,
        alert_received: Option<&'static str>,
    ) -> FailureExplanation {
        let Self { outcome, reason, explanation } = self;
        FailureExplanation { outcome, reason, explanation, alert_sent, alert_received }
    }
}

#[cfg(test)]
impl<'a> FailureContext<'a> {
    /// An ingress `api` that showed nothing yet.
    pub(crate) fn sample(trust: &'a Trust, now: Timestamp) -> Self {
        let presented = PresentedPair::default();
        Self { ingress: true, listener: "api", trust, shown: None, shown_next: None, presented, now }
    }
}

impl FailureContext<'_> {
    /// The other side, as texts call it.
    pub(super) fn other_side(&self) -> &'static str {
        if self.ingress { "peer" } else { "upstream" }
    }

    /// `our key pair 3fa91c… (current)`.
    pub(super) fn our_key_pair(&self) -> String {
        match self.shown {
            Some((key_pair, standing)) => format!("our key pair {} ({})", key_pair.short(), standing.as_str()),
            None => "our key pair".to_owned(),
        }
    }

    /// Which pair the other side is shown next time, where it is another one.
    pub(super) fn next_pair_hint(&self) -> &'static str {
        match self.shown_next {
            Some(Standing::Current) => "; shown the current pair next time",
            Some(_) => "; shown the previous pair next time",
            None => "",
        }
    }

    /// What an operator can do about it within an overlap.
    pub(super) fn other_pair_hint(&self) -> &'static str {
        if self.shown_next.is_some() {
            return self.next_pair_hint();
        }
        match self.shown.map(|(_, standing)| standing) {
            Some(Standing::Previous) => {
                "; this was the previous pair of an overlap: prefer = \"new\" shows the current one"
            }
            // Towards an upstream the other pair is tried without being asked for.
            Some(Standing::Current) if self.presented.in_overlap && self.ingress => {
                "; while an overlap lasts, prefer = \"old\" on the keyring shows the previous pair to every peer"
            }
            _ => "",
        }
    }
}

/// Names of certificates and files may be long, and a log line is not: at most 200 characters of each.
pub(super) fn clip(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(end, _)| &text[..end])
}

/// A sentence of ours with names in it: at most 1,000 characters.
pub(super) fn clip_sentence(text: &str) -> &str {
    text.char_indices().nth(1000).map_or(text, |(end, _)| &text[..end])
}

/// `"a", "b"`; at most nine of them, as the trust lists them.
pub(super) fn quoted_list(items: &[String]) -> String {
    let mut out = String::new();
    for item in items.iter().take(9) {
        let comma = if out.is_empty() { "" } else { ", " };
        let quote = if item.starts_with("and ") { "" } else { "\"" };
        let _ = write!(out, "{comma}{quote}{}{quote}", clip(item));
    }
    out
}

/// How far away, in the largest unit that says it: `3 days`, `1 hour`, `20 seconds`.
pub(super) fn distance(from: Timestamp, to: Timestamp) -> String {
    let seconds = from.as_second().abs_diff(to.as_second());
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The day (UTC); with the time of day where it is less than a day away.
pub(super) fn date(at: Timestamp, now: Timestamp) -> String {
    let near = at.as_second().abs_diff(now.as_second()) < 86_400;
    if near { format_minute(at) } else { format_day(at) }
}
