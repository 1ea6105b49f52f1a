//! A simulator over the pure cores of a rotation: choice, refusals, ledger and report, for a whole fleet, on its own clock.
//!
//! The simulator knows what every sender really accepts; the report does not. Must hold: `safe` is never said while
//! retiring the old pair would break a sender that came within `seen_within`; it is said within a day after the last
//! sender that matters has proved the new pair; and no sender loses more handshakes than the contract grants. Each
//! run prints its seed; `SIDEKEY_SIMULATION_SEEDS` says how many runs there are, `SIDEKEY_SIMULATION_FIRST` where they
//! begin, `SIDEKEY_SIMULATION_SEED` repeats one.

mod contact;
mod egress;
mod fleet;
mod losses;
mod plan;
mod population;
mod random;
mod replica;
mod rules;
mod upstream;
mod upstreams;

use std::io::Write as _;

use fleet::SimulatedFleet;
use plan::{SimulatedEvent, plan_events, plan_pressing_events};
use population::{Population, SenderNature};
use random::SeededRandom;

/// How long a simulated run is, in days.
const RUN_DAYS: i64 = 75;
/// How often the reports are read, in minutes.
const REPORT_MINUTES: i64 = 240;
/// Runs when nothing else is said.
const DEFAULT_SEEDS: u64 = 10;
/// Stubborn fleets of each seed: they are small.
const STUBBORN_FLEETS: u64 = 4;

/// Who comes in a run, and what happens meanwhile.
#[derive(Clone, Copy, Debug)]
enum SimulatedScene {
    /// So many senders of all kinds. Among few, a single one decides much more often.
    Mixed(usize),
    /// A few, of which one or two are hard to see; events come close upon each other. The number tells those of one seed apart.
    Stubborn(u64),
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Straight to standard error: the figures are wanted also when the test passes.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn seeds() -> Vec<u64> {
    match number_from("SIDEKEY_SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = number_from("SIDEKEY_SIMULATION_FIRST").unwrap_or(1);
            (first..first + number_from("SIDEKEY_SIMULATION_SEEDS").unwrap_or(DEFAULT_SEEDS)).collect()
        }
    }
}

/// What a run counted.
#[derive(Clone, Copy, Debug, Default)]
struct RunFigures {
    senders: u64,
    handshakes: u64,
    /// Lost by senders with a certificate that one of our pairs would have served, and how many by one at most.
    lost: u64,
    most: u64,
    safe: u64,
    reports: u64,
}

/// Runs a population through rotations and other events, and checks the rules after each step.
fn run(seed: u64, scene: SimulatedScene) -> RunFigures {
    let mut random = SeededRandom::new(match scene {
        SimulatedScene::Mixed(_) => seed,
        SimulatedScene::Stubborn(number) => seed ^ ((number + 1) << 40),
    });
    let mut fleet = SimulatedFleet::new(seed, &mut random);
    let busy = fleet.busy_replicas();
    let (mut population, plan) = match scene {
        SimulatedScene::Mixed(size) => (Population::grow(&mut random, size, busy), plan_events(&mut random)),
        SimulatedScene::Stubborn(_) => {
            (Population::grow_stubborn(&mut random, busy), plan_pressing_events(&mut random))
        }
    };
    let mut figures = RunFigures { senders: population.len() as u64, ..RunFigures::default() };
    let mut plan = plan.into_iter().peekable();
    for minute in 0..RUN_DAYS * 1440 {
        while let Some((_, event)) = plan.next_if(|(at, _)| *at <= minute) {
            fleet.apply_event(event, minute, &mut population, &mut random);
        }
        fleet.conclude_due(&mut population, minute);
        for index in population.due(minute) {
            figures.handshakes += 1;
            fleet.connect(&mut population, index, minute, &mut random);
        }
        if minute % REPORT_MINUTES == 0 {
            fleet.share_registry(minute);
            for replica in 0..fleet.replicas() {
                let report = fleet.report(replica, minute);
                figures.reports += u64::from(report.is_some());
                let safe = report.as_ref().is_some_and(rules::is_safe);
                figures.safe += u64::from(safe);
                let context =
                    || format!("seed {seed}, {scene:?}, day {}, minute {minute}, replica {replica}", minute / 1440);
                rules::check_safe_is_true(report.as_ref(), &population, fleet.current(), minute, &context);
                rules::check_safe_is_said(report.as_ref(), &population, &fleet, minute, &context);
            }
        }
    }
    let losses = || population.senders.iter().map(|sender| sender.losses.total());
    (figures.lost, figures.most) =
        (losses().map(|(all, _)| all).sum(), losses().map(|(_, most)| most).max().unwrap_or_default());
    figures
}

#[test]
fn no_report_of_a_simulated_fleet_is_wrong_and_none_is_late() {
    let mut sum = RunFigures::default();
    for seed in seeds() {
        let stubborn = (0..STUBBORN_FLEETS).map(SimulatedScene::Stubborn);
        for scene in [SimulatedScene::Mixed(60), SimulatedScene::Mixed(4)].into_iter().chain(stubborn) {
            let one = run(seed, scene);
            print_line(&format!("seed {seed}, {scene:?}: {one:?}"));
            (sum.senders, sum.handshakes) = (sum.senders + one.senders, sum.handshakes + one.handshakes);
            (sum.lost, sum.most) = (sum.lost + one.lost, sum.most.max(one.most));
            (sum.safe, sum.reports) = (sum.safe + one.safe, sum.reports + one.reports);
        }
    }
    print_line(&format!("{} seeds: {sum:?}", seeds().len()));
    assert!(
        sum.reports > 0 && (number_from("SIDEKEY_SIMULATION_SEED").is_some() || sum.safe > 0),
        "nothing was tested"
    );
}

/// Seed 693: it has proved the pair at one replica; the other one still holds it on the old pair, and shows it that one hours before its
/// data come.
#[test]
fn a_sender_that_one_replica_still_shows_the_old_pair_is_not_called_late_before_its_data_come() {
    assert!(run(693, SimulatedScene::Stubborn(1)).safe > 0);
}

#[test]
fn a_fleet_with_one_holdout_among_ten_thousand_senders_is_never_called_safe() {
    let mut random = SeededRandom::new(7);
    let mut fleet = SimulatedFleet::new(7, &mut random);
    let mut population = Population::of_modern(10_000, fleet.replicas());
    population.add(SenderNature::OnlyOldCa, 5 * 1440);
    let holdout = population.len() - 1;
    for index in 0..population.len() {
        fleet.connect(&mut population, index, 10, &mut random);
    }
    fleet.apply_event(SimulatedEvent::Rotate, 20, &mut population, &mut random);
    for index in 0..holdout {
        fleet.connect(&mut population, index, 30, &mut random);
    }
    fleet.share_registry(40);
    for replica in 0..fleet.replicas() {
        let report = fleet.report(replica, 40).expect("an overlap");
        assert!(!rules::is_safe(&report), "{}", report.verdict.sentence);
        assert_eq!((report.lines.len(), report.forgotten), (10_001, 0));
    }
    population.mend(holdout);
    fleet.connect(&mut population, holdout, 50, &mut random);
    fleet.share_registry(60);
    for replica in 0..fleet.replicas() {
        let report = fleet.report(replica, 60).expect("an overlap");
        assert!(rules::is_safe(&report), "{}", report.verdict.sentence);
    }
}
