use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

fn scanner_after_preface() -> FrameScanner {
    let mut scanner = FrameScanner::new(1024, Duration::ZERO);
    assert_eq!(scanner.scan(PREFACE, 0, Duration::ZERO), FrameStep { pass: PREFACE.len(), flood: None, fault: None });
    scanner
}

/// How many of `bytes`, one after the other, go on.
fn count_until_flood(scanner: &mut FrameScanner, bytes: &[u8], most: usize) -> (usize, Option<FrameFlood>) {
    for count in 0..most {
        let step = scanner.scan(bytes, 0, Duration::ZERO);
        if step.flood.is_some() {
            return (count, step.flood);
        }
        assert_eq!(step.pass, bytes.len());
    }
    (most, None)
}

#[test]
fn every_kind_has_its_budget() {
    for (kind, flags, content, flood) in [
        (0, 0, &b""[..], FrameFlood::EmptyData),
        (0, 0x8, &b"\x03\0\0\0"[..], FrameFlood::EmptyData),
        (3, 0, &b"\0\0\0\x08"[..], FrameFlood::Resets),
        (6, 0, &b"12345678"[..], FrameFlood::Pings),
        (4, 0, &b""[..], FrameFlood::Settings),
        (2, 0, &b"\0\0\0\0\x10"[..], FrameFlood::Priorities),
        (8, 0, &b"\0\0\0\x01"[..], FrameFlood::WindowUpdates),
        (0xbe, 0, &b"grease"[..], FrameFlood::Others),
    ] {
        let (count, found) = count_until_flood(&mut scanner_after_preface(), &frame(kind, flags, 1, content), 2000);
        assert_eq!(found, Some(flood));
        assert!((50..=1000).contains(&count), "{flood:?} after {count}");
    }
}

#[test]
fn a_frame_that_is_too_much_does_not_go_on_and_nothing_behind_it() {
    let mut scanner = scanner_after_preface();
    let settings = frame(4, 0, 0, b"");
    assert_eq!(count_until_flood(&mut scanner, &settings, 1000), (100, Some(FrameFlood::Settings)));
    assert_eq!(
        scanner.scan(&settings, 0, Duration::ZERO),
        FrameStep { pass: 0, flood: Some(FrameFlood::Settings), fault: None }
    );
}

#[test]
fn budgets_are_full_again_after_their_window() {
    let mut scanner = scanner_after_preface();
    let ping = frame(6, 0, 0, b"12345678");
    for minute in 0..5 {
        for _ in 0..400 {
            assert_eq!(scanner.scan(&ping, 0, BUDGET_WINDOW * minute).flood, None);
        }
    }
}

#[test]
fn traffic_refills_what_it_needs() {
    let mut scanner = scanner_after_preface();
    let update = frame(8, 0, 1, b"\0\0\x10\0");
    for count in 0..100_000u64 {
        // A download: one update for each 4 KiB.
        assert_eq!(scanner.scan(&update, count * 4096, Duration::ZERO).flood, None);
    }
    let mut scanner = scanner_after_preface();
    for stream in 0..10_000u32 {
        let headers = frame(1, END_HEADERS | END_STREAM, 2 * stream + 1, b"\x82");
        assert_eq!(scanner.scan(&headers, 0, Duration::ZERO).flood, None);
        if stream % 2 == 0 {
            let reset = frame(3, 0, 2 * stream + 1, b"\0\0\0\x08");
            assert_eq!(scanner.scan(&reset, 0, Duration::ZERO).flood, None, "every second request given up");
        }
    }
}

#[test]
fn rapid_resets_are_bounded_however_slowly_they_come() {
    let mut scanner = scanner_after_preface();
    let mut given_up = 0;
    let flood = (0..5000u32).find_map(|stream| {
        let mut bytes = frame(1, END_HEADERS | END_STREAM, 2 * stream + 1, b"\x82");
        bytes.extend_from_slice(&frame(3, 0, 2 * stream + 1, b"\0\0\0\x08"));
        given_up += 1;
        scanner.scan(&bytes, 0, Duration::ZERO).flood
    });
    assert_eq!(flood, Some(FrameFlood::Resets));
    assert!(given_up <= 1001, "{given_up}");
}

#[test]
fn a_header_block_is_bounded_in_bytes_and_frames() {
    let mut scanner = scanner_after_preface();
    assert_eq!(scanner.scan(&frame(1, 0, 1, &[0; 600]), 0, Duration::ZERO).flood, None);
    assert_eq!(scanner.scan(&frame(9, 0, 1, &[0; 600]), 0, Duration::ZERO).flood, Some(FrameFlood::HeaderBlock));
    let mut scanner = scanner_after_preface();
    assert_eq!(scanner.scan(&frame(1, 0, 1, &[0; 6]), 0, Duration::ZERO).flood, None);
    assert_eq!(count_until_flood(&mut scanner, &frame(9, 0, 1, b""), 100), (5, Some(FrameFlood::Continuations)));
}

#[test]
fn other_bytes_than_http_2_are_left_for_h2_to_refuse() {
    let mut scanner = FrameScanner::new(1024, Duration::ZERO);
    assert_eq!(
        scanner.scan(b"GET / HTTP/1.1\r\n\r\n", 0, Duration::ZERO),
        FrameStep { pass: 18, flood: None, fault: None }
    );
}

/// What a scanner makes of these bytes at once: how many pass as they are or changed, and what it finds.
fn scan_through(scanner: &mut FrameScanner, bytes: &[u8]) -> (usize, Vec<BlockFault>, Option<FrameFlood>) {
    let (mut at, mut faults) = (0, Vec::new());
    loop {
        let step = scanner.scan(&bytes[at..], 0, Duration::ZERO);
        at += step.pass;
        let Some(found) = step.fault else { return (at, faults, step.flood) };
        at += found.frame;
        faults.push(found.fault);
    }
}

#[test]
fn a_block_that_breaks_a_rule_is_found_once_and_what_follows_is_judged_on() {
    let get = b"\x82\x87\x84\x01\x01a";
    let fragment = b"\x82\x87\x04\x03/#f\x01\x01a";
    let large = [&b"\x82\x87\x84\x00\x01x\x7f\x85\x06"[..], &[b'y'; 900]].concat();
    let frames = [
        frame(1, END_HEADERS | END_STREAM, 1, get),
        frame(1, END_HEADERS | END_STREAM, 3, fragment),
        // A number sign in another value than a path, and a trailer section without pseudo-fields.
        frame(1, END_HEADERS, 5, b"\x82\x87\x84\x00\x01x\x02/#"),
        frame(1, END_HEADERS | END_STREAM, 5, b"\x00\x01x\x00"),
        frame(1, END_HEADERS, 7, get),
        frame(1, END_HEADERS | END_STREAM, 7, b"\x84"),
        // In two parts, and padded.
        frame(1, END_STREAM, 9, &fragment[..4]),
        frame(9, END_HEADERS, 9, &fragment[4..]),
        frame(1, END_HEADERS | END_STREAM | 0x8, 11, &[&[2][..], fragment, &[0, 0]].concat()),
        frame(1, END_HEADERS | END_STREAM | 0x20, 13, &[&[0, 0, 0, 0, 15][..], fragment].concat()),
        frame(1, END_HEADERS | END_STREAM, 15, &large),
        frame(1, END_HEADERS | END_STREAM, 17, get),
    ]
    .concat();
    use BlockFault::{PathFragment, PseudoTrailer, TooLarge};
    let (at, faults, flood) = scan_through(&mut scanner_after_preface(), &frames);
    assert_eq!((at, flood), (frames.len(), None));
    assert_eq!(faults, [PathFragment, PseudoTrailer, PathFragment, PathFragment, PathFragment, TooLarge]);
}

#[test]
fn a_spoiled_frame_keeps_its_padding_and_its_priority() {
    let block = b"\x82\x87\x84\x01\x01a";
    let spoiled =
        |flags, before: &[u8], after: &[u8]| fault::spoil_frame(&frame(1, flags, 5, &[before, block, after].concat()));
    let end = b"\x04\x01/\x04\x01/";
    for (flags, before, after) in [
        (4, &b""[..], &b""[..]),
        (4 | 8, b"\x02", b"\0\0"),
        (4 | 8 | 0x20, b"\x01\0\0\0\0\x0f", b"\0"),
        (4 | 0x20, b"\0\0\0\0\x0f", b""),
    ] {
        assert_eq!(spoiled(flags, before, after), frame(1, flags, 5, &[before, block, &end[..], after].concat()));
    }
}

proptest! {
    #[test]
    fn any_split_of_the_frames_gives_the_same_verdict(
        frames in prop::collection::vec((0u8..12, any::<u8>(), 0u32..9, prop::collection::vec(any::<u8>(), 0..12), 1usize..150), 0..12),
        sizes in prop::collection::vec(1usize..30, 1..20),
    ) {
        let mut bytes = PREFACE.to_vec();
        for (kind, flags, stream, content, times) in frames {
            bytes.extend(frame(kind, flags, stream, &content).repeat(times));
        }
        let whole = scan_through(&mut FrameScanner::new(1024, Duration::ZERO), &bytes);
        let mut scanner = FrameScanner::new(1024, Duration::ZERO);
        let (mut left, mut passed, mut faults, mut flood) = (Vec::new(), 0, Vec::new(), None);
        let (mut rest, mut sizes) = (&bytes[..], sizes.iter().cycle());
        while !rest.is_empty() && flood.is_none() {
            let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            rest = after;
            left.extend_from_slice(piece);
            let (pass, found, over) = scan_through(&mut scanner, &left);
            left.drain(..pass);
            passed += pass;
            faults.extend(found);
            flood = over;
        }
        prop_assert_eq!((passed, faults, flood), whole);
    }
}
