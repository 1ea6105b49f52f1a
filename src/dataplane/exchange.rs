//! One request exchanged for one response with the other side of the hop, over pooled connections. Knows neither ingress nor
//! egress: what differs between them is given in.

pub(crate) mod access;
mod direct;
pub(crate) mod forward;
mod home;
mod hyper_client;
pub(crate) mod link;
pub(crate) mod open;
pub(crate) mod origin;
mod ping_watch;
pub(crate) mod pool;
pub(crate) mod proof;
pub(crate) mod replay;
pub(crate) mod request_body;
mod request_stream;
pub(crate) mod response_body;
mod response_wait;
pub(crate) mod shape;
mod shared;
mod spare;
mod streams;
mod tunnel;
