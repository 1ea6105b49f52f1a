//! What must hold of a simulated egress and its upstream.
//!
//! `safe` is never said while retiring the old pairs would break an upstream at a node that has shown so: by an alert, or by refusing
//! the new pair to a request that may be sent again. It is said within a day after every node accepts the pair. No request that may be
//! sent again fails where one of our pairs would have served it everywhere. Of the others, at most three are lost at nodes that had shown
//! before that they refuse the pair, each time that an upstream changes its mind; those that meet the change first are not counted,
//! nor those that come while the new pair rests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::egress::{SimulatedEgress, policy};
use super::random::SeededRandom;
use super::replica::time_at;
use super::upstream::{RequestPath, SimulatedNode, SimulatedUpstream};
use super::{number_from, print_line};
use crate::evidence::proved::SelectionRole;
use crate::evidence::report::{KeyringOverlap, PreviousPair, RetireAdvice, build_reports};

/// How long a run is, in hours.
const RUN_HOURS: i64 = 72;
/// Requests that cannot be sent again which one change of mind may cost, by the rules of docs/rotation-report.md.
const MOST_LOST: u64 = 3;
/// Seconds between two requests, on average.
const REQUEST_SECONDS: i64 = 240;
/// Runs when nothing else is said.
const DEFAULT_SEEDS: u64 = 60;

impl SimulatedEgress {
    fn verdict(&self) -> Option<(RetireAdvice, String)> {
        let previous = self.order.pairs[1..].iter().map(|key_pair| PreviousPair {
            key_pair: *key_pair,
            ends: time_at(100 * 1440),
            survives_restart: true,
        });
        let overlap = KeyringOverlap {
            keyring: Arc::clone(&self.listener),
            owner: None,
            contact: None,
            current: self.order.pairs[0],
            rotated: self.rotated,
            previous: previous.collect(),
            upstreams: vec![(Arc::clone(&self.listener), "up.example:443".to_owned())],
            seen_within: Duration::from_hours(24 * 35),
            faces_peers: false,
        };
        let report = build_reports(&self.ledger, &[overlap], &BTreeMap::new(), self.now()).pop()?;
        Some((report.verdict.retire, report.verdict.sentence))
    }

    fn check_verdict(&self, seed: u64) -> bool {
        let Some((retire, sentence)) = self.verdict() else { return false };
        let current = self.current();
        let old: Vec<usize> = self.order.pairs[1..].iter().map(|pair| self.pair_number(*pair)).collect();
        let breaks = |node: &&SimulatedNode| {
            node.shown[current] && !node.accepts[current] && old.iter().any(|pair| node.accepts[*pair])
        };
        let broken = self.upstream.nodes.iter().find(breaks);
        assert!(
            retire != RetireAdvice::Safe || broken.is_none(),
            "seed {seed}, second {}: safe is wrong: {broken:?} breaks; {sentence}; {:?}",
            self.second,
            self.proved
        );
        retire == RetireAdvice::Safe
    }

    /// Whether the current pair rests after a refusal: an upstream that turns to it meanwhile is served again after the rest.
    fn is_resting(&self) -> bool {
        let now = self.now();
        let how = self.proved.clone().select(&self.order, false, policy(), now).0.how;
        matches!(how, SelectionRole::Fallback(Some(until)) if now < until)
    }

    /// A request, and whether what came of it is granted.
    fn check_request(&mut self, seed: u64, random: &mut SeededRandom) {
        let path =
            [RequestPath::Orders, RequestPath::Orders, RequestPath::Health, RequestPath::Admin, RequestPath::Missing]
                [random.index(5)];
        let harmless = random.percent(70);
        self.requests += 1;
        let before = format!("{:?}", self.proved);
        let is_resting = self.is_resting();
        let answer = self.send(path, harmless, random);
        let wanted = path.accepted_status();
        let pairs: Vec<usize> = self.order.pairs.iter().map(|pair| self.pair_number(*pair)).collect();
        let is_up = self.upstream.nodes.iter().all(|node| node.down_until <= self.second);
        // Where no pair would do at every node, it depends on the node.
        let is_served = is_up && pairs.iter().any(|pair| self.upstream.nodes.iter().all(|node| node.accepts[*pair]));
        // What the application refuses to all is refused either way.
        let is_same = answer == Some(wanted) || answer.is_some() && path == RequestPath::Admin;
        if is_resting && !harmless || !is_served || is_same {
            return;
        }
        self.lost_in_all += 1;
        self.lost += u64::from(harmless || self.is_known);
        assert!(
            !harmless && self.lost <= MOST_LOST,
            "seed {seed}, second {}: {} requests lost, this one to {path:?} with {answer:?} (may be sent again: {harmless}); \
             {:?}; before: {before}",
            self.second,
            self.lost,
            self.upstream
        );
    }
}

/// Runs one upstream through two rotations and changes of its mind.
fn run_upstream(seed: u64) -> (u64, u64, u64) {
    let mut random = SeededRandom::new(seed ^ 0x0065_6772_6573);
    let mut egress = SimulatedEgress::new(SimulatedUpstream::new(&mut random));
    let rotations = [random.between(1, 5) * 3600, random.between(10, 40) * 3600];
    let twice = random.percent(40);
    let mut changes: Vec<i64> = (0..random.below(4)).map(|_| random.between(2, RUN_HOURS - 30) * 3600 + 7).collect();
    changes.sort_unstable();
    let last_change = changes.last().copied().unwrap_or(0).max(if twice { rotations[1] } else { rotations[0] });
    let (mut changes, mut done, mut safe) = (changes.into_iter().peekable(), 0, 0);
    while egress.second < RUN_HOURS * 3600 {
        egress.second += random.between(1, 2 * REQUEST_SECONDS);
        if done == 0 && rotations[0] <= egress.second {
            (done, ()) = (1, egress.rotate(&[1, 0]));
        }
        if done == 1 && twice && rotations[1] <= egress.second {
            (done, ()) = (2, egress.rotate(&[2, 1, 0]));
        }
        while changes.next_if(|at| *at <= egress.second).is_some() {
            let at = egress.second;
            egress.upstream.change(&mut random, at);
            egress.lost = 0;
        }
        egress.check_request(seed, &mut random);
        if done > 0 {
            let is_safe = egress.check_verdict(seed);
            safe += u64::from(is_safe);
            let current = egress.current();
            let accepts = egress.upstream.nodes.iter().all(|node| node.accepts[current]);
            // Where a request without a certificate shows nothing, the application's own refusal of one that cannot be sent again may
            // stay open.
            let is_due = accepts && last_change + 24 * 3600 < egress.second && !egress.upstream.ends_silently();
            assert!(
                is_safe || !is_due,
                "seed {seed}, second {}: safe is late: {:?}; {:?}; {:?}",
                egress.second,
                egress.verdict(),
                egress.upstream,
                egress.proved
            );
        }
    }
    (egress.requests, egress.lost_in_all, safe)
}

#[test]
fn no_report_about_a_simulated_upstream_is_wrong_and_no_request_is_lost_without_cause() {
    let seeds = match number_from("SIDEKEY_SIMULATION_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number_from("SIDEKEY_SIMULATION_SEEDS").unwrap_or(DEFAULT_SEEDS),
    };
    let (mut requests, mut lost, mut safe) = (0, 0, 0);
    for seed in seeds.clone() {
        let one = run_upstream(seed);
        (requests, lost, safe) = (requests + one.0, lost + one.1, safe + one.2);
    }
    print_line(&format!("upstreams, seeds {seeds:?}: {requests} requests, {lost} lost, {safe} times safe"));
    assert!(requests > 0 && (seeds.start() == seeds.end() || safe > 0), "nothing was tested");
}
