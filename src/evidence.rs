//! What the other side makes of our key pairs: what peers have refused, what upstreams have proved, and the rotation
//! report that is folded from both. Pure: observations come in, `now` is an argument, decisions come out.
//!
//! Which bytes on a connection amount to which observation is for `dataplane` to say.

pub mod learned;
pub mod proved;
pub mod report;
#[cfg(test)]
mod simulation;

pub use learned::RefusalMemory;
pub use proved::{ProbeMode, UpstreamProofs, UpstreamVerdict};
