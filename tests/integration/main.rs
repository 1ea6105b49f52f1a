//! The integration tests: a catalogue of behaviours, each module opening with what must hold.

#![expect(unreachable_pub, reason = "one crate of modules that use each other: `pub` says what is for others")]

mod command;
mod drain;
mod egress;
mod floods;
mod foreign;
mod handshake;
mod house;
mod http;
mod limits;
mod overlap;
mod proxied;
mod rotation;
mod soak;
mod support;
