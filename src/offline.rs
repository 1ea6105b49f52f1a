//! What commands do without a running sidecar, by the rules of one: key pairs made and imported, tokens signed, partners
//! probed, a configuration checked.

pub mod check;
pub mod keyring;
pub mod probe;
pub mod registry;
