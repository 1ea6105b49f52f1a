//! The integration tests: a catalogue of behaviours, each module opening with what must hold.

#![expect(unreachable_pub, reason = "one crate of modules that use each other: `pub` says what is for others")]

mod clients;
mod command;
mod drain;
mod egress;
mod faults;
mod foreign;
mod handshake;
mod house;
mod http;
mod key_pairs;
mod overlap;
mod probe;
mod proof;
mod protocols;
mod rotation;
mod soak;
mod support;
mod token;
