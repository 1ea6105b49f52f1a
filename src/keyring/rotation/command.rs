//! An operator's commands to a keyring (contract section 9): promote, rollback, retire, revoke.
//!
//! A command records the operator's choice and leaves changes of standing to `settle`. One that changes nothing
//! succeeds without Events. Looking up a pair's name, logging the operator and saving the decision happen elsewhere.

use jiff::Timestamp;

use super::super::fit::{describe, format_time};
use super::super::{KeyringCommand, KeyringEvent, Standing};
use super::Keyring;
use super::entry::{CommandError, KeyringEntry, SettleCause};
use crate::pki::Fingerprint;

impl Keyring {
    /// Executes an operator's command.
    ///
    /// - `promote`: a staged, previous or retired pair that is valid becomes current. Pairs in the folder that the rule
    ///   would choose before it are held back until they are promoted, or removed and added again.
    /// - `rollback`: the same with the pair that was replaced last, or retired last within a week. Held pairs are
    ///   excluded: a second rollback does not roll forward.
    /// - `retire`: a previous pair's overlap ends now.
    /// - `revoke`: any known pair; if it was current, the rule chooses among the others.
    pub fn execute(&mut self, command: &KeyringCommand, now: Timestamp) -> Result<Vec<KeyringEvent>, CommandError> {
        match *command {
            KeyringCommand::Promote(key_pair) => self.promote(key_pair, now),
            KeyringCommand::Rollback => self.rollback(now),
            KeyringCommand::Retire(key_pair) => self.retire_by_command(key_pair, now),
            KeyringCommand::Revoke(key_pair) => self.revoke(key_pair, now),
        }
    }

    fn promote(&mut self, key_pair: Fingerprint, now: Timestamp) -> Result<Vec<KeyringEvent>, CommandError> {
        let entry = self.find_entry(key_pair)?;
        let validity = entry.held.pair.validity();
        let name = describe(&entry.held.pair);
        match entry.held.standing {
            Standing::Current => return Ok(Vec::new()),
            Standing::Refused | Standing::Revoked => {
                let why = entry.held.why.as_deref().unwrap_or("it was revoked");
                return Err(CommandError::NotNow(format!("{name} is {}: {why}", entry.held.standing.as_str())));
            }
            Standing::Staged | Standing::Previous | Standing::Retired => {}
        }
        self.check_not_configured()?;
        if now > validity.not_after {
            return Err(CommandError::NotNow(format!("{name} expired on {}", format_time(validity.not_after))));
        }
        if now < validity.not_before {
            let from = format_time(validity.not_before);
            return Err(CommandError::NotNow(format!("{name} is not valid before {from}; promote it then")));
        }
        let before = self.standings();
        Ok(self.settle(&before, SettleCause::Chosen(key_pair, "promoted"), now))
    }

    fn rollback(&mut self, now: Timestamp) -> Result<Vec<KeyringEvent>, CommandError> {
        self.check_not_configured()?;
        let usable = |entry: &&KeyringEntry| entry.is_valid(now) && !self.held.contains(&entry.held.pair.fingerprint());
        // A pair that was current once, before one that only arrived as an older one; then the latest.
        let latest = |entry: &&KeyringEntry| (entry.activated.is_some(), entry.replaced, entry.rank());
        let previous = self.entries_with(Standing::Previous).filter(usable).max_by_key(latest);
        let retired = || {
            let retired = self.entries_with(Standing::Retired).filter(usable);
            retired.max_by_key(|entry| (entry.activated.is_some(), entry.held.since, entry.rank()))
        };
        let Some(target) = previous.or_else(retired) else {
            let name = &self.settings.name;
            return Err(CommandError::NotNow(format!(
                "keyring {name:?} has no valid key pair to roll back to; to undo a rollback, promote the pair"
            )));
        };
        let target = target.held.pair.fingerprint();
        let before = self.standings();
        if let Some(current) = self.current() {
            let current = current.pair.fingerprint();
            self.held.insert(current);
        }
        Ok(self.settle(&before, SettleCause::Chosen(target, "rolled_back"), now))
    }

    fn retire_by_command(&mut self, key_pair: Fingerprint, now: Timestamp) -> Result<Vec<KeyringEvent>, CommandError> {
        let entry = self.find_entry(key_pair)?;
        match entry.held.standing {
            Standing::Previous => {}
            Standing::Retired => return Ok(Vec::new()),
            standing => {
                return Err(CommandError::NotNow(format!(
                    "{} is {}; only a previous key pair can be retired",
                    describe(&entry.held.pair),
                    standing.as_str()
                )));
            }
        }
        let before = self.standings();
        if let Some(entry) = self.entries.get_mut(&key_pair) {
            entry.retire("retired_by_command", now);
        }
        Ok(self.settle(&before, SettleCause::Facts, now))
    }

    fn revoke(&mut self, key_pair: Fingerprint, now: Timestamp) -> Result<Vec<KeyringEvent>, CommandError> {
        if self.revoked.by_command.contains(&key_pair) {
            return Ok(Vec::new());
        }
        self.find_entry(key_pair)?;
        let before = self.standings();
        self.revoked.by_command.insert(key_pair);
        Ok(self.settle(&before, SettleCause::Facts, now))
    }

    fn find_entry(&self, key_pair: Fingerprint) -> Result<&KeyringEntry, CommandError> {
        let unknown = || CommandError::Unknown { keyring: self.settings.name.to_string(), key_pair };
        self.entries.get(&key_pair).ok_or_else(unknown)
    }

    /// If the configuration sets the current pair, a command would only last until the next input.
    fn check_not_configured(&self) -> Result<(), CommandError> {
        match self.settings.current {
            None => Ok(()),
            Some(named) => Err(CommandError::NotNow(format!(
                "the configuration sets the current key pair (keyring.{}.current = \"{named}\"); change it there",
                self.settings.name
            ))),
        }
    }
}
