//! Bytes between a stream and hyper that hyper has not received yet: first the cleared ones, then those not judged.

use tokio::io::ReadBuf;

#[derive(Debug, Default)]
pub(crate) struct HeldBytes {
    bytes: Vec<u8>,
    /// How many are cleared, and how many of those hyper has received.
    cleared: usize,
    given: usize,
}

impl HeldBytes {
    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How much there is.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether any byte is cleared.
    pub(crate) fn is_cleared(&self) -> bool {
        self.cleared > 0
    }

    /// Takes in bytes that are not judged.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes back bytes that had been passed on: they are the first to be passed on again.
    pub(crate) fn push_front_cleared(&mut self, bytes: &[u8]) {
        self.bytes.splice(..self.given, bytes.iter().copied());
        (self.cleared, self.given) = (self.cleared - self.given + bytes.len(), 0);
    }

    /// Everything, none of which is cleared yet, taken out to be judged.
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Holds `cleared`, and behind it what is not judged.
    pub(crate) fn hold(&mut self, cleared: Vec<u8>, rest: &[u8]) {
        (self.cleared, self.given, self.bytes) = (cleared.len(), 0, cleared);
        self.bytes.extend_from_slice(rest);
    }

    /// Judges everything, none of which is cleared yet: `judge` returns how many bytes are cleared from now on.
    pub(crate) fn judge(&mut self, judge: impl FnOnce(&[u8]) -> usize) {
        self.cleared = judge(&self.bytes);
    }

    /// Clears everything.
    pub(crate) fn clear_all(&mut self) {
        self.cleared = self.bytes.len();
    }

    /// Puts `instead` in the place of what is not judged, and clears it.
    pub(crate) fn replace_rest(&mut self, instead: &[u8]) {
        self.bytes.truncate(self.cleared);
        self.bytes.extend_from_slice(instead);
        self.cleared = self.bytes.len();
    }

    /// Hands over what is cleared; true if any byte was. An idle connection keeps no memory for it.
    pub(crate) fn drain_into(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let count = (self.cleared - self.given).min(buf.remaining());
        if count == 0 {
            return false;
        }
        buf.put_slice(&self.bytes[self.given..self.given + count]);
        self.given += count;
        if self.given == self.cleared {
            self.bytes = self.bytes.split_off(self.cleared);
            (self.cleared, self.given) = (0, 0);
        }
        true
    }
}
