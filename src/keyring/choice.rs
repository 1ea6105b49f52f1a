//! Which candidate to show in one handshake, and why: `choose`, contract section 4's rule as one pure function.
//!
//! The same function serves both sides: an ingress passes what the ClientHello said, an egress what the
//! CertificateRequest said. Facts only; configs and keys stay with the snapshot, which finds them by index.

pub mod offer;
pub mod traits;

use std::sync::Arc;

use jiff::Timestamp;

use super::fit::covers;
use super::{KeyringName, PreferPolicy, Standing};
use crate::pki::{Fingerprint, Validity};
use offer::{OfferedParameters, fits_offer};
pub use traits::PairTraits;

/// The peer's requirements for our certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRequirements {
    /// SNI, lower case (ingress only).
    pub server_name: Option<Arc<str>>,
    /// SignatureScheme code points it accepts; empty = not stated.
    pub schemes: Vec<u16>,
    /// DER of the certificate authorities it names; empty = not stated.
    pub authorities: Vec<Vec<u8>>,
    /// Code points of the cipher suites that it offers and this listener has (ingress only); empty = not stated.
    pub suites: Vec<u16>,
    /// Code points of the groups that it supports (ingress only); empty = not stated.
    pub groups: Vec<u16>,
    /// A hash of the ClientHello's suites, groups and schemes (ingress only). Selection ignores it; recorded refusals
    /// are matched by it.
    pub offer: u64,
}

/// What is known about the peer before it sends a certificate (ingress): contract section 4, rules 3 and 4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerHints {
    /// The partner's `show`, as it is now.
    pub show: Option<ShowPolicy>,
    /// The source's recorded refusals.
    pub taught: Option<SourceRefusals>,
}

/// A source's refusals, as far as the choice needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRefusals {
    /// The refused pairs.
    pub refused: Vec<Fingerprint>,
    /// The pair to show instead; `None`: any that it has not refused.
    pub shown: Option<Fingerprint>,
}

/// A partner's `show`, at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowPolicy {
    /// `"new_only"`: the current pair.
    New,
    /// `{ old_until = DATE }` before that date: the previous pair.
    Old,
}

/// One pair that could be shown: facts only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairCandidate {
    /// Its keyring.
    pub keyring: KeyringName,
    /// Its fingerprint.
    pub key_pair: Fingerprint,
    /// `Current` or `Previous`.
    pub standing: Standing,
    /// When it is valid.
    pub validity: Validity,
    /// DNS names it covers, wildcards included, lower case.
    pub dns: Vec<String>,
    /// SignatureSchemes its key can sign with.
    pub schemes: Vec<u16>,
    /// DER of the issuer names in its chain.
    pub issuers: Vec<Vec<u8>>,
    /// What else a peer may like or dislike in its certificate.
    pub traits: PairTraits,
    /// Its keyring's `prefer`.
    pub prefer: PreferPolicy,
    /// Expired, but shown because no valid pair is left.
    pub last_resort: bool,
    /// Its issuer, printable, where it is sent as one certificate that another issued: peers may lack the issuer.
    pub sent_alone: Option<Arc<str>>,
    /// Its keyring is in overlap: another of its pairs may be shown.
    pub in_overlap: bool,
}

#[cfg(test)]
impl KeyPairCandidate {
    /// The current pair of a keyring in overlap, always valid; a test changes what it is about.
    pub(crate) fn sample(keyring: &str, key_pair: Fingerprint) -> Self {
        Self {
            keyring: keyring.into(),
            key_pair,
            standing: Standing::Current,
            validity: Validity { not_before: Timestamp::MIN, not_after: Timestamp::MAX },
            dns: Vec::new(),
            schemes: Vec::new(),
            issuers: Vec::new(),
            traits: PairTraits::default(),
            prefer: PreferPolicy::New,
            last_resort: false,
            sent_alone: None,
            in_overlap: true,
        }
    }
}

/// All candidates of one listener or upstream: keyrings in the order of the configuration, in each the current pair
/// first, then the previous ones, the latest replaced first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CandidateList(pub Vec<KeyPairCandidate>);

/// Why a pair was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionReason {
    /// No other pair fits.
    Only,
    /// The peer named certificate authorities.
    Authorities,
    /// The partner's `show`.
    Partner,
    /// The source refused another pair before.
    Learned,
    /// The keyring's `prefer`.
    Prefer,
    /// Expired, but no valid pair is left.
    LastResort,
}

impl SelectionReason {
    /// As in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Authorities => "authorities",
            Self::Partner => "partner",
            Self::Learned => "learned",
            Self::Prefer => "prefer",
            Self::LastResort => "last_resort",
        }
    }

    /// Parses the output of [`SelectionReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Only, Self::Authorities, Self::Partner, Self::Learned, Self::Prefer, Self::LastResort];
        all.into_iter().find(|one| one.as_str() == text)
    }
}

/// The selected pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPairSelection {
    /// Index into [`CandidateList`].
    pub index: usize,
    /// Why.
    pub chosen_by: SelectionReason,
}

impl ShowPolicy {
    fn selects(self, standing: Standing) -> bool {
        match self {
            Self::New => standing == Standing::Current,
            Self::Old => standing == Standing::Previous,
        }
    }
}

impl CandidateList {
    /// The current pair, of several keyrings that of the first; none where only a previous one is left.
    pub fn current(&self) -> Option<&KeyPairCandidate> {
        self.0.iter().find(|candidate| candidate.standing == Standing::Current)
    }

    /// Whether this keyring has a previous pair beside its current one.
    pub fn keyring_in_overlap(&self, keyring: &str) -> bool {
        self.0.iter().any(|candidate| *candidate.keyring == *keyring && candidate.standing == Standing::Previous)
    }

    /// Whether any keyring has a previous pair beside its current one: only then do refusals and `show` matter.
    pub fn in_overlap(&self) -> bool {
        self.0.iter().any(|candidate| candidate.standing == Standing::Previous)
    }
}

/// Chooses by the peer's requirements alone: [`choose_with_hints`] without rules 3 and 4.
pub fn choose(candidates: &CandidateList, asked: &PeerRequirements, now: Timestamp) -> Option<KeyPairSelection> {
    choose_with_hints(candidates, asked, &PeerHints::default(), now)
}

/// Chooses (contract section 4). In this order, each step among the candidates that the previous one left:
///
/// 1. candidates with a key that can sign with a scheme that the peer accepts; none: `None`. Of these the ones that fit
///    the version, the cipher suites and the groups of its hello, if any does ([`offer::fits_offer`]);
/// 2. the keyring: the first with a valid pair that covers the SNI, else the first with any pair that covers it, else
///    the first with a valid pair, else the first. An SNI that no pair covers is ignored: a sidecar behind another name
///    must still serve;
/// 3. of that keyring the pairs valid now; none: all of them, as a last resort;
/// 4. those that cover the SNI, if any does;
/// 5. if the peer names certificate authorities, those that chain to one of them, if any does;
/// 6. the current or the previous ones, as the partner's `show` says, if it is set;
/// 7. by the source's refusals: the pair that it is shown instead of those it refused, else the first that it has not
///    refused, if it refused any of these;
/// 8. `prefer`: the first of the rest, or with `old` the first that is previous.
///
/// `None` only if no candidate fits the peer's signature schemes, or there are no candidates.
pub fn choose_with_hints(
    candidates: &CandidateList,
    asked: &PeerRequirements,
    known: &PeerHints,
    now: Timestamp,
) -> Option<KeyPairSelection> {
    let all = &candidates.0;
    let signing: Vec<usize> = (0..all.len()).filter(|at| signs(&all[*at], asked)).collect();
    let offered = OfferedParameters { suites: &asked.suites, groups: &asked.groups, schemes: &asked.schemes };
    let fitting = narrow(&signing, |at| fits_offer(&all[at].schemes, offered));
    let keyring = choose_keyring(all, &fitting, asked, now)?;
    let of_keyring: Vec<usize> = fitting.into_iter().filter(|at| all[*at].keyring == *keyring).collect();
    let valid = narrow(&of_keyring, |at| all[at].validity.contains(now));
    let last_resort = !all[*valid.first()?].validity.contains(now);
    let named = narrow(&valid, |at| covers_sni(&all[at], asked));
    let vouched = narrow(&named, |at| all[at].issuers.iter().any(|issuer| asked.authorities.contains(issuer)));
    // With no valid pair left, preferences are ignored.
    let (show, taught) = if last_resort { (None, None) } else { (known.show, known.taught.as_ref()) };
    let wished = narrow(&vouched, |at| show.is_some_and(|show| show.selects(all[at].standing)));
    let by_partner = show.filter(|show| vouched.len() > 1 && show.selects(all[wished[0]].standing));
    let by_lesson = taught.and_then(|taught| choose_by_refusals(all, &wished, taught));
    let preferred = choose_preferred(all, &wished)?;
    let decided = if last_resort {
        (preferred, SelectionReason::LastResort)
    } else if named.len() == 1 {
        (preferred, SelectionReason::Only)
    } else if let Some(index) = by_lesson.filter(|_| wished.len() > 1) {
        (index, SelectionReason::Learned)
    } else if by_partner.is_some() {
        (preferred, SelectionReason::Partner)
    } else if vouched.len() < named.len() {
        (preferred, SelectionReason::Authorities)
    } else {
        (preferred, SelectionReason::Prefer)
    };
    Some(KeyPairSelection { index: decided.0, chosen_by: decided.1 })
}

/// Rule 4.
fn choose_by_refusals(all: &[KeyPairCandidate], among: &[usize], taught: &SourceRefusals) -> Option<usize> {
    let is_refused = |at: usize| taught.refused.contains(&all[at].key_pair);
    let shown = among.iter().copied().find(|at| taught.shown == Some(all[*at].key_pair));
    shown.or_else(|| {
        let refuses_any = among.iter().any(|at| is_refused(*at));
        among.iter().copied().find(|at| refuses_any && !is_refused(*at))
    })
}

/// Rule 5.
fn choose_preferred(all: &[KeyPairCandidate], among: &[usize]) -> Option<usize> {
    let first = *among.first()?;
    Some(match all[first].prefer {
        PreferPolicy::New => first,
        PreferPolicy::Old => among.iter().copied().find(|at| all[*at].standing == Standing::Previous).unwrap_or(first),
    })
}

pub(crate) fn signs(candidate: &KeyPairCandidate, asked: &PeerRequirements) -> bool {
    asked.schemes.is_empty() || candidate.schemes.iter().any(|scheme| asked.schemes.contains(scheme))
}

fn covers_sni(candidate: &KeyPairCandidate, asked: &PeerRequirements) -> bool {
    asked.server_name.as_deref().is_some_and(|name| candidate.dns.iter().any(|pattern| covers(pattern, name)))
}

fn choose_keyring<'a>(
    all: &'a [KeyPairCandidate],
    fitting: &[usize],
    asked: &PeerRequirements,
    now: Timestamp,
) -> Option<&'a KeyringName> {
    let best = fitting.iter().copied().min_by_key(|at| {
        let candidate = &all[*at];
        // `min_by_key` keeps the first of equals, so the order of the configuration decides among them.
        (!covers_sni(candidate, asked), !candidate.validity.contains(now))
    })?;
    Some(&all[best].keyring)
}

/// Those that satisfy the predicate, or all of them if none does.
fn narrow(from: &[usize], wish: impl Fn(usize) -> bool) -> Vec<usize> {
    let narrowed: Vec<usize> = from.iter().copied().filter(|at| wish(*at)).collect();
    if narrowed.is_empty() { from.to_vec() } else { narrowed }
}

#[cfg(test)]
mod tests;
