//! What the requests of a connection need from the snapshot, kept by the side that serves it until the next epoch or until the
//! connection has been idle for a moment.
//!
//! A new epoch drops it on idle connections too: a view holds the snapshot that it was made from.

use std::cell::RefCell;
use std::rc::Rc;

/// The side that serves a connection; it lists and counts the connection for as long as it lives.
pub(crate) trait ConnectionOwner: 'static {
    /// A new epoch, or a rest: what was taken from the snapshot goes.
    fn forget_view(&self);
}

/// A view that is made by the first request of an epoch, and by the first after a rest.
pub(crate) struct ViewSlot<V>(RefCell<Option<Rc<V>>>);

impl<V> Default for ViewSlot<V> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<V> ViewSlot<V> {
    /// The view, if a request has made it.
    pub(crate) fn view(&self) -> Option<Rc<V>> {
        self.0.borrow().clone()
    }

    /// Keeps the view that a request has made.
    pub(crate) fn set_view(&self, view: &Rc<V>) {
        self.0.replace(Some(Rc::clone(view)));
    }

    /// Drops the view.
    pub(crate) fn clear_view(&self) {
        // Dropped when nothing is borrowed any more.
        drop(self.0.take());
    }
}
