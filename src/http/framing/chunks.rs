//! The line before a chunk: its size, and extensions, which are judged and never acted on (RFC 9112 7.1).

use super::FramingFault;
use super::head::is_token;

/// Bytes of the line before a chunk, at most: extensions are unused in practice, and skipping long ones is wasted work.
pub(super) const MAX_CHUNK_LINE_BYTES: usize = 1024;
/// Hexadecimal digits that fit 64 bits.
const MAX_HEX_DIGITS: usize = 16;

/// The size on a line without its line end.
pub(super) fn parse_size(line: &[u8]) -> Result<u64, FramingFault> {
    let mut size = 0u64;
    let mut digits = 0;
    for byte in line {
        let Some(value) = char::from(*byte).to_digit(16) else { break };
        if digits == MAX_HEX_DIGITS {
            return Err(FramingFault::ChunkSize);
        }
        size = size << 4 | u64::from(value);
        digits += 1;
    }
    let rest = &line[digits..];
    if digits == 0 {
        Err(FramingFault::ChunkSize)
    } else if rest.is_empty() {
        Ok(size)
    } else {
        check_extensions(rest).map(|()| size)
    }
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`
fn check_extensions(mut rest: &[u8]) -> Result<(), FramingFault> {
    if !matches!(rest.trim_ascii_start().first(), Some(b';')) {
        return Err(FramingFault::ChunkSize);
    }
    while !rest.is_empty() {
        rest = skip_blanks(rest).strip_prefix(b";").ok_or(FramingFault::ChunkExtension)?;
        rest = skip_token(skip_blanks(rest)).ok_or(FramingFault::ChunkExtension)?;
        if let Some(value) = skip_blanks(rest).strip_prefix(b"=") {
            let value = skip_blanks(value);
            rest = match value.strip_prefix(b"\"") {
                Some(text) => skip_quoted(text),
                None => skip_token(value),
            }
            .ok_or(FramingFault::ChunkExtension)?;
        }
    }
    Ok(())
}

fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let count = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &bytes[count..]
}

/// What follows a token; `None` where there is none.
fn skip_token(bytes: &[u8]) -> Option<&[u8]> {
    let count = bytes.iter().take_while(|byte| is_token(**byte)).count();
    (count > 0).then(|| &bytes[count..])
}

/// What follows the closing quote.
fn skip_quoted(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            b'"' => return Some(&bytes[at + 1..]),
            b'\\' if bytes.get(at + 1).is_some_and(|byte| is_text(*byte)) => at += 2,
            b'\\' => return None,
            byte if is_text(byte) => at += 1,
            _ => return None,
        }
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_hexadecimal_and_nothing_else() {
        assert_eq!(parse_size(b"0"), Ok(0));
        assert_eq!(parse_size(b"1aF"), Ok(0x1af));
        assert_eq!(parse_size(b"000005"), Ok(5));
        assert_eq!(parse_size(b"ffffffffffffffff"), Ok(u64::MAX));
        for bad in [&b""[..], b"+5", b"-1", b" 5", b"5 ", b"0x5", b"5g", b"5\r", b"10000000000000000", b"5,5", b"\0"] {
            assert_eq!(parse_size(bad), Err(FramingFault::ChunkSize), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn extensions_follow_the_grammar() {
        for good in [&b"5;a"[..], b"5;a=b", b"5 ; a = b", b"5;a;b=c;d=\"e\"", b"5;a=\"\\\"; \"", b"5;a=\"\xc3\xa9\""] {
            assert_eq!(parse_size(good), Ok(5), "{}", good.escape_ascii());
        }
        for bad in [
            &b"5;"[..],
            b"5;;a",
            b"5;a=",
            b"5;a=\"b",
            b"5;a=b c",
            b"5;a\r",
            b"5;a=\"\n\"",
            b"5;a=\"\\\x01\"",
            b"5;=b",
            b"5;a,b",
        ] {
            assert_eq!(parse_size(bad), Err(FramingFault::ChunkExtension), "{}", bad.escape_ascii());
        }
    }
}
