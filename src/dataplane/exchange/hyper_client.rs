//! Requests over HTTP/1.1 that hyper sends: those with content, and upgrades.
//!
//! A small exchange polls the connection in the request's own task. As soon as a body of any size flows, the connection gets a
//! task of its own and keeps it, so that both directions move independently.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;

use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use super::request_body::OutgoingBody;
use super::response_wait::ResponseWait;
use crate::dataplane::connection::{ConnectionState, poll_close_signal};
use crate::http::broken::BrokenExchange;
use crate::http::content::MessageContent;
use crate::http::error::RequestError as Error;
use crate::http::interim::InterimWatch;
use crate::http::server_connection::ByteStream;

/// A response's head may be as large as a request's.
const MAX_RESPONSE_HEAD_BYTES: usize = 64 * 1024;

/// A connection's own future, while it has no task of its own.
type ConnectionFuture = Pin<Box<dyn Future<Output = ()>>>;

/// hyper's end of a connection.
pub(super) struct HyperClient {
    sender: http1::SendRequest<OutgoingBody>,
    drive: Option<ConnectionFuture>,
    dead: bool,
}

impl HyperClient {
    /// Starts on a stream that stands between two requests; `open` tells it when to close.
    pub(super) async fn start(stream: Box<dyn ByteStream>, open: Option<Rc<ConnectionState>>) -> Result<Self, Error> {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_RESPONSE_HEAD_BYTES)
            // RFC 9112 5.1: a proxy removes the blank between name and colon of a response.
            .allow_spaces_after_header_name_in_responses(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(BrokenExchange::from)?;
        let mut connection = connection.with_upgrades();
        let drive: ConnectionFuture = Box::pin(poll_fn(move |cx| match poll_close_signal(open.as_ref(), cx) {
            // The request that it carried reports how it ended.
            std::task::Poll::Pending => Pin::new(&mut connection).poll(cx).map(drop),
            closed => closed,
        }));
        Ok(Self { sender, drive: Some(drive), dead: false })
    }

    /// Polls the connection within the caller's task; false if it has a task of its own.
    pub(super) fn poll_drive(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(drive) = &mut self.drive else { return false };
        if drive.as_mut().poll(cx).is_ready() {
            self.drive = None;
            self.dead = true;
        }
        true
    }

    /// Gives the connection a task of its own.
    pub(super) fn detach(&mut self) {
        if let Some(drive) = self.drive.take() {
            spawn_local(drive);
        }
    }

    /// Sends the request and waits for the head of its response; `None` where that does not come in time. A request that could
    /// not be sent is put back.
    pub(super) async fn exchange(
        &mut self,
        request: &mut Option<Request<OutgoingBody>>,
        wait: &mut ResponseWait,
    ) -> Option<Result<Response<MessageContent>, Error>> {
        let mut shaped = request.take()?;
        InterimWatch::hand_to_hyper(&mut shaped);
        let (drive, dead) = (&mut self.drive, &mut self.dead);
        let mut response = std::pin::pin!(self.sender.try_send_request(shaped));
        let sent = poll_fn(|cx| {
            if let Some(running) = drive
                && running.as_mut().poll(cx).is_ready()
            {
                *drive = None;
                *dead = true;
            }
            wait.poll_within(response.as_mut().poll(cx), cx)
        })
        .await;
        sent.map(|answer| {
            answer.map(|response| response.map(MessageContent::from)).map_err(|mut failed| {
                *request = failed.take_message();
                Error::Exchange(failed.into_error().into())
            })
        })
    }

    /// Whether it can carry a request now.
    pub(super) fn is_ready(&self) -> bool {
        !self.dead && self.sender.is_ready()
    }

    /// Whether it never will again.
    pub(super) fn is_closed(&self) -> bool {
        self.dead || self.sender.is_closed()
    }

    /// Waits until it can carry a request; false where it never will.
    pub(super) async fn await_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}
