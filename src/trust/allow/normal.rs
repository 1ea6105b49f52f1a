//! The one form of a request's path that rules are matched on, and what has no such form (contract section 11).

/// The normal form of a path (without query): unreserved escapes decoded, dot segments removed, slashes merged (RFC 3986 6.2.2).
/// Encoded `/` and `\`, a raw `\` or `;`, control characters either way, overlong UTF-8 and bad escapes are errors that
/// name what it was: a newline ends a path for regular expressions, and old decoders read `%C0%AF` as a slash.
///
/// The other escapes get upper-case digits, and bytes that may not stand raw in a path are escaped. Case is kept: paths
/// are case-sensitive.
pub fn normalise(path: &str) -> Result<String, &'static str> {
    if !path.starts_with('/') {
        return Err("it does not begin with /");
    }
    let decoded = decode_unreserved(path)?;
    // Slashes are merged by skipping empty segments, so `..` always removes a segment that a backend would see.
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(decoded.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    // A final slash, or a final dot segment, names a directory (RFC 3986 5.2.4).
    if out.is_empty() || matches!(decoded.rsplit('/').next(), Some("" | "." | "..")) {
        out.push('/');
    }
    Ok(out)
}

fn decode_unreserved(path: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    let mut lead = 0;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let value = if byte == b'%' { decode_escape(after).ok_or("a bad percent escape")? } else { byte };
        if is_overlong(lead, value) {
            return Err("overlong UTF-8");
        }
        lead = value;
        match byte {
            b'\\' => return Err("a backslash"),
            b';' => return Err("a semicolon"),
            b'?' | b'#' => return Err("a query or fragment within the path"),
            // Escaped, it would be one of those below.
            0 => return Err("a NUL"),
            _ if byte.is_ascii_control() => return Err("a control character"),
            b'%' => {
                rest = &after[2..];
                match value {
                    b'/' => return Err("an encoded slash"),
                    b'\\' => return Err("an encoded backslash"),
                    0 => return Err("an encoded NUL"),
                    _ if value.is_ascii_control() => return Err("an encoded control character"),
                    _ if is_unreserved(value) => out.push(char::from(value)),
                    _ => push_escaped(&mut out, value),
                }
            }
            _ if byte.is_ascii_graphic() => out.push(char::from(byte)),
            _ => push_escaped(&mut out, byte),
        }
    }
    Ok(out)
}

/// A byte that together with the one before it begins a longer form than its character needs.
fn is_overlong(lead: u8, byte: u8) -> bool {
    matches!((lead, byte), (_, 0xc0 | 0xc1) | (0xe0, 0x80..=0x9f) | (0xf0, 0x80..=0x8f))
}

fn push_escaped(out: &mut String, byte: u8) {
    const HEX_DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push('%');
    out.push(HEX_DIGITS[usize::from(byte >> 4)]);
    out.push(HEX_DIGITS[usize::from(byte & 15)]);
}

/// RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The byte that the two hex digits at the start stand for.
pub(super) fn decode_escape(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(0)? << 4 | digit(1)?)
}
