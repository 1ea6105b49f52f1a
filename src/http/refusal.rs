//! What every rule of message framing that a peer can break has to say for itself: a stable code, and a sentence.

/// A rule that was broken, in `framing` or in `frames`.
pub trait ExplainedRefusal: Copy + Sized {
    /// The code for log and metrics, and the sentence for the log.
    fn reason_and_explanation(self) -> (&'static str, &'static str);

    /// A stable code for log and metrics.
    fn reason(self) -> &'static str {
        self.reason_and_explanation().0
    }

    /// A sentence for the log.
    fn explanation(self) -> &'static str {
        self.reason_and_explanation().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::frames::{BlockFault, FrameFlood};
    use crate::http::framing::FramingFault;

    #[test]
    fn every_rule_has_a_code_and_a_sentence_of_its_own() {
        let rules = FramingFault::ALL.iter().map(|fault| fault.reason_and_explanation());
        let rules = rules.chain(FrameFlood::ALL.iter().map(|flood| flood.reason_and_explanation()));
        let rules: Vec<_> = rules.chain(BlockFault::ALL.iter().map(|fault| fault.reason_and_explanation())).collect();
        for (nth, (reason, explanation)) in rules.iter().enumerate() {
            let others = || rules.iter().enumerate().filter(|(other, _)| *other != nth);
            assert!(others().all(|(_, (_, other))| other != explanation), "{explanation}");
            // A head is too large in either protocol.
            assert!(*reason == "head_too_large" || others().all(|(_, (other, _))| other != reason), "{reason}");
        }
    }
}
