//! What the folder holds, as trusts and operators need it. A file that went bad is never a removal.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::super::input::WriterSettings;
use crate::folder::FolderContents;
use crate::keyring::KeyringName;
use crate::pki::join::CHAIN_INCOMPLETE;
use crate::pki::{Certificate, FolderProblem, PendingKey, ProblemSeverity, printable};
use crate::snapshot::build::own_trust_name;
use crate::trust::anchors::{FoundAnchors, FoundCrl};
use crate::trust::{self, AnchorSource};

/// A keyring's own `ca.crt` as a trust: the defaults of the contract, and the keyring's overlap.
pub(super) fn own_trust_settings(keyring: &KeyringName, overlap: Duration) -> trust::TrustSettings {
    let own = trust::TrustSettings::with_anchors(own_trust_name(keyring), vec![AnchorSource::Own(Arc::clone(keyring))]);
    trust::TrustSettings { overlap, crls: vec![PathBuf::from(&**keyring)], ..own }
}

/// What each source of a trust holds. A file that has not been looked for yet, because the settings that name it are
/// newer than the reading, is left out: nothing is known about it yet.
pub(super) fn trust_contents(
    trust: &trust::TrustSettings,
    settings: &WriterSettings,
    contents: &FolderContents,
) -> (BTreeMap<AnchorSource, FoundAnchors>, BTreeMap<PathBuf, FoundCrl>) {
    let anchors = trust.anchors.iter().filter_map(|source| {
        let found = match source {
            AnchorSource::File { path, .. } => {
                let file = contents.named.get(path)?;
                match &file.problem {
                    Some(why) => FoundAnchors::Nothing(why.clone()),
                    None => FoundAnchors::Certificates(file.certificates.clone()),
                }
            }
            AnchorSource::System => FoundAnchors::Certificates(settings.system_anchors.to_vec()),
            AnchorSource::Own(keyring) => {
                match contents.keyrings.get(keyring).and_then(|joined| joined.anchors.clone()) {
                    Some(certificates) => FoundAnchors::Certificates(certificates),
                    None => FoundAnchors::Nothing(format!(
                        "keyring {keyring:?} has no usable ca.crt in its folder: add one, or set trust"
                    )),
                }
            }
        };
        Some((source.clone(), found))
    });
    let own_crls = trust.anchors.iter().filter_map(|source| {
        let AnchorSource::Own(keyring) = source else { return None };
        let found = match contents.keyrings.get(keyring).map(|joined| &joined.crls) {
            Some(crls) if !crls.is_empty() => Ok(crls.clone()),
            _ => Err(format!("the folder of keyring {keyring:?} no longer holds a CRL: add the renewed one")),
        };
        Some((PathBuf::from(&**keyring), found))
    });
    let crls = trust.crls.iter().filter_map(|path| {
        let file = contents.named.get(path)?;
        Some((path.clone(), file.problem.clone().map_or_else(|| Ok(file.crls.clone()), Err)))
    });
    (anchors.collect(), crls.chain(own_crls).collect())
}

/// The certificates of every named file: what changes a snapshot without any trust reporting it (partners, `ca_names`).
pub(super) fn named_certificates(contents: &FolderContents) -> Vec<(&Path, &[Arc<Certificate>])> {
    contents.named.iter().map(|(path, file)| (path.as_path(), file.certificates.as_slice())).collect()
}

/// `next`, where a named file that holds nothing usable keeps the certificates that it held before.
pub(super) fn keep_usable_files(before: &FolderContents, mut next: FolderContents) -> FolderContents {
    for (path, file) in &mut next.named {
        if file.problem.is_some()
            && file.certificates.is_empty()
            && let Some(good) = before.named.get(path)
        {
            file.certificates.clone_from(&good.certificates);
        }
    }
    next
}

/// Everything about the folder that is reported: problems, keys that wait for their certificate, and named files
/// that hold nothing usable, where no trust reports them.
pub(super) fn folder_problems(
    settings: &WriterSettings,
    contents: &FolderContents,
) -> Vec<(Option<Arc<str>>, FolderProblem)> {
    let mut out: Vec<_> = contents.problems.iter().map(|problem| (None, problem.clone())).collect();
    for (name, joined) in &contents.keyrings {
        let waiting = joined.waiting.iter().map(PendingKey::to_problem);
        out.extend(joined.problems.iter().cloned().chain(waiting).map(|problem| (Some(Arc::clone(name)), problem)));
    }
    for (path, file) in &contents.named {
        if let Some(why) = file.problem.as_ref().filter(|_| !is_reported_by_trust(settings, path)) {
            let problem = FolderProblem {
                file: printable(&path.to_string_lossy()).into(),
                reason: "named_file_unusable",
                why: why.clone(),
                remedy: "until then its last usable content stays in use".to_owned(),
                severity: ProblemSeverity::Warning,
            };
            out.push((None, problem));
        }
    }
    out
}

/// Of the problems that were reported, those that hold no longer and deserve a line: another sentence about the same file
/// is the same problem, and what needed no action needs no end.
pub(super) fn resolved_problems(
    told: &HashSet<(Option<Arc<str>>, FolderProblem)>,
    now: &[(Option<Arc<str>>, FolderProblem)],
) -> Vec<(Option<Arc<str>>, FolderProblem)> {
    let is_same = |one: &FolderProblem, other: &FolderProblem| (&one.file, one.reason) == (&other.file, other.reason);
    let still = |(keyring, problem): &(Option<Arc<str>>, FolderProblem)| {
        now.iter().any(|(of, other)| of == keyring && is_same(problem, other))
    };
    let counts =
        |problem: &FolderProblem| problem.severity >= ProblemSeverity::Warning || problem.reason == CHAIN_INCOMPLETE;
    let mut out: Vec<_> = told.iter().filter(|entry| counts(&entry.1) && !still(entry)).cloned().collect();
    out.sort();
    out
}

fn is_reported_by_trust(settings: &WriterSettings, path: &Path) -> bool {
    let anchors = settings.trusts.values().flat_map(|trust| &trust.anchors);
    let crls = settings.trusts.values().flat_map(|trust| &trust.crls);
    anchors.into_iter().any(|source| matches!(source, AnchorSource::File { path: of, .. } if of == path))
        || crls.into_iter().any(|of| of == path)
}
