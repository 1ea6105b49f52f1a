//! What `sidekey check` finds: the same folder reading, the same rules and the same build as `run`, with nothing started and
//! nothing written. Of the state it reads when each anchor and pin last verified a peer, and what a run would report of its files.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::Config;
use crate::folder;
use crate::keyring::Standing;
use crate::pki::{FolderProblem, ProblemSeverity, format_day};
use crate::registry::RegistryLocation;
use crate::snapshot::build::BuildError;
use crate::snapshot::{KeyringView, Side, Snapshot};
use crate::tls::TlsTimeSource;
use crate::trust::usage::{AnchorUsage, TrustUsage};
use crate::trust::{TrustContents, describe_trust};
use crate::writer::{self, WriterState};

/// What would be accepted, and as what.
#[derive(Serialize)]
pub struct CheckReport {
    /// Keyrings and their pairs.
    pub keyrings: Vec<KeyringView>,
    /// Trusts and what they hold.
    pub trusts: Vec<CheckTrust>,
    /// Files that cannot be used.
    pub problems: Vec<CheckProblem>,
    /// Listeners, ready or waiting.
    pub listeners: Vec<CheckListener>,
}

/// One trust.
#[derive(Serialize)]
pub struct CheckTrust {
    /// Its name.
    pub name: Arc<str>,
    /// Its anchors and pins.
    pub holds: Vec<CheckAnchor>,
    /// Anchors and pins, and which peers would fail without each.
    pub vouchers: Vec<AnchorUsage>,
}

impl CheckTrust {
    /// The trust in a sentence.
    pub fn describe_trust(&self) -> String {
        describe_trust(&self.name)
    }
}

/// What one trust accepts: an anchor or a pin.
#[derive(Serialize)]
pub struct CheckAnchor {
    /// The anchor's fingerprint, or the pin.
    pub id: String,
    /// The anchor's printable subject; `None` for a pin.
    pub subject: Option<String>,
    /// When the anchor expires.
    pub not_after: Option<Timestamp>,
    /// Whether it is past that, so that it verifies nothing.
    pub expired: bool,
    /// Until when the configuration accepts it.
    pub until: Option<Timestamp>,
}

/// One problem.
#[derive(Serialize)]
pub struct CheckProblem {
    /// Which file.
    pub file: String,
    /// Stable code.
    pub reason: &'static str,
    /// One sentence.
    pub why: String,
    /// What to do.
    pub remedy: String,
    /// `info`, `warning` or `refused`.
    pub severity: &'static str,
}

/// One listener.
#[derive(Serialize)]
pub struct CheckListener {
    /// Its side.
    pub side: Side,
    /// Its name.
    pub name: Arc<str>,
    /// What it waits for; `None`: ready.
    pub waits_for: Option<String>,
}

impl CheckReport {
    /// Nothing refused, nothing waited for.
    pub fn is_good(&self) -> bool {
        let refused = |ring: &KeyringView| ring.key_pairs.iter().any(|pair| pair.standing == Standing::Refused);
        self.problems.iter().all(|problem| problem.severity != "refused")
            && self.listeners.iter().all(|listener| listener.waits_for.is_none())
            && !self.keyrings.iter().any(refused)
    }
}

/// Reads the folder once and applies every rule.
///
/// # Errors
/// The configuration and the folder make no snapshot.
pub fn check(config: &Config) -> Result<CheckReport, BuildError> {
    let clock = Clock::system();
    let contents = folder::read::read_final(&config.folder);
    let mut problems = problems(&contents);
    let settings = crate::config::platform::with_platform_anchors(config.settings.clone());
    let (state, _) =
        WriterState::from_remembered(settings, writer::memory::RememberedState::default(), contents, clock.now());
    let snapshot = state.build_snapshot(crate::snapshot::Epoch(1), clock.now(), &TlsTimeSource::from_clock(&clock))?;
    problems.extend(trust_problems(&snapshot, &problems, clock.now()));
    let strict = config.folder.strict_permissions;
    let remembered = config.state.clone().map(|root| writer::StateMemory::peek(root, strict)).unwrap_or_default();
    problems.extend(state_problems(config, &remembered));
    let mut remembered = remembered.trusts;
    let trusts = state.trusts().iter().map(|(name, anchors)| {
        let trust = anchors.build(clock.now());
        let facts = remembered.remove(name).unwrap_or_default().matched;
        CheckTrust {
            name: Arc::clone(name),
            holds: list_anchors(&trust.view(), clock.now()),
            vouchers: TrustUsage::from_trust(&trust, &facts).vouchers,
        }
    });
    Ok(CheckReport {
        trusts: trusts.collect(),
        problems,
        listeners: listeners(&state, &snapshot),
        keyrings: snapshot.keyrings,
    })
}

fn list_anchors(view: &TrustContents, now: Timestamp) -> Vec<CheckAnchor> {
    let anchors = view.anchors.iter().map(|anchor| CheckAnchor {
        id: anchor.anchor.to_string(),
        subject: Some(anchor.subject.clone()),
        not_after: Some(anchor.validity.not_after),
        expired: anchor.validity.not_after < now,
        until: anchor.until,
    });
    let pins = view.pins.iter().map(|pin| CheckAnchor {
        id: pin.spki.to_string(),
        subject: None,
        not_after: None,
        expired: false,
        until: pin.until,
    });
    anchors.chain(pins).collect()
}

fn problems(contents: &folder::FolderContents) -> Vec<CheckProblem> {
    let of_keyrings = contents.keyrings.values().flat_map(|joined| &joined.problems);
    let mut views: Vec<CheckProblem> = of_keyrings.chain(&contents.problems).map(problem).collect();
    let waiting = contents.keyrings.values().flat_map(|joined| &joined.waiting);
    views.extend(waiting.map(|waiting| problem(&waiting.to_problem())));
    for (path, named) in &contents.named {
        if let Some(why) = &named.problem {
            views.push(CheckProblem {
                file: crate::pki::printable(&path.display().to_string()),
                reason: "trust_file_unusable",
                why: why.clone(),
                remedy: "put a usable file in its place".to_owned(),
                severity: "refused",
            });
        }
    }
    views
}

/// What a run would report of the state and of a registry in a file. An absent one is made.
fn state_problems(config: &Config, remembered: &writer::memory::RememberedState) -> Vec<CheckProblem> {
    let mut found: Vec<CheckProblem> = remembered.skipped.iter().map(problem).collect();
    let refuse = |file: String, reason: &'static str, why: String, remedy: &str| CheckProblem {
        file,
        reason,
        why,
        remedy: remedy.to_owned(),
        severity: "refused",
    };
    if let Some((file, why)) = remembered.unreadable.as_deref().and_then(|said| said.split_once(": ")) {
        // One that is not a regular file is named already.
        if !found.iter().any(|problem| problem.file == file) {
            let remedy = "repair it, or move it away to start afresh";
            found.push(refuse(file.to_owned(), "decisions_unreadable", why.to_owned(), remedy));
        }
    }
    if let RegistryLocation::File(path) = &config.registry
        && std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
    {
        let file = crate::pki::printable(&path.display().to_string());
        let why = "the registry is not a regular file: peers and handshakes are not recorded".to_owned();
        found.push(refuse(file, "registry_unusable", why, "remove it, or name another file"));
    }
    found
}

/// Files that a trust cannot use although they read well, and lists that are out of date or soon will be.
fn trust_problems(snapshot: &Snapshot, known: &[CheckProblem], now: Timestamp) -> Vec<CheckProblem> {
    let mut out = Vec::new();
    for trust in snapshot.trusts.iter().map(|view| &view.holds) {
        for fault in trust.faults.iter().filter(|fault| !known.iter().any(|problem| problem.file == fault.file)) {
            out.push(CheckProblem {
                file: fault.file.clone(),
                reason: "trust_file_unusable",
                why: format!(
                    "{} cannot use it: {}; {}",
                    describe_trust(&trust.name),
                    fault.why,
                    fault.kept.consequence()
                ),
                remedy: "put a usable file in its place".to_owned(),
                severity: "refused",
            });
        }
        for anchor in trust.anchors.iter().filter(|anchor| !anchor.platform) {
            let Some(why) = &anchor.cannot_vouch else { continue };
            out.push(CheckProblem {
                file: format!("trust anchor {} ({})", anchor.anchor.short(), anchor.subject),
                reason: "anchor_cannot_vouch",
                why: format!("no peer can be verified with it in {}: {why}", describe_trust(&trust.name)),
                remedy: "have the CA issue with a key of another kind, and remove this anchor".to_owned(),
                severity: "warning",
            });
        }
        // The newest of an issuer comes first.
        let mut seen = BTreeSet::new();
        for crl in trust.crls.iter().filter(|crl| seen.insert(&crl.issuer) && crl.warned_from() <= now) {
            let is =
                if crl.next_update < now { "is out of date: it was due" } else { "will be out of date: it is due" };
            let due = format_day(crl.next_update);
            out.push(CheckProblem {
                file: format!("CRL of {}", crl.issuer),
                reason: "crl_stale",
                why: format!("the CRL of {} {is} for renewal on {due}", describe_trust(&trust.name)),
                remedy: "put the CA's current CRL into the folder".to_owned(),
                severity: if trust.stale_refuses && crl.next_update < now { "refused" } else { "warning" },
            });
        }
    }
    out
}

fn problem(problem: &FolderProblem) -> CheckProblem {
    CheckProblem {
        file: problem.file.to_string(),
        reason: problem.reason,
        why: problem.why.clone(),
        remedy: problem.remedy.clone(),
        // Offline there is no "not yet": what is incomplete now would be refused once the folder is quiet.
        severity: match problem.severity {
            ProblemSeverity::Info => "info",
            ProblemSeverity::Warning => "warning",
            ProblemSeverity::Incomplete | ProblemSeverity::Refused => "refused",
        },
    }
}

fn listeners(state: &WriterState, snapshot: &Snapshot) -> Vec<CheckListener> {
    let settings = state.settings();
    let ingresses = settings.ingresses.iter().map(|ingress| (Side::Ingress, &ingress.name));
    let egresses = settings.egresses.iter().map(|egress| (Side::Egress, &egress.name));
    let waits_for = |side: Side, name: &Arc<str>| {
        let waiting = snapshot.waiting.iter().find(|(id, _)| id.side == side && id.name == *name);
        waiting.map(|(_, what)| what.clone())
    };
    ingresses
        .chain(egresses)
        .map(|(side, name)| CheckListener { side, name: Arc::clone(name), waits_for: waits_for(side, name) })
        .collect()
}
