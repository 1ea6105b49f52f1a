//! Quiet and complete? Decides when a reading acts: *act* (complete, 200 ms quiet), *not yet*, or *refuse* (incomplete, `settle` quiet).
//!
//! Pure: readings, changes and times in, decisions out. Every part of the folder settles on its own, so that a complete
//! keyring never waits for another one's half-written file.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Contents;
use super::read::{Reading, sha256};
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
    /// The last change that was noticed since the reading before; none where a rescan finds what nobody noticed.
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
    /// Takes a reading. Where the whole folder is `missing`, only [`Part::Folder`] is looked at: that is no removal.
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
            // The change lies at or before the last notice; one that nobody noticed may be as young as this reading.
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
        let digest = digest_of(self.digests.iter().map(|(part, (digest, refused))| (part, *digest, *refused)));
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

/// One digest of all parts: kind, name, digest and verdict of each.
pub(super) fn digest_of<'p>(parts: impl Iterator<Item = (&'p Part, [u8; 32], bool)>) -> [u8; 32] {
    let digests: Vec<[u8; 32]> = parts
        .map(|(part, digest, refused)| {
            let (kind, name): (&[u8], &[u8]) = match part {
                Part::Folder => (b"folder", b""),
                Part::Keyring(name) => (b"keyring", name.as_bytes()),
                Part::Named(path) => (b"named", path.as_os_str().as_bytes()),
            };
            sha256(&[kind, name, &digest, &[u8::from(refused)]])
        })
        .collect();
    let items: Vec<&[u8]> = digests.iter().map(<[u8; 32]>::as_slice).collect();
    sha256(&items)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);

    fn keyring(name: &str) -> Part {
        Part::Keyring(name.into())
    }

    fn seen(digest: u8, complete: bool) -> Seen {
        Seen { digest: [digest; 32], complete }
    }

    fn at(now: Instant, noticed: Option<Instant>) -> When {
        When { now, noticed, settle: SETTLE }
    }

    #[test]
    fn the_first_reading_acts_at_once_where_it_is_complete() {
        let start = Instant::now();
        let mut settle = Settle::default();
        let parts = BTreeMap::from([(keyring("a"), seen(1, true)), (keyring("b"), seen(1, false))]);
        let decisions = settle.reading(&parts, false, at(start, None));
        assert_eq!(decisions[&keyring("a")], Decision::Act);
        assert_eq!(decisions[&keyring("b")], Decision::Wait(start + SETTLE));
        let decisions = settle.reading(&parts, false, at(start + SETTLE, None));
        assert_eq!(decisions[&keyring("a")], Decision::Act);
        assert_eq!(decisions[&keyring("b")], Decision::Refuse);
    }

    #[test]
    fn a_change_acts_after_quiet_and_a_half_one_after_settle() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.reading(&BTreeMap::from([(keyring("a"), seen(1, true))]), false, at(start, None));
        let noticed = start + Duration::from_secs(1);
        let half = BTreeMap::from([(keyring("a"), seen(2, false))]);
        let decisions = settle.reading(&half, false, at(noticed + QUIET, Some(noticed)));
        assert_eq!(decisions[&keyring("a")], Decision::Wait(noticed + SETTLE));
        let whole = BTreeMap::from([(keyring("a"), seen(3, true))]);
        let noticed = noticed + Duration::from_secs(1);
        let decisions = settle.reading(&whole, false, at(noticed + QUIET, Some(noticed)));
        assert_eq!(decisions[&keyring("a")], Decision::Act);
    }

    #[test]
    fn a_missing_folder_removes_nothing() {
        let start = Instant::now();
        let mut settle = Settle::default();
        let parts = BTreeMap::from([(keyring("a"), seen(1, true)), (Part::Folder, seen(0, true))]);
        settle.reading(&parts, false, at(start, None));
        let missing = BTreeMap::from([(Part::Folder, seen(9, false))]);
        let later = start + Duration::from_secs(9);
        let decisions = settle.reading(&missing, true, at(later, None));
        assert_eq!(decisions, BTreeMap::from([(Part::Folder, Decision::Wait(later + SETTLE))]));
        let decisions = settle.reading(&parts, false, at(later + QUIET, None));
        assert_eq!(decisions[&keyring("a")], Decision::Act);
    }

    #[test]
    fn a_keyring_that_is_deleted_is_gone_after_quiet() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.reading(&BTreeMap::from([(keyring("a"), seen(1, true))]), false, at(start, None));
        let empty = BTreeMap::new();
        let decisions = settle.reading(&empty, false, at(start + QUIET, None));
        assert_eq!(decisions[&keyring("a")], Decision::Wait(start + QUIET + QUIET));
        let decisions = settle.reading(&empty, false, at(start + QUIET + QUIET, None));
        assert_eq!(decisions[&keyring("a")], Decision::Act);
        assert!(settle.reading(&empty, false, at(start + SETTLE, None)).is_empty());
    }

    /// One step of a history: time passes, perhaps something changes, perhaps it is noticed, perhaps it is read.
    #[derive(Clone, Debug)]
    struct Step {
        passes: u64,
        change: Option<(u8, Option<(u8, bool)>)>,
        notice: bool,
        read: bool,
    }

    fn step() -> impl Strategy<Value = Step> {
        let change = proptest::option::of((0..3_u8, proptest::option::of((1..4_u8, any::<bool>()))));
        (0..900_u64, change, any::<bool>(), any::<bool>()).prop_map(|(passes, change, notice, read)| Step {
            passes,
            change,
            notice,
            read,
        })
    }

    fn record(acted: &mut BTreeMap<Part, Seen>, seen: &BTreeMap<Part, Seen>, decisions: &BTreeMap<Part, Decision>) {
        for (part, decision) in decisions {
            match (decision, seen.get(part)) {
                (Decision::Wait(_), _) => {}
                (_, Some(seen)) => {
                    acted.insert(part.clone(), *seen);
                }
                (_, None) => {
                    acted.remove(part);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_interleaving_ends_with_the_final_contents_acted_on(steps in proptest::collection::vec(step(), 0..40)) {
            let mut now = Instant::now();
            let (mut settle, mut there, mut acted) = (Settle::default(), BTreeMap::new(), BTreeMap::new());
            let mut noticed = None;
            for step in steps {
                now += Duration::from_millis(step.passes);
                if let Some((part, held)) = step.change {
                    let part = keyring(&part.to_string());
                    // A digest is one content: complete or not goes with it.
                    match held {
                        Some((digest, complete)) => {
                            there.insert(part, seen(digest * 2 + u8::from(complete), complete));
                        }
                        None => {
                            there.remove(&part);
                        }
                    }
                }
                if step.notice {
                    noticed = Some(now);
                }
                if step.read {
                    let decisions = settle.reading(&there, false, at(now, noticed.take()));
                    record(&mut acted, &there, &decisions);
                }
            }
            // From here on nothing changes: a rescan, and then only what the decisions ask for.
            for _ in 0..4 {
                now += Duration::from_millis(10);
                let decisions = settle.reading(&there, false, at(now, noticed.take()));
                record(&mut acted, &there, &decisions);
                for (part, decision) in &decisions {
                    let complete = there.get(part).is_none_or(|seen| seen.complete);
                    let fits = match decision {
                        Decision::Wait(_) => true,
                        Decision::Act => complete,
                        Decision::Refuse => !complete,
                    };
                    prop_assert!(fits);
                    if let Decision::Wait(until) = decision {
                        let longest = if complete { QUIET } else { SETTLE };
                        prop_assert!(*until - now <= longest);
                    }
                }
                let next = decisions.values().filter_map(|decision| match decision {
                    Decision::Wait(until) => Some(*until),
                    _ => None,
                });
                match next.min() {
                    Some(until) => now = until,
                    None => break,
                }
            }
            prop_assert_eq!(acted, there);
        }
    }
}
