//! The room in which records are opened and sealed: one for all streams of a thread, as each uses it within one poll only.

use std::cell::Cell;

/// Content of one record, at most (RFC 8446 5.1).
pub(super) const RECORD_BYTES: usize = 16 * 1024;
/// Content that is sealed at once.
pub(super) const SEALED_BYTES: usize = 4 * RECORD_BYTES;
/// What records add to that, and what else may have to be sent before.
const OVERHEAD_BYTES: usize = 8 * 1024;
/// The whole room: one record that is put together, and records.
const ROOM_BYTES: usize = RECORD_BYTES + SEALED_BYTES + OVERHEAD_BYTES;

thread_local! {
    static ROOM: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Lets `work` use the room. What it finds there is of no meaning.
pub(super) fn with_room<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut room = ROOM.take().unwrap_or_else(|| vec![0; ROOM_BYTES].into());
    let done = work(&mut room);
    ROOM.set(Some(room));
    done
}
