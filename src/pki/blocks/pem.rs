//! PEM (RFC 7468) as people have it: finds the blocks, whatever stands around them.
//!
//! The library's reader passes silently over what it does not like, and leaves the text of a key in freed memory; so blocks
//! are found here, and `base64` decodes each.

use std::borrow::Cow;

use memchr::memmem;
use zeroize::Zeroizing;

use super::base64::{Base64Fault, decode_base64};
use super::refusal::{self, UnreadablePart};
use crate::pki::printable;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// One block, from its BEGIN line on.
pub(super) struct PemSection<'a> {
    pub(super) label: Cow<'a, str>,
    pub(super) body: &'a [u8],
    pub(super) end: PemSectionEnd,
}

/// How a block ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PemSectionEnd {
    /// With its own END line.
    Closed,
    /// With the file, or with the next BEGIN line.
    CutOff,
    /// With another block's END line.
    Other,
}

/// UTF-16 with its mark (as PowerShell's `>` writes it) as plain text; `None` for anything else.
pub(super) fn from_utf16(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let to_unit: fn([u8; 2]) -> u16 = match bytes {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => return None,
    };
    let mut text = Zeroizing::new(Vec::with_capacity(bytes.len() / 2));
    text.extend(bytes[2..].chunks_exact(2).map(|pair| u8::try_from(to_unit([pair[0], pair[1]])).unwrap_or(b'?')));
    Some(text)
}

/// Every block, in the order of the text. A BEGIN in the middle of a line counts only if the block is closed:
/// otherwise it is prose.
pub(super) fn sections(text: &[u8]) -> Vec<PemSection<'_>> {
    let begins: Vec<usize> = memmem::find_iter(text, BEGIN).collect();
    let limits = begins.iter().skip(1).copied().chain([text.len()]);
    begins
        .iter()
        .zip(limits)
        .map(|(at, limit)| (at, parse_section(&text[at + BEGIN.len()..limit], limit == text.len())))
        .filter(|(at, section)| section.end == PemSectionEnd::Closed || begins_line(&text[..**at]))
        .map(|(_, section)| section)
        .collect()
}

/// Whether one line of the text is this one, blanks around it apart.
pub(super) fn has_line(text: &[u8], wanted: &[u8]) -> bool {
    memmem::find_iter(text, wanted).any(|at| {
        let before = text[..at].rsplit(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
        let after = text[at + wanted.len()..].split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
        let before = before.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(before);
        before.trim_ascii().is_empty() && after.trim_ascii().is_empty()
    })
}

/// Whether nothing but blanks, a byte order mark or the END of a block stands before it on its line.
fn begins_line(before: &[u8]) -> bool {
    let line = before.rsplit(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    let line = line.trim_ascii();
    line.is_empty() || line == [0xef, 0xbb, 0xbf] || line.ends_with(DASHES)
}

/// `rest` begins behind "BEGIN " and ends before the next block, or with the file (`is_last`).
fn parse_section(rest: &[u8], is_last: bool) -> PemSection<'_> {
    let line = &rest[..memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())];
    let Some(label_end) = memmem::find(line, DASHES) else {
        let end = if is_last && line.len() == rest.len() { PemSectionEnd::CutOff } else { PemSectionEnd::Other };
        return PemSection { label: label_text(line), body: &[], end };
    };
    let label = &rest[..label_end];
    let body = &rest[label_end + DASHES.len()..];
    let Some(end_at) = memmem::find(body, END) else {
        return PemSection { label: label_text(label), body, end: PemSectionEnd::CutOff };
    };
    let end_line = &body[end_at + END.len()..];
    let closed = end_line.strip_prefix(label).is_some_and(|dashes| dashes.starts_with(DASHES));
    let may_go_on = is_last && [label, DASHES].concat().starts_with(end_line);
    let end = match (closed, may_go_on) {
        (true, _) => PemSectionEnd::Closed,
        (false, true) => PemSectionEnd::CutOff,
        (false, false) => PemSectionEnd::Other,
    };
    PemSection { label: label_text(label), body: &body[..end_at], end }
}

/// The label for people and for comparing, at most 64 characters.
fn label_text(label: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(label) {
        Ok(text) if text.len() <= 64 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => Cow::Borrowed(text),
        _ => Cow::Owned(printable(&String::from_utf8_lossy(label)).chars().take(64).collect()),
    }
}

/// Whether the text ends within the word BEGIN: too short to be a block, but more is to come.
pub(super) fn ends_within_begin_line(text: &[u8]) -> bool {
    (DASHES.len() + 1..BEGIN.len()).filter_map(|there| text.strip_suffix(&BEGIN[..there])).any(begins_line)
}

/// Whether the body is encrypted in OpenSSL's old way (RFC 1421 4.6.1.1).
pub(super) fn is_encrypted(body: &[u8]) -> bool {
    let head = &body[..body.len().min(256)];
    memmem::find(head, b"Proc-Type:").is_some() && memmem::find(head, b"ENCRYPTED").is_some()
}

/// The bytes of a block's body.
pub(super) fn decode(body: &[u8], label: &str) -> Result<Zeroizing<Vec<u8>>, UnreadablePart> {
    decode_base64(strip_headers(body)).map_err(|fault| match fault {
        Base64Fault::CutOff => refusal::truncated(&format!("the block {label}")),
        Base64Fault::ForeignByte(byte) => {
            let why = format!("the block {label} is not base64: it has the byte 0x{byte:02x}");
            refusal::malformed("pem_malformed", why)
        }
        Base64Fault::Padding => refusal::malformed("pem_malformed", format!("the block {label} is not base64")),
    })
}

/// Leaves out the header fields that some tools put before the base64 (RFC 1421 4.4).
fn strip_headers(body: &[u8]) -> &[u8] {
    let mut rest = body.trim_ascii_start();
    loop {
        let end = memchr::memchr2(b'\n', b'\r', rest).map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(end);
        if !line.contains(&b':') {
            return rest;
        }
        rest = after.trim_ascii_start();
    }
}
