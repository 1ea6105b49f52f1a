//! A listener within one worker: a bound socket that is opened, accepted from, and closed. What it accepts is the worker's.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::context::ListenerContext;
use super::persistent::spawn_persistent;
use crate::net::BoundSocket;
use crate::net::listen::{AcceptedConnection, ListeningSocket};

/// How long a listener pauses when descriptors or memory have run out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// One listener.
pub(crate) struct WorkerListener {
    pub(crate) context: Rc<ListenerContext>,
    state: RefCell<ListenerState>,
}

enum ListenerState {
    /// Clients cannot connect yet.
    Bound(BoundSocket),
    /// The task that accepts, and what it accepts from.
    Listening(JoinHandle<()>, Rc<ListeningSocket>),
    /// Permanently.
    Closed,
}

impl WorkerListener {
    pub(crate) fn new(context: Rc<ListenerContext>, bound: BoundSocket) -> Self {
        Self { context, state: RefCell::new(ListenerState::Bound(bound)) }
    }

    /// Starts to listen, unless it does already: `dispatch` receives each connection. Returns whether it starts.
    pub(crate) fn listen(&self, dispatch: impl Fn(AcceptedConnection) + 'static) -> bool {
        let mut state = self.state.borrow_mut();
        let ListenerState::Bound(bound) = &*state else { return false };
        match bound.listen() {
            Ok(listening) => {
                let listening = Rc::new(listening);
                let (context, queue, dispatch) = (Rc::clone(&self.context), Rc::clone(&listening), Rc::new(dispatch));
                let accept = move || accept_loop(Rc::clone(&context), Rc::clone(&queue), Rc::clone(&dispatch));
                *state = ListenerState::Listening(spawn_persistent("accept", accept), listening);
                true
            }
            // Tried again at the next epoch.
            Err(error) => {
                let (listener, address) = (&*self.context.id.name, bound.address());
                tracing::error!(target: "proxy", listener, %address, %error, "cannot listen");
                false
            }
        }
    }

    /// Accepts what waits in the queue, then nothing more.
    pub(crate) fn close(&self, dispatch: impl Fn(AcceptedConnection)) {
        let state = self.state.replace(ListenerState::Closed);
        if let ListenerState::Listening(accepting, listening) = state {
            accepting.abort();
            while let Some(accepted) = listening.try_accept() {
                dispatch(accepted);
            }
        }
    }
}

async fn accept_loop(
    context: Rc<ListenerContext>,
    listening: Rc<ListeningSocket>,
    dispatch: Rc<impl Fn(AcceptedConnection)>,
) {
    let listener = &*context.id.name;
    let mut resting = false;
    loop {
        match listening.accept().await {
            Ok(accepted) => {
                if std::mem::take(&mut resting) {
                    tracing::info!(target: "proxy", listener, "accepting connections again");
                }
                dispatch(accepted);
            }
            // That one connection is gone; the next one may be fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut resting, true) {
                    tracing::warn!(target: "proxy", listener, %error, "cannot accept connections; retrying");
                }
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}
