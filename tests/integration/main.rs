//! The integration tests: a catalogue of behaviours, each module opening with what must hold.

#![expect(unreachable_pub, reason = "one crate of modules that use each other: `pub` says what is for others")]

mod alerts;
mod clients;
mod command;
mod control;
mod drain;
mod egress;
mod expiry;
mod faults;
mod floods;
mod foreign;
mod handshake;
mod house;
mod http;
mod jwt;
mod key_pairs;
mod learn;
mod limits;
mod overlap;
mod peer_proof;
mod probe;
mod proof;
mod protocols;
mod proxied;
mod reasons;
mod refusals;
mod registry;
mod reload;
mod rotation;
mod secrecy;
mod slow;
mod soak;
mod streams;
mod strict;
mod support;
mod token;
mod trust;
