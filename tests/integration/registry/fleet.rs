//! One verdict for the fleet: a rotation report is made of what every instance on a registry has seen.

use sidekey::event::Event;
use sidekey::evidence::report::{RetireAdvice, RotationProgress};
use sidekey::pki::issue::IssuedKeyPair;

use super::{ETL, report, uses};
use crate::handshake::{config, stand};
use crate::support::ca::{Ca, fingerprint};
use crate::support::database::postgres;
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

const HOLDOUT: &str = "uri:spiffe://holdout.example/app";

/// Drops a new pair to each, and waits until it is current.
async fn rotate_all(sidecars: [&mut Sidecar; 2], pair: &IssuedKeyPair) {
    for sidecar in sidecars {
        drop_pair(sidecar.folder.path(), "next", pair);
        assert_eq!(sidecar.rotation("default").await, fingerprint(pair));
    }
}

/// A peer that knows the old CA only comes until its refusal of the new pair is confirmed.
async fn refuse_until_confirmed(holdout: &Peer, at: &mut Sidecar) {
    assert!(holdout.get(at.ingress("api"), "/").await.is_err(), "one handshake is lost");
    at.event("its alert was noticed", |event| matches!(event, Event::Learned(_)).then_some(())).await;
    holdout.get(at.ingress("api"), "/").await.expect("shown the old pair");
    at.event("its refusal is confirmed", |event| {
        matches!(event, Event::Learned(lesson) if lesson.peer.is_some()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holdout_that_one_replica_saw_blocks_the_rotation_at_both() {
    let Some(database) = postgres().await else { return };
    let mut first = stand(&database.toml("a")).await;
    let second = folder();
    drop_pair(second.path(), "tls", &first.server);
    put(second.path(), "ca.crt", first.ca.pem());
    let toml = config(&database.toml("b"), "", first.backend.address);
    let mut second = Sidecar::start(second, &toml).await;

    let next = Ca::new("The next CA");
    let etl = Peer::new(&[first.ca.pem(), next.pem()], Some(&first.ca.client("etl", 5))).fresh();
    let holdout = Peer::new(&[first.ca.pem()], Some(&first.ca.client("holdout", 5))).fresh();
    etl.get(first.sidecar.ingress("api"), "/").await.expect("answered");
    holdout.get(second.ingress("api"), "/").await.expect("answered");

    let pair = next.server(1);
    rotate_all([&mut first.sidecar, &mut second], &pair).await;
    etl.get(first.sidecar.ingress("api"), "/").await.expect("answered");
    // The one that saw neither before knows that the other did, and who has not come yet.
    let knows_both = |sidecar: &Sidecar| {
        uses(&report(sidecar)) == [(HOLDOUT, RotationProgress::NotSeen), (ETL, RotationProgress::ProvedNew)]
    };
    eventually("the first knows of the holdout", || knows_both(&first.sidecar)).await;
    eventually("the second knows of the other", || knows_both(&second)).await;
    assert_eq!(report(&first.sidecar).verdict.retire, RetireAdvice::Wait);

    refuse_until_confirmed(&holdout, &mut second).await;
    for sidecar in [&first.sidecar, &second] {
        eventually("both say blocked", || report(sidecar).verdict.retire == RetireAdvice::Blocked).await;
        let said = report(sidecar);
        assert_eq!(uses(&said)[0], (HOLDOUT, RotationProgress::InsistsOnOld));
        assert_eq!(said.lines[0].reason.as_deref(), Some("unknown_ca"), "{:?}", said.lines[0]);
        assert_eq!(said.verdict.first.expect("a peer to call").name, HOLDOUT);
        assert_eq!(said.replicas.len(), 1, "each knows the other");
    }
    // The one that comes later, under a name of its own, knows as much.
    let third = folder();
    drop_pair(third.path(), "tls", &first.server);
    drop_pair(third.path(), "next", &pair);
    put(third.path(), "ca.crt", first.ca.pem());
    let third = Sidecar::start(third, &config(&database.toml("c"), "", first.backend.address)).await;
    eventually("a new replica says so too", || report(&third).verdict.retire == RetireAdvice::Blocked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_is_asked_for_rests_on_what_other_replicas_had_written_by_then() {
    let Some(database) = postgres().await else { return };
    let mut first = stand(&database.toml("a")).await;
    let second = folder();
    drop_pair(second.path(), "tls", &first.server);
    put(second.path(), "ca.crt", first.ca.pem());
    let mut second = Sidecar::start(second, &config(&database.toml("b"), "", first.backend.address)).await;
    let next = Ca::new("The next CA");
    let etl = Peer::new(&[first.ca.pem(), next.pem()], Some(&first.ca.client("etl", 5))).fresh();
    etl.get(first.sidecar.ingress("api"), "/").await.expect("answered");
    let pair = next.server(1);
    rotate_all([&mut first.sidecar, &mut second], &pair).await;
    etl.get(first.sidecar.ingress("api"), "/").await.expect("answered");
    eventually("the first says safe", || report(&first.sidecar).verdict.retire == RetireAdvice::Safe).await;

    // A peer that was never seen before comes to the other one, and refuses the new pair.
    let holdout = Peer::new(&[first.ca.pem()], Some(&first.ca.client("holdout", 5))).fresh();
    refuse_until_confirmed(&holdout, &mut second).await;
    second.app.events().refresh_history().await;
    assert_eq!(report(&second).verdict.retire, RetireAdvice::Blocked);
    // A refresh there writes before it is answered; a refresh here reads what was written, however lately it was read before.
    first.sidecar.app.events().refresh_history().await;
    let said = report(&first.sidecar).verdict;
    assert_eq!(said.retire, RetireAdvice::Blocked, "{}", said.sentence);
}
