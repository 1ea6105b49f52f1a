//! The files that are refused now: what gauges and alerts about a refused renewal are made of. Bounded, in memory only.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::folder::FolderRecord;
use crate::pki::{FileName, ProblemSeverity};

/// Further ones are not counted: there is enough to act on.
const MAX_FILES: usize = 1_000;

/// By keyring (empty: the folder itself), file and reason: since when.
#[derive(Default)]
pub(super) struct RefusedFiles(BTreeMap<(Arc<str>, FileName, &'static str), Timestamp>);

impl RefusedFiles {
    /// A refusal begins or is over.
    pub(super) fn record_file(&mut self, record: &FolderRecord, now: Timestamp) {
        if record.problem.severity != ProblemSeverity::Refused {
            return;
        }
        let keyring = record.keyring.clone().unwrap_or_else(|| "".into());
        let key = (keyring, Arc::clone(&record.problem.file), record.problem.reason);
        if record.over {
            self.0.remove(&key);
        } else if self.0.len() < MAX_FILES {
            self.0.entry(key).or_insert(now);
        }
    }

    /// How many there are of each keyring, and since when the first is refused.
    pub(super) fn count_by_keyring(&self) -> BTreeMap<Arc<str>, (usize, Timestamp)> {
        let mut out = BTreeMap::new();
        for ((keyring, ..), since) in &self.0 {
            let (count, first) = out.entry(Arc::clone(keyring)).or_insert((0, *since));
            (*count, *first) = (*count + 1, (*first).min(*since));
        }
        out
    }
}
