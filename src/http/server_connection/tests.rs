//! What must hold: a response is told apart from what follows it however its bytes arrive, and a connection carries another
//! request only where nothing of the last response is left on it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use http::header::{CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use proptest::prelude::*;
use tokio::io::ReadBuf;

use super::*;
use crate::http::response_content::ResponseContent;

/// A server that answers with these parts, one at a time, once it has received something; then it ends, or is silent.
struct ScriptedServer {
    parts: VecDeque<Vec<u8>>,
    ends: bool,
    waited: bool,
    received: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for ScriptedServer {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.received.lock().unwrap().is_empty() || !std::mem::replace(&mut this.waited, true) {
            return Poll::Pending;
        }
        this.waited = false;
        let Some(part) = this.parts.front_mut() else {
            return if this.ends { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let count = part.len().min(buf.remaining());
        buf.put_slice(&part[..count]);
        part.drain(..count);
        if part.is_empty() {
            this.parts.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ScriptedServer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let part = &buf[..buf.len().min(100)];
        self.received.lock().unwrap().extend_from_slice(part);
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What came of one exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ExchangeOutcome {
    status: Option<u16>,
    content: String,
    trailers: usize,
    /// It broke off.
    broken: bool,
    /// The response was malformed.
    malformed: bool,
    reusable: bool,
}

fn connect(parts: &[&[u8]], ends: bool) -> (Rc<RefCell<ServerConnection>>, Arc<Mutex<Vec<u8>>>) {
    let received = Arc::<Mutex<Vec<u8>>>::default();
    let parts = parts.iter().map(|part| part.to_vec()).collect();
    let server = ScriptedServer { parts, ends, waited: false, received: Arc::clone(&received) };
    (Rc::new(RefCell::new(ServerConnection::new(server))), received)
}

fn request(method: &str) -> Request<()> {
    Request::builder().method(method).uri("/a?b=c").header(HOST, "api.example").body(()).unwrap()
}

/// Polls until it is ready; a server that is silent for long is a fault of the test.
fn settle<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let mut cx = Context::from_waker(Waker::noop());
    (0..5_000).find_map(|_| if let Poll::Ready(ready) = poll(&mut cx) { Some(ready) } else { None })
}

fn exchange(method: &str, parts: &[&[u8]], ends: bool) -> ExchangeOutcome {
    let (connection, _) = connect(parts, ends);
    let (mut asked, mut outcome) = (request(method), ExchangeOutcome::default());
    let record_fault = |fault: &ResponseFault| (true, matches!(fault, ResponseFault::Malformed(_)));
    connection.borrow_mut().begin_request(&asked);
    match settle(|cx| connection.borrow_mut().poll_response(&mut asked, cx)).expect("a head, or an end") {
        Err(fault) => (outcome.broken, outcome.malformed) = record_fault(&fault),
        Ok((response, decoder)) => {
            outcome.status = Some(response.status().as_u16());
            let mut content = ResponseContent::new(&connection, decoder);
            while let Some(frame) = settle(|cx| content.poll_frame(cx)).expect("content, or an end") {
                match frame {
                    Ok(frame) if frame.is_trailers() => outcome.trailers = frame.trailers_ref().unwrap().len(),
                    Ok(frame) => outcome.content += std::str::from_utf8(frame.data_ref().unwrap()).unwrap(),
                    Err(fault) => (outcome.broken, outcome.malformed) = record_fault(&fault),
                }
            }
        }
    }
    outcome.reusable = connection.borrow().is_reusable();
    outcome
}

/// How an exchange ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResponseEnd {
    Reusable,
    Spent,
    Broken,
    Malformed,
}
use ResponseEnd::{Broken, Malformed, Reusable, Spent};

/// Method, what the server sends, whether it then ends; and status, content, trailers, and what becomes of the connection.
type ResponseRow = (&'static str, &'static str, bool, u16, &'static str, usize, ResponseEnd);

const ROWS: &[ResponseRow] = &[
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", false, 200, "hello", 0, Reusable),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false, 200, "", 0, Reusable),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length : 5, 5\r\n\r\nhello", false, 200, "hello", 0, Reusable),
    ("GET", "\r\nHTTP/1.1 200\ncontent-length: 2\n\nhi", false, 200, "hi", 0, Reusable),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!", false, 200, "hello", 0, Spent),
    ("GET", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", false, 200, "hi", 0, Spent),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nconnection: x\r\nconnection: a, Close\r\ncontent-length: 2\r\n\r\nhi",
        false,
        200,
        "hi",
        0,
        Spent,
    ),
    ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", false, 200, "hi", 0, Spent),
    ("GET", "HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 2\r\n\r\nhi", false, 200, "hi", 0, Reusable),
    ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false, 200, "", 0, Reusable),
    ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false, 200, "", 0, Reusable),
    ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", false, 204, "", 0, Reusable),
    ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n", false, 304, "", 0, Reusable),
    (
        "GET",
        "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 204 \r\n\r\n",
        false,
        204,
        "",
        0,
        Reusable,
    ),
    ("GET", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", false, 101, "", 0, Spent),
    ("GET", "HTTP/1.1 200 OK\r\n\r\nall of it", true, 200, "all of it", 0, Spent),
    ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nall", true, 200, "all", 0, Spent),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        false,
        200,
        "hello",
        0,
        Reusable,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\ncontent-length: 9\r\n\r\n0005 ;a=b\r\nhello\r\nA\r\n, worlds! \r\n0\r\nx: 1\r\ny: 2\r\n\r\n",
        false,
        200,
        "hello, worlds! ",
        2,
        Reusable,
    ),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", true, 200, "hel", 0, Broken),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-le", true, 0, "", 0, Broken),
    ("GET", "", true, 0, "", 0, Broken),
    ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", true, 200, "hello", 0, Broken),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
        true,
        200,
        "hello",
        0,
        Malformed,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        true,
        200,
        "",
        0,
        Malformed,
    ),
    ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", true, 200, "", 0, Malformed),
    ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\n", true, 200, "", 0, Malformed),
    ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nno field\r\n\r\n", true, 200, "", 0, Malformed),
    ("GET", "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", true, 0, "", 0, Malformed),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", true, 0, "", 0, Malformed),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello", true, 0, "", 0, Malformed),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", true, 0, "", 0, Malformed),
    ("GET", "HTTP/1.1 99 Low\r\n\r\n", true, 0, "", 0, Malformed),
    ("GET", "HTTP/2.0 200 OK\r\n\r\n", true, 0, "", 0, Malformed),
    ("GET", "SSH-2.0-OpenSSH_9.2\r\n\r\n", true, 0, "", 0, Malformed),
    ("GET", "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", true, 0, "", 0, Malformed),
    ("GET", "HTTP/1.1 200 OK\r\na: \u{1}\r\n\r\n", true, 0, "", 0, Malformed),
];

fn expected(row: &ResponseRow) -> ExchangeOutcome {
    let (_, _, _, status, content, trailers, end) = *row;
    let (status, content) = ((status > 0).then_some(status), content.to_owned());
    let (malformed, reusable) = (end == Malformed, end == Reusable);
    ExchangeOutcome { status, content, trailers, broken: malformed || end == Broken, malformed, reusable }
}

#[test]
fn a_response_is_read_to_its_end_and_no_further_whole_or_byte_by_byte() {
    for row in ROWS {
        let (method, sent, ends, ..) = *row;
        assert_eq!(exchange(method, &[sent.as_bytes()], ends), expected(row), "{method} {sent:?}");
        let bytes: Vec<&[u8]> = sent.as_bytes().chunks(1).collect();
        let (apart, mut wanted) = (exchange(method, &bytes, ends), expected(row));
        // What follows a response may not have come yet when the next request looks for it.
        wanted.reusable |= apart.reusable && sent.ends_with('!');
        assert_eq!(apart, wanted, "{method} {sent:?}, byte by byte");
    }
}

proptest! {
    #[test]
    fn how_the_bytes_of_a_response_arrive_changes_nothing(row in 0..ROWS.len(), cuts in proptest::collection::vec(0usize..200, 0..6)) {
        let (method, sent, ends, ..) = ROWS[row];
        let mut places: Vec<usize> = cuts.into_iter().map(|cut| cut.min(sent.len())).chain([0, sent.len()]).collect();
        places.sort_unstable();
        let parts: Vec<&[u8]> = places.windows(2).map(|pair| &sent.as_bytes()[pair[0]..pair[1]]).filter(|part| !part.is_empty()).collect();
        let (outcome, mut wanted) = (exchange(method, &parts, ends), expected(&ROWS[row]));
        wanted.reusable |= outcome.reusable && sent.ends_with('!');
        prop_assert_eq!(outcome, wanted);
    }
}

#[test]
fn a_head_and_a_trailer_section_are_bounded_in_bytes_and_fields() {
    let fields = |count: usize, value: usize| {
        (0..count).map(|number| format!("x-{number}: {}\r\n", "y".repeat(value))).collect::<String>()
    };
    let of_head = |fields: String| exchange("GET", &[format!("HTTP/1.1 204 x\r\n{fields}\r\n").as_bytes()], false);
    assert_eq!(of_head(fields(100, 1)).status, Some(204));
    assert!(of_head(fields(101, 1)).malformed);
    assert!(of_head(fields(50, 2000)).malformed);
    assert!(exchange("GET", &[&b"HTTP/1.1 200 "[..], &vec![b'x'; 2 * MAX_HEAD_BYTES]], false).malformed);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let trailed = |fields: String| exchange("GET", &[format!("{chunked}0\r\n{fields}\r\n").as_bytes()], false);
    assert_eq!(trailed(fields(100, 1)).trailers, 100);
    assert!(trailed(fields(101, 1)).malformed);
    assert!(trailed(fields(50, 2000)).malformed);
    let endless = format!("{chunked}1;{}", "x".repeat(20_000));
    assert!(exchange("GET", &[endless.as_bytes()], false).malformed);
    let many = format!("{chunked}{}", format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(20));
    assert!(exchange("GET", &[many.as_bytes()], false).malformed);
}

#[test]
fn a_request_goes_out_as_it_is_and_its_map_serves_the_response() {
    let (connection, received) =
        connect(&[b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: 0\r\n\r\n"], false);
    let mut asked = request("DELETE");
    asked.headers_mut().append(TRANSFER_ENCODING, "chunked".parse().unwrap());
    asked.headers_mut().append("x-long", "y".repeat(300).parse().unwrap());
    connection.borrow_mut().begin_request(&asked);
    let (response, _) = settle(|cx| connection.borrow_mut().poll_response(&mut asked, cx)).unwrap().unwrap();
    let sent = String::from_utf8(received.lock().unwrap().clone()).unwrap();
    assert_eq!(sent, format!("DELETE /a?b=c HTTP/1.1\r\nhost: api.example\r\nx-long: {}\r\n\r\n", "y".repeat(300)));
    assert_eq!(response.headers().keys().collect::<Vec<_>>(), ["content-type", "content-length"]);
    assert_eq!(response.headers()[CONTENT_TYPE], "a/b");
}

#[test]
fn nothing_is_sent_on_a_connection_that_the_server_has_closed_or_used() {
    for parts in [&[][..], &[&b"HTTP/1.1 408 Request Timeout\r\n\r\n"[..]]] {
        let (connection, received) = connect(parts, true);
        // The server need not wait for a request.
        received.lock().unwrap().push(b'x');
        let mut cx = Context::from_waker(Waker::noop());
        assert!(connection.borrow_mut().poll_silent(&mut cx), "nothing has come yet");
        let mut asked = request("GET");
        connection.borrow_mut().begin_request(&asked);
        let polled = connection.borrow_mut().poll_response(&mut asked, &mut cx);
        assert!(matches!(polled, Poll::Ready(Err(ResponseFault::Ended))));
        assert!(!connection.borrow().has_sent() && received.lock().unwrap().len() == 1);
        assert!(asked.headers().contains_key(HOST), "the request is whole");
    }
}

#[test]
fn a_stream_is_given_away_only_between_two_requests() {
    let (connection, _) = connect(&[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"], false);
    let mut asked = request("GET");
    connection.borrow_mut().begin_request(&asked);
    assert!(connection.borrow_mut().release_stream().is_none());
    let (_, decoder) = settle(|cx| connection.borrow_mut().poll_response(&mut asked, cx)).unwrap().unwrap();
    let mut content = ResponseContent::new(&connection, decoder);
    assert!(connection.borrow_mut().release_stream().is_none());
    assert!(settle(|cx| content.poll_frame(cx)).unwrap().unwrap().is_ok() && content.is_end_stream());
    assert!(connection.borrow_mut().release_stream().is_some());
    assert!(!connection.borrow().is_reusable());
}

#[test]
fn that_content_breaks_off_is_said_only_after_what_came_before_it_could_be_sent() {
    let (connection, _) = connect(&[b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel"], true);
    let mut asked = request("GET");
    connection.borrow_mut().begin_request(&asked);
    let (_, decoder) = settle(|cx| connection.borrow_mut().poll_response(&mut asked, cx)).unwrap().unwrap();
    let mut content = ResponseContent::new(&connection, decoder);
    assert!(settle(|cx| content.poll_frame(cx)).unwrap().unwrap().is_ok());
    let (mut waits, mut cx) = (0, Context::from_waker(Waker::noop()));
    let broken = loop {
        match content.poll_frame(&mut cx) {
            Poll::Ready(frame) => break frame,
            Poll::Pending => waits += 1,
        }
        assert!(!content.is_end_stream());
    };
    // The server's own pause, and the one in which the client is sent what has come.
    assert!(matches!(broken, Some(Err(ResponseFault::Ended))) && waits == 2);
}
