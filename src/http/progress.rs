//! The progress of one exchange: when its request's body and its response moved last, and how long each may stand still.
//!
//! What counts is whether the exchange moves, in either direction. A stream (`text/event-stream`, gRPC) may be silent for as long as
//! it likes; that its client is there is known from the connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::activity::StreamActivity;
use super::taken::TakenMark;
use crate::clock::deadlines::{Ticks, WaitTable};
use crate::snapshot::ingress::{DEFAULT_ANSWER_IDLE, ListenerLimits};

/// What kind of messages a body carries, as far as its pauses are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentKind {
    /// One message.
    Whole,
    /// Events without end; gRPC-Web, whose status is part of its content, too.
    Events,
    /// gRPC: messages in both directions, ended by trailers with a status.
    Grpc,
}

impl ContentKind {
    /// By `Content-Type`.
    pub(crate) fn of_fields(fields: &HeaderMap) -> Self {
        let Some(value) = fields.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes) else { return Self::Whole };
        let begins_with = |kind: &[u8]| {
            value.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind))
                && value.get(kind.len()).is_none_or(|next| matches!(next, b';' | b' ' | b'+' | b'\t'))
        };
        if begins_with(b"application/grpc") {
            Self::Grpc
        } else if begins_with(b"text/event-stream") || value.starts_with(b"application/grpc-web") {
            Self::Events
        } else {
            Self::Whole
        }
    }
}

/// How long a response may stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnswerPatience {
    pub(crate) limit: Duration,
    /// It may for as long as the client has not ended its sending: `limit` is only for what comes after that.
    pub(crate) endless: bool,
}

impl AnswerPatience {
    /// By the limits, and what the response carries.
    pub(crate) fn new(limits: &ListenerLimits, kind: ContentKind) -> Self {
        Self {
            limit: limits.answer_idle.unwrap_or(DEFAULT_ANSWER_IDLE),
            endless: limits.answer_idle.is_none() && kind != ContentKind::Whole,
        }
    }
}

/// The limit that ended a body: a request's, or a response's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLimit {
    /// `body_idle`.
    Idle,
    /// `upload_rate`.
    Rate,
    /// `answer_idle`.
    Answer,
}

impl BodyLimit {
    /// The key of the limit.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Idle => "body_idle",
            Self::Rate => "upload_rate",
            Self::Answer => "answer_idle",
        }
    }
}

/// The progress of a request's body, for what waits for the response and for the response itself.
pub(crate) struct UploadProgress {
    /// The error that hyper makes of it does not say so in every protocol.
    ended_by: Cell<Option<BodyLimit>>,
    /// Whether more of it has been asked for and is not there: how long that may take is `body_idle`'s.
    awaited: Cell<bool>,
    /// When a part of it, or its end, was last handed on.
    moved: Cell<Ticks>,
    /// When bytes of it were last taken by the other side.
    pub(crate) taken: Arc<TakenMark>,
    /// When the response moved last.
    answered: Cell<Ticks>,
    /// Whether the exchange may be silent for as long as it likes.
    endless: Cell<bool>,
    /// Whether it was sent because nothing asked for it in time.
    unasked: Cell<bool>,
    /// The client's connection.
    client: RefCell<Option<Arc<StreamActivity>>>,
}

impl UploadProgress {
    pub(crate) fn new(waits: &Rc<WaitTable>) -> Rc<Self> {
        Rc::new(Self {
            ended_by: Cell::new(None),
            awaited: Cell::new(false),
            moved: Cell::new(waits.now()),
            taken: TakenMark::new(waits),
            answered: Cell::new(waits.now()),
            endless: Cell::new(false),
            unasked: Cell::new(false),
            client: RefCell::new(None),
        })
    }

    /// The connection of the client, whose PINGs show that it is there.
    pub(crate) fn set_client(&self, client: &Arc<StreamActivity>) {
        *self.client.borrow_mut() = Some(Arc::clone(client));
    }

    /// The limit that ended it.
    pub(crate) fn ended_by(&self) -> Option<BodyLimit> {
        self.ended_by.get()
    }

    /// Records the limit that ended it.
    pub(super) fn end_by(&self, limit: BodyLimit) {
        self.ended_by.set(Some(limit));
    }

    /// Records that more of it has been asked for and is not there.
    pub(super) fn await_more(&self) {
        self.awaited.set(true);
    }

    /// Records that a part of it moved, or that it is sent again: earlier waiting does not count.
    pub(crate) fn record_progress(&self, now: Ticks) {
        self.awaited.set(false);
        self.moved.set(now);
    }

    /// Records that the response moved.
    pub(crate) fn record_answer(&self, now: Ticks) {
        self.answered.set(now);
    }

    /// The exchange may be silent for as long as it likes.
    pub(crate) fn set_endless(&self) {
        self.endless.set(true);
    }

    /// Whether the exchange may be silent for as long as it likes.
    pub(super) fn is_endless(&self) -> bool {
        self.endless.get()
    }

    /// Records that it was sent because nothing asked for it in time (`Expect: 100-continue`).
    pub(super) fn set_unasked(&self) {
        self.unasked.set(true);
    }

    /// Whether it was sent because nothing asked for it in time.
    pub(crate) fn was_unasked(&self) -> bool {
        self.unasked.get()
    }

    /// Since when only the response is awaited.
    pub(crate) fn response_awaited_since(&self, now: Ticks) -> Ticks {
        if self.awaited.get() { now } else { self.last_upload() }
    }

    /// When the upload moved last: from the client, or to the other side.
    pub(crate) fn last_upload(&self) -> Ticks {
        self.moved.get().max(self.taken.last())
    }

    /// When anything moved last, or the client showed that it is there.
    pub(super) fn last_activity(&self) -> Ticks {
        let pinged = self.client.borrow().as_ref().map(|client| client.last_ping()).unwrap_or_default();
        self.last_upload().max(self.answered.get()).max(pinged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn kind(value: &'static str) -> ContentKind {
        ContentKind::of_fields(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
    }

    #[test]
    fn streams_are_told_by_their_content_type() {
        for grpc in ["application/grpc", "application/grpc+proto", "Application/gRPC; charset=utf-8"] {
            assert_eq!(kind(grpc), ContentKind::Grpc, "{grpc}");
        }
        for events in ["text/event-stream", "text/event-stream;charset=utf-8", "application/grpc-web+proto"] {
            assert_eq!(kind(events), ContentKind::Events, "{events}");
        }
        for whole in ["application/grpcs", "application/json", "text/event-streams", ""] {
            assert_eq!(kind(whole), ContentKind::Whole, "{whole}");
        }
        assert_eq!(ContentKind::of_fields(&HeaderMap::new()), ContentKind::Whole);
    }

    #[test]
    fn streams_may_be_silent_unless_the_limit_is_set() {
        let unset = ListenerLimits::default();
        let set = ListenerLimits { answer_idle: Some(Duration::from_secs(7)), ..ListenerLimits::default() };
        for kind in [ContentKind::Events, ContentKind::Grpc] {
            assert!(AnswerPatience::new(&unset, kind).endless);
            assert!(!AnswerPatience::new(&set, kind).endless);
        }
        let whole = AnswerPatience::new(&unset, ContentKind::Whole);
        assert_eq!(whole, AnswerPatience { limit: Duration::from_secs(300), endless: false });
        assert_eq!(AnswerPatience::new(&set, ContentKind::Whole).limit, Duration::from_secs(7));
    }

    #[test]
    fn either_direction_and_a_ping_keep_an_upload() {
        let waits = Rc::new(WaitTable::default());
        let upload = UploadProgress::new(&waits);
        let client = Arc::<StreamActivity>::default();
        upload.set_client(&client);
        upload.record_progress(Ticks(3));
        assert_eq!(upload.last_activity(), Ticks(3));
        upload.record_answer(Ticks(9));
        assert_eq!((upload.last_activity(), upload.last_upload()), (Ticks(9), Ticks(3)));
        client.record_ping(Ticks(12));
        assert_eq!(upload.last_activity(), Ticks(12));
        waits.tick(Ticks(20));
        upload.taken.record();
        assert_eq!((upload.last_activity(), upload.response_awaited_since(Ticks(25))), (Ticks(20), Ticks(20)));
    }
}
