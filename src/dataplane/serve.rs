//! Serves HTTP on an established stream: HTTP/1.1 or HTTP/2 by ALPN, never by sniffing, with the listener's limits.
//!
//! The two protocols are two boxed futures, so that an idle connection pays only for its own. Head, idle and drain times are
//! the worker's tick's (`connection`), not timers of hyper's.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::parking::ParkableConnection;
use super::reading::StreamExecutor;
use super::watched::WatchedStream;
use crate::clock::deadlines::WaitTable;
use crate::dataplane::connection::{ConnectionLimit, ConnectionSignal, ConnectionState};
use crate::dataplane::context::WorkerContext;
use crate::dataplane::exchange::access::{AccessRecord, RequestContext};
use crate::dataplane::exchange::forward::{RefusalContext, RequestFailure, refuse};
use crate::dataplane::exchange::response_body::ResponseBody;
use crate::http::error::RequestError;
use crate::http::frames;
use crate::http::frames::guard::FrameFindings;
use crate::http::frames::{BlockFault, FrameFlood};
use crate::http::framing::FramingLimits;
use crate::http::framing::guard::FramingGuard;
use crate::http::framing::verdict::GuardVerdict;
use crate::http::interim::{InterimQueue, InterimScope, InterimSender};
use crate::http::refusal::ExplainedRefusal;
use crate::snapshot::ingress::ListenerLimits;

/// Content of a request that a peer may send before it is taken; a connection's is 1 MiB for all its streams together.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Content of a response that waits for a peer that does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that may be reset for the peer's errors before its connection ends (CVE-2025-8671).
const MAX_ERROR_RESET_STREAMS: usize = 256;
/// How much hyper reads before a head has to be whole, unless told otherwise (smaller and larger buffers move bodies no faster).
const HYPER_BUFFER: usize = 400 * 1024;
/// hyper's own limit on fields, which costs nothing extra.
const HYPER_FIELDS: usize = 100;

/// What serving needs of a connection, whichever side it is of.
pub(crate) struct ServedConnection<'a> {
    /// The connection in its worker's list.
    pub(crate) state: &'a Rc<ConnectionState>,
    /// Where what happens to it is counted.
    pub(crate) requests: &'a RequestContext,
    /// Its worker.
    pub(crate) worker: &'a WorkerContext,
}

/// A connection that answers requests. What goes wrong with one becomes a response of the sidecar's own.
pub(crate) trait RequestHandler: 'static {
    /// The connection that is served.
    fn connection(&self) -> ServedConnection<'_>;
    /// One request, one response; or why there is none. Interim responses go to `interim`, if they can be sent.
    async fn answer(
        &self,
        request: Request<Incoming>,
        interim: Option<InterimSender>,
    ) -> Result<Response<ResponseBody>, RequestFailure>;

    /// The connection in its worker's list.
    fn state(&self) -> &Rc<ConnectionState> {
        self.connection().state
    }

    /// Where what happens to it is counted.
    fn request_context(&self) -> &RequestContext {
        self.connection().requests
    }

    /// Its worker's deadlines.
    fn waits(&self) -> &Rc<WaitTable> {
        self.connection().worker.waits()
    }

    /// Records that the other side does not read a response: its stream is reset.
    fn record_unread(&self) {
        let connection = self.connection();
        connection.worker.report_limit(connection.state, ConnectionLimit::Unread);
    }
}

/// A connection that serves HTTP/1.1, and what the guard of its requests finds.
struct Http1Connection<C> {
    connection: Rc<C>,
    verdict: Arc<GuardVerdict>,
}

/// Serves HTTP/1.1 until the connection ends.
///
/// Everything is made before the future is: an idle connection keeps room for what serves it, and for nothing else.
pub(crate) fn serve_http1<S, C>(
    stream: S,
    connection: Rc<C>,
    limits: &ListenerLimits,
) -> impl Future<Output = ()> + use<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: RequestHandler,
{
    let body_idle = limits.body_idle;
    let open = Rc::clone(connection.state());
    let bounds = FramingLimits { head_size: limits.head_size, fields: limits.fields };
    let watched = WatchedStream::new(stream, &open.activity);
    let verdict = Arc::<GuardVerdict>::default();
    let interim = Arc::<InterimQueue>::default();
    let guard = FramingGuard::new(watched, bounds, Arc::clone(&verdict), (&open.activity, Arc::clone(&interim)));
    let (guarded, queue) = (Rc::new(Http1Connection { connection, verdict }), Arc::clone(&interim));
    let asked = Rc::clone(&guarded);
    let service = service_fn(move |mut request| {
        let asked = Rc::clone(&asked);
        let upgrades = asked.verdict.prepare_request(&mut request);
        // From now on, not from the first poll: hyper reads on before that, and the client may have ended its sending.
        let flight = asked.connection.state().begin_flight();
        let takes_interim = request.version() == Version::HTTP_11;
        let scope = takes_interim.then(|| InterimScope::open(&queue, None));
        // Boxed: hyper and tokio move a request's future several times before and after it runs.
        Box::pin(async move {
            let answered = asked.connection.answer(request, scope.as_ref().map(InterimScope::sender)).await;
            let mut response = answered.unwrap_or_else(|failure| {
                let error = asked.verdict.explain(failure.error).with_limit_value(bounds);
                refuse_request(&*asked.connection, &error, failure.record, false)
            });
            if let Some(scope) = scope {
                scope.await_written(asked.connection.waits(), body_idle).await;
            }
            if upgrades {
                asked.verdict.record_upgrade_answer(response.status() == StatusCode::SWITCHING_PROTOCOLS);
            }
            // After the last wait: a drain that begins from here on finds a response that has begun.
            if asked.connection.state().signal() == ConnectionSignal::Drain
                && response.status() != StatusCode::SWITCHING_PROTOCOLS
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            drop(flight);
            Ok::<_, Infallible>(response)
        })
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_header_size(limits.head_size);
    if limits.head_size > HYPER_BUFFER {
        builder.max_buf_size(limits.head_size);
    }
    if limits.fields > HYPER_FIELDS {
        builder.max_headers(limits.fields);
    }
    let counters = &guarded.connection.request_context().cells;
    let mut served = ParkableConnection::new(builder, guard, service, (&guarded.verdict, counters));
    async move {
        let (mut leaving, mut late) = (false, false);
        poll_fn(|cx| {
            match open.signal() {
                ConnectionSignal::Close => return Poll::Ready(()),
                ConnectionSignal::Leave | ConnectionSignal::Cut if !leaving => {
                    leaving = true;
                    // A request that has come meanwhile is read first: an idle connection ends at once.
                    if let Poll::Ready(ended) = served.poll_serve(&open, cx) {
                        report_end(ended);
                        return Poll::Ready(());
                    }
                    served.shut_down_gracefully();
                }
                ConnectionSignal::Late if !late => {
                    late = true;
                    open.activity.set_late();
                }
                _ => {}
            }
            open.register_waker(cx);
            interim.register_writer(cx);
            served.poll_serve(&open, cx).map(report_end)
        })
        .await;
        if let Some(fault) = guarded.verdict.unreported_fault() {
            report_broken_connection(&*guarded.connection, fault.reason(), fault.explanation());
        }
    }
}

/// Serves HTTP/2 until the connection ends. As with HTTP/1.1, everything is made before the future is.
pub(crate) fn serve_http2<S, C>(
    stream: S,
    connection: Rc<C>,
    limits: &ListenerLimits,
) -> impl Future<Output = ()> + use<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    C: RequestHandler,
{
    let (body_idle, head_size, most_streams) = (limits.body_idle, limits.head_size, limits.streams);
    let open = Rc::clone(connection.state());
    let asked = Rc::clone(&connection);
    let told = Rc::clone(&connection);
    let streams = StreamExecutor {
        open: Rc::clone(&open),
        waits: Rc::clone(connection.waits()),
        limit: body_idle,
        unread: Rc::new(move || told.record_unread()),
    };
    let interim = Arc::<InterimQueue>::default();
    let queue = Arc::clone(&interim);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let connection = Rc::clone(&connection);
        let stream = frames::take_stream_number(request.headers_mut());
        let scope = stream.map(|stream| InterimScope::open(&queue, Some(stream)));
        // Boxed: hyper and tokio move a request's future several times before and after it runs.
        Box::pin(async move {
            let answered = connection.answer(request, scope.as_ref().map(InterimScope::sender)).await;
            if let Some(scope) = scope {
                scope.await_written(connection.waits(), body_idle).await;
            }
            Ok::<_, Infallible>(
                answered.unwrap_or_else(|failure| refuse_request(&*connection, &failure.error, failure.record, true)),
            )
        })
    });
    let found = Rc::new(FrameFindings::default());
    let watched = WatchedStream::new(stream, &open.activity);
    // Up to this, h2 keeps HPACK's state: a head that is larger than the limit costs its stream alone.
    let block_limit = frames::block_limit(head_size);
    let told = (&open.activity, &found, &interim);
    let io = TokioIo::new(frames::guard::FrameGuard::new(watched, block_limit, open.waits(), told));
    let mut builder = http2::Builder::new(streams);
    builder
        .max_concurrent_streams(most_streams)
        .max_header_list_size(u32::try_from(block_limit).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_local_error_reset_streams(MAX_ERROR_RESET_STREAMS);
    let mut served = Box::pin(builder.serve_connection(io, service));
    async move {
        let (mut leaving, mut crowded) = (false, false);
        poll_fn(|cx| {
            match open.signal() {
                ConnectionSignal::Close => return Poll::Ready(()),
                // A header block is late, and nothing behind it can be read: GOAWAY goes out, and the next signal closes.
                ConnectionSignal::Leave | ConnectionSignal::Late | ConnectionSignal::Cut if !leaving => {
                    leaving = true;
                    served.as_mut().graceful_shutdown();
                }
                _ => {}
            }
            open.register_waker(cx);
            interim.register_writer(cx);
            let polled = served.as_mut().poll(cx);
            report_refused_streams(&*asked, found.refused.take(), most_streams, &mut crowded);
            report_block_faults(&*asked, &found.faults.take(), head_size);
            polled.map(|ended| report_http2_end(&*asked, found.flood.get(), ended))
        })
        .await;
    }
}

/// Reports how a connection of HTTP/2 ended: flooded, against a rule, or as peers do.
fn report_http2_end<C: RequestHandler>(connection: &C, flood: Option<FrameFlood>, ended: Result<(), hyper::Error>) {
    match (flood, &ended) {
        (Some(flood), _) => {
            if flood == FrameFlood::HeaderBlock {
                connection.request_context().cells.count_limit("head_size");
            }
            report_broken_connection(connection, flood.reason(), flood.explanation());
        }
        (None, Err(error)) => match http2_violation(error) {
            Some((reason, rule)) => report_broken_connection(connection, reason, &rule),
            None => report_end(ended),
        },
        (None, Ok(())) => {}
    }
}

/// The sidecar's own response to a request that gets no other.
fn refuse_request<C: RequestHandler>(
    connection: &C,
    error: &RequestError,
    record: Option<AccessRecord>,
    http2: bool,
) -> Response<ResponseBody> {
    let open = connection.state();
    let (side, listener) = (open.facts.side, &*open.facts.listener);
    refuse(error, &RefusalContext { side, listener, connection: open.number, http2 }, record)
}

/// Streams were refused because as many were open as may be: each is counted, and the first of a connection is logged.
fn report_refused_streams<C: RequestHandler>(connection: &C, refused: u64, limit: u32, logged: &mut bool) {
    for _ in 0..refused {
        connection.request_context().cells.count_limit("streams");
    }
    if refused > 0 && !std::mem::replace(logged, true) {
        let facts = &connection.state().facts;
        let (side, listener, number) = (facts.side.as_str(), &*facts.listener, connection.state().number);
        tracing::info!(target: "proxy", side, listener, connection = number, limit, reason = "too_many_streams", "stream refused: more concurrent streams than the limit (limits.streams)");
    }
}

/// Header blocks broke rules, so that their streams ended before there was a request: h2 answers one that is too large with
/// 431, and resets the others.
fn report_block_faults<C: RequestHandler>(connection: &C, faults: &[BlockFault], limit: usize) {
    let (facts, cells) = (&connection.state().facts, &connection.request_context().cells);
    let (side, listener, number) = (facts.side.as_str(), &*facts.listener, connection.state().number);
    for fault in faults {
        let (reason, error) = (fault.reason(), fault.explanation());
        if *fault == BlockFault::TooLarge {
            cells.count_limit("head_size");
            cells.request(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.as_u16(), Duration::ZERO);
            tracing::info!(target: "proxy", side, listener, connection = number, reason, limit, error, "stream refused");
        } else {
            tracing::info!(target: "proxy", side, listener, connection = number, reason, error, "stream refused");
        }
        cells.count_refusal(reason);
    }
}

/// The other side broke a rule, and there was no request that could be answered with a refusal.
fn report_broken_connection<C: RequestHandler>(connection: &C, reason: &'static str, explanation: &str) {
    let facts = &connection.state().facts;
    let (side, listener) = (facts.side.as_str(), &*facts.listener);
    tracing::info!(target: "proxy", side, listener, connection = connection.state().number, reason, error = explanation, "connection refused");
    connection.request_context().cells.count_refusal(reason);
}

/// What h2 found wrong with a connection, as a sentence; `None` where the peer left or reported the error itself.
fn http2_violation(error: &hyper::Error) -> Option<(&'static str, String)> {
    let text = std::error::Error::source(error)?.to_string();
    let rule = text.strip_prefix("connection error detected: ")?;
    // ENHANCE_YOUR_CALM: resets in bursts, and those that the peer brings about, h2 counts itself.
    let reason = if rule.contains("excessive load") { FrameFlood::Resets.reason() } else { "http2_error" };
    Some((reason, format!("HTTP/2 connection error: {rule}")))
}

/// Logs how a connection ended, for debugging only: peers vanish all the time.
fn report_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(target: "proxy", %error, "connection ended with an error");
    }
}
