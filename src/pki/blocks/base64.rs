//! Base64 (RFC 4648 4) of what may be a private key: decoded once, into a buffer that is zeroised, and without a table or a
//! branch that depends on a digit. Finding the text in a file is `pem`'s.

use zeroize::Zeroizing;

/// Why a text is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base64Fault {
    /// It is empty, holds a zero byte (a file system may show the length of a file before its content), or ends too early.
    CutOff,
    /// It has this byte, which is neither a digit nor a blank.
    ForeignByte(u8),
    /// It has padding where none may be.
    Padding,
}

/// The bytes of padded base64; blanks do not count, and what the last digit has beyond the last byte does not either.
pub(super) fn decode_base64(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Base64Fault> {
    let digits = || text.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
    let count = digits().count();
    if count == 0 || text.contains(&0) {
        return Err(Base64Fault::CutOff);
    }
    if let Some(foreign) = digits().find(|byte| decode_digit(*byte).is_none() && *byte != b'=') {
        return Err(Base64Fault::ForeignByte(foreign));
    }
    if count % 4 != 0 {
        return Err(Base64Fault::CutOff);
    }
    let padding = digits().filter(|byte| *byte == b'=').count();
    if padding > 2 || digits().skip(count - padding).any(|byte| byte != b'=') {
        return Err(Base64Fault::Padding);
    }
    // Room for all of it at once: growing would leave copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(count / 4 * 3));
    let mut bits = 0_u32;
    for (at, byte) in digits().enumerate() {
        bits = bits << 6 | decode_digit(byte).unwrap_or_default();
        if at % 4 == 3 {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            bits = 0;
        }
    }
    bytes.truncate(count / 4 * 3 - padding);
    Ok(bytes)
}

/// The value of a digit. Which digit it is shows in no branch and in no address.
fn decode_digit(byte: u8) -> Option<u32> {
    let byte = i32::from(byte);
    // All ones where the byte is in the range: then both differences are negative.
    let is_in = |first: u8, last: u8| ((i32::from(first) - 1 - byte) & (byte - i32::from(last) - 1)) >> 8;
    let ranges = [
        (is_in(b'A', b'Z'), byte - 65),
        (is_in(b'a', b'z'), byte - 71),
        (is_in(b'0', b'9'), byte + 4),
        (is_in(b'+', b'+'), 62),
        (is_in(b'/', b'/'), 63),
    ];
    let known = ranges.iter().fold(0, |known, (mask, _)| known | mask);
    let value = ranges.iter().fold(0, |value, (mask, digit)| value | (mask & digit));
    (known != 0).then_some(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_whatever_blanks_are_in_it(
            bytes in proptest::collection::vec(any::<u8>(), 1..200), width in 1usize..80,
        ) {
            let encoded = BASE64_STANDARD.encode(&bytes).into_bytes();
            let wrapped = encoded.chunks(width).collect::<Vec<_>>().join(&b"\r\n \t"[..]);
            let decoded = decode_base64(&wrapped).unwrap();
            prop_assert_eq!(&decoded[..], &bytes[..]);
        }

        #[test]
        fn another_decoder_never_reads_it_as_other_bytes(text in "[A-Za-z0-9+/=]{0,12}") {
            match (decode_base64(text.as_bytes()), BASE64_STANDARD.decode(&text)) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(&ours[..], &theirs[..]),
                // It is empty, which is nothing that was cut off.
                (Err(_), Ok(theirs)) => prop_assert!(theirs.is_empty()),
                // Digits with bits beyond the last byte: it insists on zeros there, as no other reader of PEM does.
                (Ok(_), Err(base64::DecodeError::InvalidLastSymbol(..))) | (Err(_), Err(_)) => {}
                (Ok(_), Err(error)) => prop_assert!(false, "{}", error),
            }
        }
    }

    #[test]
    fn every_byte_is_a_digit_or_is_named() {
        for byte in 1..=255_u8 {
            let decoded = decode_base64(&[b'A', b'A', byte, b'A']);
            let theirs = BASE64_STANDARD.decode([b'A', b'A', byte, b'A']);
            match byte {
                b'=' => assert_eq!(decoded, Err(Base64Fault::Padding)),
                _ if byte.is_ascii_whitespace() => assert_eq!(decoded, Err(Base64Fault::CutOff)),
                _ if theirs.is_ok() => assert_eq!(decoded.unwrap()[..], theirs.unwrap()[..]),
                _ => assert_eq!(decoded, Err(Base64Fault::ForeignByte(byte))),
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_padded_wrongly_is_told_apart() {
        for text in ["", " \n", "AAA", "AA\0A", "AAAAA"] {
            assert_eq!(decode_base64(text.as_bytes()), Err(Base64Fault::CutOff), "{text:?}");
        }
        for text in ["=AAA", "A=AA", "AA=A", "A===", "====", "AA==AAAA"] {
            assert_eq!(decode_base64(text.as_bytes()), Err(Base64Fault::Padding), "{text:?}");
        }
    }
}
