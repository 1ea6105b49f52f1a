//! Which candidate to show in one handshake, and why: `choose`, contract section 4's rule as one pure function.
//!
//! The same function serves both sides: an ingress asks with what the ClientHello said, an egress with what the
//! CertificateRequest said. Facts only; configs and keys stay with the snapshot, which finds them by index.

use std::sync::Arc;

use jiff::Timestamp;

use super::fit::covers;
use super::{KeyringName, Prefer, Standing};
use crate::pki::{Fingerprint, Validity};

/// What the other side said about the certificate it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// SNI, lower case (ingress only).
    pub server_name: Option<Arc<str>>,
    /// SignatureScheme code points it accepts; empty = nothing said.
    pub schemes: Vec<u16>,
    /// DER of the certificate authorities it names; empty = nothing said.
    pub authorities: Vec<Vec<u8>>,
}

/// One pair that could be shown: facts only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its keyring.
    pub keyring: KeyringName,
    /// Its name.
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
    /// Its keyring's `prefer`.
    pub prefer: Prefer,
    /// Expired, and shown all the same because nothing else is left.
    pub last_resort: bool,
}

/// All candidates of one listener or upstream: keyrings in the order of the configuration, in each the current pair
/// first, then the previous ones, the latest replaced first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates(pub Vec<Candidate>);

/// Why a pair was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChosenBy {
    /// There was no other that fits.
    Only,
    /// The peer named certificate authorities.
    Authorities,
    /// The partner's `show`.
    Partner,
    /// What this source has shown before.
    Learned,
    /// The keyring's `prefer`.
    Prefer,
    /// Expired, but nothing else is left.
    LastResort,
}

impl ChosenBy {
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
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into [`Candidates`].
    pub index: usize,
    /// Why.
    pub chosen_by: ChosenBy,
}

/// Chooses (contract section 4, rules 1, 2 and 5; rules 3 and 4 take their place between 2 and 5 when they come).
/// In this order, each step among what the one before left:
///
/// 1. candidates whose key can sign with a scheme that was asked for; none: `None`;
/// 2. the keyring: the first with a valid pair that covers the SNI, else the first with any pair that covers it, else
///    the first with a valid pair, else the first. An SNI that nobody covers decides nothing: a sidecar behind another
///    name must still serve;
/// 3. of that keyring the pairs valid now; none: all of them, as a last resort;
/// 4. those that cover the SNI, if any does;
/// 5. where certificate authorities are named, those whose chain names one, if any does;
/// 6. `prefer`: the first of what is left, or with `old` the first that is previous.
///
/// `None` only when no candidate fits the peer's signature schemes, or there is none at all.
pub fn choose(candidates: &Candidates, asked: &Asked, now: Timestamp) -> Option<Choice> {
    let all = &candidates.0;
    let fitting: Vec<usize> = (0..all.len()).filter(|at| signs(&all[*at], asked)).collect();
    let keyring = keyring_for(all, &fitting, asked, now)?;
    let of_keyring: Vec<usize> = fitting.into_iter().filter(|at| all[*at].keyring == *keyring).collect();
    let valid = narrow(&of_keyring, |at| all[at].validity.contains(now));
    let last_resort = !all[*valid.first()?].validity.contains(now);
    let named = narrow(&valid, |at| covers_sni(&all[at], asked));
    let vouched = narrow(&named, |at| all[at].issuers.iter().any(|issuer| asked.authorities.contains(issuer)));
    let first = *vouched.first()?;
    let index = match all[first].prefer {
        Prefer::New => first,
        Prefer::Old => vouched.iter().copied().find(|at| all[*at].standing == Standing::Previous).unwrap_or(first),
    };
    let chosen_by = if last_resort {
        ChosenBy::LastResort
    } else if named.len() == 1 {
        ChosenBy::Only
    } else if vouched.len() < named.len() {
        ChosenBy::Authorities
    } else {
        ChosenBy::Prefer
    };
    Some(Choice { index, chosen_by })
}

pub(super) fn signs(candidate: &Candidate, asked: &Asked) -> bool {
    asked.schemes.is_empty() || candidate.schemes.iter().any(|scheme| asked.schemes.contains(scheme))
}

fn covers_sni(candidate: &Candidate, asked: &Asked) -> bool {
    asked.server_name.as_deref().is_some_and(|name| candidate.dns.iter().any(|pattern| covers(pattern, name)))
}

fn keyring_for<'a>(all: &'a [Candidate], fitting: &[usize], asked: &Asked, now: Timestamp) -> Option<&'a KeyringName> {
    let best = fitting.iter().copied().min_by_key(|at| {
        let candidate = &all[*at];
        // `min_by_key` keeps the first of equals, so the order of the configuration decides among them.
        (!covers_sni(candidate, asked), !candidate.validity.contains(now))
    })?;
    Some(&all[best].keyring)
}

/// Those that satisfy the wish, or all of them where none does.
fn narrow(from: &[usize], wish: impl Fn(usize) -> bool) -> Vec<usize> {
    let narrowed: Vec<usize> = from.iter().copied().filter(|at| wish(*at)).collect();
    if narrowed.is_empty() { from.to_vec() } else { narrowed }
}

#[cfg(test)]
mod tests;
