//! A body on its way through, in either direction: streamed frame by frame, with its limits and its trailers cleaned.
//!
//! Back-pressure is the absence of a buffer here: a frame is taken from one side when the other asks for it. A body that
//! breaks off ends in an error, never cleanly, so that half a message is never taken for a whole one.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::activity::StreamActivity;
use super::broken::BrokenExchange;
use super::content::MessageContent;
use super::expect::{BodyHold, ContinueGate};
use super::fields::{StripList, clean_trailers};
use super::progress::{AnswerPatience, BodyLimit, UploadProgress};
use crate::clock::deadlines::{TICK, Ticks, WaitTable, WaitTimer};
use crate::snapshot::ingress::ListenerLimits;

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The side it comes from broke it off.
    #[error(transparent)]
    Source(#[from] BrokenExchange),
    /// No part of it came for too long.
    #[error("the body timed out")]
    Late,
    /// It comes, but too slowly.
    #[error("the body is sent too slowly")]
    Slow,
    /// The connection that it goes to is closed by the sidecar.
    #[error("the connection is closed at the end of its drain")]
    Cut,
    /// The other side never asked for it.
    #[error("the body was never requested")]
    Unasked,
    /// The request is sent again on another connection.
    #[error("the request is being retried on another connection")]
    SentAgain,
}

/// A body on its way through.
pub(crate) struct BodyRelay {
    incoming: MessageContent,
    /// Holds it back until it is requested.
    held: Option<Box<BodyHold>>,
    wait: WaitTimer,
    strip: Rc<StripList>,
    direction: RelayDirection,
}

/// Where a body goes, and what limits it on the way.
enum RelayDirection {
    Upload { progress: Rc<UploadProgress>, rate: Option<RateWatch> },
    Answer(AnswerWatch),
}

/// What limits a response.
pub(crate) struct AnswerWatch {
    pub(crate) patience: AnswerPatience,
    /// The request's body, which may still be on its way.
    pub(crate) upload: Option<Rc<UploadProgress>>,
    /// The client's connection.
    pub(crate) client: Arc<StreamActivity>,
    /// The client had ended its sending when this was last looked at.
    pub(crate) ended: bool,
}

impl AnswerWatch {
    /// Since when it stands still.
    fn still_since(&mut self, now: Ticks) -> Ticks {
        if !self.patience.endless {
            return self.upload.as_ref().map_or(Ticks::default(), |upload| upload.last_upload());
        }
        if std::mem::replace(&mut self.ended, self.client.has_ended()) { Ticks::default() } else { now }
    }
}

/// Measures how fast an upload comes, by the time that is spent waiting for it.
struct RateWatch {
    /// Bytes of one period, at least.
    least: u64,
    /// In ticks.
    period: u32,
    bytes: u64,
    waited: u32,
    waits_since: Option<Ticks>,
}

impl RateWatch {
    fn new(limits: &ListenerLimits) -> Option<Self> {
        let period = Ticks::from_duration(limits.body_idle).max(1);
        let least = (limits.upload_rate? as u64).saturating_mul(u64::from(period)) * TICK.as_millis() as u64 / 1000;
        Some(Self { least, period, bytes: 0, waited: 0, waits_since: None })
    }

    /// So many bytes came; false if they came too slowly.
    fn record_bytes(&mut self, bytes: usize, now: Ticks) -> bool {
        self.waited += self.waits_since.take().map_or(0, |since| now.ticks_since(since));
        self.bytes += bytes as u64;
        if self.waited < self.period {
            return true;
        }
        let enough = self.bytes >= self.least;
        (self.bytes, self.waited) = (0, 0);
        enough
    }
}

impl BodyRelay {
    /// A request's body, whose progress is recorded in `progress`.
    pub(crate) fn from_request(
        incoming: MessageContent,
        (limits, waits, strip): (&ListenerLimits, &Rc<WaitTable>, &Rc<StripList>),
        progress: &Rc<UploadProgress>,
    ) -> Self {
        let direction = RelayDirection::Upload { progress: Rc::clone(progress), rate: RateWatch::new(limits) };
        Self::new(incoming, limits.body_idle, (waits, strip), direction)
    }

    /// A response's body.
    pub(crate) fn from_response(
        incoming: MessageContent,
        (waits, strip): (&Rc<WaitTable>, &Rc<StripList>),
        watch: AnswerWatch,
    ) -> Self {
        Self::new(incoming, watch.patience.limit, (waits, strip), RelayDirection::Answer(watch))
    }

    fn new(
        incoming: MessageContent,
        idle: Duration,
        (waits, strip): (&Rc<WaitTable>, &Rc<StripList>),
        direction: RelayDirection,
    ) -> Self {
        Self { incoming, held: None, wait: WaitTimer::new(waits, idle), strip: Rc::clone(strip), direction }
    }

    /// Holds it back until it is asked for.
    pub(crate) fn with_hold(mut self, held: BodyHold) -> Self {
        self.held = Some(Box::new(held));
        self
    }

    /// What holds the body back, if anything does.
    pub(crate) fn gate(&self) -> Option<&Arc<ContinueGate>> {
        self.held.as_ref().map(|held| held.gate())
    }

    /// The progress of a request's body: its own, or that of the request that it answers.
    pub(crate) fn upload(&self) -> Option<&Rc<UploadProgress>> {
        match &self.direction {
            RelayDirection::Upload { progress, .. } => Some(progress),
            RelayDirection::Answer(watch) => watch.upload.as_ref(),
        }
    }

    /// A frame came, or the end; false if it came too slowly.
    fn record_frame(&mut self, frame: Option<&Frame<Bytes>>) -> bool {
        self.wait.reset();
        let now = self.wait.now();
        match &mut self.direction {
            RelayDirection::Answer(watch) => {
                if let Some(upload) = &watch.upload {
                    upload.record_answer(now);
                }
                true
            }
            RelayDirection::Upload { progress, rate } => {
                progress.record_progress(now);
                let Some(rate) = rate.as_mut().filter(|_| !progress.is_endless()) else { return true };
                let bytes = frame.and_then(Frame::data_ref).map_or(0, Bytes::len);
                let enough = rate.record_bytes(bytes, now) || frame.is_none();
                if !enough {
                    progress.end_by(BodyLimit::Rate);
                }
                enough
            }
        }
    }

    /// Called where no frame is there: true if that has been so for too long.
    fn check_late(&mut self, cx: &Context<'_>) -> bool {
        match &mut self.direction {
            RelayDirection::Answer(watch) => self.wait.check_late_since(|now| watch.still_since(now), cx),
            RelayDirection::Upload { progress, rate } => {
                if let Some(rate) = rate {
                    rate.waits_since.get_or_insert(self.wait.now());
                }
                let since = |now| if progress.is_endless() { now } else { progress.last_activity() };
                if self.wait.check_late_since(since, cx) {
                    progress.end_by(BodyLimit::Idle);
                    return true;
                }
                progress.await_more();
                false
            }
        }
    }
}

impl HttpBody for BodyRelay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(held) = &mut this.held {
            if !ready!(held.poll(cx)) {
                return Poll::Ready(Some(Err(BodyError::Unasked)));
            }
            if let RelayDirection::Upload { progress, .. } = &this.direction
                && held.is_late()
            {
                progress.set_unasked();
            }
            this.held = None;
        }
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Err(broken))) => {
                this.record_frame(None);
                Poll::Ready(Some(Err(broken.into())))
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if !this.record_frame(Some(&frame)) {
                    return Poll::Ready(Some(Err(BodyError::Slow)));
                }
                if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers, &this.strip);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.record_frame(None);
                Poll::Ready(None)
            }
            Poll::Pending if this.check_late(cx) => Poll::Ready(Some(Err(BodyError::Late))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate_watch(rate: usize) -> RateWatch {
        RateWatch::new(&ListenerLimits { upload_rate: Some(rate), ..ListenerLimits::default() }).unwrap()
    }

    /// A byte comes after each of these seconds of waiting; the byte that was too slow.
    fn too_slow_at(mut rate: RateWatch, pauses: &[u64]) -> Option<usize> {
        let mut now = 0;
        pauses.iter().position(|seconds| {
            rate.waits_since.get_or_insert(Ticks(now));
            now += Ticks::from_duration(Duration::from_secs(*seconds));
            !rate.record_bytes(1, Ticks(now))
        })
    }

    #[test]
    fn an_upload_is_too_slow_once_a_whole_period_was_spent_waiting_for_too_few_bytes() {
        assert_eq!(too_slow_at(rate_watch(1), &[10, 10, 9]), None);
        assert_eq!(too_slow_at(rate_watch(1), &[10, 10, 10]), Some(2));
        assert_eq!(too_slow_at(rate_watch(1), &[1; 40]), None);
        assert!(RateWatch::new(&ListenerLimits::default()).is_none());
    }

    #[test]
    fn the_time_in_which_the_other_side_does_not_take_an_upload_is_not_the_clients() {
        let mut rate = rate_watch(1024);
        assert!(rate.record_bytes(1, Ticks(0)));
        assert!(rate.record_bytes(1, Ticks(10_000)), "nothing waited for it meanwhile");
    }
}
