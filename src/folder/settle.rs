//! Quiet and complete? Decides when a reading acts: *act* (complete, 200 ms quiet), *not yet*, or *refuse* (incomplete, `settle` quiet).
//!
//! Pure: readings, changes and times in, decisions out. Every part of the folder settles on its own, so that a complete
//! keyring never waits for another one's half-written file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reading::{FolderPart, FolderReading, PartObservation, refuse_incomplete};
use super::{FolderContents, digest};
use crate::pki::FileName;

/// How long something complete must be quiet before it acts.
pub const QUIET_PERIOD: Duration = Duration::from_millis(200);

/// A part that is no longer there.
const ABSENT_PART: PartObservation = PartObservation { digest: [0; 32], complete: true };

/// What follows from a reading for one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleDecision {
    /// Complete and quiet: this is what the part holds now.
    Act,
    /// Not yet: what it held before stays; read again then.
    Wait(Instant),
    /// Incomplete and quiet for `settle`: the part holds this, and what is incomplete about it is refused.
    Refuse,
}

/// When a reading was made.
#[derive(Clone, Copy, Debug)]
pub struct ArrivalTime {
    /// When the reading began.
    pub now: Instant,
    /// The last change that was noticed since the reading before; none where a rescan finds an unnoticed change.
    pub noticed: Option<Instant>,
    /// `settle`.
    pub settle: Duration,
}

/// Remembers since when each part holds what it holds.
#[derive(Debug, Default)]
pub struct SettleState {
    /// `None` before the first reading. A part's time is `None` where it was complete from the start: nothing to wait for.
    parts: Option<BTreeMap<FolderPart, (PartObservation, Option<Instant>)>>,
}

impl SettleState {
    /// Takes a reading. Where the whole folder is `missing`, only `FolderPart::Folder` counts: nothing is removed.
    pub fn decide(
        &mut self,
        seen: &BTreeMap<FolderPart, PartObservation>,
        missing: bool,
        when: ArrivalTime,
    ) -> BTreeMap<FolderPart, SettleDecision> {
        let is_first = self.parts.is_none();
        let parts = self.parts.get_or_insert_default();
        let mut seen: BTreeMap<FolderPart, PartObservation> = seen.clone();
        if missing {
            seen.retain(|part, _| *part == FolderPart::Folder);
        } else {
            for part in parts.keys() {
                seen.entry(part.clone()).or_insert(ABSENT_PART);
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
            let quiet = if seen.complete { QUIET_PERIOD } else { when.settle };
            let decision = match known.1.map(|since| since + quiet) {
                Some(until) if when.now < until => SettleDecision::Wait(until),
                _ if seen.complete => SettleDecision::Act,
                _ => SettleDecision::Refuse,
            };
            if seen == ABSENT_PART && decision == SettleDecision::Act {
                parts.remove(&part);
            }
            decisions.insert(part, decision);
        }
        decisions
    }
}

/// What was decided so far, put together from readings part by part.
#[derive(Debug, Default)]
pub struct FolderVerdict {
    contents: FolderContents,
    /// The digest of each part as it was taken, and whether it was refused.
    digests: BTreeMap<FolderPart, ([u8; 32], bool)>,
    /// Files that are or were part of a key pair.
    former: Arc<BTreeSet<FileName>>,
}

/// Of the files that were once part of a key pair, so many are remembered; with more, those of the pairs that are there.
const MAX_FORMER_FILES: usize = 8192;

impl FolderVerdict {
    /// Takes over the parts of a reading that were decided. True if the contents differ from before.
    pub fn apply_decisions(
        &mut self,
        reading: FolderReading,
        decisions: &BTreeMap<FolderPart, SettleDecision>,
    ) -> bool {
        let FolderReading { contents: mut found, parts, .. } = reading;
        for (part, decision) in decisions {
            let refused = match decision {
                SettleDecision::Wait(_) => continue,
                SettleDecision::Act => false,
                SettleDecision::Refuse => true,
            };
            match parts.get(part) {
                Some(seen) => self.digests.insert(part.clone(), (seen.digest, refused)),
                None => self.digests.remove(part),
            };
            self.replace_part(part, &mut found);
        }
        self.remember_files();
        let digest =
            digest::digest_parts(self.digests.iter().map(|(part, (digest, refused))| (part, *digest, *refused)));
        std::mem::replace(&mut self.contents.digest, digest) != digest
    }

    /// Everything that was decided.
    pub fn contents(&self) -> &FolderContents {
        &self.contents
    }

    /// Files that are or were part of a key pair, for as long as this process runs.
    pub fn former_files(&self) -> Arc<BTreeSet<FileName>> {
        Arc::clone(&self.former)
    }

    fn remember_files(&mut self) {
        let pairs = self.contents.keyrings.values().flat_map(|joined| &joined.pairs);
        let now: BTreeSet<FileName> = pairs.flat_map(|pair| pair.sources()).cloned().collect();
        if !now.is_subset(&self.former) {
            let all: BTreeSet<FileName> = self.former.union(&now).cloned().collect();
            self.former = Arc::new(if all.len() > MAX_FORMER_FILES { now } else { all });
        }
    }

    fn replace_part(&mut self, part: &FolderPart, found: &mut FolderContents) {
        match part {
            FolderPart::Folder => {
                self.contents.problems = std::mem::take(&mut found.problems);
                self.contents.problems.iter_mut().for_each(refuse_incomplete);
            }
            FolderPart::Keyring(name) => match found.keyrings.remove(name) {
                Some(mut joined) => {
                    joined.problems.iter_mut().for_each(refuse_incomplete);
                    self.contents.keyrings.insert(name.clone(), joined);
                }
                None => drop(self.contents.keyrings.remove(name)),
            },
            FolderPart::Named(path) => match found.named.remove(path) {
                Some(file) => drop(self.contents.named.insert(path.clone(), file)),
                None => drop(self.contents.named.remove(path)),
            },
        }
    }
}

#[cfg(test)]
mod tests;
