//! Sidekey: a mutual-TLS proxy sidecar whose old and new key pairs are valid together during a rotation.
//!
//! This file only lists the rooms, lowest first; ARCHITECTURE.md has the picture, who may import whom, and why.

pub mod clock;
pub mod log;
pub mod metrics;
pub mod process;

pub mod pki;

pub mod keyring;
pub mod trust;

pub mod tls;

pub mod net;

pub mod jwt;

pub mod event;

pub mod snapshot;

pub mod folder;

pub mod writer;

pub mod proxy;

pub mod registry;

pub mod alerts;

pub mod admin;

pub mod control;

pub mod config;

pub mod app;
pub mod cli;
