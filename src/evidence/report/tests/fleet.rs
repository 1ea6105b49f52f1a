//! What the registry has, of former processes and of other instances: it adds to what this process saw, and the verdict
//! is the fleet's.

use proptest::prelude::*;

use super::*;

pub(super) fn recalled(
    is_own: bool,
    host: Host,
    shown: u8,
    minute: i64,
    change: impl Fn(&mut PairEvidence),
) -> RecalledUse {
    let (keyring, listener) = (shared_str("api"), shared_str("api"));
    let mut evidence = PairEvidence::new(pair(shown), VisitHistory::begin(time_at(minute)));
    if minute >= 100 {
        (evidence.since, evidence.handshakes) = (Some(time_at(minute)), 1);
    }
    change(&mut evidence);
    let key = SenderKey::new((&keyring, &listener), host.0, Some(pair(host.1)), host.2.parse().ok());
    RecalledUse::Sender { is_own, key, partner: host.0.starts_with("acme").then(|| shared_str("acme")), evidence }
}

pub(super) fn proved(is_own: bool, host: Host, minute: i64) -> RecalledUse {
    recalled(is_own, host, NEW, minute, |evidence| evidence.proved = Some(time_at(minute)))
}

pub(super) fn insists(is_own: bool, host: Host, minute: i64) -> RecalledUse {
    recalled(is_own, host, OLD, minute, |evidence| {
        evidence.insisted =
            Some(PairInsistence { at: time_at(minute), reason: "unknown_ca".into(), because: "unknown CA".to_owned() });
    })
}

pub(super) fn history(since: i64, uses: Vec<RecalledUse>) -> RecalledHistory {
    RecalledHistory {
        since: time_at(since),
        keyrings: vec![shared_str("api")],
        uses,
        replicas: Vec::new(),
        cut: Vec::new(),
    }
}

#[test]
fn what_the_registry_has_makes_a_restart_forget_nothing() {
    // The process is younger than the rotation.
    let mut ledger = RotationLedger::new(time_at(150));
    ledger.await_registry();
    let (one, two) = (Host::named("a"), Host::named("b"));
    one.proves(&mut ledger, 160);
    let awaited = build_report(&ledger, &overlap(), 200);
    assert_eq!((awaited.verdict.retire, awaited.before), (RetireAdvice::Wait, PriorHistory::Awaited));
    assert!(awaited.verdict.sentence.contains("until the registry answers"), "{}", awaited.verdict.sentence);
    ledger.recall(history(0, vec![insists(true, one, 120), proved(true, two, 130)]), time_at(199));
    let soon = build_report(&ledger, &overlap(), 200);
    assert_eq!(uses(&soon), [("a", RotationProgress::StillOnOld), ("b", RotationProgress::ProvedNew)]);
    ledger.recall(history(0, Vec::new()), time_at(120 + DAY));
    let safe = build_report(&ledger, &overlap(), 120 + DAY);
    assert_eq!(
        (safe.verdict.retire, safe.before, safe.watched_since),
        (RetireAdvice::Safe, PriorHistory::Recalled, time_at(0)),
        "{}",
        safe.verdict.sentence
    );
    // What a former process knew is read once: rows that this process wrote since are not news.
    ledger.recall(history(0, vec![insists(true, one, 170)]), time_at(120 + DAY));
    assert_eq!(build_report(&ledger, &overlap(), 120 + DAY).verdict.retire, RetireAdvice::Safe);
}

#[test]
fn safe_waits_for_a_reading_that_was_asked_for_and_for_an_instance_that_has_missed_its_heartbeats() {
    let mut ledger = RotationLedger::new(time_at(0));
    ledger.await_registry();
    record_rotation(&mut ledger);
    ETL.proves(&mut ledger, 110);
    // Its clock is five minutes behind ours: only what is news counts.
    let heard = |minute: i64| RecalledHistory {
        replicas: vec![ReplicaStatus { instance: "b".to_owned(), last_heard: time_at(minute - 5) }],
        ..history(0, Vec::new())
    };
    ledger.recall(heard(111), time_at(111));
    ledger.recall(heard(112), time_at(112));
    assert!(ledger.is_shared());
    assert_eq!(build_report(&ledger, &overlap(), 112).verdict.retire, RetireAdvice::Safe);
    ledger.record_unanswered();
    let asked = build_report(&ledger, &overlap(), 112).verdict;
    assert_eq!(asked.retire, RetireAdvice::Wait);
    assert!(asked.sentence.contains("the registry has not answered since"), "{}", asked.sentence);
    ledger.recall(heard(112), time_at(114));
    let late = build_report(&ledger, &overlap(), 114).verdict;
    assert_eq!((late.retire, late.until), (RetireAdvice::Wait, Some(time_at(117))));
    assert!(late.sentence.contains("instance b has not written to the registry since"), "{}", late.sentence);
    ledger.recall(heard(112), time_at(118));
    let gone = build_report(&ledger, &overlap(), 118).verdict;
    assert_eq!(gone.retire, RetireAdvice::Safe, "{}", gone.sentence);
    assert!(gone.unknown.iter().any(|unknown| unknown.contains("have not been heard from")), "{:?}", gone.unknown);
}

#[test]
fn a_holdout_that_only_another_instance_saw_blocks_here_too() {
    let mut ledger = RotationLedger::new(time_at(0));
    ledger.await_registry();
    record_rotation(&mut ledger);
    ETL.proves(&mut ledger, 110);
    ledger.recall(history(0, Vec::new()), time_at(111));
    assert_eq!(build_report(&ledger, &overlap(), 112).verdict.retire, RetireAdvice::Safe);
    let holdout = Host::named("holdout");
    ledger.recall(history(0, vec![insists(false, holdout, 105)]), time_at(126));
    let blocked = build_report(&ledger, &overlap(), 127);
    assert_eq!((blocked.verdict.retire, blocked.lines[0].name.as_str()), (RetireAdvice::Blocked, "holdout"));
    assert_eq!(blocked.lines[0].because.as_deref(), Some("unknown CA"));
    // What it does here does not end what it does there, before a day has passed there without it.
    holdout.proves(&mut ledger, 128);
    assert_eq!(build_report(&ledger, &overlap(), 129).verdict.retire, RetireAdvice::Wait);
    // Each reading replaces the one before.
    let mended = vec![proved(false, holdout, 130)];
    ledger.recall(history(0, mended), time_at(131));
    assert_eq!(build_report(&ledger, &overlap(), 132).verdict.retire, RetireAdvice::Safe);
}

#[test]
fn unexplained_ends_at_two_instances_are_two_in_a_row() {
    let mut ledger = RotationLedger::new(time_at(0));
    record_rotation(&mut ledger);
    ETL.connects(&mut ledger, NEW, SelectionReason::Prefer, 110);
    ETL.ends(&mut ledger, NEW, SenderOutcome::UnexplainedEnd, 110);
    let ended = |minute: i64| {
        recalled(false, ETL, NEW, minute, |evidence| {
            (evidence.unexplained_ends, evidence.ended) = (1, Some(time_at(minute)));
        })
    };
    ledger.recall(history(0, vec![ended(112)]), time_at(113));
    assert_eq!(build_report(&ledger, &overlap(), 114).verdict.retire, RetireAdvice::Blocked);
    ETL.proves(&mut ledger, 115);
    ledger.recall(history(0, vec![ended(112)]), time_at(116));
    assert_eq!(build_report(&ledger, &overlap(), 117).verdict.retire, RetireAdvice::Safe);
}

#[test]
fn a_registry_that_was_not_read_since_the_rotation_or_for_minutes_calls_nothing_safe() {
    let mut ledger = RotationLedger::new(time_at(0));
    ledger.recall(history(0, Vec::new()), time_at(90));
    record_rotation(&mut ledger);
    ETL.proves(&mut ledger, 102);
    let unread = build_report(&ledger, &overlap(), 103);
    assert_eq!(unread.verdict.retire, RetireAdvice::Wait, "{}", unread.verdict.sentence);
    ledger.recall(history(0, Vec::new()), time_at(103));
    assert_eq!(build_report(&ledger, &overlap(), 108).verdict.retire, RetireAdvice::Safe);
    let stale = build_report(&ledger, &overlap(), 109);
    assert_eq!(stale.verdict.retire, RetireAdvice::Wait);
    assert!(stale.verdict.sentence.contains("what other instances saw is unknown"), "{}", stale.verdict.sentence);
}

#[test]
fn a_registry_younger_than_the_rotation_and_one_with_too_many_rows_call_nothing_safe() {
    let mut young = RotationLedger::new(time_at(190));
    young.recall(history(150, vec![proved(true, ETL, 160)]), time_at(199));
    let half = build_report(&young, &overlap(), 200);
    assert_eq!((half.verdict.retire, half.watched_since), (RetireAdvice::Wait, time_at(150)));
    assert!(half.verdict.sentence.contains("before the registry was created"), "{}", half.verdict.sentence);
    let mut ledger = RotationLedger::new(time_at(190));
    let cut = RecalledHistory { cut: vec![shared_str("api")], ..history(0, vec![proved(true, ETL, 160)]) };
    ledger.recall(cut, time_at(199));
    let report = build_report(&ledger, &overlap(), 200);
    assert_eq!((report.verdict.retire, report.forgotten), (RetireAdvice::Wait, 1), "{}", report.verdict.sentence);
}

#[test]
fn a_confirmed_refusal_is_as_much_younger_than_a_proof_after_a_step_of_the_clock_as_before_it() {
    const STEP: i64 = 3 * DAY;
    let mut ledger = RotationLedger::new(time_at(0));
    ledger.await_registry();
    record_rotation(&mut ledger);
    record_refusal(&mut ledger, ETL.2, Some(ETL.0), RefusalStatus::Confirmed, 120);
    ledger.shift_times(SignedDuration::from_mins(STEP));
    // At minute 110 it had proved the pair at another instance, whose rows have followed the clock.
    ledger.recall(history(0, vec![proved(false, ETL, 110 + STEP)]), time_at(130 + STEP));
    let report = build_report(&ledger, &overlap(), 130 + STEP);
    assert_eq!(uses(&report), [("acme-etl", RotationProgress::InsistsOnOld)], "{}", report.verdict.sentence);
}

#[test]
fn instances_that_are_silent_are_named_with_since_when() {
    let mut ledger = RotationLedger::new(time_at(0));
    record_rotation(&mut ledger);
    ETL.proves(&mut ledger, 110);
    let replica = |instance: &str, minute| ReplicaStatus { instance: instance.to_owned(), last_heard: time_at(minute) };
    let replicas = vec![replica("b", 199), replica("c", 120), replica("long-gone", 198 - 36 * DAY)];
    ledger.recall(RecalledHistory { replicas, ..history(0, Vec::new()) }, time_at(199));
    let report = build_report(&ledger, &overlap(), 200);
    let said = "1 instance(s) have not been heard from (c since 2026-01-01 02:00 UTC)";
    assert!(report.verdict.unknown.iter().any(|one| one.starts_with(said)), "{:?}", report.verdict.unknown);
    assert_eq!(report.verdict.retire, RetireAdvice::Safe);
}

#[test]
fn what_an_upstream_said_at_another_instance_counts_here() {
    let keyring =
        KeyringOverlap { upstreams: vec![(shared_str("salesforce"), "sf.example:8443".to_owned())], ..overlap() };
    let word = |is_own, said| RecalledUse::Upstream {
        is_own,
        instance: "b".to_owned(),
        keyring: shared_str("api"),
        listener: shared_str("salesforce"),
        key_pair: pair(NEW),
        said,
        since: time_at(120),
        reason: "status_401".to_owned(),
        explanation: "it answered 401".to_owned(),
    };
    let mut ledger = RotationLedger::new(time_at(150));
    // The probe of this process comes first, as it does.
    record_upstream(&mut ledger, NEW, UpstreamResponse::HandshakeOk, true, 151);
    ledger.recall(history(0, vec![word(true, UpstreamResponse::Refused)]), time_at(199));
    let report = build_report(&ledger, &keyring, 200);
    let line = &report.lines[0];
    assert_eq!(
        (line.stands, line.reason.as_deref(), line.since),
        (RotationProgress::InsistsOnOld, Some("status_401"), Some(time_at(120)))
    );
    record_upstream(&mut ledger, NEW, UpstreamResponse::Proved, false, 160);
    assert_eq!(build_report(&ledger, &keyring, 200).verdict.retire, RetireAdvice::Safe);
    ledger.recall(history(0, vec![word(false, UpstreamResponse::Refused)]), time_at(200));
    let elsewhere = build_report(&ledger, &keyring, 201);
    assert_eq!(elsewhere.verdict.retire, RetireAdvice::Blocked);
    assert_eq!(elsewhere.lines[0].because.as_deref(), Some("it answered 401 (at instance b)"));
    ledger.recall(history(0, vec![word(false, UpstreamResponse::Proved)]), time_at(202));
    assert_eq!(build_report(&ledger, &keyring, 203).verdict.retire, RetireAdvice::Safe);
}

#[test]
fn changed_senders_are_written_once_and_again_after_a_failure() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    ETL.proves(&mut ledger, 110);
    Host("anonymous", 0, "192.0.2.1").proves(&mut ledger, 110);
    let taken = ledger.take_changed(10, 0);
    assert_eq!((taken.len(), taken[0].pairs[0].proved), (1, Some(time_at(110))));
    assert!(ledger.take_changed(10, 0).is_empty());
    ledger.restore_changed(taken.into_iter().map(|sender| sender.key));
    assert_eq!(ledger.take_changed(10, 0).len(), 1);
    ledger.record(&LedgerFact::Rotated { keyring: &shared_str("api"), epoch: 9 }, time_at(120));
    assert_eq!(ledger.take_changed(10, 0)[0].pairs[0].proved, None, "its row must not prove the next pair");
}

#[test]
fn only_what_a_verdict_may_depend_on_is_written_at_once() {
    let mut ledger = old_ledger();
    record_rotation(&mut ledger);
    let is_news = |ledger: &mut RotationLedger| {
        let is_news = ledger.has_news();
        ledger.take_changed(10, 0);
        is_news
    };
    is_news(&mut ledger);
    type LedgerStep = fn(&mut RotationLedger);
    let steps: [(&str, LedgerStep, bool); 7] = [
        (
            "it comes for the first time since the rotation",
            |ledger| ETL.connects(ledger, NEW, SelectionReason::Prefer, 110),
            true,
        ),
        ("it comes again", |ledger| ETL.connects(ledger, NEW, SelectionReason::Prefer, 111), false),
        ("it proves the pair", |ledger| ETL.proves(ledger, 112), true),
        ("it proves it again", |ledger| ETL.proves(ledger, 113), false),
        (
            "its connection ends without a byte",
            |ledger| ETL.ends(ledger, NEW, SenderOutcome::UnexplainedEnd, 114),
            true,
        ),
        ("and again", |ledger| ETL.ends(ledger, NEW, SenderOutcome::UnexplainedEnd, 115), true),
        ("it proves it once more", |ledger| ETL.proves(ledger, 116), true),
    ];
    for (what, step, expected) in steps {
        step(&mut ledger);
        assert_eq!(is_news(&mut ledger), expected, "{what}");
    }
    ETL.proves(&mut ledger, 117);
    assert_eq!(ledger.take_changed(10, u64::MAX).len(), 1, "what was only counted is written in the end");
}

proptest! {
    /// It does not matter when the registry answers: before this process has seen a peer, or after.
    #[test]
    fn what_is_recalled_late_is_as_if_it_had_been_known_from_the_start(
        former in prop::collection::vec((0..6_usize, 1..5_u8, 50..150_i64), 0..12),
        steps in prop::collection::vec((0..6_usize, 1..5_u8, 0..3_i64), 0..30),
        answered in 0..30_usize,
    ) {
        const HOSTS: [Host; 6] = [
            Host("a", 1, "10.0.0.1"), Host("a", 1, "10.0.0.2"), Host("a", 2, "10.0.0.1"),
            Host("b", 3, "10.0.0.1"), Host("c", 4, "10.0.0.4"), Host("acme", 5, "10.0.0.5"),
        ];
        let all: Vec<RecalledUse> = former
            .iter()
            .map(|(who, shown, minute)| recalled(who % 2 == 0, HOSTS[*who], *shown, *minute, |evidence| {
                evidence.proved = (*minute > 100).then(|| time_at(*minute));
            }))
            .collect();
        let tell = |answered: usize| {
            let mut ledger = RotationLedger::new(time_at(150));
            let mut now = 150;
            for (number, (who, shown, minutes)) in steps.iter().enumerate() {
                if number == answered {
                    ledger.recall(history(0, all.clone()), time_at(299));
                }
                now += minutes;
                HOSTS[*who].connects(&mut ledger, *shown, SelectionReason::Prefer, now);
                HOSTS[*who].ends(&mut ledger, *shown, SenderOutcome::Proved, now);
            }
            if steps.len() <= answered {
                ledger.recall(history(0, all.clone()), time_at(299));
            }
            build_report(&ledger, &overlap(), 300)
        };
        let (late, early) = (tell(answered), tell(0));
        prop_assert_eq!(uses(&late), uses(&early));
        // How often a sender used to come is an estimate: the visits of two instances can only be counted together roughly.
        let decided = |report: &RotationReport| {
            let verdict = &report.verdict;
            (verdict.retire, verdict.until, verdict.first.clone(), verdict.unknown.clone())
        };
        prop_assert_eq!(decided(&late), decided(&early));
    }
}
