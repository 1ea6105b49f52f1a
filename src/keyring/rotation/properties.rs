//! Invariants after any order of arrivals, ticks, settings and commands.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::super::pool::{CLIENT_ONLY_PAIR, OTHER_NAME_PAIR, TEST_PAIRS, ask_to_wait, day};
use super::super::{ExpiryPolicy, KeyringCommand};
use super::entry::{MAX_PREVIOUS, MAX_RETIRED};
use super::*;

#[derive(Clone, Debug)]
enum RotationStep {
    /// The folder holds these; the second dozen are the same pairs in files marked as staged.
    Arrive(Vec<usize>),
    /// So many hours pass; whether the clock is steady.
    Pass(i64, bool),
    Promote(usize),
    Rollback,
    Retire(usize),
    Revoke(usize),
    /// The clock goes back by so many hours, and is not steady.
    Back(i64),
    Configure {
        manual: bool,
        refuse: bool,
        warn: bool,
        overlap: u64,
        current: Option<usize>,
        revoked: Option<usize>,
    },
    Restart,
    /// A restart of a process without `state`: the folder alone decides.
    Afresh,
}

fn all_pairs() -> Vec<Arc<KeyPair>> {
    TEST_PAIRS.iter().chain([&*OTHER_NAME_PAIR, &*CLIENT_ONLY_PAIR]).cloned().collect()
}

fn any_pair() -> impl Strategy<Value = usize> {
    0..12_usize
}

fn any_step() -> impl Strategy<Value = RotationStep> {
    prop_oneof![
        4 => prop::collection::vec(0..24_usize, 0..12).prop_map(RotationStep::Arrive),
        4 => (0..400_i64, prop::bool::weighted(0.8)).prop_map(|(hours, steady)| RotationStep::Pass(hours, steady)),
        1 => any_pair().prop_map(RotationStep::Promote),
        1 => Just(RotationStep::Rollback),
        1 => any_pair().prop_map(RotationStep::Retire),
        1 => any_pair().prop_map(RotationStep::Revoke),
        1 => (0..100_i64).prop_map(RotationStep::Back),
        1 => (any::<[bool; 3]>(), 0..40_u64, prop::option::of(any_pair()), prop::option::weighted(0.1, any_pair())).prop_map(
            |([manual, refuse, warn], overlap, current, revoked)| RotationStep::Configure { manual, refuse, warn, overlap, current, revoked }
        ),
        1 => Just(RotationStep::Restart),
        1 => Just(RotationStep::Afresh),
    ]
}

/// A keyring under test, with what an outside observer knows.
struct RotationWalk {
    keyring: Keyring,
    now: Timestamp,
    folder: Vec<Arc<KeyPair>>,
    revoked: BTreeSet<Fingerprint>,
    /// Standings as the Events reported them.
    told: BTreeMap<Fingerprint, Standing>,
}

impl RotationWalk {
    fn new() -> Self {
        let keyring =
            Keyring::restore(KeyringSettings::with_defaults("api".into()), &PersistedKeyring::default(), Vec::new());
        let (revoked, told) = (BTreeSet::new(), BTreeMap::new());
        Self { keyring, now: day(0), folder: Vec::new(), revoked, told }
    }

    fn apply(&mut self, step: &RotationStep) {
        let events = match step {
            RotationStep::Arrive(which) => {
                self.folder = which
                    .iter()
                    .map(|at| match &all_pairs()[at % 12] {
                        pair if *at < 12 => Arc::clone(pair),
                        pair => ask_to_wait(pair),
                    })
                    .collect::<Vec<_>>();
                // A folder holds each pair once.
                let mut seen = BTreeSet::new();
                self.folder.retain(|pair| seen.insert(pair.fingerprint()));
                self.keyring.arrive(&self.folder, self.now)
            }
            RotationStep::Pass(hours, steady) => {
                self.now += jiff::SignedDuration::from_hours(*hours);
                self.keyring.tick(self.now, *steady)
            }
            RotationStep::Promote(at) => self.command(&KeyringCommand::Promote(all_pairs()[*at].fingerprint())),
            RotationStep::Rollback => self.command(&KeyringCommand::Rollback),
            RotationStep::Retire(at) => self.command(&KeyringCommand::Retire(all_pairs()[*at].fingerprint())),
            RotationStep::Revoke(at) => self.command(&KeyringCommand::Revoke(all_pairs()[*at].fingerprint())),
            RotationStep::Back(hours) => {
                self.now -= jiff::SignedDuration::from_hours(*hours);
                self.keyring.tick(self.now, false)
            }
            RotationStep::Configure { manual, refuse, warn, overlap, current, revoked } => {
                let mut settings = self.keyring.settings().clone();
                settings.roles = super::super::KeyringRoles { server: true, client: false };
                settings.eku = if *warn { super::super::EkuPolicy::Warn } else { super::super::EkuPolicy::Enforce };
                settings.activate = if *manual { ActivationPolicy::Manual } else { ActivationPolicy::Auto };
                settings.on_expiry = if *refuse { ExpiryPolicy::Refuse } else { ExpiryPolicy::Serve };
                settings.overlap = Duration::from_hours(24 * overlap);
                settings.current = current.map(|at| all_pairs()[at].fingerprint());
                settings.revoked.extend(revoked.map(|at| all_pairs()[at].fingerprint()));
                self.revoked.extend(settings.revoked.iter().copied());
                self.keyring.configure(settings, self.now)
            }
            RotationStep::Restart => {
                self.restart();
                Vec::new()
            }
            RotationStep::Afresh => {
                self.restart_without_state();
                return;
            }
        };
        self.record_events(&events);
    }

    fn command(&mut self, command: &KeyringCommand) -> Vec<KeyringEvent> {
        let done = self.keyring.execute(command, self.now);
        if let (Ok(_), KeyringCommand::Revoke(key_pair)) = (&done, command) {
            self.revoked.insert(*key_pair);
        }
        done.unwrap_or_default()
    }

    fn record_events(&mut self, events: &[KeyringEvent]) {
        for event in events {
            let KeyringEvent::Moved { key_pair, from, to, .. } = event else { continue };
            assert_ne!(*from, Some(*to), "an Event is a change");
            self.told.insert(*key_pair, *to);
        }
    }

    /// Like a new process with `state`: the same standings.
    fn restart(&mut self) {
        let before = standings(&self.keyring);
        let remembered = self.keyring.to_persisted();
        let text = serde_json::to_string(&remembered).unwrap();
        let remembered: PersistedKeyring = serde_json::from_str(&text).unwrap();
        let retained = self.keyring.to_retain(self.now);
        let (settings, steady) = (self.keyring.settings().clone(), self.keyring.steady);
        self.keyring = Keyring::restore(settings, &remembered, retained);
        self.keyring.steady = steady;
        let events = self.keyring.arrive(&self.folder, self.now);
        self.record_events(&events);
        assert_eq!(standings(&self.keyring), before, "a restart moves nothing");
        assert_eq!(self.keyring.to_persisted(), remembered, "what is remembered is remembered again");
    }

    /// Like a new process without `state`: revocations by command and reported standings are lost.
    fn restart_without_state(&mut self) {
        let settings = self.keyring.settings().clone();
        self.revoked = settings.revoked.clone();
        self.told.clear();
        self.keyring = Keyring::restore(settings, &PersistedKeyring::default(), Vec::new());
        let events = self.keyring.arrive(&self.folder, self.now);
        self.record_events(&events);
    }

    fn check(&mut self) {
        let (keyring, now) = (&self.keyring, self.now);
        let held = keyring.pairs();
        assert!(held.iter().filter(|held| held.standing == Standing::Current).count() <= 1, "two are current");
        let previous = keyring.previous();
        assert!(!keyring.steady || previous.len() <= MAX_PREVIOUS);
        for held in &previous {
            let ends = held.overlap_ends.expect("a previous pair has an overlap");
            assert!(ends <= held.pair.validity().not_after, "an overlap past not_after");
            assert!(!keyring.steady || now < ends, "an overlap that is over");
        }
        let gone = held.iter().filter(|held| held.standing == Standing::Retired && !held.in_folder).count();
        assert!(gone <= MAX_RETIRED, "{gone} retired pairs are kept");
        let shown = keyring.shown(now);
        let retained = keyring.to_retain(now);
        for (candidate, pair) in &shown {
            let held = held.iter().find(|held| held.pair.fingerprint() == candidate.key_pair).expect("shown and held");
            assert_eq!(held.standing, candidate.standing, "a refused, staged or retired pair is shown");
            let is_kept = retained.iter().any(|kept| kept.fingerprint() == candidate.key_pair);
            assert!(is_kept, "a kill now would lose a pair that is shown");
            assert!(!self.revoked.contains(&candidate.key_pair), "a revoked pair is shown");
            assert!(matches!(candidate.standing, Standing::Current | Standing::Previous));
            assert_eq!(candidate.last_resort, !pair.is_valid(now), "expired only as a last resort");
        }
        let last_resorts = shown.iter().filter(|(candidate, _)| candidate.last_resort).count();
        assert!(last_resorts == 0 || shown.len() == 1, "a last resort beside another pair");
        assert!(
            last_resorts == 0 || keyring.settings().on_expiry == ExpiryPolicy::Serve,
            "shown although it is refused"
        );
        assert!(!retained.iter().any(|pair| self.revoked.contains(&pair.fingerprint())), "a revoked key is kept");
        let usable = |pair: &&Arc<KeyPair>| {
            matches!(assess_fitness(pair, keyring.settings(), now), KeyPairFitness::Usable { .. })
        };
        let skew = keyring.settings().skew;
        let settled = |pair: &&Arc<KeyPair>| add_saturating(pair.validity().not_before, skew) <= now;
        let mut folder = self.folder.iter().filter(|pair| !self.revoked.contains(&pair.fingerprint()));
        if folder.any(|pair| usable(&pair) && settled(&pair)) {
            assert!(
                shown.iter().any(|(candidate, _)| !candidate.last_resort),
                "a usable pair, and nothing valid is shown"
            );
        }
        // Also what is only kept, its files long gone.
        let serves = |held: &HeldPair| matches!(held.standing, Standing::Current | Standing::Previous);
        if held.iter().any(|held| serves(held) && held.pair.is_valid(now)) {
            assert!(shown.iter().any(|(candidate, _)| !candidate.last_resort), "a valid pair, and none is shown");
        }
        for held in held {
            assert_eq!(self.told.get(&held.pair.fingerprint()), Some(&held.standing), "a change that no Event told");
        }
        // The same again changes nothing and reports nothing.
        let before = self.keyring.clone();
        let mut again = self.folder.clone();
        again.reverse();
        assert_eq!(self.keyring.arrive(&again, now), Vec::new());
        assert_eq!(self.keyring.tick(now, before.steady), Vec::new());
        assert!(!self.keyring.differs_from(&before));
    }
}

/// Standings of what does not merely lie there refused: a revoked pair is `refused` after a restart.
fn standings(keyring: &Keyring) -> Vec<(Fingerprint, Standing, Option<Timestamp>)> {
    let held = keyring.pairs().into_iter();
    let in_play = held.filter(|held| !matches!(held.standing, Standing::Refused | Standing::Revoked));
    in_play.map(|held| (held.pair.fingerprint(), held.standing, held.overlap_ends)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_inputs_breaks_the_invariants(steps in prop::collection::vec(any_step(), 1..25)) {
        let mut walk = RotationWalk::new();
        for step in &steps {
            walk.apply(step);
            walk.check();
        }
    }

    #[test]
    fn replicas_that_start_with_the_same_folder_choose_alike(mut which in prop::collection::vec(any_pair(), 1..12), days in 0..60_i64) {
        let start = |which: &[usize]| {
            let mut walk = RotationWalk::new();
            walk.now = day(days);
            walk.apply(&RotationStep::Arrive(which.to_vec()));
            standings(&walk.keyring)
        };
        let one = start(&which);
        which.reverse();
        prop_assert_eq!(one, start(&which));
    }
}
