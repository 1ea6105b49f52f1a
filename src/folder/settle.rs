//! Quiet and complete? Decides when a reading acts: *act* (complete, 200 ms quiet), *not yet*, or *refuse* (incomplete, `settle` quiet).
//!
//! Pure: readings, changes and times in, decisions out. Every part of the folder settles on its own, so that a complete
//! keyring never waits for another one's half-written file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::read::Reading;
use super::{Contents, digest};
use crate::pki::{Problem, Severity};

/// How long something complete must be quiet before it acts.
pub const QUIET: Duration = Duration::from_millis(200);

/// What settles on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The folder as such: what concerns no keyring.
    Folder,
    /// One keyring.
    Keyring(Arc<str>),
    /// One file that the configuration names.
    Named(PathBuf),
}

/// What a reading saw of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Equal for equal contents.
    pub digest: [u8; 32],
    /// Nothing is half-written or without its other half.
    pub complete: bool,
}

/// A part that is no longer there.
const GONE: Seen = Seen { digest: [0; 32], complete: true };

/// What follows from a reading for one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Complete and quiet: this is what the part holds now.
    Act,
    /// Not yet: what it held before stays; read again then.
    Wait(Instant),
    /// Incomplete and quiet for `settle`: the part holds this, and what is incomplete about it is refused.
    Refuse,
}

/// When a reading was made.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// When the reading began.
    pub now: Instant,
    /// The last change that was noticed since the reading before; none where a rescan finds an unnoticed change.
    pub noticed: Option<Instant>,
    /// `settle`.
    pub settle: Duration,
}

/// Remembers since when each part holds what it holds.
#[derive(Debug, Default)]
pub struct Settle {
    /// `None` before the first reading. A part's time is `None` where it was complete from the start: nothing to wait for.
    parts: Option<BTreeMap<Part, (Seen, Option<Instant>)>>,
}

impl Settle {
    /// Takes a reading. Where the whole folder is `missing`, only [`Part::Folder`] counts: nothing is removed.
    pub fn reading(&mut self, seen: &BTreeMap<Part, Seen>, missing: bool, when: When) -> BTreeMap<Part, Decision> {
        let is_first = self.parts.is_none();
        let parts = self.parts.get_or_insert_default();
        let mut seen: BTreeMap<Part, Seen> = seen.clone();
        if missing {
            seen.retain(|part, _| *part == Part::Folder);
        } else {
            for part in parts.keys() {
                seen.entry(part.clone()).or_insert(GONE);
            }
        }
        let mut decisions = BTreeMap::new();
        for (part, seen) in seen {
            // The change lies at or before the last notice; an unnoticed one may be as young as this reading.
            let changed = when.noticed.unwrap_or(when.now).min(when.now);
            let since = if is_first && seen.complete { None } else { Some(changed) };
            let known = parts.entry(part.clone()).or_insert((seen, since));
            if known.0 != seen {
                *known = (seen, Some(changed));
            }
            let quiet = if seen.complete { QUIET } else { when.settle };
            let decision = match known.1.map(|since| since + quiet) {
                Some(until) if when.now < until => Decision::Wait(until),
                _ if seen.complete => Decision::Act,
                _ => Decision::Refuse,
            };
            if seen == GONE && decision == Decision::Act {
                parts.remove(&part);
            }
            decisions.insert(part, decision);
        }
        decisions
    }
}

/// What was decided so far, put together from readings part by part.
#[derive(Debug, Default)]
pub struct Settled {
    contents: Contents,
    /// The digest of each part as it was taken, and whether it was refused.
    digests: BTreeMap<Part, ([u8; 32], bool)>,
}

impl Settled {
    /// Takes over the parts of a reading that were decided. True if the contents differ from before.
    pub fn take(&mut self, reading: Reading, decisions: &BTreeMap<Part, Decision>) -> bool {
        let Reading { contents: mut found, parts, .. } = reading;
        for (part, decision) in decisions {
            let refused = match decision {
                Decision::Wait(_) => continue,
                Decision::Act => false,
                Decision::Refuse => true,
            };
            match parts.get(part) {
                Some(seen) => self.digests.insert(part.clone(), (seen.digest, refused)),
                None => self.digests.remove(part),
            };
            self.put(part, &mut found);
        }
        let digest = digest::parts(self.digests.iter().map(|(part, (digest, refused))| (part, *digest, *refused)));
        std::mem::replace(&mut self.contents.digest, digest) != digest
    }

    /// Everything that was decided.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    fn put(&mut self, part: &Part, found: &mut Contents) {
        match part {
            Part::Folder => {
                self.contents.problems = std::mem::take(&mut found.problems);
                self.contents.problems.iter_mut().for_each(refuse);
            }
            Part::Keyring(name) => match found.keyrings.remove(name) {
                Some(mut joined) => {
                    joined.problems.iter_mut().for_each(refuse);
                    self.contents.keyrings.insert(name.clone(), joined);
                }
                None => drop(self.contents.keyrings.remove(name)),
            },
            Part::Named(path) => match found.named.remove(path) {
                Some(file) => drop(self.contents.named.insert(path.clone(), file)),
                None => drop(self.contents.named.remove(path)),
            },
        }
    }
}

/// What is incomplete is refused from now on.
pub(super) fn refuse(problem: &mut Problem) {
    if problem.severity == Severity::Incomplete {
        problem.severity = Severity::Refused;
    }
}

#[cfg(test)]
mod tests;
