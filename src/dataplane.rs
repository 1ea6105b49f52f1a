//! The data plane: worker threads that read snapshots, serve connections and report Events. They never ask.

pub(crate) mod admission;
pub(crate) mod attempt;
pub(crate) mod connection;
pub(crate) mod drain;
pub(crate) mod egress;
pub(crate) mod exchange;
pub(crate) mod ingress;
pub(crate) mod listener;
pub(crate) mod reading;
pub(crate) mod serve;
pub(crate) mod watched;
pub(crate) mod worker;
pub(crate) mod workers;

pub use drain::{ConnectionFacts, DrainCause, check_connection};
pub use ingress::learning::new_refusal_memory;
pub use workers::{DataPlaneParts, WorkerThreads, start};
