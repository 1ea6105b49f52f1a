//! The writer's state of one trust: which anchors are accepted and until when (contract section 4, "what we accept from peers").
//!
//! A missing, empty or unparsable file is never a removal: the last good set stays. Anchors that really vanish stay for
//! the trust's `overlap`; `until` ends them at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::CertificateRevocationListDer;

use super::{AnchorSource, Event, Settings, Trust};
use crate::pki::{Certificate, Fingerprint};

/// What the folder (or the platform) holds for one source of anchors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// At least one certificate.
    Certificates(Vec<Arc<Certificate>>),
    /// Nothing usable, and why (one sentence with what to do).
    Nothing(String),
}

/// What the folder holds for one CRL file.
pub type FoundCrl = Result<Vec<CertificateRevocationListDer<'static>>, String>;

/// What must survive a restart: anchors that vanished and when they end; first seen. Certificates as PEM are the
/// writer's to keep (`to_retain`).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Remembered {
    /// Anchors on their way out and when they end.
    pub leaving: BTreeMap<Fingerprint, Timestamp>,
}

/// The state of one trust.
#[derive(Clone, Debug)]
pub struct Anchors {
    settings: Settings,
    // private state: yours
}

impl Anchors {
    /// As the last run left it; `retained` are the certificates of anchors that are leaving.
    pub fn open(settings: Settings, remembered: &Remembered, retained: Vec<Arc<Certificate>>) -> Self {
        let _ = (remembered, retained);
        Self { settings }
    }
    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    /// Other settings, from a reload: sources that are no longer named are removed at once (`configured`).
    pub fn configure(&mut self, settings: Settings, now: Timestamp) -> Vec<Event> {
        let _ = (settings, now);
        todo!()
    }
    /// What every source holds now. Called with all sources each time; the same again changes nothing.
    pub fn arrive(
        &mut self,
        found: &BTreeMap<AnchorSource, Found>,
        crls: &BTreeMap<PathBuf, FoundCrl>,
        now: Timestamp,
    ) -> Vec<Event> {
        let _ = (found, crls, now);
        todo!()
    }
    /// Time passes: `until` and overlaps end.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Event> {
        let _ = now;
        todo!()
    }
    /// When something ends next.
    pub fn next_due(&self) -> Option<Timestamp> {
        todo!()
    }
    /// Whether it can verify anybody: at least one anchor, or pins in `pin_only`.
    pub fn is_usable(&self) -> bool {
        todo!()
    }
    /// What must survive a restart.
    pub fn remembered(&self) -> Remembered {
        todo!()
    }
    /// Anchors on their way out, to be kept.
    pub fn to_retain(&self) -> Vec<Arc<Certificate>> {
        todo!()
    }
    /// What an epoch verifies with.
    pub fn build(&self, now: Timestamp) -> Arc<Trust> {
        let _ = now;
        todo!()
    }
}
