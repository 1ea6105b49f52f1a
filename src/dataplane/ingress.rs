//! The ingress side: an accepted peer from its first byte to its last response.

mod accept;
mod first_data;
pub(crate) mod jwt;
pub(crate) mod learning;
mod request;
pub(crate) mod resources;
pub(crate) mod serve;
mod view;
