//! The scanner's place between a stream and hyper: bytes are read into hyper's own buffer, judged there, and taken back
//! where they are not judged yet.
//!
//! A refused request is replaced by one of ours ([`STAND_IN_REQUEST`]), which [`GuardVerdict::prepare_request`] tells from
//! all others: the guard lets no `*` through. A request that breaks off is a read error to hyper. After either, nothing more is read for it.
//!
//! A client that ends its sending after a whole request waits for its answer (RFC 9112 9.6): hyper would give it up, so it learns
//! of that end once the request has been answered.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::head::is_token;
use super::held::HeldBytes;
use super::verdict::{GuardVerdict, UpgradeAnswer};
use super::{FramingAction, FramingFault, FramingLimits, FramingScanner};
use crate::http::activity::StreamActivity;
use crate::http::interim::InterimQueue;
use crate::http::refusal::ExplainedRefusal;

/// What hyper reads in place of a refused request.
const STAND_IN_REQUEST: &[u8] = b"OPTIONS * HTTP/1.1\r\nhost: -\r\n\r\n";
/// Bytes that wait behind a request with `Upgrade`, at most.
const MAX_UPGRADE_BUFFER_BYTES: usize = 16 * 1024;
/// How long a connection that ends in the middle of a request is read on, so that a reset does not overtake the answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of the request that ends a time of parking that are read before hyper is there to read.
const PARKED_READ_BYTES: usize = 1024;
/// Bytes that are read on, at most.
const MAX_LINGER_BYTES: usize = 4 * 1024 * 1024;

/// A stream from which only whole and good request heads can be read.
pub(crate) struct FramingGuard<S> {
    stream: S,
    scanner: FramingScanner,
    verdict: Arc<GuardVerdict>,
    interim: Arc<InterimQueue>,
    held: HeldBytes,
    mode: FramingMode,
    linger: Option<LingerState>,
    activity: Arc<StreamActivity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FramingMode {
    Judge,
    /// Until it is known what an upgrade has become.
    Pause,
    /// A tunnel: nothing is judged.
    Aside,
    /// Refused: what comes is thrown away.
    Deaf,
    /// Broken off.
    Cut,
}

struct LingerState {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<S> FramingGuard<S> {
    /// `activity` says whether a request is being answered, and is told of the end of the client's sending; what `interim` holds
    /// is written between two responses.
    pub(crate) fn new(
        stream: S,
        bounds: FramingLimits,
        verdict: Arc<GuardVerdict>,
        (activity, interim): (&Arc<StreamActivity>, Arc<InterimQueue>),
    ) -> Self {
        let scanner = FramingScanner::new(bounds);
        let (held, mode, activity) = (HeldBytes::default(), FramingMode::Judge, Arc::clone(activity));
        Self { stream, scanner, verdict, interim, held, mode, linger: None, activity }
    }

    /// Judges what is held.
    fn judge_held(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.judge(|bytes| self.judge(bytes));
        self.held = held;
        if self.mode == FramingMode::Deaf {
            self.held.replace_rest(STAND_IN_REQUEST);
        }
    }

    /// Judges `bytes`, all that has not been passed on, and returns how many may be.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let step = self.scanner.scan(bytes);
        self.verdict.record_boundary(step.pass == bytes.len() && !self.scanner.is_within_request());
        if self.scanner.has_upgrade() {
            self.verdict.record_upgrade_request();
        }
        match step.next {
            FramingAction::More => {}
            FramingAction::Pause => self.mode = FramingMode::Pause,
            FramingAction::Refuse(fault) => {
                self.verdict.refuse_request(fault, parse_method_and_path(&bytes[step.pass..]));
                self.mode = FramingMode::Deaf;
            }
            FramingAction::Cut(fault) => {
                self.verdict.cut_request(fault);
                self.mode = FramingMode::Cut;
            }
        }
        step.pass
    }

    /// What became of the upgrade, if that is known.
    fn resume_after_pause(&mut self) {
        match self.verdict.take_upgrade_answer() {
            Some(UpgradeAnswer::Granted) => {
                self.mode = FramingMode::Aside;
                self.held.clear_all();
            }
            Some(UpgradeAnswer::Declined) => {
                self.scanner.resume();
                self.mode = FramingMode::Judge;
                self.judge_held();
            }
            None => {}
        }
    }
}

impl<S: AsyncRead + Unpin> FramingGuard<S> {
    /// Reads, unless the end was read before. An end without close_notify is one too: the scanner knows what is whole.
    fn read_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.activity.has_ended() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Poll::Ready(Err(error)),
            _ => {}
        }
        if buf.filled().len() == before {
            self.activity.set_ended();
        }
        Poll::Ready(Ok(()))
    }

    /// The client has ended its sending: hyper learns of it when it reads for the next request.
    fn poll_end(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if !self.activity.is_answering() {
            return Poll::Ready(Ok(()));
        }
        self.activity.await_answer(cx);
        Poll::Pending
    }

    /// Reads into hyper's buffer, judges there, and takes back what is not judged. Ready where something can be given.
    fn read_and_judge(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            ready!(self.read_stream(cx, buf))?;
            let arrived = &buf.filled()[before..];
            if arrived.is_empty() {
                // Half a head ends here; half a content is the client's fault, not the backend's.
                if self.scanner.is_within_content() {
                    self.verdict.cut_request(FramingFault::Incomplete);
                    return Poll::Ready(Ok(()));
                }
                return self.poll_end(cx);
            }
            if self.held.is_empty() {
                let pass = self.judge(arrived);
                if self.mode == FramingMode::Deaf {
                    self.held.replace_rest(STAND_IN_REQUEST);
                } else if self.mode != FramingMode::Cut && pass < arrived.len() {
                    self.held.push(&arrived[pass..]);
                }
                buf.set_filled(before + pass);
                if pass > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                self.held.push(arrived);
                buf.set_filled(before);
                self.judge_held();
            }
            if self.held.drain_into(buf) {
                return Poll::Ready(Ok(()));
            }
            if self.mode != FramingMode::Judge {
                return self.poll_by_mode(cx, buf);
            }
        }
    }

    /// Waits for what comes next while hyper is not there: ready where hyper has something to read, be it the end.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() || self.mode != FramingMode::Judge {
            return Poll::Ready(Ok(()));
        }
        let mut space = [const { MaybeUninit::uninit() }; PARKED_READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(self.read_stream(cx, &mut buf))?;
        self.held.push(buf.filled());
        self.judge_held();
        Poll::Ready(Ok(()))
    }

    /// Takes back what hyper has read and not used.
    pub(crate) fn take_back(&mut self, unused: &[u8]) {
        self.held.push_front_cleared(unused);
    }

    fn poll_by_mode(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.mode {
            FramingMode::Judge => self.read_and_judge(cx, buf),
            FramingMode::Aside => Pin::new(&mut self.stream).poll_read(cx, buf),
            FramingMode::Cut => {
                let fault = self.verdict.fault().map_or("the request ended early", FramingFault::explanation);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)))
            }
            // hyper writes its answer even if the client does not read; an end would make it give up before.
            FramingMode::Deaf => {
                let before = buf.filled().len();
                while let Poll::Ready(Ok(())) = Pin::new(&mut self.stream).poll_read(cx, buf) {
                    if buf.filled().len() == before {
                        break;
                    }
                    buf.set_filled(before);
                }
                Poll::Pending
            }
            FramingMode::Pause => {
                let before = buf.filled().len();
                self.verdict.await_upgrade_answer(cx);
                while self.held.len() < MAX_UPGRADE_BUFFER_BYTES {
                    ready!(self.read_stream(cx, buf))?;
                    if buf.filled().len() == before {
                        return self.poll_end(cx);
                    }
                    self.held.push(&buf.filled()[before..]);
                    buf.set_filled(before);
                }
                Poll::Pending
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FramingGuard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.mode == FramingMode::Pause && !this.held.is_cleared() {
            this.resume_after_pause();
        }
        if buf.remaining() == 0 || this.held.drain_into(buf) {
            return Poll::Ready(Ok(()));
        }
        this.poll_by_mode(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FramingGuard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.interim.poll_write_heads(&mut this.stream, cx, false))?;
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    /// hyper flushes when it has nothing left to write: whatever it has begun before is whole.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.interim.poll_write_heads(&mut this.stream, cx, true))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.interim.poll_write_heads(&mut this.stream, cx, false))?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Closes; where the other side may still be sending, reads on for a moment, as a socket that is dropped with bytes
    /// unread is reset, and a reset can overtake the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.verdict.record_boundary(false);
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        if this.mode == FramingMode::Aside || (this.verdict.fault().is_none() && !this.scanner.is_within_request()) {
            return Poll::Ready(Ok(()));
        }
        let linger = this
            .linger
            .get_or_insert_with(|| LingerState { until: Box::pin(sleep(LINGER_TIMEOUT)), left: MAX_LINGER_BYTES });
        let mut unread = [0; 2048];
        while linger.left > 0 {
            let mut buf = ReadBuf::new(&mut unread);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    linger.left = linger.left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.until.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Method and path of a request that is refused, where they can be made out.
fn parse_method_and_path(bytes: &[u8]) -> Option<(Method, Uri)> {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let method = parts.next().filter(|method| method.len() <= 32 && method.iter().copied().all(is_token))?;
    let path = parts.next().and_then(|target| target.split(|byte| matches!(byte, b'?' | b'#')).next());
    let uri = path.filter(|path| path.starts_with(b"/")).and_then(|path| Uri::try_from(path).ok());
    Some((Method::from_bytes(method).ok()?, uri.unwrap_or_else(|| Uri::from_static("*"))))
}
