//! The data plane: worker threads that read snapshots, serve connections and report Events. They never ask.
//!
//! From the top down, and imports only go down: `workers` starts the threads, a `worker` follows epochs and ticks and
//! passes what its `listener`s accept to a side; `ingress` and `egress` serve it and know nothing of each other; both
//! use the `context` of their worker, what all workers have as `shared`, and the `exchange` of requests on connections.

pub(crate) mod admission;
pub(crate) mod attempt;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod drain;
pub(crate) mod egress;
pub(crate) mod exchange;
pub(crate) mod ingress;
pub(crate) mod listener;
pub(crate) mod parking;
mod persistent;
pub(crate) mod reading;
pub(crate) mod serve;
pub(crate) mod shared;
pub(crate) mod watched;
pub(crate) mod worker;
pub(crate) mod workers;

pub use drain::{ConnectionFacts, DrainCause, check_connection};
pub use ingress::learning::new_refusal_memory;
pub use workers::{DataPlaneParts, WorkerThreads, start};
