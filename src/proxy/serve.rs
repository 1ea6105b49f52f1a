//! Serves HTTP on an established stream: HTTP/1.1 or HTTP/2 as ALPN said, never by sniffing, with the limits of the listener.
//!
//! The two protocols are two boxed futures, so that an idle connection pays only for its own. Head, idle and drain times are
//! the worker's tick's (`open`), not timers of hyper's.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;

use super::body::Body;
use super::open::{Open, Signal};
use super::reading::Streams;
use super::waits::Waits;
use super::watched::Watched;
use crate::snapshot::ingress::Limits;

/// What hyper's own limit on fields is, and costs nothing extra.
const HYPER_FIELDS: usize = 100;

/// Runs hyper's tasks on this worker's thread.
#[derive(Clone, Copy)]
pub(super) struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// A connection that answers requests. It never fails: what goes wrong is a response.
pub(super) trait Answers: 'static {
    /// The connection in its worker's list.
    fn open(&self) -> &Rc<Open>;
    /// Its worker's deadlines.
    fn waits(&self) -> &Rc<Waits>;
    /// The other side does not read a response: its stream is reset.
    fn unread(&self);
    /// One request, one response.
    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Response<Body>;
}

/// Serves HTTP/1.1 until the connection ends.
pub(super) async fn serve_http1<S, C>(stream: S, connection: Rc<C>, limits: Limits)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Answers,
{
    let open = Rc::clone(connection.open());
    let io = TokioIo::new(Watched::new(stream, &open.pulse));
    let service = service_fn(move |request| {
        let connection = Rc::clone(&connection);
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_header_size(limits.head_size);
    if limits.fields > HYPER_FIELDS {
        builder.max_headers(limits.fields);
    }
    let mut served = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
    let (mut leaving, mut late) = (false, false);
    poll_fn(|cx| {
        match open.signal() {
            Signal::Close => return Poll::Ready(()),
            Signal::Leave if !leaving => {
                leaving = true;
                served.as_mut().graceful_shutdown();
            }
            Signal::Late if !late => {
                late = true;
                open.pulse.is_late();
            }
            _ => {}
        }
        open.listen(cx);
        served.as_mut().poll(cx).map(report)
    })
    .await;
}

/// Serves HTTP/2 until the connection ends.
pub(super) async fn serve_http2<S, C>(stream: S, connection: Rc<C>, limits: Limits)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    C: Answers,
{
    let open = Rc::clone(connection.open());
    let told = Rc::clone(&connection);
    let streams = Streams {
        open: Rc::clone(&open),
        waits: Rc::clone(connection.waits()),
        limit: limits.body_idle,
        unread: Rc::new(move || told.unread()),
    };
    let service = service_fn(move |request| {
        let connection = Rc::clone(&connection);
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let mut builder = http2::Builder::new(streams);
    builder
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_size).unwrap_or(u32::MAX));
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(Watched::new(stream, &open.pulse)), service));
    let mut leaving = false;
    poll_fn(|cx| {
        match open.signal() {
            Signal::Close => return Poll::Ready(()),
            Signal::Leave | Signal::Drain if !leaving => {
                leaving = true;
                served.as_mut().graceful_shutdown();
            }
            _ => {}
        }
        open.listen(cx);
        served.as_mut().poll(cx).map(report)
    })
    .await;
}

/// How a connection ended: peers that vanish are no news.
fn report(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(target: "proxy", %error, "connection ended with an error");
    }
}
