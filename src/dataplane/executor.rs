//! Runs hyper's tasks on the worker's own thread.

use std::future::Future;

use tokio::task::spawn_local;

/// Runs hyper's tasks on this worker's thread.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
