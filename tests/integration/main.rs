//! The integration tests: a catalogue of behaviours, each module opening with what must hold.

#![expect(unreachable_pub, reason = "one crate of modules that use each other: `pub` says what is for others")]

mod alerts;
mod command;
mod drain;
mod egress;
mod faults;
mod foreign;
mod handshake;
mod house;
mod http;
mod key_pairs;
mod learn;
mod overlap;
mod protocols;
mod registry;
mod rotation;
mod soak;
mod strict;
mod support;
