//! The line before a chunk: its size, and extensions, which are judged and never acted on (RFC 9112 7.1).

use super::Fault;
use super::head::is_token;

/// Bytes of the line before a chunk, at most: extensions are unused in practice, and skipping long ones is wasted work.
pub(super) const LINE: usize = 1024;
/// Hexadecimal digits that fit 64 bits.
const DIGITS: usize = 16;

/// The size on a line without its line end.
pub(super) fn size(line: &[u8]) -> Result<u64, Fault> {
    let mut size = 0u64;
    let mut digits = 0;
    for byte in line {
        let Some(value) = char::from(*byte).to_digit(16) else { break };
        if digits == DIGITS {
            return Err(Fault::ChunkSize);
        }
        size = size << 4 | u64::from(value);
        digits += 1;
    }
    let rest = &line[digits..];
    if digits == 0 {
        Err(Fault::ChunkSize)
    } else if rest.is_empty() {
        Ok(size)
    } else {
        extensions(rest).map(|()| size)
    }
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`
fn extensions(mut rest: &[u8]) -> Result<(), Fault> {
    if !matches!(rest.trim_ascii_start().first(), Some(b';')) {
        return Err(Fault::ChunkSize);
    }
    while !rest.is_empty() {
        rest = blanks(rest).strip_prefix(b";").ok_or(Fault::ChunkExtension)?;
        rest = token(blanks(rest)).ok_or(Fault::ChunkExtension)?;
        if let Some(value) = blanks(rest).strip_prefix(b"=") {
            let value = blanks(value);
            rest = match value.strip_prefix(b"\"") {
                Some(text) => quoted(text),
                None => token(value),
            }
            .ok_or(Fault::ChunkExtension)?;
        }
    }
    Ok(())
}

fn blanks(bytes: &[u8]) -> &[u8] {
    let count = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &bytes[count..]
}

/// What follows a token; `None` where there is none.
fn token(bytes: &[u8]) -> Option<&[u8]> {
    let count = bytes.iter().take_while(|byte| is_token(**byte)).count();
    (count > 0).then(|| &bytes[count..])
}

/// What follows the closing quote.
fn quoted(bytes: &[u8]) -> Option<&[u8]> {
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
        assert_eq!(size(b"0"), Ok(0));
        assert_eq!(size(b"1aF"), Ok(0x1af));
        assert_eq!(size(b"000005"), Ok(5));
        assert_eq!(size(b"ffffffffffffffff"), Ok(u64::MAX));
        for bad in [&b""[..], b"+5", b"-1", b" 5", b"5 ", b"0x5", b"5g", b"5\r", b"10000000000000000", b"5,5", b"\0"] {
            assert_eq!(size(bad), Err(Fault::ChunkSize), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn extensions_follow_the_grammar() {
        for good in [&b"5;a"[..], b"5;a=b", b"5 ; a = b", b"5;a;b=c;d=\"e\"", b"5;a=\"\\\"; \"", b"5;a=\"\xc3\xa9\""] {
            assert_eq!(size(good), Ok(5), "{}", good.escape_ascii());
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
            assert_eq!(size(bad), Err(Fault::ChunkExtension), "{}", bad.escape_ascii());
        }
    }
}
