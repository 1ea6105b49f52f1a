//! What the requests of a connection need from the snapshot, kept until the next epoch by the side that serves it.
//!
//! A new epoch drops it on idle connections too: a view holds the snapshot that it was made from.

use std::cell::RefCell;
use std::rc::Rc;

/// The side that serves a connection; it lists and counts the connection for as long as it lives.
pub(crate) trait ConnectionOwner: 'static {
    /// A new epoch: what was taken from the old one goes.
    fn forget_view(&self);
}

/// A view that is made once per epoch, by the first request.
pub(crate) struct ViewSlot<V>(RefCell<Option<Rc<V>>>);

impl<V> Default for ViewSlot<V> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<V> ViewSlot<V> {
    /// The view of this epoch, if a request has made it.
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
