//! The senders of a simulated fleet: who they are, when they come, and what they really accept.

use std::net::IpAddr;

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
    /// It has pinned our old key, and sends an alert.
    PinsKey,
    /// It checks the issuer after the handshake, and just leaves.
    PinsIssuer,
    /// It names the old CA in its hello.
    NamesOldCa,
    /// It signs with what only the old pair has.
    OldSchemes,
    /// It has no certificate, and does everything to be noticed.
    Hostile,
}

impl SenderNature {
    /// Whether a refusal is told by an alert; else the connection ends without a byte.
    pub(super) const fn tells(self) -> bool {
        matches!(self, Self::OnlyOldCa | Self::PinsKey)
    }
}

/// One host.
#[derive(Clone, Debug)]
pub(super) struct SimulatedSender {
    pub(super) nature: SenderNature,
    pub(super) identity: String,
    pub(super) certificate: Option<Fingerprint>,
    pub(super) address: IpAddr,
    /// It accepts every pair from now on: its operator has acted.
    pub(super) mended: bool,
    /// Minutes between two visits.
    pub(super) every: i64,
    pub(super) next: i64,
    /// When it no longer comes.
    pub(super) until: i64,
    /// Always the same replica, or any.
    pub(super) replica: Option<usize>,
    /// Whether another sender has its address.
    pub(super) shares_address: bool,
    pub(super) last: Option<i64>,
    /// When it last sent a request on the current pair, since the rotation.
    pub(super) proved: Option<i64>,
    /// When the current pair was last not shown to it, or not accepted.
    pub(super) failed: Option<i64>,
    /// Handshakes lost since the rotation, and the most of any rotation.
    pub(super) lost: u64,
    pub(super) most_lost: u64,
}

/// All senders.
pub(super) struct Population {
    pub(super) senders: Vec<SimulatedSender>,
    replicas: usize,
}

impl Population {
    pub(super) fn grow(random: &mut SeededRandom, size: usize, replicas: usize) -> Self {
        let mut population = Self { senders: Vec::new(), replicas };
        // Some runs have no sender that needs the old pair, or `safe` would hardly ever be due.
        let stubborn = [0, 0, 3, 15][usize::try_from(random.below(4)).unwrap_or_default()];
        for _ in 0..size {
            let nature = if random.percent(stubborn) {
                [
                    SenderNature::OnlyOldCa,
                    SenderNature::PinsCertificate,
                    SenderNature::PinsKey,
                    SenderNature::PinsIssuer,
                    SenderNature::NamesOldCa,
                    SenderNature::OldSchemes,
                ][usize::try_from(random.below(6)).unwrap_or_default()]
            } else {
                SenderNature::Modern
            };
            let every = [50, 180, 1440, 7 * 1440, 10 * 1440][usize::try_from(random.below(5)).unwrap_or_default()];
            population.add(nature, every.max(if random.percent(60) { 700 } else { 50 }));
            population.vary_last(random);
        }
        for _ in 0..random.below(3) {
            population.add(SenderNature::Hostile, 97);
            population.vary_last(random);
        }
        population
    }

    /// So many hosts that accept everything, each with a certificate and an address of its own.
    pub(super) fn of_modern(size: usize, replicas: usize) -> Self {
        let mut population = Self { senders: Vec::new(), replicas };
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
            mended: false,
            every,
            next: i64::from(number) % every,
            until: i64::MAX,
            replica: Some(number as usize % self.replicas),
            shares_address: false,
            last: None,
            proved: None,
            failed: None,
            lost: 0,
            most_lost: 0,
        });
    }

    /// Makes the last sender another host of a former one, or its neighbour, or one that goes away.
    fn vary_last(&mut self, random: &mut SeededRandom) {
        let count = self.senders.len();
        let other = usize::try_from(random.below(count as u64)).unwrap_or_default();
        let former = self.senders[other].clone();
        let Some(last) = self.senders.last_mut() else { return };
        last.next = random.between(0, last.every);
        if random.percent(40) {
            last.replica = None;
        }
        if random.percent(10) {
            last.until = random.between(5, 70) * 1440;
        }
        if other + 1 == count || last.certificate.is_none() || former.certificate.is_none() {
            return;
        }
        match random.below(10) {
            // The same certificate on another host.
            0 => (last.identity, last.certificate) = (former.identity, former.certificate),
            // Another certificate of the same identity.
            1 => last.identity = former.identity,
            // Behind the same address.
            2 => {
                last.address = former.address;
                last.shares_address = true;
                self.senders[other].shares_address = true;
            }
            _ => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        self.senders.len()
    }

    /// Who comes in this minute; each has its next visit afterwards.
    pub(super) fn due(&mut self, minute: i64) -> Vec<usize> {
        let due = |sender: &SimulatedSender| sender.next <= minute && minute < sender.until;
        let all: Vec<usize> = (0..self.senders.len()).filter(|index| due(&self.senders[*index])).collect();
        for index in &all {
            self.senders[*index].next = minute + self.senders[*index].every;
        }
        all
    }

    /// Its operator has given it what it needs.
    pub(super) fn mend(&mut self, index: usize) {
        self.senders[index].mended = true;
    }

    /// What counts since a rotation begins anew.
    pub(super) fn begin_rotation(&mut self) {
        for sender in &mut self.senders {
            sender.most_lost = sender.most_lost.max(sender.lost);
            (sender.lost, sender.proved, sender.failed) = (0, None, None);
        }
    }
}
