//! The content of a response over HTTP/1.1 on its connection, for as long as it comes.
//!
//! Content is read when it is asked for, and only then. One that ends early is an error, never an end.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::server_connection::ServerConnection;
use super::server_connection::decoder::{ChunkStep, ContentDecoder};
use super::server_connection::fault::ResponseFault;

/// The content of a response on its connection, which another owner may close.
pub(crate) struct ResponseContent {
    connection: Rc<RefCell<ServerConnection>>,
    decoder: ContentDecoder,
    /// It has broken off, and this is still to be said.
    fault: Option<ResponseFault>,
}

impl ResponseContent {
    /// The content that `decoder` tells apart on this connection.
    pub(crate) fn new(connection: &Rc<RefCell<ServerConnection>>, decoder: ContentDecoder) -> Self {
        let mut content = Self { connection: Rc::clone(connection), decoder, fault: None };
        if content.decoder == ContentDecoder::Length(0) {
            content.end_content(true);
        }
        content
    }

    /// The next frame. That content breaks off is said one poll later: what came before it is sent to the client first.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
        if let Some(fault) = self.fault.take() {
            self.decoder = ContentDecoder::Over;
            return Poll::Ready(Some(Err(fault)));
        }
        match ready!(self.poll_content(cx)) {
            Some(Err(fault)) => {
                self.connection.borrow_mut().close();
                self.fault = Some(fault);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => Poll::Ready(polled),
        }
    }

    /// Whether nothing further comes.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.decoder == ContentDecoder::Over
    }

    /// How much is still to come, as far as it is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.decoder {
            ContentDecoder::Length(left) => SizeHint::with_exact(*left),
            ContentDecoder::Over => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
        loop {
            let most = match &mut self.decoder {
                ContentDecoder::Over => return Poll::Ready(None),
                ContentDecoder::Length(left) => *left,
                ContentDecoder::UntilClose => u64::MAX,
                ContentDecoder::Chunked(chunks) => {
                    let mut connection = self.connection.borrow_mut();
                    match connection.decode_chunks(chunks)? {
                        ChunkStep::Data(left) => left,
                        ChunkStep::More => match ready!(connection.poll_more(cx)) {
                            Ok(0) => return Poll::Ready(Some(Err(ResponseFault::Ended))),
                            Ok(_) => continue,
                            Err(broken) => return Poll::Ready(Some(Err(broken.into()))),
                        },
                        ChunkStep::End(trailers) => {
                            drop(connection);
                            self.end_content(true);
                            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                        }
                    }
                }
            };
            let data = ready!(self.connection.borrow_mut().poll_content_bytes(cx, most))?;
            return Poll::Ready(self.record_data(data));
        }
    }

    /// These bytes came; none at the end of the connection.
    fn record_data(&mut self, data: Bytes) -> Option<Result<Frame<Bytes>, ResponseFault>> {
        let count = data.len() as u64;
        match &mut self.decoder {
            ContentDecoder::UntilClose if count == 0 => {
                self.end_content(false);
                return None;
            }
            _ if count == 0 => return Some(Err(ResponseFault::Ended)),
            ContentDecoder::Length(left) => {
                *left -= count;
                if *left == 0 {
                    self.end_content(true);
                }
            }
            ContentDecoder::Chunked(chunks) => chunks.record_data(count),
            ContentDecoder::UntilClose | ContentDecoder::Over => {}
        }
        Some(Ok(Frame::data(data)))
    }

    fn end_content(&mut self, reusable: bool) {
        self.decoder = ContentDecoder::Over;
        self.connection.borrow_mut().end_response(reusable);
    }
}
