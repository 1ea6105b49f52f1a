//! What the requests of a connection need from the snapshot, kept by the side that serves it until the next epoch or until the
//! connection has been idle for a moment.
//!
//! No request gets the view of another epoch than the present one. The worker's walk drops it on idle connections too, since a view
//! holds the snapshot that it was made from; that walk takes its time.

use std::cell::RefCell;
use std::rc::Rc;

use crate::snapshot::Epoch;

/// The side that serves a connection; it lists and counts the connection for as long as it lives.
pub(crate) trait ConnectionOwner: 'static {
    /// A new epoch, or a rest: what was taken from the snapshot goes.
    fn forget_view(&self);
}

/// A view that is made by the first request of an epoch, and by the first after a rest.
pub(crate) struct ViewSlot<V>(RefCell<Option<(Epoch, Rc<V>)>>);

impl<V> Default for ViewSlot<V> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<V> ViewSlot<V> {
    /// The view of this epoch, if a request has made it.
    pub(crate) fn view(&self, epoch: Epoch) -> Option<Rc<V>> {
        self.0.borrow().as_ref().filter(|(made, _)| *made == epoch).map(|(_, view)| Rc::clone(view))
    }

    /// Keeps the view that a request has made from this epoch.
    pub(crate) fn set_view(&self, epoch: Epoch, view: &Rc<V>) {
        // The one before is dropped when nothing is borrowed any more.
        drop(self.0.replace(Some((epoch, Rc::clone(view)))));
    }

    /// Drops the view.
    pub(crate) fn clear_view(&self) {
        // Dropped when nothing is borrowed any more.
        drop(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_of_an_epoch_is_no_longer_had_in_the_next_one() {
        let slot = ViewSlot::default();
        slot.set_view(Epoch(1), &Rc::new("first"));
        assert_eq!(slot.view(Epoch(1)).as_deref(), Some(&"first"));
        assert_eq!(slot.view(Epoch(2)), None);
        slot.set_view(Epoch(2), &Rc::new("second"));
        assert_eq!(slot.view(Epoch(2)).as_deref(), Some(&"second"));
        slot.clear_view();
        assert_eq!(slot.view(Epoch(2)), None);
    }
}
