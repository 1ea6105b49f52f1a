//! One request exchanged for one response with the other side of the hop, over pooled connections. Knows neither ingress nor
//! egress: what differs between them is given in.

pub(crate) mod access;
pub(crate) mod forward;
pub(crate) mod link;
pub(crate) mod pool;
pub(crate) mod replay;
