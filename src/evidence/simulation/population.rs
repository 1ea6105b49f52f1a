//! The senders of a simulated fleet: who they are, when they come, and what they really accept.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use super::losses::LossAccount;
use super::random::SeededRandom;
use crate::pki::Fingerprint;

/// What a sender accepts, and how it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SenderNature {
    /// It trusts both CAs.
    Modern,
    /// It trusts only the old CA, and sends an alert.
    OnlyOldCa,
    /// It has pinned our old certificate, and checks it after the handshake: it just leaves.
    PinsCertificate,
    /// It has pinned our old key, and sends an alert that says nothing more.
    PinsKey,
    /// It checks the issuer after the handshake, and just leaves.
    PinsIssuer,
    /// It trusts only the old CA, and ends the handshake without a word.
    EndsHandshake,
    /// It names the old CA in its hello.
    NamesOldCa,
    /// It signs with what only the old pair has.
    OldSchemes,
    /// It has no certificate, and does everything to be noticed.
    Hostile,
}

/// How a sender refuses a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalManner {
    /// By this alert in the handshake.
    Alert(&'static str),
    /// It ends the handshake without a word.
    EndInHandshake,
    /// It finishes the handshake, and leaves.
    EndAfterwards,
}

/// Natures of senders that need the old pair.
pub(super) const STUBBORN: [SenderNature; 7] = [
    SenderNature::OnlyOldCa,
    SenderNature::PinsCertificate,
    SenderNature::PinsKey,
    SenderNature::PinsIssuer,
    SenderNature::EndsHandshake,
    SenderNature::NamesOldCa,
    SenderNature::OldSchemes,
];

/// Natures of which the report learns late: most of them refuse a pair after the handshake, or without a word.
const HARD_TO_SEE: [SenderNature; 7] = [
    SenderNature::PinsCertificate,
    SenderNature::PinsCertificate,
    SenderNature::PinsCertificate,
    SenderNature::PinsIssuer,
    SenderNature::PinsKey,
    SenderNature::EndsHandshake,
    SenderNature::OnlyOldCa,
];

impl SenderNature {
    /// How it refuses; a hostile one as it likes.
    pub(super) fn manner(self, random: &mut SeededRandom) -> RefusalManner {
        match self {
            Self::PinsKey => RefusalManner::Alert("bad_certificate"),
            Self::PinsCertificate | Self::PinsIssuer => RefusalManner::EndAfterwards,
            Self::EndsHandshake => RefusalManner::EndInHandshake,
            Self::Hostile => match random.below(4) {
                0 => RefusalManner::EndAfterwards,
                1 => RefusalManner::EndInHandshake,
                2 => RefusalManner::Alert("certificate_unknown"),
                _ => RefusalManner::Alert("unknown_ca"),
            },
            _ => RefusalManner::Alert("unknown_ca"),
        }
    }
}

/// One host.
#[derive(Clone, Debug)]
pub(super) struct SimulatedSender {
    pub(super) nature: SenderNature,
    pub(super) identity: String,
    pub(super) certificate: Option<Fingerprint>,
    pub(super) address: IpAddr,
    /// Its TLS library: what its hello is told apart by.
    pub(super) stack: u64,
    /// The newest pair that one accepts that does not accept every pair.
    pub(super) newest_accepted: usize,
    /// It accepts every pair from now on: its operator has acted.
    pub(super) mended: bool,
    /// It has accepted pairs that it refuses by now: its operator has put back an old trust.
    pub(super) regressed: bool,
    /// Minutes between two visits.
    pub(super) every: i64,
    /// Minutes from its handshake to its first request: a pool may open connections long before.
    pub(super) lag: i64,
    /// It resumes its session where it can: then nothing is judged anew.
    pub(super) resumes: bool,
    /// The replica, its epoch and the pair of that session.
    pub(super) session: Option<(usize, u64, Fingerprint)>,
    /// When it no longer comes.
    pub(super) until: i64,
    /// Always the same replica, or any.
    pub(super) replica: Option<usize>,
    /// When it last finished a handshake.
    pub(super) last: Option<i64>,
    /// Since when it has sent requests on the current pair, since the rotation and since it failed.
    pub(super) proved: Option<i64>,
    /// When the current pair was last not shown to it, or not accepted.
    pub(super) failed: Option<i64>,
    /// The handshakes that it lost since the rotation, and why.
    pub(super) losses: LossAccount,
}

impl SimulatedSender {
    /// The handshakes that it costs to learn that it refuses a pair; `None`: it is hostile, or it has proved what it refuses by now,
    /// which no refusal undoes: its losses do not count.
    pub(super) const fn learning_cost(&self) -> Option<u64> {
        match self.nature {
            SenderNature::Hostile => None,
            _ if self.mended => Some(0),
            _ if self.regressed => None,
            SenderNature::Modern | SenderNature::NamesOldCa | SenderNature::OldSchemes => Some(0),
            SenderNature::OnlyOldCa | SenderNature::PinsKey => Some(1),
            SenderNature::PinsCertificate | SenderNature::PinsIssuer | SenderNature::EndsHandshake => Some(2),
        }
    }
}

/// All senders.
pub(super) struct Population {
    pub(super) senders: Vec<SimulatedSender>,
    /// The next visit of each.
    visits: BinaryHeap<Reverse<(i64, usize)>>,
    replicas: usize,
    /// What tells its senders from those of other populations: each one's index is added to it.
    pub(super) numbered_from: usize,
}

impl Population {
    fn empty(replicas: usize) -> Self {
        Self { senders: Vec::new(), visits: BinaryHeap::new(), replicas, numbered_from: 0 }
    }

    pub(super) fn grow(random: &mut SeededRandom, size: usize, replicas: usize) -> Self {
        let mut population = Self::empty(replicas);
        // Some runs have no sender that needs the old pair, or `safe` would hardly ever be due.
        let stubborn = [0, 0, 3, 15][random.index(4)];
        for _ in 0..size {
            let nature =
                if random.percent(stubborn) { STUBBORN[random.index(STUBBORN.len())] } else { SenderNature::Modern };
            let every = [110, 240, 1440, 7 * 1440, 10 * 1440, 20 * 1440][random.index(6)];
            population.add(nature, every.max(if random.percent(60) { 700 } else { 110 }));
            population.vary_last(random);
        }
        for _ in 0..random.below(3) {
            population.add(SenderNature::Hostile, 97);
            population.vary_last(random);
        }
        if random.percent(30) {
            population.put_behind_balancer(random, stubborn);
        }
        population.plan_first_visits(random);
        population
    }

    /// A few senders of which most prove each pair soon, so that a single stubborn one decides: it leaves without a word, comes often or
    /// seldom, shares its identity with other hosts, or accepts one new pair and not the next.
    pub(super) fn grow_stubborn(random: &mut SeededRandom, replicas: usize) -> Self {
        let mut population = Self::empty(replicas);
        for _ in 0..random.between(1, 3) {
            population.add(SenderNature::Modern, [110, 240, 700][random.index(3)]);
        }
        for _ in 0..random.below(3) {
            let nature = HARD_TO_SEE[random.index(HARD_TO_SEE.len())];
            population.add(nature, [110, 300, 1440, 3 * 1440, 7 * 1440, 20 * 1440][random.index(6)]);
            population.vary_last(random);
            let former = population.senders[random.index(population.len())].identity.clone();
            let Some(last) = population.senders.last_mut() else { break };
            if matches!(nature, SenderNature::PinsCertificate | SenderNature::PinsKey) {
                last.newest_accepted = random.index(3);
            }
            if random.percent(50) {
                last.identity = former;
            }
        }
        if random.percent(30) {
            population.add(SenderNature::Hostile, 97);
            population.vary_last(random);
        }
        population.plan_first_visits(random);
        population
    }

    fn plan_first_visits(&mut self, random: &mut SeededRandom) {
        for index in 0..self.len() {
            let first = random.between(0, self.senders[index].every);
            self.visits.push(Reverse((first, index)));
        }
    }

    /// So many hosts that accept everything, each with a certificate and an address of its own.
    pub(super) fn of_modern(size: usize, replicas: usize) -> Self {
        let mut population = Self::empty(replicas);
        (0..size).for_each(|_| population.add(SenderNature::Modern, 1440));
        population
    }

    pub(super) fn add(&mut self, nature: SenderNature, every: i64) {
        let number = self.senders.len() as u32;
        let mut bytes = [9; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        let anonymous = nature == SenderNature::Hostile;
        self.senders.push(SimulatedSender {
            nature,
            identity: if anonymous { "anonymous".to_owned() } else { format!("dns:sender-{number}.example") },
            certificate: (!anonymous).then(|| Fingerprint::from_bytes(bytes)),
            address: std::net::Ipv4Addr::from(0x0a00_0000 | (number * 256)).into(),
            stack: 1,
            newest_accepted: 0,
            mended: false,
            regressed: false,
            every,
            lag: 0,
            resumes: false,
            session: None,
            until: i64::MAX,
            replica: Some(number as usize % self.replicas),
            last: None,
            proved: None,
            failed: None,
            losses: LossAccount::default(),
        });
    }

    /// Makes the last sender another host of a former one, or its neighbour, or one that goes away.
    fn vary_last(&mut self, random: &mut SeededRandom) {
        let count = self.senders.len();
        let other = random.index(count);
        let former = self.senders[other].clone();
        let Some(last) = self.senders.last_mut() else { return };
        last.stack = 1 + random.below(3);
        last.resumes = random.percent(30);
        if random.percent(15) {
            last.lag = random.between(1, last.every.min(3 * 1440));
        }
        if random.percent(40) {
            last.replica = None;
        }
        if random.percent(10) {
            last.until = random.between(5, 70) * 1440;
        }
        if other + 1 == count || former.certificate.is_none() {
            return;
        }
        let has_certificate = last.certificate.is_some();
        match random.below(10) {
            // The same certificate on another host.
            0 if has_certificate => (last.identity, last.certificate) = (former.identity, former.certificate),
            // Another certificate of the same identity.
            1 if has_certificate => last.identity = former.identity,
            // Behind the same address, with another library.
            2 => last.address = former.address,
            // Likewise with the same one, or one that an attacker has guessed.
            3 => (last.address, last.stack) = (former.address, former.stack),
            _ => {}
        }
    }

    /// A balancer that does not tell whose connections it brings: all of them come from its address.
    fn put_behind_balancer(&mut self, random: &mut SeededRandom, stubborn: u64) {
        let address = std::net::Ipv4Addr::new(192, 0, 2, 1).into();
        for _ in 0..random.between(3, 12) {
            let nature =
                if random.percent(stubborn) { STUBBORN[random.index(STUBBORN.len())] } else { SenderNature::Modern };
            self.add(nature, [180, 1440, 7 * 1440][random.index(3)]);
            let Some(last) = self.senders.last_mut() else { return };
            (last.address, last.stack, last.replica) = (address, 1 + random.below(6), None);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.senders.len()
    }

    /// Who comes in this minute; each has its next visit afterwards.
    pub(super) fn due(&mut self, minute: i64) -> Vec<usize> {
        let mut all = Vec::new();
        while self.visits.peek().is_some_and(|Reverse((at, _))| *at <= minute) {
            let Some(Reverse((_, index))) = self.visits.pop() else { break };
            let sender = &self.senders[index];
            if minute < sender.until {
                self.visits.push(Reverse((minute + sender.every, index)));
                all.push(index);
            }
        }
        all
    }

    /// Its operator has given it what it needs.
    pub(super) fn mend(&mut self, index: usize) {
        self.senders[index].mended = true;
    }

    /// Its operator has put back an old trust: it refuses pairs that it has accepted, and leaves without a word.
    pub(super) fn regress(&mut self, index: usize, newest_accepted: usize) {
        let sender = &mut self.senders[index];
        (sender.nature, sender.newest_accepted) = (SenderNature::PinsCertificate, newest_accepted);
        (sender.regressed, sender.mended, sender.session) = (true, false, None);
    }

    /// What counts since a rotation begins anew.
    pub(super) fn begin_rotation(&mut self) {
        for sender in &mut self.senders {
            (sender.proved, sender.failed) = (None, None);
            sender.losses.begin_rotation();
        }
    }
}
