//! What `sidekey check` finds: the same folder reading, the same rules and the same build as `run`, with nothing started and
//! nothing written. Of the state only one thing is looked at: whom each anchor and pin vouched for last.

use std::sync::Arc;

use serde::Serialize;

use crate::clock::Clock;
use crate::config::Config;
use crate::folder;
use crate::keyring::Standing;
use crate::pki::{Problem, Severity};
use crate::snapshot::{KeyringView, Side};
use crate::trust::matched::{Voucher, Vouchers};
use crate::writer::{self, State};

/// What would be accepted, and as what.
#[derive(Serialize)]
pub struct Checked {
    /// Keyrings and their pairs.
    pub keyrings: Vec<KeyringView>,
    /// Trusts and what they hold.
    pub trusts: Vec<TrustView>,
    /// Files that cannot be used.
    pub problems: Vec<ProblemView>,
    /// Listeners, ready or waiting.
    pub listeners: Vec<ListenerView>,
}

/// One trust.
#[derive(Serialize)]
pub struct TrustView {
    /// Its name.
    pub name: Arc<str>,
    /// Printable subjects of its anchors.
    pub holds: Vec<String>,
    /// Anchors and pins, and who would break without each.
    pub vouchers: Vec<Voucher>,
}

/// One problem.
#[derive(Serialize)]
pub struct ProblemView {
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
pub struct ListenerView {
    /// Its side.
    pub side: Side,
    /// Its name.
    pub name: Arc<str>,
    /// What it waits for; `None`: ready.
    pub waits_for: Option<String>,
}

impl Checked {
    /// Nothing refused, nothing waited for.
    pub fn is_good(&self) -> bool {
        let refused = |ring: &KeyringView| ring.key_pairs.iter().any(|pair| pair.standing == Standing::Refused);
        self.problems.iter().all(|problem| problem.severity != "refused")
            && self.listeners.iter().all(|listener| listener.waits_for.is_none())
            && !self.keyrings.iter().any(refused)
    }
}

/// Reads the folder once and applies every rule.
pub fn check(config: &Config) -> Result<Checked, super::Error> {
    let clock = Clock::system();
    let contents = folder::read::read_once(&config.folder);
    let problems = problems(&contents);
    let settings = super::with_platform(config.settings.clone());
    let (state, _) = State::open(settings, writer::memory::Remembered::default(), contents, clock.now());
    let snapshot = state.build(crate::snapshot::Epoch(1), &clock)?;
    let mut remembered = config.state.clone().map(writer::Memory::peek).unwrap_or_default().trusts;
    let trusts = state.trusts().iter().map(|(name, anchors)| {
        let trust = anchors.build(clock.now());
        let facts = remembered.remove(name).unwrap_or_default().matched;
        TrustView { name: Arc::clone(name), holds: trust.holds(), vouchers: Vouchers::of(&trust, &facts).vouchers }
    });
    Ok(Checked {
        trusts: trusts.collect(),
        problems,
        listeners: listeners(&state, &snapshot),
        keyrings: snapshot.keyrings,
    })
}

fn problems(contents: &folder::Contents) -> Vec<ProblemView> {
    let of_keyrings = contents.keyrings.values().flat_map(|joined| &joined.problems);
    let mut views: Vec<ProblemView> = of_keyrings.chain(&contents.problems).map(problem).collect();
    for (path, named) in &contents.named {
        if let Some(why) = &named.problem {
            views.push(ProblemView {
                file: crate::pki::printable(&path.display().to_string()),
                reason: "trust_file_unusable",
                why: why.clone(),
                remedy: String::new(),
                severity: "refused",
            });
        }
    }
    views
}

fn problem(problem: &Problem) -> ProblemView {
    ProblemView {
        file: problem.file.to_string(),
        reason: problem.reason,
        why: problem.why.clone(),
        remedy: problem.remedy.clone(),
        // Offline there is no "not yet": what is incomplete now would be refused once the folder is quiet.
        severity: match problem.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Incomplete | Severity::Refused => "refused",
        },
    }
}

fn listeners(state: &State, snapshot: &crate::snapshot::Snapshot) -> Vec<ListenerView> {
    let settings = state.settings();
    let ingresses = settings.ingresses.iter().map(|ingress| (Side::Ingress, &ingress.name));
    let egresses = settings.egresses.iter().map(|egress| (Side::Egress, &egress.name));
    let waits_for = |side: Side, name: &Arc<str>| {
        let waiting = snapshot.waiting.iter().find(|(id, _)| id.side == side && id.name == *name);
        waiting.map(|(_, what)| what.clone())
    };
    ingresses
        .chain(egresses)
        .map(|(side, name)| ListenerView { side, name: Arc::clone(name), waits_for: waits_for(side, name) })
        .collect()
}
