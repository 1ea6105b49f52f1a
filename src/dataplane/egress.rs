//! The egress side: the application's requests, the upstream they go to, and the key pair that they show there.

pub(crate) mod probe;
pub(crate) mod proof;
pub(crate) mod request;
pub(crate) mod token;
pub(crate) mod upstream;
pub(crate) mod verdicts;
