//! Any bytes behind the preface: the HTTP/2 scanner never panics, and judges a split as it judges the whole; so does what counts
//! refused streams in what goes out.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sidekey::http::frames::{FrameFlood, FrameScanner, StreamRefusals};

fn run<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (usize, Option<FrameFlood>) {
    let mut scanner = FrameScanner::new(1024, Duration::ZERO);
    scanner.scan(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, Duration::ZERO);
    let (mut left, mut passed) = (Vec::new(), 0);
    for piece in pieces {
        left.extend_from_slice(piece);
        loop {
            let step = scanner.scan(&left, 0, Duration::ZERO);
            let frame = step.fault.map_or(0, |found| found.frame);
            left.drain(..step.pass + frame);
            passed += step.pass + frame;
            if step.flood.is_some() {
                return (passed, step.flood);
            }
            if step.fault.is_none() {
                break;
            }
        }
    }
    (passed, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = run([bytes]);
    let cut = usize::from(cut).min(bytes.len());
    assert_eq!(run([&bytes[..cut], &bytes[cut..]]), whole);
    assert_eq!(run(bytes.chunks(3)), whole);
    assert!(whole.0 <= bytes.len());
    let (mut refusals, mut pieces) = (StreamRefusals::default(), StreamRefusals::default());
    assert_eq!(refusals.count(bytes), bytes.chunks(3).map(|piece| pieces.count(piece)).sum::<u64>());
});
