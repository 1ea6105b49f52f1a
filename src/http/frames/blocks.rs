//! Reads header blocks (HPACK, RFC 7541) as they come, for what h2 does not show: how large a list of fields is before h2
//! refuses it, a fragment in `:path`, and pseudo-fields in a trailer section.
//!
//! Pure. It keeps what later blocks may refer to, and of each entry only what is asked of it; whether names and values are
//! legal is h2's to judge.

use std::collections::VecDeque;

use super::huffman::decode_octets;

/// Bytes of the dynamic table, at most: what our SETTINGS leave as it is (RFC 9113 6.5.2).
const MAX_TABLE_BYTES: usize = 4096;
/// What each field counts beside its name and value (RFC 7541 4.1).
const FIELD_OVERHEAD: usize = 32;
const PATH: &[u8] = b":path";
/// Indexes of the static table whose names begin with a colon, and those of `:path`.
const STATIC_PSEUDO_FIELDS: usize = 14;
const STATIC_PATHS: [usize; 2] = [4, 5];

/// The lengths of name and value of each entry of the static table (RFC 7541 appendix A).
const STATIC_LENGTHS: [(u8, u8); 61] = [
    (10, 0),
    (7, 3),
    (7, 4),
    (5, 1),
    (5, 11),
    (7, 4),
    (7, 5),
    (7, 3),
    (7, 3),
    (7, 3),
    (7, 3),
    (7, 3),
    (7, 3),
    (7, 3),
    (14, 0),
    (15, 13),
    (15, 0),
    (13, 0),
    (6, 0),
    (27, 0),
    (3, 0),
    (5, 0),
    (13, 0),
    (13, 0),
    (19, 0),
    (16, 0),
    (16, 0),
    (14, 0),
    (16, 0),
    (13, 0),
    (12, 0),
    (6, 0),
    (4, 0),
    (4, 0),
    (6, 0),
    (7, 0),
    (4, 0),
    (4, 0),
    (8, 0),
    (17, 0),
    (13, 0),
    (8, 0),
    (19, 0),
    (13, 0),
    (4, 0),
    (8, 0),
    (12, 0),
    (18, 0),
    (19, 0),
    (5, 0),
    (7, 0),
    (7, 0),
    (11, 0),
    (6, 0),
    (10, 0),
    (25, 0),
    (17, 0),
    (10, 0),
    (4, 0),
    (3, 0),
    (16, 0),
];

/// What one field is, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FieldFacts {
    name_length: usize,
    value_length: usize,
    pseudo: bool,
    path: bool,
    /// It is `:path`, with a `#` in it.
    fragment: bool,
}

/// What a whole header block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockFacts {
    /// The size of its list of fields (RFC 9113 10.5.1).
    pub(super) size: usize,
    /// Whether any of its fields is a pseudo-field.
    pub(super) pseudo: bool,
    /// Whether its `:path` has a fragment.
    pub(super) fragment: bool,
}

/// The state between the header blocks of one connection.
#[derive(Debug, Default)]
pub(super) struct BlockReader {
    /// The newest entry first.
    table: VecDeque<FieldFacts>,
    /// Its size, and by how much its limit is lower than what we allow.
    size: usize,
    lowered: usize,
}

impl FieldFacts {
    fn size(self) -> usize {
        self.name_length + self.value_length + FIELD_OVERHEAD
    }
}

impl BlockReader {
    /// Reads the next block, whole and without padding; `None` where it is not HPACK: h2 ends the connection then.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Option<BlockFacts> {
        let mut facts = BlockFacts::default();
        while let Some(first) = block.first().copied() {
            let field = match first {
                0x80.. => {
                    let index = read_integer(&mut block, 7)?;
                    self.entry(index)?
                }
                0x40.. => {
                    let field = self.read_literal(&mut block, 6)?;
                    self.insert(field);
                    field
                }
                0x20.. => {
                    let limit = read_integer(&mut block, 5)?;
                    self.lowered = MAX_TABLE_BYTES.checked_sub(limit)?;
                    self.evict(limit);
                    continue;
                }
                _ => self.read_literal(&mut block, 4)?,
            };
            facts.size = facts.size.saturating_add(field.size());
            facts.pseudo |= field.pseudo;
            facts.fragment |= field.fragment;
        }
        Some(facts)
    }

    /// A field with a value of its own, its name spelled out or taken from a table.
    fn read_literal(&self, block: &mut &[u8], prefix: u32) -> Option<FieldFacts> {
        let mut field = match read_integer(block, prefix)? {
            0 => {
                let mut field = FieldFacts::default();
                let mut path = true;
                read_text(block, |octet| {
                    field.pseudo |= field.name_length == 0 && octet == b':';
                    path &= PATH.get(field.name_length) == Some(&octet);
                    field.name_length += 1;
                })?;
                field.path = path && field.name_length == PATH.len();
                field
            }
            index => self.entry(index)?,
        };
        (field.value_length, field.fragment) = (0, false);
        read_text(block, |octet| {
            field.value_length += 1;
            field.fragment |= field.path && octet == b'#';
        })?;
        Some(field)
    }

    fn entry(&self, index: usize) -> Option<FieldFacts> {
        let index = index.checked_sub(1)?;
        let Some((name_length, value_length)) = STATIC_LENGTHS.get(index) else {
            return self.table.get(index - STATIC_LENGTHS.len()).copied();
        };
        Some(FieldFacts {
            name_length: usize::from(*name_length),
            value_length: usize::from(*value_length),
            pseudo: index < STATIC_PSEUDO_FIELDS,
            path: STATIC_PATHS.contains(&(index + 1)),
            fragment: false,
        })
    }

    /// RFC 7541 4.4: an entry larger than the table empties it.
    fn insert(&mut self, field: FieldFacts) {
        let limit = MAX_TABLE_BYTES - self.lowered;
        self.evict(limit.saturating_sub(field.size()));
        if field.size() <= limit {
            self.size += field.size();
            self.table.push_front(field);
        }
    }

    /// Removes the oldest entries until `limit` bytes are left at most.
    fn evict(&mut self, limit: usize) {
        while self.size > limit
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

/// An integer with a prefix of so many bits (RFC 7541 5.1).
fn read_integer(block: &mut &[u8], prefix: u32) -> Option<usize> {
    let (first, rest) = block.split_first()?;
    *block = rest;
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value < mask {
        return Some(value);
    }
    // Three more bytes say more than any length of ours may be.
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = block.split_first()?;
        *block = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Each octet of a string literal (RFC 7541 5.2).
fn read_text(block: &mut &[u8], mut each: impl FnMut(u8)) -> Option<()> {
    let coded = block.first()? & 0x80 != 0;
    let length = read_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    if coded {
        decode_octets(text, each)
    } else {
        text.iter().copied().for_each(&mut each);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    /// The size of a list, field by field.
    fn list_size(fields: &[(&str, &str)]) -> usize {
        fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
    }

    #[test]
    fn the_requests_of_the_rfc_have_the_size_that_it_says() {
        // RFC 7541 C.3 without, and C.4 with Huffman code: three requests, each of which refers to the ones before.
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        let host = (":authority", "www.example.com");
        let lists = [
            list_size(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), host]),
            list_size(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), host, ("cache-control", "no-cache")]),
            list_size(&[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                host,
                ("custom-key", "custom-value"),
            ]),
        ];
        for blocks in [plain, coded] {
            let mut reader = BlockReader::default();
            for (block, size) in blocks.iter().zip(lists) {
                let facts = reader.read(&unhex(block)).unwrap();
                assert_eq!(facts, BlockFacts { size, pseudo: true, fragment: false });
            }
            // "Table size: 164".
            assert_eq!((reader.size, reader.table.len()), (164, 3));
        }
    }

    #[test]
    fn entries_leave_the_table_as_the_rfc_says() {
        // RFC 7541 C.5, behind a change of the table's size to 256.
        let blocks = [
            "3fe1 01 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 \
             474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f \
             6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b \
             2076 6572 7369 6f6e 3d31",
        ];
        let mut reader = BlockReader::default();
        let sizes: Vec<usize> = blocks
            .iter()
            .map(|block| {
                reader.read(&unhex(block)).unwrap();
                reader.size
            })
            .collect();
        assert_eq!(sizes, [222, 222, 215]);
        assert_eq!(reader.table.len(), 3);
    }

    #[test]
    fn a_fragment_is_found_however_the_path_is_written_and_wherever_it_is_kept() {
        for block in [
            // A literal with the static name, with a name of its own, and in Huffman code.
            &[0x04, 3, b'/', b'#', b'f'][..],
            b"\x00\x05:path\x03/#f",
            &[0x04, 0x83, 0x63, 0xfe, 0xa5],
        ] {
            assert!(BlockReader::default().read(block).unwrap().fragment, "{block:?}");
        }
        let mut reader = BlockReader::default();
        assert!(reader.read(&[0x44, 3, b'/', b'#', b'f']).unwrap().fragment);
        assert!(reader.read(&[0xbe]).unwrap().fragment, "from the dynamic table");
        assert!(!reader.read(&[0x84]).unwrap().fragment);
        assert!(!reader.read(b"\x00\x05x-tag\x02#1").unwrap().fragment);
        // The name alone is taken from the entry, with another value.
        assert_eq!(reader.read(&[0x0f, 0x2f, 1, b'/']), Some(BlockFacts { size: 38, pseudo: true, fragment: false }));
    }

    #[test]
    fn what_is_not_hpack_is_none_and_never_a_panic() {
        for block in
            [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0xbe], &[0x40, 5, b'x'], &[0x3f, 0xff, 0xff, 3]]
        {
            assert_eq!(BlockReader::default().read(block), None, "{block:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_leave_a_table_within_its_limit(
            blocks in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), 0..20),
        ) {
            let mut reader = BlockReader::default();
            for block in blocks {
                let _ = reader.read(&block);
                proptest::prop_assert!(reader.size <= MAX_TABLE_BYTES);
                proptest::prop_assert_eq!(reader.size, reader.table.iter().map(|field| field.size()).sum::<usize>());
            }
        }
    }
}
