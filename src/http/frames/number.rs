//! A request's stream by its number: a field behind its header block says it to the service, which hyper tells of no stream.
//!
//! The field is a literal that is not indexed, so HPACK's state stays as it is. Its name is one that ends at this
//! hop, whichever side sends it.

use http::HeaderMap;
use http::header::PROXY_AUTHENTICATE;

use super::header::FRAME_HEADER_BYTES;

/// Bytes of the field: `proxy-authenticate` of the static table as the name of a literal without indexing, and eight digits.
pub(super) const FIELD_BYTES: usize = FIELD_START.len() + DIGITS;
/// What it counts in a list of fields (RFC 9113 10.5.1).
pub(super) const FIELD_SIZE: usize = "proxy-authenticate".len() + DIGITS + 32;
const FIELD_START: [u8; 3] = [0x0f, 48 - 15, 8];
const DIGITS: usize = 8;

/// The last frame of the header block of a request, among the bytes of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestBlock {
    /// Where it begins.
    pub(super) at: usize,
    /// Where its block ends; behind it is padding.
    pub(super) end: usize,
    /// The request's stream.
    pub(super) stream: u32,
}

/// Inserts the field. The last [`FIELD_BYTES`] of `bytes` are the room for it.
pub(super) fn insert_stream_number(bytes: &mut [u8], block: &RequestBlock) {
    let RequestBlock { at, end, stream } = *block;
    bytes.copy_within(end..bytes.len() - FIELD_BYTES, end + FIELD_BYTES);
    let (start, digits) = bytes[end..end + FIELD_BYTES].split_at_mut(FIELD_START.len());
    start.copy_from_slice(&FIELD_START);
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(stream >> (4 * place) & 0xf) as usize];
    }
    let header = &mut bytes[at..at + FRAME_HEADER_BYTES];
    let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
    let longer = u32::try_from(length + FIELD_BYTES).unwrap_or(u32::MAX).to_be_bytes();
    header[..3].copy_from_slice(&longer[1..]);
}

/// `bytes` with the field in each of `blocks`, which are in order.
pub(super) fn number_requests(bytes: &[u8], blocks: &[RequestBlock]) -> Vec<u8> {
    let mut numbered = Vec::with_capacity(bytes.len() + blocks.len() * FIELD_BYTES);
    numbered.extend_from_slice(bytes);
    for block in blocks.iter().rev() {
        numbered.resize(numbered.len() + FIELD_BYTES, 0);
        insert_stream_number(&mut numbered, block);
    }
    numbered
}

/// Takes the number out of a request's fields; `None` where the guard has not said it.
pub(crate) fn take_stream_number(fields: &mut HeaderMap) -> Option<u32> {
    let number = fields.get_all(PROXY_AUTHENTICATE).iter().next_back();
    let number = number.and_then(|digits| u32::from_str_radix(digits.to_str().ok()?, 16).ok());
    fields.remove(PROXY_AUTHENTICATE);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_behind_the_block_and_before_its_padding() {
        // Two frames: one with three bytes of padding, one without.
        let padded = [0, 0, 7, 1, 0x0c, 0, 0, 0, 1, 3, 0x82, 0x84, 0x86, 0, 0, 0];
        let plain = [0, 0, 1, 1, 0x05, 0, 0, 0, 3, 0x82];
        let blocks =
            [RequestBlock { at: 0, end: 13, stream: 1 }, RequestBlock { at: 16, end: 26, stream: 0x7fff_fffd }];
        let numbered = number_requests(&[&padded[..], &plain].concat(), &blocks);
        let expected = [
            &[0, 0, 18, 1, 0x0c, 0, 0, 0, 1, 3, 0x82, 0x84, 0x86, 0x0f, 33, 8][..],
            b"00000001",
            &[0, 0, 0],
            &[0, 0, 12, 1, 0x05, 0, 0, 0, 3, 0x82, 0x0f, 33, 8],
            b"7ffffffd",
        ];
        assert_eq!(numbered, expected.concat());
    }

    #[test]
    fn the_last_number_is_the_guards_and_none_is_left() {
        let mut fields = HeaderMap::new();
        assert_eq!(take_stream_number(&mut fields), None);
        for value in ["99", "Basic", "0000000f"] {
            fields.append(PROXY_AUTHENTICATE, value.parse().unwrap());
        }
        assert_eq!(take_stream_number(&mut fields), Some(15));
        assert!(fields.is_empty());
    }
}
