//! Sidekey: a mutual-TLS proxy sidecar whose old and new key pairs are valid together during a rotation.
//!
//! This file only lists the rooms, lowest first; ARCHITECTURE.md has the picture, which room may import which, and why.

pub mod admin;
pub mod alerts;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod demo;
pub mod event;
pub mod evidence;
pub mod folder;
pub mod http;
pub mod jwt;
pub mod keyring;
pub mod log;
pub mod metrics;
pub mod net;
pub mod offline;
pub mod pki;
pub mod process;
pub mod registry;
pub mod snapshot;
pub mod tls;
pub mod trust;
pub mod views;
pub mod writer;
