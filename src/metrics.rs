//! Prometheus text: counters in the workers' own cells, added up when somebody scrapes.
//!
//! Labels are names from the configuration or from fixed lists, never peer text.
