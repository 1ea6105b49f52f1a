//! Just enough DER (X.690) to tell file formats apart, to find a signature's parts, and to add up key derivations.
//!
//! Definite lengths only. Nothing here is a judgement: what the bytes mean is read by the parsers of the crates.

use zeroize::Zeroizing;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// `[0]`, constructed.
pub(crate) const CONTEXT_0: u8 = 0xa0;

/// One tag, length and value.
#[derive(Clone, Copy)]
pub(crate) struct DerElement<'a> {
    pub(crate) tag: u8,
    /// Header and content, as far as they are there.
    pub(crate) whole: &'a [u8],
    /// The content, as far as it is there.
    pub(crate) content: &'a [u8],
    /// How many bytes of the content are missing.
    pub(crate) missing: usize,
}

/// The first element of these bytes and what follows it; `None` if they do not begin with a whole header.
pub(crate) fn element(bytes: &[u8]) -> Option<(DerElement<'_>, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    // Tags over 30 take several bytes; no format read here has one where it would be looked at.
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let there = length.min(rest.len());
    let (content, after) = rest.split_at(there);
    let whole = &bytes[..bytes.len() - after.len()];
    Some((DerElement { tag, whole, content, missing: length - there }, after))
}

/// The elements one after the other, up to the first bytes that are none.
pub(crate) fn elements(mut bytes: &[u8]) -> impl Iterator<Item = DerElement<'_>> {
    std::iter::from_fn(move || {
        let (element, rest) = element(bytes)?;
        bytes = rest;
        Some(element)
    })
}

/// Tag and length of an element whose content has this many bytes.
pub(crate) fn header(tag: u8, length: usize) -> Vec<u8> {
    let bytes = length.to_be_bytes();
    let digits = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    match (length, u8::try_from(digits.len())) {
        (0..=0x7f, _) => vec![tag, digits.first().copied().unwrap_or(0)],
        (_, Ok(count)) => [&[tag, 0x80 | count], digits].concat(),
        (_, Err(_)) => Vec::new(),
    }
}

/// A SEQUENCE of these parts, written into one buffer that never grows: it may hold a key.
pub(crate) fn sequence(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().map(|part| part.len()).sum();
    let head = header(SEQUENCE, length);
    let mut out = Zeroizing::new(Vec::with_capacity(head.len() + length));
    out.extend_from_slice(&head);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// An INTEGER's content without leading zeros.
pub(crate) fn trim_leading_zeros(integer: &[u8]) -> &[u8] {
    &integer[integer.iter().take_while(|byte| **byte == 0).count()..]
}

/// The two numbers of an ECDSA signature (RFC 3279 2.2.3), without leading zeros.
pub(crate) fn ecdsa_numbers(signature: &[u8]) -> Option<(&[u8], &[u8])> {
    let (outer, _) = element(signature).filter(|(outer, rest)| outer.tag == SEQUENCE && rest.is_empty())?;
    let mut numbers =
        elements(outer.content).filter(|part| part.tag == INTEGER).map(|part| trim_leading_zeros(part.content));
    Some((numbers.next()?, numbers.next()?))
}

/// How many bits an INTEGER's content has, leading zeros left out.
pub(crate) fn bit_len(integer: &[u8]) -> u32 {
    let significant = trim_leading_zeros(integer);
    significant.first().map_or(0, |first| {
        let bits = significant.len().saturating_mul(8) - first.leading_zeros() as usize;
        u32::try_from(bits).unwrap_or(u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_element_tells_what_is_missing() {
        let (found, rest) = element(&[SEQUENCE, 0x82, 0x01, 0x00, 1, 2]).unwrap();
        assert_eq!((found.content, found.missing, rest.len()), (&[1, 2][..], 254, 0));
        assert!(element(&[SEQUENCE, 0x82, 0x01]).is_none());
        assert!(element(&[SEQUENCE, 0x80, 0x01]).is_none());
    }

    #[test]
    fn what_is_written_reads_back() {
        for length in [0, 1, 127, 128, 255, 256, 65_536] {
            let content = vec![7; length];
            let written = sequence(&[&content]);
            let (read, rest) = element(&written).unwrap();
            assert_eq!((read.tag, read.content, read.missing, rest.len()), (SEQUENCE, &content[..], 0, 0));
        }
    }

    #[test]
    fn bits_leave_out_leading_zeros() {
        assert_eq!(bit_len(&[0, 0x80, 0]), 16);
        assert_eq!(bit_len(&[1]), 1);
        assert_eq!(bit_len(&[]), 0);
    }
}
