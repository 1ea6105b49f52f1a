//! The integration tests: a catalogue of behaviours, each module opening with what must hold.

mod house;
