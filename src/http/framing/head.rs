//! The lines of a request head: what each may be, and how together they define the message's length.
//!
//! Every line is judged as soon as it is whole, in order, so that the verdict does not depend on how the bytes arrived.

use http::Uri;

use super::FramingFault;
use crate::http::fields::name_matches;

/// Longer methods do not exist: the longest registered one has 17 letters.
const MAX_METHOD_BYTES: usize = 32;
/// What hyper takes.
const MAX_TARGET_BYTES: usize = u16::MAX as usize - 1;
/// Digits of a length that fit 64 bits whatever they are.
const MAX_LENGTH_DIGITS: usize = 19;

/// What the lines of one head have defined so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestHead {
    /// Lines, the request line included.
    pub(super) lines: usize,
    /// A field `Upgrade`: what follows the request may be another protocol.
    pub(super) upgrade: bool,
    http10: bool,
    length: Option<u64>,
    chunked: bool,
}

/// How long the content of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentFraming {
    Length(u64),
    Chunked,
}

impl RequestHead {
    /// Judges the next line, without its line end.
    pub(super) fn judge_line(&mut self, line: &[u8], fields: usize) -> Result<(), FramingFault> {
        self.lines += 1;
        if self.lines == 1 {
            return self.judge_request_line(line);
        }
        if self.lines > fields + 1 {
            return Err(FramingFault::TooManyFields);
        }
        let name = field_name(line)?;
        // Almost every field is told apart by its length.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name_matches(name, b"content-length") => {
                check_exact_name(name, b"content-length")?;
                let length = parse_decimal(field_value(line, name)).ok_or(FramingFault::Length)?;
                if self.length.replace(length).is_some() {
                    return Err(FramingFault::SeveralLengths);
                }
            }
            17 if name_matches(name, b"transfer-encoding") => {
                check_exact_name(name, b"transfer-encoding")?;
                if self.http10 {
                    return Err(FramingFault::CodingInHttp10);
                }
                if self.chunked || !field_value(line, name).eq_ignore_ascii_case(b"chunked") {
                    return Err(FramingFault::Coding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        if self.chunked && self.length.is_some() { Err(FramingFault::BothLengths) } else { Ok(()) }
    }

    /// At the empty line.
    pub(super) fn content_framing(&self) -> ContentFraming {
        if self.chunked { ContentFraming::Chunked } else { ContentFraming::Length(self.length.unwrap_or(0)) }
    }

    fn judge_request_line(&mut self, line: &[u8]) -> Result<(), FramingFault> {
        let method = &line[..token_length(line)];
        if method.len() > MAX_METHOD_BYTES {
            return Err(FramingFault::MethodTooLong);
        }
        let rest = line[method.len()..].strip_prefix(b" ").ok_or(FramingFault::RequestLine)?;
        if method.is_empty() {
            return Err(FramingFault::RequestLine);
        }
        let space = memchr::memchr(b' ', rest).ok_or(FramingFault::RequestLine)?;
        let (target, version) = (&rest[..space], &rest[space + 1..]);
        self.http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            // The right shape with other numbers is a version; all else is not a request line.
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(FramingFault::Version),
            _ => return Err(FramingFault::RequestLine),
        };
        if matches!(method, b"CONNECT" | b"TRACE") || target == b"*" {
            return Err(FramingFault::NotForwarded);
        }
        judge_target(target)
    }
}

/// Origin form or absolute form (RFC 9112 3.2). hyper would cut a fragment off without a word.
fn judge_target(target: &[u8]) -> Result<(), FramingFault> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(FramingFault::TargetTooLong);
    }
    let seen = target.iter().fold(0, |seen, byte| seen | TARGET_BYTES[usize::from(*byte)]);
    if seen & FORBIDDEN_BYTE != 0 {
        return Err(FramingFault::Target);
    }
    // A backtick may stand in a query and not in a path.
    let bad_tick =
        seen & BACKTICK_BYTE != 0 && target.split(|byte| *byte == b'?').next().is_some_and(|path| path.contains(&b'`'));
    if bad_tick || (seen & NON_ASCII_BYTE != 0 && std::str::from_utf8(target).is_err()) {
        return Err(FramingFault::Target);
    }
    if target.first() == Some(&b'/') {
        return Ok(());
    }
    let uri = Uri::try_from(target).map_err(|_| FramingFault::Target)?;
    let absolute = matches!(uri.scheme_str(), Some("http" | "https"));
    if absolute && uri.authority().is_some() { Ok(()) } else { Err(FramingFault::Target) }
}

/// What a byte means in a target: never allowed, beyond ASCII, a backtick.
const FORBIDDEN_BYTE: u8 = 1;
const NON_ASCII_BYTE: u8 = 2;
const BACKTICK_BYTE: u8 = 4;

static TARGET_BYTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte {
            0..=0x20 | 0x22 | 0x23 | 0x3c | 0x3e | 0x7f => FORBIDDEN_BYTE,
            0x60 => BACKTICK_BYTE,
            0x80.. => NON_ASCII_BYTE,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// The name of a field line.
pub(super) fn field_name(line: &[u8]) -> Result<&[u8], FramingFault> {
    let length = token_length(line);
    match line.get(length) {
        Some(b':') if length > 0 => Ok(&line[..length]),
        Some(b' ' | b'\t') if length == 0 => Err(FramingFault::Folded),
        _ => Err(FramingFault::Name),
    }
}

/// The value of the field line with this name, without the blanks around it.
fn field_value<'l>(line: &'l [u8], name: &[u8]) -> &'l [u8] {
    let mut value = &line[name.len() + 1..];
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The very name, in any case, or one that a backend may take for it.
fn check_exact_name(name: &[u8], wanted: &[u8]) -> Result<(), FramingFault> {
    if name.eq_ignore_ascii_case(wanted) { Ok(()) } else { Err(FramingFault::Twin) }
}

/// Digits only, without leading zeros, which some readers take for octal.
pub(crate) fn parse_decimal(digits: &[u8]) -> Option<u64> {
    let leading = digits.len() > 1 && digits[0] == b'0';
    if leading || digits.is_empty() || digits.len() > MAX_LENGTH_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// How many control characters there are, the tab apart. In blocks, so that the compiler takes many bytes at a time.
pub(super) fn count_controls(bytes: &[u8]) -> usize {
    fn count_block(bytes: &[u8]) -> u8 {
        bytes.iter().map(|byte| u8::from((*byte < b' ') & (*byte != b'\t')) + u8::from(*byte == 0x7f)).sum()
    }
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().map(|block| usize::from(count_block(block))).sum::<usize>() + usize::from(count_block(rest))
}

/// RFC 9110 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN_BYTES[usize::from(byte)]
}

fn token_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !is_token(*byte)).unwrap_or(bytes.len())
}

static TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        #[expect(clippy::cast_possible_truncation, reason = "below 128")]
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};
