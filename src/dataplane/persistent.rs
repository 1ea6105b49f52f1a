//! The tasks that a worker cannot do without: run again where they panic, so that a panic ends one connection and no more.
//!
//! The panic itself is logged and counted by the hook of `metrics`.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use tokio::task::{JoinHandle, spawn_local, yield_now};

/// Runs what `make` makes on this worker's thread, and makes it anew where it panics. Aborted, it ends at once.
pub(super) fn spawn_persistent<F>(name: &'static str, make: impl Fn() -> F + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + 'static,
{
    spawn_local(async move {
        while !run_once(make()).await {
            tracing::error!(target: "proxy", task = name, "a task of the worker panicked, and begins anew");
            yield_now().await;
        }
    })
}

/// Whether it ended, and did not panic.
async fn run_once(task: impl Future<Output = ()>) -> bool {
    let mut task = pin!(task);
    // After a panic the task is dropped, and never polled again.
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
        Ok(polled) => polled.map(|()| true),
        Err(_) => Poll::Ready(false),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::rc::Rc;

    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::body::{Bytes, Incoming};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn run_local(test: impl Future<Output = ()> + 'static) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.unwrap().block_on(test);
    }

    /// As a worker serves a connection; a request for `/panic` panics.
    fn serve() -> DuplexStream {
        let (client, server) = tokio::io::duplex(4096);
        let service = service_fn(|request: Request<Incoming>| async move {
            assert_ne!(request.uri().path(), "/panic", "the test's own panic");
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        spawn_local(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service));
        client
    }

    async fn ask(client: &mut DuplexStream, path: &str) -> usize {
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        client.read(&mut [0; 1024]).await.unwrap()
    }

    #[test]
    fn a_panic_in_a_request_ends_its_connection_and_no_other() {
        run_local(async {
            let (mut one, mut other) = (serve(), serve());
            assert!(ask(&mut other, "/").await > 0);
            assert_eq!(ask(&mut one, "/panic").await, 0, "its connection is closed");
            assert!(ask(&mut other, "/").await > 0);
            assert!(ask(&mut serve(), "/").await > 0);
        });
    }

    #[test]
    fn a_task_that_panics_begins_anew_and_an_aborted_one_does_not() {
        run_local(async {
            let (begun, stays) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
            let (count, end) = (Rc::clone(&begun), Rc::clone(&stays));
            let task = spawn_persistent("test", move || {
                let (count, end) = (Rc::clone(&count), Rc::clone(&end));
                async move {
                    count.set(count.get() + 1);
                    assert!(count.get() > 2, "the test's own panic");
                    let _guard = SetOnDrop(end);
                    std::future::pending::<()>().await;
                }
            });
            while begun.get() < 3 {
                tokio::task::yield_now().await;
            }
            task.abort();
            assert!(task.await.is_err());
            while !stays.get() {
                tokio::task::yield_now().await;
            }
            assert_eq!(begun.get(), 3);
        });
    }

    struct SetOnDrop(Rc<Cell<bool>>);

    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
}
