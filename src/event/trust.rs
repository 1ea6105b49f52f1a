//! A trust changed.

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::fields::{EventDescription, format_second};
use crate::log::Level;
use crate::snapshot::Epoch;
use crate::trust::{KeptContent, TrustEvent};

/// A change of a trust, and its epoch.
#[derive(Clone, Debug)]
pub struct TrustRecord {
    /// What happened.
    pub event: TrustEvent,
    /// In which epoch it is true.
    pub epoch: Epoch,
}

impl Serialize for TrustRecord {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut fields = out.serialize_struct("TrustRecord", 5)?;
        match &self.event {
            TrustEvent::AnchorAdded { trust, anchor, subject } => {
                fields.serialize_field("trust", trust)?;
                fields.serialize_field("anchor", &anchor.short())?;
                fields.serialize_field("subject", subject)?;
            }
            TrustEvent::AnchorCannotVouch { trust, anchor, subject, why } => {
                fields.serialize_field("trust", trust)?;
                fields.serialize_field("anchor", &anchor.short())?;
                fields.serialize_field("subject", subject)?;
                let todo = "peers that it issued are refused; have the CA issue with a key of another kind";
                fields.serialize_field("explanation", &format!("{why}: {todo}"))?;
            }
            TrustEvent::AnchorLeaving { trust, anchor, subject, until } => {
                fields.serialize_field("trust", trust)?;
                fields.serialize_field("anchor", &anchor.short())?;
                fields.serialize_field("subject", subject)?;
                fields.serialize_field("until", &format_second(*until))?;
            }
            TrustEvent::AnchorRemoved { trust, anchor, subject, reason } => {
                fields.serialize_field("trust", trust)?;
                fields.serialize_field("anchor", &anchor.short())?;
                fields.serialize_field("subject", subject)?;
                fields.serialize_field("reason", reason)?;
            }
            TrustEvent::FileKept { trust, file, why, kept } => {
                fields.serialize_field("trust", trust)?;
                fields.serialize_field("file", file)?;
                fields.serialize_field("explanation", &format!("{why}; {}", kept.consequence()))?;
            }
            TrustEvent::FileUsable { trust, file } => {
                fields.serialize_field("trust", trust)?;
                fields.serialize_field("file", file)?;
            }
            TrustEvent::CrlsChanged { trust, count } => {
                fields.serialize_field("trust", trust)?;
                fields.serialize_field("count", count)?;
            }
            TrustEvent::CrlStale { trust, issuer, due } => {
                fields.serialize_field("trust", trust)?;
                fields.serialize_field("issuer", issuer)?;
                fields.serialize_field("due", &format_second(*due))?;
            }
        }
        fields.serialize_field("epoch", &self.epoch)?;
        fields.end()
    }
}

impl EventDescription for TrustRecord {
    fn target(&self) -> &'static str {
        "trust"
    }

    fn level(&self) -> Level {
        match self.event {
            TrustEvent::FileKept { .. } | TrustEvent::CrlStale { .. } | TrustEvent::AnchorCannotVouch { .. } => {
                Level::WARN
            }
            _ => Level::INFO,
        }
    }

    fn message(&self) -> &'static str {
        match self.event {
            TrustEvent::AnchorAdded { .. } => "trust anchor added",
            TrustEvent::AnchorCannotVouch { .. } => "no peer can be verified with this trust anchor",
            TrustEvent::AnchorLeaving { .. } => "trust anchor scheduled for removal",
            TrustEvent::AnchorRemoved { .. } => "trust anchor removed",
            TrustEvent::FileKept { kept: KeptContent::LastUsable, .. } => {
                "trust file unusable; keeping the last usable set"
            }
            TrustEvent::FileKept { .. } => "trust file unusable, and none of it was ever read",
            TrustEvent::FileUsable { .. } => "trust file usable again",
            TrustEvent::CrlsChanged { .. } => "CRLs loaded",
            TrustEvent::CrlStale { .. } => "CRL out of date",
        }
    }
}
