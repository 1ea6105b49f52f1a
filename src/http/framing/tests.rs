use proptest::prelude::*;

use super::*;

const BOUNDS: FramingLimits = FramingLimits { head_size: 256, fields: 8 };

/// Feeds the pieces as they arrive; what went on, and the rule that was broken.
fn scan_pieces<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, Option<FramingFault>) {
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

fn scan_whole(bytes: &[u8]) -> (Vec<u8>, Option<FramingFault>) {
    scan_pieces([bytes])
}

#[test]
fn a_head_goes_on_when_it_is_whole_and_content_as_it_comes() {
    let mut scanner = FramingScanner::new(BOUNDS);
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    assert_eq!(scanner.scan(&head[..40]), FramingStep { pass: 0, next: FramingAction::More });
    assert_eq!(scanner.scan(head), FramingStep { pass: head.len(), next: FramingAction::More });
    assert!(scanner.is_within_content());
    assert_eq!(scanner.scan(b"ab"), FramingStep { pass: 2, next: FramingAction::More });
    assert_eq!(scanner.scan(b"cdGET"), FramingStep { pass: 2, next: FramingAction::More });
    assert!(scanner.is_within_request() && !scanner.is_within_content());
}

#[test]
fn of_a_message_that_is_found_bad_at_once_nothing_goes_on() {
    let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n";
    let mut both = good.to_vec();
    both.extend_from_slice(bad);
    let mut scanner = FramingScanner::new(BOUNDS);
    assert_eq!(
        scanner.scan(&both),
        FramingStep { pass: good.len(), next: FramingAction::Refuse(FramingFault::ChunkEnd) }
    );
    // It repeats the verdict, whatever comes.
    assert_eq!(scanner.scan(good), FramingStep { pass: 0, next: FramingAction::Refuse(FramingFault::ChunkEnd) });

    let mut scanner = FramingScanner::new(BOUNDS);
    let head = bad.iter().position(|byte| *byte == b'5').unwrap();
    assert_eq!(scanner.scan(&bad[..head]).pass, head);
    assert_eq!(scanner.scan(&bad[head..]), FramingStep { pass: 0, next: FramingAction::Cut(FramingFault::ChunkEnd) });
}

#[test]
fn behind_an_upgrade_nothing_is_judged_until_it_is_declined() {
    let mut scanner = FramingScanner::new(BOUNDS);
    let ask = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    let mut bytes = ask.to_vec();
    bytes.extend_from_slice(b"\x81\x05hello");
    assert_eq!(scanner.scan(&bytes), FramingStep { pass: ask.len(), next: FramingAction::Pause });
    assert!(scanner.has_upgrade());
    assert_eq!(scanner.scan(b"\x81\x05hello"), FramingStep { pass: 0, next: FramingAction::Pause });
    scanner.resume();
    assert_eq!(scanner.scan(b"\x81\x05hello\n").next, FramingAction::Refuse(FramingFault::BareLineFeed));
}

#[test]
fn limits_are_the_listeners() {
    let line = |length: usize| [b"GET /".to_vec(), vec![b'a'; length], b" HTTP/1.1\r\n".to_vec()].concat();
    assert_eq!(scan_whole(&line(300)).1, Some(FramingFault::TargetTooLong));
    let field = |length: usize| [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; length]].concat();
    assert_eq!(scan_whole(&field(300)).1, Some(FramingFault::HeadTooLarge));
    assert_eq!(scan_whole(&field(100)).1, None);
    let many = [&b"GET / HTTP/1.1\r\n"[..], &b"a:\r\n".repeat(9), b"\r\n"].concat();
    assert_eq!(scan_whole(&many).1, Some(FramingFault::TooManyFields));
    let few = [&b"GET / HTTP/1.1\r\n"[..], &b"a:\r\n".repeat(8), b"\r\n"].concat();
    assert_eq!(scan_whole(&few), (few.clone(), None));
}

#[test]
fn every_fault_has_a_status_and_a_code_of_plain_letters() {
    for fault in FramingFault::ALL {
        assert!(fault.status().is_client_error() || fault.status().is_server_error());
        assert!(fault.reason().bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'));
        assert!(!fault.explanation().ends_with('.'));
    }
}

/// Pieces of requests, good and bad, in an order that often makes sense.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        4 => Just("GET / HTTP/1.1\r\n"),
        2 => Just("POST /a HTTP/1.1\r\n"),
        1 => Just("POST / HTTP/1.0\r\n"),
        1 => Just("\r\n"),
        1 => Just("GET /  HTTP/1.1\r\n"),
    ];
    let field = prop_oneof![
        4 => Just("Host: a\r\n"),
        2 => Just("Content-Length: 5\r\n"),
        2 => Just("Transfer-Encoding: chunked\r\n"),
        1 => Just("Upgrade: x\r\n"),
        1 => Just("X: \r\n"),
        1 => Just(" folded\r\n"),
        1 => Just("Content_Length: 5\r\n"),
        1 => Just("X: a\rb\r\n"),
        1 => Just("X: y\n"),
    ];
    let content = prop_oneof![
        4 => Just(""),
        2 => Just("hello"),
        3 => Just("5\r\nhello\r\n0\r\n\r\n"),
        1 => Just("5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\n"),
        1 => Just("5\r\nhello0\r\n\r\n"),
        1 => Just("5 \r\n"),
        1 => Just("\0"),
    ];
    let message = (start, prop::collection::vec(field, 0..4), content)
        .prop_map(|(start, fields, content)| format!("{start}{}\r\n{content}", fields.concat()).into_bytes());
    prop::collection::vec(message, 1..4).prop_map(|messages| messages.concat())
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_verdict(bytes in any_stream(), sizes in prop::collection::vec(1usize..20, 1..40)) {
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        let (whole, fault) = scan_whole(&bytes);
        let (split, split_fault) = scan_pieces(pieces.iter().copied());
        prop_assert_eq!(fault, split_fault);
        // In pieces a message may begin before it is found bad, so more can have gone on, never less, and nothing else.
        prop_assert!(split.starts_with(&whole) && bytes.starts_with(&split));
        prop_assert!(fault.is_some() || whole.len() == split.len());
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic_and_nothing_goes_on_that_was_not_there(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':')], 0..600),
    ) {
        let (passed, _) = scan_whole(&bytes);
        prop_assert!(bytes.starts_with(&passed));
        let (split, _) = scan_pieces(bytes.chunks(1));
        prop_assert!(bytes.starts_with(&split));
    }
}
