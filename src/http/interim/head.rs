//! What an interim response looks like on the wire: its fields cleaned as those of a final response, then a head of HTTP/1.1,
//! or a header block of HTTP/2 in frames.
//!
//! Pure. On HTTP/2 every field is a literal that is not indexed, so that h2's compression state stays as it is.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};

use crate::http::fields::clean_response;
use crate::http::framing::FramingLimits;

/// What a status line, or `:status`, counts at most.
const STATUS_BYTES: usize = 64;
/// What each field counts beside its name and value (RFC 9113 10.5.1).
const FIELD_OVERHEAD: usize = 32;
/// Bytes of a frame's content that every peer takes (RFC 9113 4.2).
const FRAME_CONTENT_BYTES: usize = 16 * 1024;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
/// `:status` of the static table, as the name of a literal without indexing (RFC 7541 6.2.2).
const STATUS_NAME: u8 = 0x08;

/// The fields that may go on; `None` where there is more than a head may have.
pub(super) fn clean_interim(headers: &HeaderMap, limits: FramingLimits) -> Option<HeaderMap> {
    let mut fields = headers.clone();
    clean_response(&mut fields);
    // RFC 9110 8.6: it has no content.
    fields.remove(CONTENT_LENGTH);
    let size = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    (fields.len() <= limits.fields && STATUS_BYTES + size.sum::<usize>() <= limits.head_size).then_some(fields)
}

/// A head of HTTP/1.1.
pub(super) fn encode_http1(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// `HEADERS`, and as many `CONTINUATION` as it takes, of this stream.
pub(super) fn encode_http2(stream: u32, status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let mut block = vec![STATUS_NAME];
    push_text(&mut block, status.as_str().as_bytes());
    for (name, value) in fields {
        block.push(0);
        push_text(&mut block, name.as_str().as_bytes());
        push_text(&mut block, value.as_bytes());
    }
    let parts = block.chunks(FRAME_CONTENT_BYTES);
    let last = parts.len() - 1;
    let mut frames = Vec::with_capacity(block.len() + 9 * parts.len());
    for (number, part) in parts.enumerate() {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes();
        frames.extend_from_slice(&length[1..]);
        frames.push(if number == 0 { HEADERS } else { CONTINUATION });
        frames.push(if number == last { END_HEADERS } else { 0 });
        frames.extend_from_slice(&stream.to_be_bytes());
        frames.extend_from_slice(part);
    }
    frames
}

/// A text without Huffman code: its length as an integer with a prefix of seven bits (RFC 7541 5.1), and its octets.
fn push_text(block: &mut Vec<u8>, text: &[u8]) {
    const PREFIX_MAX: usize = 127;
    match u8::try_from(text.len()) {
        Ok(length) if text.len() < PREFIX_MAX => block.push(length),
        _ => {
            block.push(0x7f);
            let mut left = text.len() - PREFIX_MAX;
            while left >= 0x80 {
                block.push(left.to_le_bytes()[0] | 0x80);
                left >>= 7;
            }
            block.push(left.to_le_bytes()[0]);
        }
    }
    block.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_integers_of_hpack() {
        for (length, coded) in [
            (5, &[5_u8][..]),
            (126, &[126]),
            (127, &[0x7f, 0]),
            (300, &[0x7f, 0xad, 1]),
            (40_000, &[0x7f, 0xc1, 0xb7, 2]),
        ] {
            let mut block = Vec::new();
            push_text(&mut block, &vec![b'y'; length]);
            assert_eq!(&block[..coded.len()], coded, "{length}");
            assert_eq!(block.len(), coded.len() + length);
        }
    }

    #[test]
    fn a_block_is_cut_into_frames_of_which_the_last_says_so() {
        let fields = HeaderMap::from_iter([(http::header::LINK, "y".repeat(40_000).parse().unwrap())]);
        let frames = encode_http2(7, StatusCode::EARLY_HINTS, &fields);
        let (mut rest, mut kinds) = (&frames[..], Vec::new());
        while let Some((header, after)) = rest.split_first_chunk::<9>() {
            let length = usize::from(header[1]) << 8 | usize::from(header[2]);
            kinds.push((header[3], header[4], length <= FRAME_CONTENT_BYTES, header[8]));
            rest = &after[length..];
        }
        assert_eq!(kinds, [(HEADERS, 0, true, 7), (CONTINUATION, 0, true, 7), (CONTINUATION, END_HEADERS, true, 7)]);
    }

    #[test]
    fn what_is_more_than_a_head_may_have_is_none() {
        let limits = FramingLimits { head_size: 300, fields: 2 };
        let fields = |count: usize, size: usize| {
            let mut fields = HeaderMap::new();
            for _ in 0..count {
                fields.append("link", "y".repeat(size).parse().unwrap());
            }
            clean_interim(&fields, limits)
        };
        assert!(fields(2, 10).is_some() && fields(1, 200).is_some());
        assert!(fields(3, 10).is_none() && fields(1, 201).is_none());
    }
}
