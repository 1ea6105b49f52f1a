//! The directory watch that survives symlink swaps, plus the rescan, as one task of the control plane.

use tokio::sync::{mpsc, watch};

use super::{Contents, Settings};

/// Runs until `out` is closed. `settings` may change at a reload; `rescan` on it asks for a reading at once (SIGHUP).
/// Only contents that differ from the last ones are sent. Incomplete parts are sent once they have settled: their
/// problems then have `Severity::Refused`.
pub async fn run(settings: watch::Receiver<Settings>, out: mpsc::Sender<Contents>) {
    let _ = (settings, out);
    todo!()
}
