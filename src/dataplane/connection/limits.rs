//! The limits of a connection: how long each may take, which was reached, and what is watched for that.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use crate::clock::deadlines::Ticks;
use crate::dataplane::drain::DrainCause;
use crate::http::activity::StreamActivity;

/// How long things may take on a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimeouts {
    /// A request head, or a header block, that has begun; `None` for connections to upstreams, which send none.
    pub(crate) head: Option<Duration>,
    /// Whether requests share it: a header block does not mean that no other request runs.
    pub(crate) http2: bool,
    /// Without a request; `None` for connections to upstreams, which their pool lets go.
    pub(crate) idle: Option<Duration>,
    /// What we write is not read by the other side.
    pub(crate) unread: Duration,
    /// From its start to its drain, where the age of connections is limited.
    pub(crate) age: Option<Duration>,
    /// From the start of an urgent drain to its end. After a take-over, until a busy connection of HTTP/2 is told to leave at
    /// a moment without a request, and half of the time until it is told in any case.
    pub(crate) drain: Duration,
    /// From the start of a planned drain until it becomes urgent.
    pub(crate) drain_planned: Duration,
}

/// A limit of a connection that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionLimit {
    /// A request head.
    Head,
    /// A header block of HTTP/2.
    Block,
    /// No request.
    Idle,
    /// The other side reads nothing of what we wrote.
    Unread,
}

impl ConnectionLimit {
    /// A stable code for the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Head => "head_late",
            Self::Block => "header_block_late",
            Self::Idle => "idle",
            Self::Unread => "body_unread",
        }
    }

    /// The key of the limit.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Head | Self::Block => "head",
            Self::Idle => "idle",
            Self::Unread => "body_idle",
        }
    }
}

impl fmt::Display for ConnectionLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Head => "the request head was not completed in time (limits.head)",
            Self::Block => "the header block was not completed in time (limits.head)",
            Self::Idle => "no request arrived within the idle limit (limits.idle)",
            Self::Unread => "the other side does not read what was sent (limits.body_idle)",
        })
    }
}

/// What a tick found about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TickOutcome {
    /// It drains, and why.
    Leave(DrainCause),
    /// It drains because of its age.
    TooOld(DrainCause),
    /// It is closed for this limit.
    Limit(ConnectionLimit),
    /// Its drain has reached its deadline, and something still runs on it.
    Cut,
    /// The same, because the process stops: it is counted.
    CutByStop,
}

/// Since when a connection has been in a state that may last only so long.
#[derive(Default)]
pub(super) struct LimitWatch {
    blocked_since: Cell<Option<Ticks>>,
    /// The head that has begun, and since when: the stream's number on HTTP/2, so that many quick ones are not one slow one.
    head_since: Cell<Option<(u32, Ticks)>>,
}

impl LimitWatch {
    /// Whether the other side has read nothing of what we want to write for too long.
    pub(super) fn is_unread(&self, activity: &StreamActivity, timeouts: &ConnectionTimeouts, ticks: Ticks) -> bool {
        if !activity.is_blocked() {
            self.blocked_since.set(None);
            return false;
        }
        let since = self.blocked_since.get().filter(|_| !activity.take_written());
        match since {
            Some(since) => ticks.ticks_since(since) >= Ticks::from_duration(timeouts.unread),
            None => {
                self.blocked_since.set(Some(ticks));
                false
            }
        }
    }

    /// Whether a request head, or a header block, that has begun is late.
    pub(super) fn head_is_late(&self, activity: &StreamActivity, timeouts: &ConnectionTimeouts, ticks: Ticks) -> bool {
        let Some(limit) = timeouts.head else { return false };
        let head = if timeouts.http2 { activity.open_block() } else { activity.has_received().then_some(0) };
        match (head, self.head_since.get()) {
            (Some(head), Some((begun, since))) if head == begun => {
                ticks.ticks_since(since) >= Ticks::from_duration(limit)
            }
            (head, _) => {
                self.head_since.set(head.map(|head| (head, ticks)));
                false
            }
        }
    }

    /// A request has ended: what comes from now on is another head.
    pub(super) fn forget_head(&self) {
        self.head_since.set(None);
    }
}
