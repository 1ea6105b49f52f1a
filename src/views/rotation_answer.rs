//! What a rotation report answers, for the commands, the page and the API alike.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::evidence::report::RotationReport;
use crate::snapshot::TrustUsage;

/// The rotation report of every keyring in overlap, and the use of every trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationAnswer {
    /// The snapshot in which it is true.
    pub epoch: u64,
    /// Every keyring in overlap: which peers still need its old pair.
    pub keyrings: Arc<Vec<RotationReport>>,
    /// Every trust in use: which peers need which of its anchors and pins.
    pub trusts: Vec<TrustUsage>,
}
