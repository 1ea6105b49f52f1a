//! The state of the registry's database as it was reported last: each change is one Event.

use crate::event::{Event, EventBus, RegistryRecord};
use crate::pki::printable;

/// The last reported state of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DatabaseState {
    Unknown,
    Up(String),
    Down(String),
}

/// Emits a change of the database's state, once.
pub(super) fn report_state(events: &EventBus, state: &mut DatabaseState, now: DatabaseState) {
    let same = match (&*state, &now) {
        (DatabaseState::Up(_), DatabaseState::Up(_)) => true,
        (before, now) => before == now,
    };
    if same {
        return;
    }
    let (up, explanation) = match &now {
        DatabaseState::Unknown => return,
        DatabaseState::Up(explanation) => (true, explanation),
        DatabaseState::Down(explanation) => (false, explanation),
    };
    events.emit(Event::Registry(RegistryRecord { up, damaged: false, explanation: printable(explanation) }));
    *state = now;
}
