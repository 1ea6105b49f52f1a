//! The Huffman code of HPACK (RFC 7541 appendix B), as far as a header block has to be measured: its octets, one by one.
//!
//! The code is canonical, so the lengths alone define it: codes of one length follow each other in the order of their octets.

/// The length in bits of each octet's code.
const CODE_LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];
const MAX_CODE_BITS: usize = 30;

/// For each length of code: the first code, how many there are, and where their octets begin in `OCTETS`.
static CODES: [(u32, u32, usize); MAX_CODE_BITS + 1] = code_table().0;
/// The octets in the order of their codes.
static OCTETS: [u8; 256] = code_table().1;

const fn code_table() -> ([(u32, u32, usize); MAX_CODE_BITS + 1], [u8; 256]) {
    let mut codes = [(0, 0, 0); MAX_CODE_BITS + 1];
    let mut octets = [0; 256];
    let (mut code, mut place, mut bits) = (0, 0, 1);
    while bits <= MAX_CODE_BITS {
        code <<= 1;
        codes[bits] = (code, 0, place);
        let mut octet: u8 = 0;
        loop {
            if CODE_LENGTHS[octet as usize] as usize == bits {
                octets[place] = octet;
                place += 1;
                code += 1;
                codes[bits].1 += 1;
            }
            if octet == u8::MAX {
                break;
            }
            octet += 1;
        }
        bits += 1;
    }
    (codes, octets)
}

/// Calls `each` with every octet that `coded` stands for; `None` where it is not the code of a text.
pub(super) fn decode_octets(coded: &[u8], mut each: impl FnMut(u8)) -> Option<()> {
    let (mut code, mut bits) = (0_u32, 0_usize);
    for byte in coded {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            if bits > MAX_CODE_BITS {
                return None;
            }
            let (first, count, place) = CODES[bits];
            if code >= first && code - first < count {
                each(OCTETS[place + (code - first) as usize]);
                (code, bits) = (0, 0);
            }
        }
    }
    // What is left is the beginning of the code of all ones, shorter than a byte (RFC 7541 5.2).
    (bits < 8 && code == (1 << bits) - 1).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(coded: &[u8]) -> Option<String> {
        let mut text = Vec::new();
        decode_octets(coded, |octet| text.push(octet))?;
        Some(String::from_utf8(text).unwrap())
    }

    #[test]
    fn the_texts_of_the_rfc_are_decoded() {
        // RFC 7541 C.4 and C.6.
        let host = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decode(&host).unwrap(), "www.example.com");
        assert_eq!(decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), "no-cache");
        assert_eq!(decode(&[0xae, 0xc3, 0x77, 0x1a, 0x4b]).unwrap(), "private");
        assert_eq!(decode(&[]).unwrap(), "");
        // '#' has twelve bits: 1111 1111 1010.
        assert_eq!(decode(&[0xff, 0xaf]).unwrap(), "#");
    }

    #[test]
    fn padding_that_is_not_all_ones_or_too_long_is_not_a_code() {
        assert_eq!(decode(&[0xff, 0xa0]), None);
        assert_eq!(decode(&[0xff]), None);
        assert_eq!(decode(&[0xff; 5]), None);
    }
}
