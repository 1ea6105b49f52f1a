//! `sidekey status`: the sidecar's state, and what the operator has to act on, each with what to do. Pure.
//!
//! An item to act on stays listed until the operator has acted: the exit code alone misses nothing.

mod keyrings;
#[cfg(test)]
mod tests;
mod trust_files;
mod upstreams;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::RuntimeViews;
use super::rotation::read_reports;
use crate::event::{AlertRecord, HandshakeRecord, UpstreamDoubt};
use crate::evidence::report::{RetireAdvice, RotationReport};
use crate::keyring::KeyringName;
use crate::pki::{FolderProblem, ProblemSeverity};
use crate::process::ShutdownPhase;
use crate::snapshot::{KeyringView, Snapshot, TrustView};
use crate::writer::WriterView;
use keyrings::{expiry, soon, urgency};

/// Failures are summed up over this time.
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// Reasons of failures that are listed.
const REASONS: usize = 5;

/// The sidecar's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// When this was true.
    pub now: Timestamp,
    /// The snapshot in use.
    pub epoch: u64,
    /// `/readyz`.
    pub ready: bool,
    /// It is shutting down.
    pub stopping: bool,
    /// `state` is configured.
    pub remembers: bool,
    /// What to act on, the worst first.
    pub act_on: Vec<StatusItem>,
    /// What is worth knowing although everything works.
    pub notes: Vec<StatusItem>,
    /// Listeners.
    pub listeners: Vec<StatusListener>,
    /// Keyrings.
    pub keyrings: Vec<KeyringView>,
    /// Keyrings in overlap.
    pub rotations: Arc<Vec<RotationReport>>,
    /// Handshakes that failed in the last hour, among those in memory.
    pub failures: HandshakeFailures,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Something does not work, or soon will not.
    Now,
    /// Something waits for a decision, or will fail unless the operator acts.
    Soon,
    /// Nothing has to be done.
    Note,
}

/// One thing to act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusItem {
    /// How bad it is.
    pub urgency: Urgency,
    /// Stable code.
    pub code: String,
    /// The keyring that it is about.
    pub keyring: Option<Arc<str>>,
    /// The problem, one sentence with the values.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusListener {
    /// `ingress` or `egress`.
    pub side: String,
    /// Its name.
    pub name: Arc<str>,
    /// What it waits for; `None`: it serves.
    pub waits_for: Option<String>,
}

/// Failed handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeFailures {
    /// How many.
    pub count: u64,
    /// The most frequent reasons.
    pub reasons: Vec<(String, u64)>,
}

/// Everything that the status is made of.
pub(crate) struct StatusInputs<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) look: &'a WriterView,
    pub(crate) reports: Arc<Vec<RotationReport>>,
    pub(crate) handshakes: &'a [Arc<HandshakeRecord>],
    pub(crate) doubts: &'a [UpstreamDoubt],
    pub(crate) reload_error: Option<String>,
    pub(crate) alerts: &'a [AlertRecord],
    pub(crate) phase: ShutdownPhase,
    pub(crate) ready: bool,
    pub(crate) remembers: bool,
    pub(crate) started: Timestamp,
}

/// The status as it is now.
pub(crate) async fn read_status(views: &RuntimeViews) -> StatusReport {
    let look = views.writer.ask_writer().await;
    assemble_status(views, &look, read_reports(views))
}

/// The status as it is now, with what the writer has said and with these reports.
pub(crate) fn assemble_status(
    views: &RuntimeViews,
    look: &WriterView,
    reports: Arc<Vec<RotationReport>>,
) -> StatusReport {
    let (snapshot, events) = (views.reader.latest(), &views.events);
    let known = StatusInputs {
        snapshot: &snapshot,
        look,
        reports,
        handshakes: &events.recent(),
        doubts: &events.upstream_doubts(),
        reload_error: events.reload_error(),
        alerts: &events.active_alerts(),
        phase: views.shutdown.phase(),
        ready: views.is_ready(),
        remembers: views.remembers,
        started: views.started,
    };
    build_status(&known, events.now())
}

/// The status at this time.
pub(crate) fn build_status(known: &StatusInputs<'_>, now: Timestamp) -> StatusReport {
    let snapshot = known.snapshot;
    let mut act_on = Vec::new();
    waiting(snapshot, &mut act_on);
    let mut unnamed = known.look.problems.clone();
    for keyring in &snapshot.keyrings {
        let refused = |problem: &FolderProblem| problem.severity == ProblemSeverity::Refused;
        let of_keyring = known.look.problems.iter().filter(|(of, _)| of.as_ref() == Some(&keyring.name));
        let mut broken: Vec<_> =
            of_keyring.filter(|(_, problem)| refused(problem)).map(|(_, problem)| (problem, false)).collect();
        keyrings::look_at(keyring, &mut broken, now, &mut act_on);
        let named = |problem: &FolderProblem| broken.iter().any(|(one, named)| *named && *one == problem);
        unnamed.retain(|(of, problem)| of.as_ref() != Some(&keyring.name) || !named(problem));
    }
    for trust in &snapshot.trusts {
        anchors(snapshot, trust, now, &mut act_on);
        trust_files::look_at_trust(trust, now, &mut act_on);
    }
    known.reports.iter().for_each(|report| rotation(report, &mut act_on));
    known.doubts.iter().for_each(|doubt| upstreams::look_at(snapshot, doubt, &mut act_on));
    alerted(known.alerts, &mut act_on);
    troubles(known, &mut act_on);
    file_problems(&unnamed, &mut act_on);
    let notes = act_on.extract_if(.., |item| item.urgency == Urgency::Note).collect();
    // Items of one keyring stay together, in the order in which they were found.
    act_on.sort_by(|one, other| (one.urgency, &one.keyring).cmp(&(other.urgency, &other.keyring)));
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: to_second(known.started),
        now: to_second(now),
        epoch: snapshot.epoch.0,
        ready: known.ready,
        stopping: known.phase > ShutdownPhase::Running,
        remembers: known.remembers,
        act_on,
        notes,
        listeners: listeners(snapshot),
        keyrings: snapshot.keyrings.iter().map(to_second_times).collect(),
        rotations: Arc::clone(&known.reports),
        failures: failures(known.handshakes, now),
    }
}

/// An item without a keyring.
fn item(urgency: Urgency, code: &str, what: String, remedy: &str) -> StatusItem {
    StatusItem { urgency, code: code.to_owned(), keyring: None, what, remedy: remedy.to_owned() }
}

fn waiting(snapshot: &Snapshot, out: &mut Vec<StatusItem>) {
    for (id, what) in &snapshot.waiting {
        let what = format!("{} {:?} is not serving: it waits for {what}", id.side.as_str(), id.name);
        out.push(item(Urgency::Now, "listener_waits", what, "add it to the folder"));
    }
}

/// Anchors of files that expire with nothing of the same name beside them.
fn anchors(snapshot: &Snapshot, trust: &TrustView, now: Timestamp, out: &mut Vec<StatusItem>) {
    let mut users = snapshot.keyrings.iter().filter(|keyring| trust.used_by.contains(&keyring.name));
    let alert_before = users.find_map(|keyring| keyring.alert_before.as_deref());
    for anchor in trust.holds.anchors_to_renew() {
        let ends = anchor.validity.not_after;
        if trust.used_by.is_empty() || soon(alert_before, anchor.validity, now) <= ends {
            continue;
        }
        let (id, name) = (anchor.anchor.short(), trust.holds.describe_trust());
        let what = format!(
            "trust anchor {id} ({}) of {name} {}; peers that depend on it fail from then on",
            anchor.subject,
            expiry(ends, now)
        );
        out.push(item(urgency(ends, now), "anchor_expires", what, "add its successor to the same file"));
    }
}

fn rotation(report: &RotationReport, out: &mut Vec<StatusItem>) {
    let of_keyring = |item: StatusItem| StatusItem { keyring: Some(Arc::clone(&report.keyring)), ..item };
    if report.verdict.retire == RetireAdvice::Blocked {
        let what = format!("rotation of {}: {}", report.keyring, report.verdict.sentence);
        out.push(of_keyring(item(Urgency::Soon, "rotation_refused", what, "see `sidekey rotation`")));
    }
    for previous in report.previous.iter().filter(|previous| !previous.survives_restart) {
        let what = format!(
            "previous key pair {} of {} is only kept in memory: a restart ends its overlap",
            previous.key_pair.short(),
            report.keyring
        );
        let remedy = "set `state`, or keep its files in the folder until the overlap ends";
        out.push(of_keyring(item(Urgency::Soon, "overlap_not_kept", what, remedy)));
    }
}

/// Alerts about what no snapshot shows: certificates of peers and upstreams, and peers that are still on an old pair.
fn alerted(alerts: &[AlertRecord], out: &mut Vec<StatusItem>) {
    for alert in alerts.iter().filter(|alert| matches!(alert.kind, "partner_expires" | "overlap_ends")) {
        let urgency = if alert.urgent { Urgency::Now } else { Urgency::Soon };
        let item = item(urgency, alert.kind, alert.explanation.clone(), &alert.remedy);
        out.push(StatusItem { keyring: (!alert.keyring.is_empty()).then(|| Arc::clone(&alert.keyring)), ..item });
    }
}

/// The whole second: people and scripts have no use for more.
fn to_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn to_second_times(keyring: &KeyringView) -> KeyringView {
    let mut keyring = keyring.clone();
    for pair in &mut keyring.key_pairs {
        pair.since = to_second(pair.since);
        pair.overlap_ends = pair.overlap_ends.map(to_second);
    }
    keyring.diverges = keyring.diverges.map(|(pair, since)| (pair, to_second(since)));
    keyring
}

/// Problems of the writer and the configuration.
fn troubles(known: &StatusInputs<'_>, out: &mut Vec<StatusItem>) {
    if let Some(why) = &known.look.unreadable {
        out.push(item(Urgency::Now, "decisions_unreadable", why.clone(), "repair the file and restart"));
    }
    if let Some(why) = &known.look.not_saved {
        let what = format!("cannot save decisions: {why}");
        out.push(item(Urgency::Now, "not_remembered", what, "make the state folder writable, or a restart loses them"));
    }
    if let Some(why) = &known.look.not_served {
        let what = format!("what the folder holds now is not served, the previous state stays in use: {why}");
        let remedy = "correct the listener's settings and run `sidekey reload`, or remove the key pair from the folder";
        out.push(item(Urgency::Now, "not_served", what, remedy));
    }
    if let Some(error) = &known.reload_error {
        let what = format!("configuration rejected; keeping the previous one: {error}");
        out.push(item(Urgency::Now, "settings_refused", what, "fix it, then run `sidekey reload`"));
    }
}

/// What is wrong with files, where no key pair's item says it.
fn file_problems(problems: &[(Option<KeyringName>, FolderProblem)], out: &mut Vec<StatusItem>) {
    for (keyring, problem) in problems {
        let urgency = match problem.severity {
            ProblemSeverity::Refused => Urgency::Now,
            ProblemSeverity::Warning => Urgency::Note,
            ProblemSeverity::Info | ProblemSeverity::Incomplete => continue,
        };
        let what = format!("{}: {}", problem.file, problem.why);
        let item = item(urgency, problem.reason, what, &problem.remedy);
        out.push(StatusItem { keyring: keyring.clone(), ..item });
    }
}

fn listeners(snapshot: &Snapshot) -> Vec<StatusListener> {
    let serving =
        |side: &str, name: &Arc<str>| StatusListener { side: side.to_owned(), name: Arc::clone(name), waits_for: None };
    let ingresses = snapshot.ingresses.keys().map(|name| serving("ingress", name));
    let egresses = snapshot.egresses.keys().map(|name| serving("egress", name));
    let waiting = snapshot.waiting.iter().map(|(id, what)| StatusListener {
        side: id.side.as_str().to_owned(),
        name: Arc::clone(&id.name),
        waits_for: Some(what.clone()),
    });
    let mut all: Vec<StatusListener> = ingresses.chain(egresses).chain(waiting).collect();
    all.sort_by(|one, other| (other.side.as_str(), &one.name).cmp(&(one.side.as_str(), &other.name)));
    all
}

fn failures(handshakes: &[Arc<HandshakeRecord>], now: Timestamp) -> HandshakeFailures {
    let since = now.checked_sub(HOUR).unwrap_or(Timestamp::MIN);
    let mut reasons = BTreeMap::new();
    for handshake in handshakes.iter().filter(|handshake| handshake.is_failure() && since <= handshake.time) {
        *reasons.entry(handshake.reason).or_insert(0_u64) += 1;
    }
    let count = reasons.values().sum();
    let mut reasons: Vec<(String, u64)> =
        reasons.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    reasons.truncate(REASONS);
    HandshakeFailures { count, reasons }
}
