//! Changes standings: every input ends here, and apart from `retire` nothing else sets a pair's standing.
//!
//! A function of the recorded facts: judge pairs not in use, choose the current pair, retire ended overlaps, report the
//! changes, forget pairs no longer needed. The same facts again change nothing and report nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::fit::{Fit, fit, later, revoked};
use super::super::{Activate, Event, OnExpiry, Standing};
use super::{Entry, Keyring, MOST_PREVIOUS, MOST_RETIRED, Overlap, ROLLBACK_WINDOW, Waits, explain};
use crate::pki::Fingerprint;

/// Why standings are evaluated.
#[derive(Clone, Copy)]
pub(super) enum Cause {
    /// Facts changed; the rule chooses.
    Facts,
    /// An operator chose this pair; the code says how.
    Chosen(Fingerprint, &'static str),
}

type Before = BTreeMap<Fingerprint, Standing>;

impl Keyring {
    /// Updates standings from the facts. `before` is how they were last reported.
    pub(super) fn settle(&mut self, before: &Before, cause: Cause, now: Timestamp) -> Vec<Event> {
        let old = self.current_entry().map(|entry| entry.held.pair.fingerprint());
        self.judge(before, now);
        match cause {
            Cause::Facts => {
                let chosen = self.chosen(now);
                let reason = chosen.map(|chosen| self.rotation_reason(chosen, old, now));
                self.seat(chosen.zip(reason), now);
            }
            Cause::Chosen(chosen, reason) => {
                self.seat(Some((chosen, reason)), now);
                self.hold_rivals(chosen, now);
            }
        }
        if self.steady {
            self.retire(now);
        }
        self.tidy_served(now);
        let mut events = self.tell(before, old);
        self.forget(now);
        events.extend(self.tell_last_resort(now));
        events
    }

    /// Sets the standing of every pair that is not in use; `previous` if it may serve, so that it is a candidate for
    /// current.
    fn judge(&mut self, before: &Before, now: Timestamp) {
        let mut verdicts = Vec::new();
        for (key_pair, entry) in &self.entries {
            verdicts.push(self.verdict(entry, before.get(key_pair).copied(), now));
        }
        let overlap = self.settings.overlap;
        for (entry, verdict) in self.entries.values_mut().zip(verdicts) {
            match verdict {
                Verdict::Stays => {}
                Verdict::Is { standing, reason, why } => {
                    entry.stand(standing, reason, now);
                    entry.held.why = why;
                }
                Verdict::NotYet { due } => {
                    entry.due = Some(due);
                    entry.stand(Standing::Staged, "not_yet_valid", now);
                    entry.held.why = Some(explain::staged(entry));
                }
                Verdict::Waits { reason } => {
                    entry.due = None;
                    entry.stand(Standing::Staged, reason, now);
                    entry.held.why = Some(explain::staged(entry));
                }
                Verdict::Free => entry.overlap_from(now, overlap, "older_than_current"),
            }
        }
    }

    fn verdict(&self, entry: &Entry, before: Option<Standing>, now: Timestamp) -> Verdict {
        let key_pair = entry.held.pair.fingerprint();
        let standing = entry.held.standing;
        if self.revoked.contains(key_pair) {
            let refusal = revoked(&entry.held.pair);
            let standing = match before {
                None | Some(Standing::Refused) => Standing::Refused,
                Some(_) => Standing::Revoked,
            };
            return Verdict::Is { standing, reason: refusal.reason, why: Some(refusal.explanation) };
        }
        if entry.served() {
            return Verdict::Stays;
        }
        if !entry.held.in_folder {
            // A refused pair without a file is forgotten; a staged one never served, and is withdrawn.
            return match standing {
                Standing::Staged => Verdict::Is { standing: Standing::Retired, reason: "withdrawn", why: None },
                _ => Verdict::Stays,
            };
        }
        match fit(&entry.held.pair, &self.settings, now) {
            Fit::Refused(refusal) => {
                Verdict::Is { standing: Standing::Refused, reason: refusal.reason, why: Some(refusal.explanation) }
            }
            Fit::NotYet { from } => Verdict::NotYet { due: from },
            Fit::Usable { .. } => match entry.due {
                Some(due) if now < due => Verdict::NotYet { due },
                _ if self.is_waiting(entry) => Verdict::Waits {
                    reason: match entry.waits {
                        Some(Waits::SharesNoName) => "shares_no_name",
                        Some(Waits::Marked) => "marked_staged",
                        _ => "activate_manual",
                    },
                },
                _ => Verdict::Free,
            },
        }
    }

    /// The one rule. In this order:
    ///
    /// 1. the pair that the configuration names; while that one is missing, the pair in use;
    /// 2. with `activate = "manual"` the pair in use;
    /// 3. the newest pair in the folder that may serve, is not staged and not held back;
    /// 4. the pair in use, with or without its file;
    /// 5. if no valid pair is in use: the newest previous pair, held ones last;
    /// 6. any usable pair in the folder, staged or held: both only make sense with a pair to keep;
    /// 7. the pair in use, though expired.
    fn chosen(&self, now: Timestamp) -> Option<Fingerprint> {
        let current = self.current_entry();
        let valid = current.filter(|entry| entry.is_valid(now));
        if let Some(named) = self.settings.current.and_then(|named| self.entries.get(&named))
            && named.served()
            && named.is_valid(now)
        {
            return Some(named.held.pair.fingerprint());
        }
        let stays = self.settings.current.is_some() || self.settings.activate == Activate::Manual;
        let previous = || {
            self.with(Standing::Previous)
                .filter(|entry| entry.is_valid(now))
                .max_by_key(|entry| (!self.held.contains(&entry.held.pair.fingerprint()), entry.rank()))
        };
        let whatever = || {
            let fit = self.entries.values().filter(|entry| entry.held.in_folder && self.is_fit(entry, now));
            fit.max_by_key(|entry| entry.rank())
        };
        valid
            .filter(|_| stays)
            .or_else(|| self.newest_free(now))
            .or(valid)
            .or_else(previous)
            .or_else(whatever)
            .or(current)
            .map(|entry| entry.held.pair.fingerprint())
    }

    /// Contract section 3: the latest `not_before` among the usable pairs in the folder.
    fn newest_free(&self, now: Timestamp) -> Option<&Entry> {
        self.entries
            .values()
            .filter(|entry| entry.held.in_folder && entry.served() && self.is_fit(entry, now))
            .filter(|entry| !self.held.contains(&entry.held.pair.fingerprint()))
            .max_by_key(|entry| entry.rank())
    }

    fn rotation_reason(&self, chosen: Fingerprint, old: Option<Fingerprint>, now: Timestamp) -> &'static str {
        let Some(entry) = self.entries.get(&chosen) else { return "arrived" };
        if self.settings.current == Some(chosen) {
            return "configured";
        }
        let Some(old) = old.and_then(|old| self.entries.get(&old)) else { return "first" };
        let served_before = entry.activated.is_some() || entry.held.standing == Standing::Retired;
        if self.revoked.contains(old.held.pair.fingerprint()) {
            "revoked"
        } else if entry.due.is_some() {
            "due"
        } else if !served_before && old.rank() < entry.rank() {
            "newer_arrived"
        } else if old.held.pair.validity().not_after < now {
            "expired"
        } else if served_before {
            "returned"
        } else {
            "arrived"
        }
    }

    /// Makes `chosen` the current pair, and the former current one previous.
    fn seat(&mut self, chosen: Option<(Fingerprint, &'static str)>, now: Timestamp) {
        let Some((chosen, reason)) = chosen else { return };
        let overlap = self.settings.overlap;
        for (key_pair, entry) in &mut self.entries {
            match (*key_pair == chosen, entry.held.standing == Standing::Current) {
                (true, false) => {
                    entry.stand(Standing::Current, reason, now);
                    entry.activated = Some(now);
                    entry.replaced = None;
                    entry.held.overlap_ends = None;
                }
                (false, true) => entry.overlap_from(now, overlap, reason),
                (true, true) | (false, false) => {}
            }
        }
        self.held.remove(&chosen);
        if let Some(unseen) = self.past.current.take() {
            // Current in the last run, but its file is not there yet: if it arrives, its overlap counts from now.
            self.past.previous.insert(unseen, Overlap { replaced: now, ends: later(now, overlap) });
        }
    }

    /// Holds back pairs that the rule would choose before the operator's choice.
    fn hold_rivals(&mut self, chosen: Fingerprint, now: Timestamp) {
        while let Some(rival) = self.newest_free(now).map(|entry| entry.held.pair.fingerprint())
            && rival != chosen
        {
            self.held.insert(rival);
        }
    }

    /// Clears what pairs in use were waiting for; what stricter settings would refuse becomes a warning.
    fn tidy_served(&mut self, now: Timestamp) {
        let settings = &self.settings;
        for entry in self.entries.values_mut().filter(|entry| entry.served()) {
            (entry.due, entry.waits) = (None, None);
            entry.held.why = match fit(&entry.held.pair, settings, now) {
                _ if entry.held.standing == Standing::Retired => None,
                Fit::Usable { warning } => warning,
                Fit::Refused(refusal) => Some(refusal.explanation),
                Fit::NotYet { .. } => None,
            };
        }
    }

    /// Ends overlaps: those that are over, and the oldest ones if there are too many.
    fn retire(&mut self, now: Timestamp) {
        for entry in self.entries.values_mut().filter(|entry| entry.held.standing == Standing::Previous) {
            if let Some(ends) = entry.held.overlap_ends.filter(|ends| *ends <= now) {
                let expired = entry.held.pair.validity().not_after <= ends;
                entry.retire(if expired { "expired" } else { "overlap_ended" }, now);
            }
        }
        let mut previous: Vec<_> = self
            .with(Standing::Previous)
            .map(|entry| (entry.replaced, entry.rank(), entry.held.pair.fingerprint()))
            .collect();
        previous.sort_unstable();
        let too_many = previous.len().saturating_sub(MOST_PREVIOUS);
        for (_, _, oldest) in &previous[..too_many] {
            if let Some(entry) = self.entries.get_mut(oldest) {
                entry.retire("more_than_eight_previous", now);
            }
        }
    }

    /// One Event for each pair with a changed standing, the current one first.
    fn tell(&self, before: &Before, old: Option<Fingerprint>) -> Vec<Event> {
        let mut moved: Vec<_> = self
            .entries
            .iter()
            .map(|(key_pair, entry)| (*key_pair, entry, before.get(key_pair).copied()))
            .filter(|(_, entry, from)| *from != Some(entry.held.standing))
            .collect();
        moved.sort_by_key(|(_, entry, _)| entry.held.standing != Standing::Current);
        let event = |(key_pair, entry, from): (Fingerprint, &Entry, Option<Standing>)| {
            let replaces = old.filter(|old| entry.held.standing == Standing::Current && *old != key_pair);
            Event::Moved {
                keyring: self.settings.name.clone(),
                key_pair,
                from,
                to: entry.held.standing,
                reason: entry.reason,
                explanation: explain::moved(self, entry, replaces),
                replaces,
                overlap_ends: entry.held.overlap_ends,
                sources: entry.held.pair.sources().to_vec(),
            }
        };
        moved.into_iter().map(event).collect()
    }

    /// Drops pairs that are no longer needed, and their keys.
    fn forget(&mut self, now: Timestamp) {
        let steady = self.steady;
        let mut gone: Vec<_> = self.with(Standing::Retired).filter(|entry| !entry.held.in_folder).collect();
        gone.sort_by_key(|entry| std::cmp::Reverse((entry.held.since, entry.rank())));
        let too_many: Vec<Fingerprint> =
            gone.iter().skip(MOST_RETIRED).map(|entry| entry.held.pair.fingerprint()).collect();
        let needed = |entry: &Entry| match entry.held.standing {
            _ if entry.held.in_folder => true,
            _ if too_many.contains(&entry.held.pair.fingerprint()) => false,
            Standing::Current | Standing::Previous => true,
            // Without `replaced` it never served: a withdrawn staged pair.
            Standing::Retired => {
                entry.replaced.is_some() && (!steady || now < later(entry.held.since, ROLLBACK_WINDOW))
            }
            Standing::Refused | Standing::Staged | Standing::Revoked => false,
        };
        let held = &mut self.held;
        self.entries.retain(|key_pair, entry| {
            let keep = needed(entry);
            if !keep {
                held.remove(key_pair);
            }
            keep
        });
        let revoked = &self.revoked;
        held.retain(|key_pair| !revoked.contains(*key_pair));
    }

    /// Reports the last resort: once when the last pair expires, and again when `on_expiry` changes.
    fn tell_last_resort(&mut self, now: Timestamp) -> Option<Event> {
        let expired = self.current_entry().filter(|entry| entry.held.pair.validity().not_after < now);
        let served = self.settings.on_expiry == OnExpiry::Serve;
        let last_resort = expired.map(|entry| (entry.held.pair.fingerprint(), served));
        if last_resort == self.last_resort {
            return None;
        }
        self.last_resort = last_resort;
        let entry = self.current_entry().filter(|_| last_resort.is_some())?;
        Some(Event::LastResort {
            keyring: self.settings.name.clone(),
            key_pair: entry.held.pair.fingerprint(),
            expired: entry.held.pair.validity().not_after,
            served,
        })
    }
}

/// The result of judging one pair.
enum Verdict {
    /// It keeps its standing.
    Stays,
    /// Refused, revoked or withdrawn.
    Is { standing: Standing, reason: &'static str, why: Option<String> },
    /// Staged until then.
    NotYet { due: Timestamp },
    /// Staged until `promote`.
    Waits { reason: &'static str },
    /// It may serve.
    Free,
}

impl Entry {
    fn stand(&mut self, standing: Standing, reason: &'static str, now: Timestamp) {
        if self.held.standing != standing {
            self.held.since = now;
        }
        self.held.standing = standing;
        self.reason = reason;
    }

    /// Previous from `now` on.
    fn overlap_from(&mut self, now: Timestamp, overlap: std::time::Duration, reason: &'static str) {
        self.stand(Standing::Previous, reason, now);
        self.replaced = Some(now);
        self.held.overlap_ends = Some(later(now, overlap).min(self.held.pair.validity().not_after));
    }

    pub(super) fn retire(&mut self, reason: &'static str, now: Timestamp) {
        self.stand(Standing::Retired, reason, now);
        self.held.overlap_ends = None;
    }
}
