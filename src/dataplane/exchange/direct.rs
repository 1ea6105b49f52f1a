//! A request without content over HTTP/1.1, exchanged in its own task: nothing is spawned, and no other task is woken.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Response};

use super::request_body::OutgoingBody;
use super::response_wait::ResponseWait;
use crate::dataplane::connection::{ConnectionState, poll_close_signal};
use crate::http::content::MessageContent;
use crate::http::response_content::ResponseContent;
use crate::http::server_connection::ServerConnection;
use crate::http::server_connection::fault::ResponseFault;

/// Sends the request and waits for the head of its response; `None` where that does not come in time. The request stays, for the
/// case that it is to be sent again; `open` tells when to close.
pub(super) async fn exchange_directly(
    connection: &Rc<RefCell<ServerConnection>>,
    open: Option<&Rc<ConnectionState>>,
    request: &mut Request<OutgoingBody>,
    wait: &mut ResponseWait,
) -> Option<Result<Response<MessageContent>, ResponseFault>> {
    connection.borrow_mut().begin_request(request);
    let answered = poll_fn(|cx| {
        if poll_close_signal(open, cx).is_ready() {
            connection.borrow_mut().close();
            return Poll::Ready(Some(Err(ResponseFault::Ended)));
        }
        let polled = connection.borrow_mut().poll_response(request, cx);
        wait.poll_within(polled, cx)
    })
    .await?;
    let (response, decoder) = match answered {
        Ok(answered) => answered,
        Err(fault) => return Some(Err(fault)),
    };
    let content = ResponseContent::new(connection, decoder);
    Some(Ok(response.map(|()| MessageContent::Http1(content))))
}
