//! Verified chains, remembered until they end: a look-up instead of signature checks (performance; contract says verify again).
//!
//! Bounded; lives and dies with one epoch's `Trust`; holds the only mutex of this area, for the length of one look-up.
