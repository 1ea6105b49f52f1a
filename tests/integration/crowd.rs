//! The smaller simulator of a rotation, over real sockets: a crowd of senders of every kind comes in waves to a running sidecar.
//!
//! Must hold: a sender that the new pair suits loses nothing, and is never named; one that needs the old pair loses one handshake,
//! or two where it leaves without a word, and one for a trial; the verdict names exactly those, whatever peers without a
//! certificate do; and it is `safe` once all of them have been mended and have come again.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use sidekey::event::Event;
use sidekey::evidence::report::{RetireAdvice, RotationProgress, RotationReport};
use sidekey::pki::Fingerprint;
use sidekey::pki::issue::IssuedKeyPair;
use sidekey::tls::HandshakeOutcome;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::handshake::{Stand, stand_with};
use crate::support::ca::{Ca, fingerprint, today};
use crate::support::peer::{Connection, Peer};
use crate::support::sidecar::drop_pair;

/// How many senders there are of each kind.
const MODERN: usize = 140;
const OLD_CA: usize = 20;
const PINNED: usize = 20;
const HOSTILE: usize = 20;
/// Connections at once.
const AT_ONCE: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq)]
enum SenderNature {
    Modern,
    /// It trusts only the old CA, and says so.
    OldCa,
    /// It compares our certificate after the handshake, and leaves.
    Pinned,
    /// It has no certificate, and trusts no CA of ours.
    Hostile,
}

#[derive(Clone)]
struct CrowdSender {
    nature: SenderNature,
    identity: String,
    from: [u8; 4],
    number: usize,
    pair: Arc<IssuedKeyPair>,
    peer: Peer,
    lost: usize,
}

/// A sender's library does not change with what it trusts: every fourth speaks TLS 1.2 only.
fn make_peer(number: usize, trusted: &[&str], pair: Option<&IssuedKeyPair>) -> Peer {
    let peer = if number % 4 == 3 { Peer::tls12(trusted, pair) } else { Peer::new(trusted, pair) };
    peer.fresh().alpn(&[if number.is_multiple_of(2) { "h2" } else { "http/1.1" }])
}

impl CrowdSender {
    /// One visit; whether it was served.
    async fn visit(&self, to: std::net::SocketAddr, pin: Fingerprint) -> bool {
        let Ok(mut stream) = self.peer.tls_from(self.from, to).await else { return false };
        if self.nature == SenderNature::Pinned {
            let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
            if Fingerprint::of(shown.as_ref()) != pin {
                let _ = stream.shutdown().await;
                return false;
            }
        }
        match Connection::over(stream).await {
            Ok(mut connection) => connection.get("/").await.is_ok_and(|answer| answer.status == 200),
            Err(_) => false,
        }
    }
}

struct Crowd {
    stand: Stand,
    next: Ca,
    senders: Vec<CrowdSender>,
    now: Timestamp,
    pin: Fingerprint,
}

fn of_kind(nature: SenderNature, number: usize) -> (String, [u8; 4]) {
    let kind = format!("{nature:?}").to_lowercase();
    let [high, low] = u16::try_from(number).expect("a small number").to_be_bytes();
    (format!("{kind}-{number}"), [127, 1 + nature as u8, high, low + 1])
}

impl Crowd {
    async fn gather() -> Self {
        let now = today();
        let top = "[keyring.default]\nseen_within = \"2d\"\noverlap = \"30d\"\n";
        let stand = stand_with(top, "", Some(now), |_, _| ()).await;
        let (pin, next) = (fingerprint(&stand.server), Ca::new("The next CA"));
        let stranger = Ca::new("A stranger");
        let mut senders = Vec::new();
        let kinds = [
            (SenderNature::Modern, MODERN),
            (SenderNature::OldCa, OLD_CA),
            (SenderNature::Pinned, PINNED),
            (SenderNature::Hostile, HOSTILE),
        ];
        for (nature, count) in kinds {
            for number in 0..count {
                let (name, from) = of_kind(nature, number);
                let pair = Arc::new(stand.ca.client(&name, 5));
                let trusted: &[&str] = match nature {
                    SenderNature::OldCa => &[stand.ca.pem()],
                    SenderNature::Hostile => &[stranger.pem()],
                    _ => &[stand.ca.pem(), next.pem()],
                };
                let shown = (nature != SenderNature::Hostile).then_some(&*pair);
                let peer = make_peer(number, trusted, shown);
                let identity = format!("uri:spiffe://{name}.example/app");
                senders.push(CrowdSender { nature, identity, from, number, pair, peer, lost: 0 });
            }
        }
        Self { stand, next, senders, now, pin }
    }

    fn move_by(&mut self, hours: i64) {
        self.now += SignedDuration::from_hours(hours);
        self.stand.sidecar.move_to(self.now);
    }

    /// Every sender comes once; then everything that follows from it has been recorded. `learned`: how many changes of what is
    /// remembered there are at least.
    async fn come(&mut self, in_overlap: bool, learned: usize) {
        let (to, pin) = (self.stand.sidecar.ingress("api"), self.pin);
        let turns = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let mut visits = JoinSet::new();
        for (index, sender) in self.senders.iter().cloned().enumerate() {
            let turns = Arc::clone(&turns);
            visits.spawn(async move {
                let _turn = turns.acquire().await;
                (index, sender.visit(to, pin).await)
            });
        }
        let (mut handshakes, mut accepted, mut proofs, mut lessons) = (0, 0, 0, 0);
        let all = self.senders.len();
        let is_over = |event: &Event| {
            match event {
                Event::Handshake(handshake) => {
                    handshakes += 1;
                    accepted += usize::from(handshake.outcome == HandshakeOutcome::Accepted);
                }
                Event::PeerProof(_) => proofs += 1,
                Event::Learned(_) => lessons += 1,
                _ => {}
            }
            (handshakes == all && (!in_overlap || proofs == accepted) && learned <= lessons).then_some(())
        };
        self.stand.sidecar.event("the wave is over", is_over).await;
        for (index, served) in visits.join_all().await {
            self.senders[index].lost += usize::from(!served);
        }
    }

    fn report(&self) -> RotationReport {
        let snapshot = self.stand.sidecar.app.reader().latest();
        let mut reports = self.stand.sidecar.app.events().report(&snapshot.keyrings_in_overlap(), &snapshot.contacts());
        assert_eq!(reports.len(), 1, "one keyring in overlap");
        reports.remove(0)
    }

    fn most_lost(&self, nature: SenderNature) -> usize {
        self.senders.iter().filter(|sender| sender.nature == nature).map(|sender| sender.lost).max().unwrap_or(0)
    }

    fn identities(&self, natures: &[SenderNature]) -> BTreeSet<String> {
        let meant = self.senders.iter().filter(|sender| natures.contains(&sender.nature));
        meant.map(|sender| sender.identity.clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_senders_loses_no_more_than_the_rules_grant_and_no_verdict_on_it_is_wrong() {
    let mut crowd = Crowd::gather().await;
    // What came before the process is unknown for two days.
    crowd.move_by(49);
    crowd.come(false, 0).await;
    crowd.senders.iter_mut().for_each(|sender| sender.lost = 0);
    let pair = crowd.next.server(1);
    drop_pair(crowd.stand.sidecar.folder.path(), "next", &pair);
    assert_eq!(crowd.stand.sidecar.rotation("default").await, fingerprint(&pair));
    assert_eq!(crowd.report().verdict.retire, RetireAdvice::Wait);

    // The first wave teaches of those that send an alert, the second of those that leave, the third is served.
    for learned in [OLD_CA, OLD_CA + PINNED, PINNED] {
        crowd.come(true, learned).await;
    }
    crowd.come(true, 0).await;
    let lost = |crowd: &Crowd| {
        let most = |nature| crowd.most_lost(nature);
        [most(SenderNature::Modern), most(SenderNature::OldCa), most(SenderNature::Pinned)]
    };
    assert_eq!(lost(&crowd), [0, 1, 2]);
    let report = crowd.report();
    assert_eq!(report.verdict.retire, RetireAdvice::Blocked, "{}", report.verdict.sentence);
    let stubborn = crowd.identities(&[SenderNature::OldCa, SenderNature::Pinned]);
    let named = |stands: RotationProgress| -> BTreeSet<String> {
        report.lines.iter().filter(|line| line.stands == stands).map(|line| line.name.clone()).collect()
    };
    assert_eq!(named(RotationProgress::InsistsOnOld), stubborn);
    assert_eq!(named(RotationProgress::ProvedNew), crowd.identities(&[SenderNature::Modern]));

    // Half a day later each that is held is shown the new pair once more.
    crowd.move_by(13);
    crowd.come(true, 0).await;
    crowd.come(true, 0).await;
    assert_eq!(lost(&crowd), [0, 2, 3]);

    // Their operators act; the next trials, days later, free them.
    let (old, new) = (crowd.stand.ca.pem().to_owned(), crowd.next.pem().to_owned());
    for sender in &mut crowd.senders {
        if matches!(sender.nature, SenderNature::OldCa | SenderNature::Pinned) {
            sender.nature = SenderNature::Modern;
            sender.peer = make_peer(sender.number, &[&old, &new], Some(&sender.pair));
        }
    }
    crowd.move_by(4 * 24 + 1);
    crowd.come(true, OLD_CA + PINNED).await;
    crowd.move_by(25);
    crowd.come(true, 0).await;
    let report = crowd.report();
    assert_eq!(report.verdict.retire, RetireAdvice::Safe, "{}", report.verdict.sentence);
    assert!(crowd.now < report.ends, "the overlap still runs");
}
