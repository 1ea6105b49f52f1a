//! The ingress side: an accepted peer from its first byte to its last response.

pub(crate) mod accept;
pub(crate) mod jwt;
pub(crate) mod learning;
pub(crate) mod request;
