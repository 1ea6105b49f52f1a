//! The heads of an exchange over HTTP/1.1 with a backend or upstream: a request's as it is sent, a response's as it comes. Pure.

use std::io::Write as _;
use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};

use super::decoder::ContentDecoder;
use super::fault::{MAX_FIELDS, MAX_HEAD_BYTES, ResponseFault, describe_fault};

/// A response's head, final or interim.
pub struct ReceivedHead {
    /// Its status, version and fields.
    pub response: Response<()>,
    /// How its content is told apart; `None` for an interim response.
    pub content: Option<ContentDecoder>,
    /// The connection may carry another request afterwards.
    pub keeps_alive: bool,
}

/// Where a field lies in its head: begin and length of its name, and of its value.
type FieldPlace = (usize, usize, usize, usize);

/// Most responses have no more fields.
const USUAL_FIELDS: usize = 16;

/// Writes the head of a request without content. The target is in origin form, unless an application wrote it otherwise.
pub(super) fn encode_request_head<B>(request: &Request<B>, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    match request.uri().path_and_query() {
        Some(target) if request.uri().authority().is_none() && target.as_str().starts_with('/') => {
            out.extend_from_slice(target.as_str().as_bytes());
        }
        // Writing to a `Vec` cannot fail.
        _ => drop(write!(out, "{}", request.uri())),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        if *name == TRANSFER_ENCODING {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a head may have become whole by what came behind `searched`: a head that comes in small parts is not read anew for
/// each of them.
pub(super) fn is_head_complete(received: &[u8], searched: usize) -> bool {
    let behind = &received[searched.saturating_sub(3).min(received.len())..];
    memchr::memchr_iter(b'\n', behind).any(|at| {
        let rest = &behind[at + 1..];
        rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
    })
}

/// Removes a whole head from what was received; `None` where it is not whole. The fields of a final response go into `fields`,
/// which is cleared.
pub fn parse_response_head(
    received: &mut BytesMut,
    of_head: bool,
    fields: &mut HeaderMap,
) -> Result<Option<ReceivedHead>, ResponseFault> {
    let mut places = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = ParserConfig::default();
    // RFC 9112 5.1: a proxy removes the blank between name and colon of a response.
    config.allow_spaces_after_header_name_in_responses(true);
    let size = match config.parse_response_with_uninit_headers(&mut parsed, received, &mut places) {
        Ok(Status::Complete(size)) if size <= MAX_HEAD_BYTES => size,
        Ok(Status::Complete(_)) => return Err(ResponseFault::Malformed("its head is too large")),
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(ResponseFault::Malformed(describe_fault(error))),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(ResponseFault::Malformed("its status is not a number from 100 to 999"))?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let start = received.as_ptr() as usize;
    let count = parsed.headers.len();
    // Room for as many as may come would have to be cleared for every response: 3 KiB.
    let (mut few, mut many);
    let indices: &mut [FieldPlace] = if count <= USUAL_FIELDS {
        few = [FieldPlace::default(); USUAL_FIELDS];
        &mut few[..count]
    } else {
        many = vec![FieldPlace::default(); count];
        &mut many
    };
    for (index, field) in indices.iter_mut().zip(parsed.headers.iter()) {
        let (name, value) = (field.name.as_ptr() as usize - start, field.value.as_ptr() as usize - start);
        *index = (name, field.name.len(), value, field.value.len());
    }
    let head = received.split_to(size).freeze();
    let interim = status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
    let mut headers = if interim { HeaderMap::new() } else { std::mem::take(fields) };
    headers.clear();
    headers.reserve(count);
    for (name, name_length, value, value_length) in &*indices {
        let name = HeaderName::from_bytes(&head[*name..*name + *name_length]);
        let value = HeaderValue::from_maybe_shared(head.slice(*value..*value + *value_length));
        let (Ok(name), Ok(value)) = (name, value) else { return Err(ResponseFault::Malformed("a field is invalid")) };
        headers.append(name, value);
    }
    let keeps_alive = keeps_alive(version, &headers) && status != StatusCode::SWITCHING_PROTOCOLS;
    let content = if interim { None } else { Some(content_of(status, version, of_head, &headers)?) };
    let mut response = Response::new(());
    (*response.status_mut(), *response.version_mut(), *response.headers_mut()) = (status, version, headers);
    Ok(Some(ReceivedHead { response, content, keeps_alive }))
}

/// Whether the connection stays open after a response: any `close` ends it, and HTTP/1.0 ends it without `keep-alive`.
fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let mut keeps = version == Version::HTTP_11;
    for value in headers.get_all(CONNECTION) {
        let names = |wanted: &[u8]| {
            let mut members = value.as_bytes().split(|byte| *byte == b',');
            members.any(|member| member.trim_ascii().eq_ignore_ascii_case(wanted))
        };
        if names(b"close") {
            return false;
        }
        keeps |= names(b"keep-alive");
    }
    keeps
}

/// RFC 9112 6.3, for a response: the coding counts before the length, and without either the content lasts until the end.
fn content_of(
    status: StatusCode,
    version: Version,
    of_head: bool,
    headers: &HeaderMap,
) -> Result<ContentDecoder, ResponseFault> {
    if of_head || matches!(status.as_u16(), 101 | 204 | 304) {
        return Ok(ContentDecoder::with_length(0));
    }
    if let Some(last) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        if version == Version::HTTP_10 {
            return Err(ResponseFault::Malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        let coding = last.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        return Ok(if chunked { ContentDecoder::chunked() } else { ContentDecoder::until_close() });
    }
    let mut lengths =
        headers.get_all(CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let Some(first) = lengths.next() else { return Ok(ContentDecoder::until_close()) };
    let length = parse_length(first);
    if length.is_none() || lengths.any(|other| parse_length(other) != length) {
        return Err(ResponseFault::Malformed("its Content-Length is not one number"));
    }
    Ok(ContentDecoder::with_length(length.unwrap_or_default()))
}

/// A length that leaves room for what hyper and h2 count beyond it.
fn parse_length(digits: &[u8]) -> Option<u64> {
    let digits = digits.trim_ascii();
    let number = digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
    number.flatten().filter(|length| *length <= u64::MAX - 2)
}
