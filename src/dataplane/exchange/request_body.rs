//! A request's body on its way to the backend or upstream, and what is kept of it so that it can be sent again.
//!
//! The body streams while it is kept: nothing waits for it to be whole. Sent again, it begins with what was kept and
//! goes on with what is still to come. A body that has outgrown the limit has been streamed away.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::http::body::{BodyError, BodyRelay};
use crate::http::expect::ContinueGate;
use crate::http::progress::UploadProgress;
use crate::http::taken::CountedBytes;

/// A request's body on its way to the backend or upstream.
pub(crate) enum OutgoingBody {
    /// None.
    Empty,
    /// Streamed.
    Relay(Box<BodyRelay>),
    /// Streamed, and kept so that it can be sent again.
    Kept(ReplayBody),
    /// Made up by a test.
    #[cfg(test)]
    Frames(std::collections::VecDeque<Frame<Bytes>>),
}

impl OutgoingBody {
    /// What holds the body back, if anything does.
    pub(crate) fn gate(&self) -> Option<Arc<ContinueGate>> {
        match self {
            Self::Empty => None,
            Self::Relay(relay) => relay.gate().cloned(),
            Self::Kept(turn) => turn.kept.0.borrow().rest.gate(),
            #[cfg(test)]
            Self::Frames(_) => None,
        }
    }

    /// Its progress, if it comes in pieces.
    pub(crate) fn upload(&self) -> Option<Rc<UploadProgress>> {
        match self {
            Self::Empty => None,
            Self::Relay(relay) => relay.upload().cloned(),
            Self::Kept(turn) => turn.upload(),
            #[cfg(test)]
            Self::Frames(_) => None,
        }
    }
}

impl OutgoingBody {
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Relay(relay) => Pin::new(relay.as_mut()).poll_frame(cx),
            Self::Kept(turn) => turn.poll_content(cx),
            #[cfg(test)]
            Self::Frames(frames) => Poll::Ready(frames.pop_front().map(Ok)),
        }
    }
}

impl HttpBody for OutgoingBody {
    type Data = CountedBytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<CountedBytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = this.poll_content(cx);
        let mark = || this.upload().map(|upload| Arc::clone(&upload.taken));
        polled.map_ok(|frame| frame.map_data(|data| CountedBytes::new(data, mark())))
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Relay(relay) => relay.is_end_stream(),
            Self::Kept(turn) => turn.is_end_stream(),
            #[cfg(test)]
            Self::Frames(frames) => frames.is_empty(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Relay(relay) => relay.size_hint(),
            Self::Kept(turn) => turn.size_hint(),
            #[cfg(test)]
            Self::Frames(frames) => {
                SizeHint::with_exact(frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
            }
        }
    }
}

#[cfg(test)]
impl OutgoingBody {
    /// These frames, and then trailers.
    pub(crate) fn from_frames(data: Vec<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self::Frames(data.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).collect())
    }
}

/// A body that can be sent more than once, as long as what was sent of it is kept.
#[derive(Clone)]
pub(super) struct ReplaySource(Rc<RefCell<ReplayBuffer>>);

impl ReplaySource {
    /// Keeps `limit` bytes at most.
    pub(super) fn new(body: OutgoingBody, limit: usize) -> Self {
        Self(Rc::new(RefCell::new(ReplayBuffer::new(body, limit))))
    }

    /// Starts a sending from the beginning. An earlier one breaks off.
    pub(super) fn start_sending(&self) -> OutgoingBody {
        let turn = self.0.borrow_mut().next_turn();
        OutgoingBody::Kept(ReplayBody { kept: self.clone(), turn, at: 0 })
    }

    /// Whether its beginning was not kept, or it has broken off.
    pub(super) fn is_gone(&self) -> bool {
        self.0.borrow().is_gone
    }

    /// Whether what is still to come is sure to fit the limit.
    pub(super) fn fits_limit(&self) -> bool {
        let kept = self.0.borrow();
        kept.rest.size_hint().upper().is_some_and(|size| size <= kept.limit as u64)
    }

    /// Keeps nothing from now on. The next frame discards what was kept; until then a later sending may still need it.
    pub(super) fn stop_retaining(&self) {
        self.0.borrow_mut().limit = 0;
    }
}

/// A body, and what is kept of it.
struct ReplayBuffer {
    rest: OutgoingBody,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    size: usize,
    limit: usize,
    /// It has ended.
    ended: bool,
    /// Its beginning was not kept, or it has broken off.
    is_gone: bool,
    turn: u32,
    /// Woken when the next frame arrives or another sending starts.
    waiting: Option<Waker>,
}

impl ReplayBuffer {
    fn new(rest: OutgoingBody, limit: usize) -> Self {
        Self {
            rest,
            frames: Vec::new(),
            trailers: None,
            size: 0,
            limit,
            ended: false,
            is_gone: false,
            turn: 0,
            waiting: None,
        }
    }

    fn next_turn(&mut self) -> u32 {
        self.turn += 1;
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        self.turn
    }

    /// Polls the source for the next frame, and keeps it while there is room.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = self.rest.poll_content(cx) else {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.retain_data(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                }
            }
            Some(Err(_)) => self.is_gone = true,
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn retain_data(&mut self, data: &Bytes) {
        self.size += data.len();
        if self.size > self.limit {
            self.is_gone = true;
            self.frames = Vec::new();
        } else if !self.is_gone {
            self.frames.push(data.clone());
        }
    }
}

/// One sending of a kept body.
pub(crate) struct ReplayBody {
    kept: ReplaySource,
    turn: u32,
    /// How many of the kept frames have been sent.
    at: usize,
}

impl ReplayBody {
    /// What it is a sending of.
    pub(super) fn retained(&self) -> &ReplaySource {
        &self.kept
    }

    /// The progress of the body, as the client sends it.
    fn upload(&self) -> Option<Rc<UploadProgress>> {
        self.kept.0.borrow().rest.upload()
    }
}

impl ReplayBody {
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self;
        let mut kept = this.kept.0.borrow_mut();
        if kept.turn != this.turn {
            return Poll::Ready(Some(Err(BodyError::SentAgain)));
        }
        if let Some(data) = kept.frames.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if let Some(trailers) = kept.trailers.as_ref().filter(|_| this.at == kept.frames.len()) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        let polled = kept.poll(cx);
        this.at = kept.frames.len() + usize::from(kept.trailers.is_some());
        polled
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.0.borrow();
        let given = self.at >= kept.frames.len() + usize::from(kept.trailers.is_some());
        given && (kept.ended || kept.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.0.borrow();
        let left: usize = kept.frames.iter().skip(self.at).map(Bytes::len).sum();
        let rest = kept.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + left as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + left as u64);
        }
        hint
    }
}
