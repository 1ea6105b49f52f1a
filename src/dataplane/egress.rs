//! The egress side: the application's requests, the upstream they go to, and the key pair that they show there.

mod attempt;
mod dial;
mod fact;
pub(crate) mod probe;
mod proof;
mod request;
pub(crate) mod resources;
mod retry;
pub(crate) mod serve;
mod token;
mod uncertified;
mod upstream;
mod verdicts;
