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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::FolderProblem;

    #[test]
    fn fifty_thousand_refused_files_are_counted_up_to_the_limit_and_room_is_made_by_those_that_are_over() {
        let mut files = RefusedFiles::default();
        let record = |number: u32, over| FolderRecord {
            keyring: Some(format!("ring-{}", number % 3).into()),
            problem: FolderProblem {
                file: format!("{number}.crt").into(),
                reason: "malformed",
                why: "why".to_owned(),
                remedy: "remedy".to_owned(),
                severity: ProblemSeverity::Refused,
            },
            over,
        };
        for number in 0..50_000 {
            files.record_file(&record(number, false), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(files.0.len(), MAX_FILES);
        assert_eq!(files.count_by_keyring().values().map(|(count, _)| count).sum::<usize>(), MAX_FILES);
        files.record_file(&record(0, true), Timestamp::UNIX_EPOCH);
        assert_eq!(files.0.len(), MAX_FILES - 1);
    }
}
