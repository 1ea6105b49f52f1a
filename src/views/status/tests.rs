use std::time::Duration;

use super::*;
use crate::event::handshake::tests::{accepted, refused};
use crate::keyring::Standing;
use crate::pki::{Fingerprint, FolderProblem, Validity};
use crate::snapshot::{ChainEnd, KeyPairView, ListenerId, Side, sample};

fn parse_time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    parse_time("2026-11-25T09:00:00Z")
}

fn pair(byte: u8, standing: Standing, (from, until): (&str, &str)) -> KeyPairView {
    let validity = Validity { not_before: parse_time(from), not_after: parse_time(until) };
    KeyPairView { validity, ..sample::sample_pair(&[byte; 32], standing) }
}

const LONG: (&str, &str) = ("2026-06-01T00:00:00Z", "2027-06-01T00:00:00Z");

fn codes(key_pairs: Vec<KeyPairView>, held: &[u8]) -> Vec<(String, Urgency)> {
    let held = held.iter().map(|byte| Fingerprint::from_bytes([*byte; 32])).collect();
    let keyring = KeyringView { held, ..sample::sample_keyring(key_pairs) };
    let status = status(vec![keyring], &WriterView::default(), None, &[]);
    status.act_on.into_iter().map(|item| (item.code, item.urgency)).collect()
}

fn status(
    keyrings: Vec<KeyringView>,
    look: &WriterView,
    reload_error: Option<String>,
    handshakes: &[Arc<HandshakeRecord>],
) -> StatusReport {
    let snapshot = sample::sample_snapshot(keyrings);
    build_status(&known(&snapshot, look, reload_error, handshakes), now())
}

fn known<'a>(
    snapshot: &'a Snapshot,
    look: &'a WriterView,
    reload_error: Option<String>,
    handshakes: &'a [Arc<HandshakeRecord>],
) -> StatusInputs<'a> {
    StatusInputs {
        snapshot,
        look,
        reports: Arc::default(),
        handshakes,
        doubts: &[],
        reload_error,
        alerts: &[],
        phase: ShutdownPhase::Running,
        ready: true,
        remembers: true,
        started: parse_time("2026-11-25T08:00:00Z"),
    }
}

#[test]
fn a_pair_with_time_left_is_nothing_to_act_on() {
    assert_eq!(codes(vec![pair(1, Standing::Current, LONG)], &[]), []);
}

#[test]
fn an_expiry_is_said_sixty_days_before_and_for_short_lifetimes_a_quarter() {
    let soon = |from: &str, until: &str| codes(vec![pair(1, Standing::Current, (from, until))], &[]);
    let expires = |urgency| vec![("expires".to_owned(), urgency)];
    assert_eq!(soon("2026-01-25T00:00:00Z", "2027-01-25T00:00:00Z"), []);
    assert_eq!(soon("2026-01-20T00:00:00Z", "2027-01-20T00:00:00Z"), expires(Urgency::Soon));
    assert_eq!(soon("2025-12-01T00:00:00Z", "2026-12-01T00:00:00Z"), expires(Urgency::Now));
    // 90 days: at 22 of them that are left.
    assert_eq!(soon("2026-09-20T00:00:00Z", "2026-12-19T00:00:00Z"), []);
    assert_eq!(soon("2026-09-17T00:00:00Z", "2026-12-16T00:00:00Z"), expires(Urgency::Soon));
    assert_eq!(soon("2025-01-01T00:00:00Z", "2026-11-24T00:00:00Z"), [("expired".to_owned(), Urgency::Now)]);
}

#[test]
fn alert_before_counts_in_place_of_the_lifetime() {
    let ring = |days: u64| KeyringView {
        alert_before: Some(vec![Duration::from_hours(24 * days)]),
        ..sample::sample_keyring(vec![pair(1, Standing::Current, ("2026-01-25T00:00:00Z", "2027-01-25T00:00:00Z"))])
    };
    let listed = |days| status(vec![ring(days)], &WriterView::default(), None, &[]).act_on.len();
    assert_eq!((listed(61), listed(30)), (1, 0));
}

#[test]
fn an_intermediate_and_an_anchor_that_end_first_are_to_be_acted_on() {
    let mut short = pair(1, Standing::Current, LONG);
    short.chain_ends =
        Some(ChainEnd { subject: "CN=Issuing CA".to_owned(), not_after: parse_time("2026-12-05T00:00:00Z") });
    assert_eq!(codes(vec![short], &[]), [("chain_expires".to_owned(), Urgency::Soon)]);
    let items = |days: i64| {
        let not_after = now() + SignedDuration::from_hours(24 * days);
        let mut snapshot =
            sample::sample_snapshot(vec![sample::sample_keyring(vec![pair(1, Standing::Current, LONG)])]);
        snapshot
            .trusts
            .push(sample::sample_trust(Validity { not_before: parse_time("2020-01-01T00:00:00Z"), not_after }));
        build_status(&known(&snapshot, &WriterView::default(), None, &[]), now()).act_on
    };
    assert_eq!((items(61).len(), items(20)[0].urgency, items(3)[0].urgency), (0, Urgency::Soon, Urgency::Now));
    assert_eq!((items(20)[0].code.as_str(), items(-1).len()), ("anchor_expires", 1));
    assert!(items(20)[0].what.contains("expires in 20 days"), "{}", items(20)[0].what);
}

#[test]
fn a_trust_file_that_cannot_be_used_and_a_crl_that_is_or_soon_will_be_stale_are_to_be_acted_on() {
    let ends =
        Validity { not_before: parse_time("2020-01-01T00:00:00Z"), not_after: parse_time("2040-01-01T00:00:00Z") };
    let items = |change: &dyn Fn(&mut TrustView)| {
        let mut snapshot =
            sample::sample_snapshot(vec![sample::sample_keyring(vec![pair(1, Standing::Current, LONG)])]);
        let mut trust = sample::sample_trust(ends);
        change(&mut trust);
        snapshot.trusts.push(trust);
        let status = build_status(&known(&snapshot, &WriterView::default(), None, &[]), now());
        status.act_on.into_iter().map(|item| (item.code, item.urgency, item.what)).collect::<Vec<_>>()
    };
    let crl = |hours: i64| {
        sample::sample_crl(now() - SignedDuration::from_hours(24 * 7), now() + SignedDuration::from_hours(hours))
    };
    assert_eq!(items(&|trust| trust.holds.crls = vec![crl(24 * 6)]), []);
    for (hours, urgency, says) in [(20, Urgency::Soon, "will be out of date on"), (-1, Urgency::Now, "was due on")] {
        let found = items(&|trust| trust.holds.crls = vec![crl(hours)]);
        assert_eq!((found.len(), &*found[0].0, found[0].1), (1, "crl_stale", urgency));
        assert!(found[0].2.contains(says), "{}", found[0].2);
    }
    let found = items(&|trust| trust.holds.faults = vec![sample::sample_file_fault(now())]);
    assert_eq!((found.len(), &*found[0].0, found[0].1), (1, "trust_file_unusable", Urgency::Now));
}

#[test]
fn a_partners_certificate_that_expires_is_listed_and_times_are_whole_seconds() {
    let snapshot = sample::sample_snapshot(vec![sample::sample_keyring(vec![pair(1, Standing::Current, LONG)])]);
    let alert = |kind: &'static str| AlertRecord {
        kind,
        urgent: false,
        keyring: "api".into(),
        key_pair: None,
        contact: None,
        explanation: "the certificate of acme expires in 3 days".to_owned(),
        remedy: "contact the partner".to_owned(),
        alert: "partner_expires:1".into(),
    };
    let (look, alerts) = (WriterView::default(), [alert("partner_expires"), alert("expires")]);
    let inputs = StatusInputs { alerts: &alerts, ..known(&snapshot, &look, None, &[]) };
    let status = build_status(&inputs, now() + SignedDuration::from_nanos(5));
    let codes: Vec<_> = status.act_on.iter().map(|item| (item.code.as_str(), item.urgency)).collect();
    assert_eq!(codes, [("partner_expires", Urgency::Soon)], "what the keyrings show is listed from there");
    assert_eq!(status.now, now());
}

#[test]
fn a_successor_that_is_there_silences_the_expiry() {
    let current = pair(1, Standing::Current, ("2026-01-01T00:00:00Z", "2026-12-20T00:00:00Z"));
    let early = pair(2, Standing::Staged, ("2026-12-01T00:00:00Z", "2027-12-01T00:00:00Z"));
    assert_eq!(codes(vec![current.clone(), early], &[]), [], "it comes by itself");
    let shorter = pair(2, Standing::Staged, ("2026-12-01T00:00:00Z", "2026-12-10T00:00:00Z"));
    assert_eq!(codes(vec![current, shorter], &[]), [("expires".to_owned(), Urgency::Soon)]);
}

#[test]
fn what_waits_for_a_decision_or_is_refused_is_said() {
    let current = pair(1, Standing::Current, LONG);
    let all = codes(
        vec![
            current,
            pair(2, Standing::Staged, LONG),
            pair(3, Standing::Refused, LONG),
            pair(4, Standing::Previous, LONG),
        ],
        &[4, 9],
    );
    let expected = [
        ("key_pair_refused".to_owned(), Urgency::Now),
        ("key_pair_waits".to_owned(), Urgency::Soon),
        ("key_pair_held".to_owned(), Urgency::Soon),
    ];
    assert_eq!(all, expected);
}

#[test]
fn troubles_of_writer_and_configuration_are_said_and_notes_are_none() {
    let problem = |severity, reason| FolderProblem {
        file: "api/x.crt".into(),
        reason,
        why: "why".to_owned(),
        remedy: "remedy".to_owned(),
        severity,
    };
    let look = WriterView {
        problems: vec![
            (Some("api".into()), problem(ProblemSeverity::Refused, "certificate_without_key")),
            (Some("api".into()), problem(ProblemSeverity::Warning, "permissions")),
            (None, problem(ProblemSeverity::Info, "waiting_for_certificate")),
        ],
        unreadable: Some("state/decisions.json: cannot be read".to_owned()),
        not_saved: Some("state: no room".to_owned()),
        not_served: Some("egress \"out\": cannot build a TLS config".to_owned()),
    };
    let status = status(Vec::new(), &look, Some("sidekey.toml:1:1".to_owned()), &[]);
    let codes: Vec<&str> = status.act_on.iter().map(|item| item.code.as_str()).collect();
    let expected =
        ["decisions_unreadable", "not_remembered", "not_served", "settings_refused", "certificate_without_key"];
    assert_eq!(codes, expected);
    assert!(status.act_on.iter().all(|item| item.urgency == Urgency::Now));
    assert!(status.act_on[2].what.ends_with("egress \"out\": cannot build a TLS config"), "{}", status.act_on[2].what);
    let notes: Vec<&str> = status.notes.iter().map(|item| item.code.as_str()).collect();
    assert_eq!(notes, ["permissions"], "Kubernetes mounts keys so: no reason to fail for ever");
}

#[test]
fn one_fault_of_a_pairs_files_is_one_item() {
    let problem = |file: &str, why: &str| FolderProblem {
        file: file.into(),
        reason: "not_key_material",
        why: why.to_owned(),
        remedy: "remedy".to_owned(),
        severity: ProblemSeverity::Refused,
    };
    let in_api = |problem| (Some("api".into()), problem);
    let files = || vec!["api/tls.crt".into(), "api/tls.key".into()];
    let lost = KeyPairView { in_folder: false, sources: files(), ..pair(1, Standing::Current, LONG) };
    // An HTML page over both files, and beside them a file of its own.
    let keyring = || sample::sample_keyring(vec![lost.clone()]);
    let page = "this is an HTML page";
    let problems = ["api/tls.crt", "api/tls.key", "api/new.crt"].map(|file| in_api(problem(file, page))).to_vec();
    let look = WriterView { problems, ..WriterView::default() };
    let acts = status(vec![keyring()], &look, None, &[]).act_on;
    let codes: Vec<&str> = acts.iter().map(|item| item.code.as_str()).collect();
    assert_eq!(codes, ["files_gone", "not_key_material"]);
    let named = format!("; api/tls.crt: {page}; api/tls.key: {page}");
    assert!(acts[0].what.ends_with(&named) && acts[0].urgency == Urgency::Now, "{}", acts[0].what);
    assert!(acts[1].what.starts_with("api/new.crt"), "{}", acts[1].what);

    // A new certificate whose intermediate is cut off, over the file of the current pair.
    let why = Some("it is not used, because api/tls.crt is broken".to_owned());
    let broken = KeyPairView { sources: files(), why, ..pair(2, Standing::Refused, LONG) };
    let keyring = sample::sample_keyring(vec![lost.clone(), broken]);
    let look = WriterView { problems: vec![in_api(problem("api/tls.crt", "cut off"))], ..WriterView::default() };
    let acts = status(vec![keyring], &look, None, &[]).act_on;
    let [item] = &acts[..] else { panic!("{} items", acts.len()) };
    assert_eq!(item.code, "key_pair_refused");
    assert!(item.what.ends_with("api/tls.crt is broken; api/tls.crt: cut off"), "{}", item.what);
    let kept = format!("; until then the current key pair {}: it is served from", lost.key_pair.short());
    assert!(item.remedy.contains(&kept), "{}", item.remedy);
}

#[test]
fn a_listener_that_waits_is_said() {
    let waits = (ListenerId { side: Side::Ingress, name: "api".into() }, "ca.crt".to_owned());
    let snapshot = Snapshot { waiting: vec![waits], ..sample::sample_snapshot(Vec::new()) };
    let status = build_status(&known(&snapshot, &WriterView::default(), None, &[]), now());
    assert_eq!(status.act_on[0].code, "listener_waits");
    assert_eq!(status.listeners[0].waits_for.as_deref(), Some("ca.crt"));
}

#[test]
fn failures_of_the_last_hour_are_summed_up_and_nothing_to_act_on() {
    let old = HandshakeRecord { time: parse_time("2026-11-25T07:59:59Z"), ..refused("203.0.113.7:1") };
    let fresh = HandshakeRecord { time: now(), ..refused("203.0.113.7:1") };
    let handshakes = [Arc::new(old), Arc::new(fresh.clone()), Arc::new(fresh), Arc::new(accepted())];
    let status = status(Vec::new(), &WriterView::default(), None, &handshakes);
    assert_eq!(status.failures.reasons, [("peer_certificate_expired".to_owned(), 2)]);
    assert_eq!((status.failures.count, status.act_on.len()), (2, 0));
}

#[test]
fn the_shape_is_public() {
    let value = serde_json::to_value(status(Vec::new(), &WriterView::default(), Some("x".to_owned()), &[])).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&value),
        "act_on epoch failures keyrings listeners notes now pid ready remembers rotations started stopping version"
    );
    assert_eq!(keys(&value["act_on"][0]), "code keyring remedy urgency what");
    assert_eq!(value["act_on"][0]["urgency"], "now");
}

#[test]
fn upstreams_that_refuse_doubt_or_do_not_ask_are_to_be_acted_on() {
    use crate::event::{DoubtKind, UpstreamDoubt};
    let shown = Fingerprint::from_bytes([1; 32]);
    let mut snapshot = sample::sample_snapshot(Vec::new());
    snapshot.egresses.insert("out".into(), Arc::new(sample::sample_egress("out", shown)));
    let doubt = |kind, key_pair| UpstreamDoubt {
        listener: "out".into(),
        key_pair,
        kind,
        explanation: "why".to_owned(),
        since: now(),
    };
    let doubts = [
        doubt(DoubtKind::NotMutual, None),
        doubt(DoubtKind::Doubted, Some(shown)),
        doubt(DoubtKind::Refused, Some(shown)),
        // A pair that is no longer current, and an egress that is gone.
        doubt(DoubtKind::Refused, Some(Fingerprint::from_bytes([9; 32]))),
        UpstreamDoubt { listener: "gone".into(), ..doubt(DoubtKind::Refused, Some(shown)) },
    ];
    let look = WriterView::default();
    let known = StatusInputs { doubts: &doubts, ..known(&snapshot, &look, None, &[]) };
    let codes: Vec<_> = build_status(&known, now()).act_on.into_iter().map(|item| (item.code, item.urgency)).collect();
    let wanted = [
        ("upstream_refuses", Urgency::Now),
        ("upstream_not_mutual", Urgency::Soon),
        ("upstream_doubts", Urgency::Soon),
    ];
    assert_eq!(codes, wanted.map(|(code, urgency)| (code.to_owned(), urgency)));
}
