//! Changes standings: every input ends here, and apart from `retire` nothing else sets a pair's standing.
//!
//! A function of the recorded facts: judge pairs not in use, choose the current pair, retire ended overlaps, report the
//! changes, forget pairs no longer needed. The same facts again change nothing and report nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::fit::{KeyPairFitness, add_saturating, assess_fitness, revocation_refusal};
use super::super::{ActivationPolicy, ExpiryPolicy, KeyringEvent, Standing};
use super::entry::{KeyringEntry, MAX_PREVIOUS, MAX_RETIRED, OverlapPeriod, ROLLBACK_WINDOW, SettleCause, WaitReason};
use super::{Keyring, explain};
use crate::pki::Fingerprint;

type StandingMap = BTreeMap<Fingerprint, Standing>;

impl Keyring {
    /// Updates standings from the facts. `before` is how they were last reported.
    pub(super) fn settle(&mut self, before: &StandingMap, cause: SettleCause, now: Timestamp) -> Vec<KeyringEvent> {
        let old = self.current_entry().map(|entry| entry.held.pair.fingerprint());
        self.judge(before, now);
        match cause {
            SettleCause::Facts => {
                let chosen = self.choose_current(now);
                let reason = chosen.map(|chosen| self.rotation_reason(chosen, old, now));
                self.make_current(chosen.zip(reason), now);
            }
            SettleCause::Chosen(chosen, reason) => {
                self.make_current(Some((chosen, reason)), now);
                self.hold_rivals(chosen, now);
            }
        }
        if self.steady {
            self.retire(now);
        }
        self.tidy_served(now);
        let mut events = self.collect_events(before, old);
        self.forget_unneeded(now);
        events.extend(self.last_resort_event(now));
        events
    }

    /// Sets the standing of every pair that is not in use; `previous` if it may serve, so that it is a candidate for
    /// current.
    fn judge(&mut self, before: &StandingMap, now: Timestamp) {
        let mut verdicts = Vec::new();
        for (key_pair, entry) in &self.entries {
            verdicts.push(self.judge_entry(entry, before.get(key_pair).copied(), now));
        }
        let overlap = self.settings.overlap;
        for (entry, verdict) in self.entries.values_mut().zip(verdicts) {
            match verdict {
                StandingVerdict::Stays => {}
                StandingVerdict::Is { standing, reason, why } => {
                    entry.set_standing(standing, reason, now);
                    entry.held.why = why;
                }
                StandingVerdict::NotYet { due } => {
                    entry.due = Some(due);
                    entry.set_standing(Standing::Staged, "not_yet_valid", now);
                    entry.held.why = Some(explain::explain_staged(entry));
                }
                StandingVerdict::Waits { reason } => {
                    entry.due = None;
                    entry.set_standing(Standing::Staged, reason, now);
                    entry.held.why = Some(explain::explain_staged(entry));
                }
                StandingVerdict::Free => entry.begin_overlap(now, overlap, "older_than_current"),
            }
        }
    }

    fn judge_entry(&self, entry: &KeyringEntry, before: Option<Standing>, now: Timestamp) -> StandingVerdict {
        let key_pair = entry.held.pair.fingerprint();
        let standing = entry.held.standing;
        if self.revoked.contains(key_pair) {
            let refusal = revocation_refusal(&entry.held.pair);
            let standing = match before {
                None | Some(Standing::Refused) => Standing::Refused,
                Some(_) => Standing::Revoked,
            };
            return StandingVerdict::Is { standing, reason: refusal.reason, why: Some(refusal.explanation) };
        }
        if entry.has_served() {
            return StandingVerdict::Stays;
        }
        if !entry.held.in_folder {
            // A refused pair without a file is forgotten; a staged one never served, and is withdrawn.
            return match standing {
                Standing::Staged => StandingVerdict::Is { standing: Standing::Retired, reason: "withdrawn", why: None },
                _ => StandingVerdict::Stays,
            };
        }
        match assess_fitness(&entry.held.pair, &self.settings, now) {
            KeyPairFitness::Refused(refusal) => StandingVerdict::Is {
                standing: Standing::Refused,
                reason: refusal.reason,
                why: Some(refusal.explanation),
            },
            KeyPairFitness::NotYet { from } => StandingVerdict::NotYet { due: from },
            KeyPairFitness::Usable { .. } if self.waits_for_repair(entry, now) => StandingVerdict::Is {
                standing: Standing::Refused,
                reason: "broken_file",
                why: Some(explain::explain_broken(entry)),
            },
            KeyPairFitness::Usable { .. } => match entry.due {
                Some(due) if now < due => StandingVerdict::NotYet { due },
                _ if self.is_waiting(entry) => StandingVerdict::Waits {
                    reason: match entry.waits {
                        Some(WaitReason::SharesNoName) => "shares_no_name",
                        Some(WaitReason::Marked) => "marked_staged",
                        _ => "activate_manual",
                    },
                },
                _ => StandingVerdict::Free,
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
    fn choose_current(&self, now: Timestamp) -> Option<Fingerprint> {
        let current = self.current_entry();
        let valid = current.filter(|entry| entry.is_valid(now));
        if let Some(named) = self.settings.current.and_then(|named| self.entries.get(&named))
            && named.has_served()
            && named.is_valid(now)
        {
            return Some(named.held.pair.fingerprint());
        }
        let stays = self.settings.current.is_some() || self.settings.activate == ActivationPolicy::Manual;
        let previous = || {
            self.entries_with(Standing::Previous)
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

    /// Contract section 3: the latest `not_before` among the usable pairs in the folder; those of broken files last.
    fn newest_free(&self, now: Timestamp) -> Option<&KeyringEntry> {
        self.entries
            .values()
            .filter(|entry| entry.held.in_folder && entry.has_served() && self.is_fit(entry, now))
            .filter(|entry| !self.held.contains(&entry.held.pair.fingerprint()))
            .max_by_key(|entry| (!entry.held.pair.is_broken(), entry.rank()))
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
    fn make_current(&mut self, chosen: Option<(Fingerprint, &'static str)>, now: Timestamp) {
        let Some((chosen, reason)) = chosen else { return };
        let overlap = self.settings.overlap;
        for (key_pair, entry) in &mut self.entries {
            match (*key_pair == chosen, entry.held.standing == Standing::Current) {
                (true, false) => {
                    entry.set_standing(Standing::Current, reason, now);
                    entry.activated = Some(now);
                    entry.replaced = None;
                    entry.held.overlap_ends = None;
                }
                (false, true) => entry.begin_overlap(now, overlap, reason),
                (true, true) | (false, false) => {}
            }
        }
        self.held.remove(&chosen);
        if let Some(unseen) = self.past.current.take() {
            // Current in the last run, but its file is not there yet: if it arrives, its overlap counts from now.
            self.past.previous.insert(unseen, OverlapPeriod { replaced: now, ends: add_saturating(now, overlap) });
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
        for entry in self.entries.values_mut().filter(|entry| entry.has_served()) {
            (entry.due, entry.waits) = (None, None);
            entry.held.why = match assess_fitness(&entry.held.pair, settings, now) {
                _ if entry.held.standing == Standing::Retired => None,
                KeyPairFitness::Usable { warning } => warning,
                KeyPairFitness::Refused(refusal) => Some(refusal.explanation),
                KeyPairFitness::NotYet { .. } => None,
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
            .entries_with(Standing::Previous)
            .map(|entry| (entry.replaced, entry.rank(), entry.held.pair.fingerprint()))
            .collect();
        previous.sort_unstable();
        let too_many = previous.len().saturating_sub(MAX_PREVIOUS);
        for (_, _, oldest) in &previous[..too_many] {
            if let Some(entry) = self.entries.get_mut(oldest) {
                entry.retire("more_than_eight_previous", now);
            }
        }
    }

    /// One Event for each pair with a changed standing, the current one first.
    fn collect_events(&self, before: &StandingMap, old: Option<Fingerprint>) -> Vec<KeyringEvent> {
        let mut moved: Vec<_> = self
            .entries
            .iter()
            .map(|(key_pair, entry)| (*key_pair, entry, before.get(key_pair).copied()))
            .filter(|(_, entry, from)| *from != Some(entry.held.standing))
            .collect();
        moved.sort_by_key(|(_, entry, _)| entry.held.standing != Standing::Current);
        let event = |(key_pair, entry, from): (Fingerprint, &KeyringEntry, Option<Standing>)| {
            let replaces = old.filter(|old| entry.held.standing == Standing::Current && *old != key_pair);
            KeyringEvent::Moved {
                keyring: self.settings.name.clone(),
                key_pair,
                from,
                to: entry.held.standing,
                reason: entry.reason,
                explanation: explain::explain_move(self, entry, replaces),
                replaces,
                overlap_ends: entry.held.overlap_ends,
                sources: entry.held.pair.sources().to_vec(),
            }
        };
        moved.into_iter().map(event).collect()
    }

    /// Drops pairs that are no longer needed, and their keys.
    fn forget_unneeded(&mut self, now: Timestamp) {
        let steady = self.steady;
        let mut gone: Vec<_> = self.entries_with(Standing::Retired).filter(|entry| !entry.held.in_folder).collect();
        gone.sort_by_key(|entry| std::cmp::Reverse((entry.held.since, entry.rank())));
        let too_many: Vec<Fingerprint> =
            gone.iter().skip(MAX_RETIRED).map(|entry| entry.held.pair.fingerprint()).collect();
        let needed = |entry: &KeyringEntry| match entry.held.standing {
            _ if entry.held.in_folder => true,
            _ if too_many.contains(&entry.held.pair.fingerprint()) => false,
            Standing::Current | Standing::Previous => true,
            // Without `replaced` it never served: a withdrawn staged pair.
            Standing::Retired => {
                entry.replaced.is_some() && (!steady || now < add_saturating(entry.held.since, ROLLBACK_WINDOW))
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
    fn last_resort_event(&mut self, now: Timestamp) -> Option<KeyringEvent> {
        let expired = self.current_entry().filter(|entry| entry.held.pair.validity().not_after < now);
        let served = self.settings.on_expiry == ExpiryPolicy::Serve;
        let last_resort = expired.map(|entry| (entry.held.pair.fingerprint(), served));
        if last_resort == self.last_resort {
            return None;
        }
        self.last_resort = last_resort;
        let entry = self.current_entry().filter(|_| last_resort.is_some())?;
        Some(KeyringEvent::LastResort {
            keyring: self.settings.name.clone(),
            key_pair: entry.held.pair.fingerprint(),
            expired: entry.held.pair.validity().not_after,
            served,
        })
    }
}

/// The result of judging one pair.
enum StandingVerdict {
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
