//! Walks the tree and reads it whole, blocking: limits, links, modes, FIFOs. Run it off the runtime.

use super::{Contents, Settings};

/// Reads the folder once. Never blocks on a FIFO or device, never follows a link loop; what it skips is a problem with a
/// reason. A folder that cannot be read is a problem too, with everything else empty and `missing` set.
pub fn read(settings: &Settings) -> Reading {
    let _ = settings;
    todo!()
}

/// One reading.
pub struct Reading {
    /// What is there.
    pub contents: Contents,
    /// The folder itself is missing or unreadable: never a removal of anything.
    pub missing: Option<String>,
}
