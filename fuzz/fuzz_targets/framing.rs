//! Any bytes: the HTTP/1 scanner never panics, judges a split as it judges the whole, and lets no head on that has two
//! framings, a control character or another line end than CRLF.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidekey::http::framing::{FramingAction, FramingFault, FramingLimits, FramingScanner};

const BOUNDS: FramingLimits = FramingLimits { head_size: 1024, fields: 16 };

fn run<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, Option<FramingFault>) {
    let mut scanner = FramingScanner::new(BOUNDS);
    let (mut left, mut passed) = (Vec::new(), Vec::new());
    for piece in pieces {
        left.extend_from_slice(piece);
        loop {
            let step = scanner.scan(&left);
            passed.extend(left.drain(..step.pass));
            match step.next {
                FramingAction::More => break,
                FramingAction::Pause => scanner.resume(),
                FramingAction::Refuse(fault) | FramingAction::Cut(fault) => return (passed, Some(fault)),
            }
        }
    }
    (passed, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let (whole, fault) = run([bytes]);
    let cut = usize::from(cut).min(bytes.len());
    for (split, split_fault) in [run([&bytes[..cut], &bytes[cut..]]), run(bytes.chunks(1))] {
        assert_eq!(fault, split_fault);
        assert!(split.starts_with(&whole) && bytes.starts_with(&split));
    }
    // The first head that goes on has no line end but CRLF, one framing, and no control character.
    let head = whole.strip_prefix(b"\r\n").unwrap_or(&whole);
    if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = &head[..end];
        assert!(head.split(|byte| *byte == b'\n').rev().skip(1).all(|line| line.ends_with(b"\r")));
        let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut framings = 0;
        for line in lines {
            assert!(line.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()));
            let name: Vec<u8> = line.split(|byte| *byte == b':').next().unwrap_or_default().to_ascii_lowercase();
            framings += usize::from(name == b"content-length" || name == b"transfer-encoding");
        }
        assert!(framings <= 1);
    }
});
