//! The CRLs of one trust as the writer holds them: the last good set of every file, and which are out of date.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::CertificateRevocationListDer;

use super::super::TrustEvent;
use super::super::crl::Crl;
use crate::pki::Certificate;

/// What the folder holds for one CRL file.
pub type FoundCrl = Result<Vec<CertificateRevocationListDer<'static>>, String>;

#[derive(Clone, Debug, Default)]
pub(super) struct CrlStore {
    held: BTreeMap<PathBuf, Vec<Arc<Crl>>>,
    /// Lists past their next update, so that each is reported once.
    stale: Vec<(String, Timestamp)>,
}

impl CrlStore {
    /// Every list.
    pub(super) fn crls(&self) -> Vec<Arc<Crl>> {
        self.held.values().flatten().cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.held.values().map(Vec::len).sum()
    }

    /// Whether this file has held any list.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        self.held.contains_key(path)
    }

    /// Drops files that are no longer configured.
    pub(super) fn retain(&mut self, named: &[PathBuf]) {
        self.held.retain(|path, _| named.contains(path));
    }

    /// Parses a file's lists and checks those issued by one of the anchors: a wrong file must not refuse every peer.
    pub(super) fn parse_file(
        &self,
        path: &Path,
        found: &FoundCrl,
        anchors: &[&Arc<Certificate>],
    ) -> Result<Vec<Arc<Crl>>, String> {
        let ders = found.as_ref().map_err(Clone::clone)?;
        if ders.is_empty() {
            return Err("it holds no CRL".to_owned());
        }
        let known = self.held.get(path).map(Vec::as_slice).unwrap_or_default();
        ders.iter()
            .map(|der| {
                let crl = match known.iter().find(|crl| crl.is_from_der(der)) {
                    Some(crl) => Arc::clone(crl),
                    None => Arc::new(Crl::parse(der.clone())?),
                };
                let mut issuers = anchors.iter().filter(|anchor| anchor.subject_der() == crl.issuer_der()).peekable();
                if issuers.peek().is_some() && !issuers.any(|issuer| crl.is_signed_by(issuer.spki())) {
                    return Err(format!(
                        "the CRL of \"{}\" is not signed with the key of the anchor with that name: fetch it again",
                        crl.issuer()
                    ));
                }
                Ok(crl)
            })
            .collect()
    }

    /// Replaces the file's lists; whether they differ from before.
    pub(super) fn replace_file(&mut self, path: PathBuf, lists: Vec<Arc<Crl>>) -> bool {
        let same = self.held.get(&path).is_some_and(|before| {
            before.len() == lists.len() && before.iter().zip(&lists).all(|(one, other)| Arc::ptr_eq(one, other))
        });
        if !same {
            self.held.insert(path, lists);
        }
        !same
    }

    /// Reports lists past their next update once. A newer list of the same issuer clears that.
    pub(super) fn report_stale(&mut self, trust: &Arc<str>, now: Timestamp) -> Vec<TrustEvent> {
        let stale: Vec<_> = self.newest_updates().into_iter().filter(|(_, due)| *due <= now).collect();
        let new = stale.iter().filter(|one| !self.stale.contains(one));
        let tell = |(issuer, due): &(String, Timestamp)| TrustEvent::CrlStale {
            trust: Arc::clone(trust),
            issuer: issuer.clone(),
            due: *due,
        };
        let events = new.map(tell).collect();
        self.stale = stale;
        events
    }

    /// The earliest next update of a list that is still current.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let due = self.newest_updates().into_iter().filter(|one| !self.stale.contains(one)).map(|(_, due)| due);
        due.filter(|due| *due < Timestamp::MAX).min()
    }

    /// The next update of each issuer's newest list.
    fn newest_updates(&self) -> Vec<(String, Timestamp)> {
        let mut newest = BTreeMap::<&str, Timestamp>::new();
        for crl in self.held.values().flatten() {
            let due = newest.entry(crl.issuer()).or_insert(crl.next_update());
            *due = (*due).max(crl.next_update());
        }
        newest.into_iter().map(|(issuer, due)| (issuer.to_owned(), due)).collect()
    }
}
