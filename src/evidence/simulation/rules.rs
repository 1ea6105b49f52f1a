//! What must hold in a simulated fleet, judged by what the simulator knows.

use super::fleet::SimulatedFleet;
use super::population::{Population, SimulatedSender};
use super::replica::{SEEN_WITHIN_DAYS, accepts};
use crate::evidence::report::{RetireAdvice, RotationReport};

pub(super) fn is_safe(report: &RotationReport) -> bool {
    report.verdict.retire == RetireAdvice::Safe
}

/// Those that the report is about: with a certificate, and seen within the window.
fn senders_that_count(population: &Population, minute: i64) -> impl Iterator<Item = &SimulatedSender> {
    let from = minute - SEEN_WITHIN_DAYS * 1440;
    let counts =
        move |sender: &&SimulatedSender| sender.certificate.is_some() && sender.last.is_some_and(|last| from <= last);
    population.senders.iter().filter(counts)
}

/// `safe` is said only if retiring the old pairs breaks no sender that was seen within the window.
pub(super) fn check_safe_is_true(
    report: Option<&RotationReport>,
    population: &Population,
    (current, previous): (usize, Vec<usize>),
    minute: i64,
    context: &impl Fn() -> String,
) {
    let Some(report) = report.filter(|report| is_safe(report)) else { return };
    let breaks =
        |sender: &&SimulatedSender| !accepts(sender, current) && previous.iter().any(|pair| accepts(sender, *pair));
    if let Some(sender) = senders_that_count(population, minute).find(breaks) {
        panic!("{}: safe is wrong: {sender:?} breaks; {}", context(), report.verdict.sentence);
    }
}

/// `safe` is said within a day after the last sender that matters has proved.
pub(super) fn check_safe_is_said(
    report: Option<&RotationReport>,
    population: &Population,
    fleet: &SimulatedFleet,
    minute: i64,
    context: &impl Fn() -> String,
) {
    let Some(report) = report.filter(|report| !is_safe(report)) else { return };
    let (current, _) = fleet.current();
    let is_covered = fleet.watched_since() <= minute - SEEN_WITHIN_DAYS * 1440;
    // Times that went backwards are older than the rotation: nothing can prove until they are not.
    if fleet.stepped_back || !is_covered {
        return;
    }
    let has_proved = |sender: &SimulatedSender| {
        let proved = sender.proved.filter(|proved| *proved <= minute - 1440);
        accepts(sender, current) && proved.is_some() && sender.failed < sender.proved
    };
    let mut count = 0;
    for sender in senders_that_count(population, minute) {
        if !has_proved(sender) {
            return;
        }
        count += 1;
    }
    assert!(count == 0, "{}: safe is late: {}\n{:?}", context(), report.verdict.sentence, report.lines.first());
}
