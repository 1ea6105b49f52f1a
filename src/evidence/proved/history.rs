//! The statuses that previous pairs got in this overlap, by the class of the request: what a new pair's answer is compared
//! with where the request cannot be sent again.

use super::answer::{PreviousAnswer, RequestClass, StatusKind};

/// Classes kept for one upstream.
const MAX_CLASSES: usize = 256;
/// Statuses kept for one class.
const MAX_STATUSES: usize = 4;

/// The statuses, bounded: the class that was added first is forgotten first.
#[derive(Clone, Debug, Default)]
pub(super) struct AnswerHistory(Vec<ClassAnswers>);

#[derive(Clone, Debug)]
struct ClassAnswers {
    class: RequestClass,
    /// The latest first; 0 for none.
    statuses: [u16; MAX_STATUSES],
}

impl AnswerHistory {
    /// Records a status of a previous pair.
    pub(super) fn record(&mut self, class: RequestClass, status: u16) {
        let at = self.0.iter().position(|known| known.class == class).unwrap_or_else(|| {
            if self.0.len() == MAX_CLASSES {
                self.0.remove(0);
            }
            self.0.push(ClassAnswers { class, statuses: [0; MAX_STATUSES] });
            self.0.len() - 1
        });
        let statuses = &mut self.0[at].statuses;
        if !statuses.contains(&status) {
            statuses.rotate_right(1);
            statuses[0] = status;
        }
    }

    /// What previous pairs got for this class, compared with a status of the new one.
    pub(super) fn recall(&self, class: RequestClass, status: u16, refusals: &[u16]) -> PreviousAnswer {
        let known = self.0.iter().find(|known| known.class == class).map(|known| known.statuses).unwrap_or_default();
        let same = known.contains(&status);
        let succeeded = known.iter().any(|known| StatusKind::from_status(*known, refusals) == StatusKind::Success);
        PreviousAnswer::Recalled { same, better: !same && succeeded }
    }

    /// How many classes are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
