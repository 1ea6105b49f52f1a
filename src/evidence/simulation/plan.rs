//! What happens to a simulated fleet while its senders come and go, and when.

use super::random::SeededRandom;

/// What happens to a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimulatedEvent {
    /// A new pair arrives.
    Rotate,
    /// The previous pair is current again.
    RollBack,
    /// The newest pair is current again.
    Promote,
    /// The current pair is revoked; the previous one takes over.
    Revoke,
    /// The latest previous pair is revoked: its overlap ends at once.
    RevokePrevious,
    /// One replica restarts; what was shared or saved is still there.
    Restart,
    /// One replica restarts without what was saved.
    RestartWithoutState,
    /// Everywhere the clock is stepped by so many minutes.
    StepClock(i64),
    /// An operator mends a sender.
    Mend,
    /// After a rollback the operator of a sender puts back an old trust, with which it refuses the newest pair.
    Regress,
    /// A thousand sources without a certificate come at once, and send alerts.
    Flood,
}

/// A clock that is wrong by more or less than a sender counts for, in minutes.
const WIDE_STEPS: [i64; 6] = [20 * 1440, 33 * 1440, 36 * 1440, 40 * 1440, -20 * 1440, -36 * 1440];

/// Events that come close upon each other: several rotations in one overlap, restarts between them, operators that put back an old trust
/// after a rollback, and a clock that is wrong when the pair becomes current.
pub(super) fn plan_pressing_events(random: &mut SeededRandom) -> Vec<(i64, SimulatedEvent)> {
    let day = |random: &mut SeededRandom, from: i64, to: i64| random.between(from * 1440, to * 1440);
    let rotation = day(random, 8, 42);
    let mut plan = vec![(rotation, SimulatedEvent::Rotate)];
    if random.percent(50) {
        let step = WIDE_STEPS[random.index(WIDE_STEPS.len())];
        plan.push((rotation - random.between(1, 600), SimulatedEvent::StepClock(step)));
        if random.percent(60) {
            plan.push((rotation + random.between(1, 14 * 1440), SimulatedEvent::StepClock(-step)));
        }
    }
    if random.percent(60) {
        let back = rotation + random.between(30, 8 * 1440);
        plan.push((back, SimulatedEvent::RollBack));
        for _ in 0..random.below(3) {
            plan.push((back, SimulatedEvent::Regress));
        }
        plan.push((back + random.between(30, 5 * 1440), SimulatedEvent::Promote));
    }
    for _ in 0..[0, 0, 1, 2][random.index(4)] {
        plan.push((rotation + random.between(30, 12 * 1440), SimulatedEvent::Rotate));
    }
    for _ in 0..random.below(5) {
        plan.push((rotation + random.between(-5 * 1440, 12 * 1440), SimulatedEvent::Restart));
    }
    if random.percent(15) {
        plan.push((day(random, 1, 70), SimulatedEvent::RestartWithoutState));
    }
    for _ in 0..random.below(4) {
        plan.push((rotation + day(random, 0, 20), SimulatedEvent::Mend));
    }
    plan.sort_by_key(|(minute, _)| *minute);
    plan
}

/// Events and their minutes, in order.
pub(super) fn plan_events(random: &mut SeededRandom) -> Vec<(i64, SimulatedEvent)> {
    let day = |random: &mut SeededRandom, from: i64, to: i64| random.between(from * 1440, to * 1440);
    let rotation = day(random, 3, 45);
    let mut plan = vec![(rotation, SimulatedEvent::Rotate)];
    for _ in 0..[0, 0, 0, 1, 1, 2][random.index(6)] {
        plan.push((rotation + day(random, 1, 12), SimulatedEvent::Rotate));
    }
    if random.percent(25) {
        let back = rotation + day(random, 1, 10);
        plan.push((back, SimulatedEvent::RollBack));
        plan.push((back + day(random, 1, 8), SimulatedEvent::Promote));
    }
    if random.percent(10) {
        plan.push((rotation + day(random, 1, 20), SimulatedEvent::Revoke));
    }
    if random.percent(10) {
        plan.push((rotation + day(random, 1, 20), SimulatedEvent::RevokePrevious));
    }
    for _ in 0..random.below(4) {
        plan.push((day(random, 1, 70), SimulatedEvent::Restart));
    }
    if random.percent(25) {
        plan.push((day(random, 1, 70), SimulatedEvent::RestartWithoutState));
    }
    for _ in 0..[0, 0, 0, 1, 2][random.index(5)] {
        let step = [-20 * 1440, -2 * 1440, -180, 180, 2 * 1440, 20 * 1440];
        let step = step[usize::try_from(random.below(6)).unwrap_or_default()];
        plan.push((day(random, 1, 70), SimulatedEvent::StepClock(step)));
    }
    for _ in 0..random.below(12) {
        plan.push((rotation + day(random, 0, 25), SimulatedEvent::Mend));
    }
    if random.percent(20) {
        plan.push((rotation + day(random, 0, 25), SimulatedEvent::Flood));
    }
    plan.sort_by_key(|(minute, _)| *minute);
    plan
}
