//! The data plane: worker threads that read snapshots, serve connections and report Events. They never ask.

pub mod fields;
