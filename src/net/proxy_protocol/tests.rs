use proptest::prelude::*;

use super::*;

fn done_step(from: &str) -> Result<ProxyHeaderStep, ProxyHeaderViolation> {
    Ok(ProxyHeaderStep::Done { from: from.parse().ok(), skip: 0 })
}

/// A header of version 2: command and family as bytes, then what follows the length.
fn v2_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    header.extend(rest);
    header
}

/// The result of reading byte by byte, as `More` allows, and how many bytes it took.
fn feed_bytes(header: &[u8]) -> (Result<ProxyHeaderStep, ProxyHeaderViolation>, usize) {
    let mut taken = 0;
    loop {
        match parse_header(&header[..taken]) {
            Ok(ProxyHeaderStep::More(count)) if taken < header.len() => taken += count.min(header.len() - taken),
            step => return (step, taken),
        }
    }
}

#[test]
fn version_1_names_the_source() {
    assert_eq!(parse_header(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"), done_step("192.0.2.1:56324"));
    assert_eq!(parse_header(b"PROXY TCP6 2001:db8::1 2001:db8::2 0 443\r\n"), done_step("[2001:db8::1]:0"));
    assert_eq!(parse_header(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 443\r\n"), done_step("192.0.2.1:1"));
    for unknown in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"] {
        assert_eq!(parse_header(unknown.as_bytes()), done_step(""), "{unknown}");
    }
}

#[test]
fn version_2_names_the_source_and_its_extensions_are_skipped() {
    let four = [&[192, 0, 2, 1, 192, 0, 2, 2][..], &[0xdc, 0x04, 1, 0xbb]].concat();
    assert_eq!(parse_header(&v2_header(0x21, 0x11, &four)), done_step("192.0.2.1:56324"));
    let extended = [&four[..], &[0x04, 0, 3, 1, 2, 3]].concat();
    let header = v2_header(0x21, 0x11, &extended);
    let (step, taken) = feed_bytes(&header);
    assert_eq!(step, Ok(ProxyHeaderStep::Done { from: "192.0.2.1:56324".parse().ok(), skip: 6 }));
    assert_eq!(taken + 6, header.len());
    let mut six = [0; 36];
    six[0] = 0xfd;
    six[32] = 1;
    assert_eq!(parse_header(&v2_header(0x21, 0x21, &six)), done_step("[fd00::]:256"));
}

#[test]
fn a_load_balancer_that_speaks_for_itself_keeps_its_address() {
    assert_eq!(parse_header(&v2_header(0x20, 0x00, &[])), done_step(""));
    assert_eq!(feed_bytes(&v2_header(0x20, 0x11, &[0; 12])).0, Ok(ProxyHeaderStep::Done { from: None, skip: 12 }));
    assert_eq!(parse_header(&v2_header(0x21, 0x00, &[])), done_step(""));
    assert_eq!(feed_bytes(&v2_header(0x21, 0x31, &[0; 216])).0, Ok(ProxyHeaderStep::Done { from: None, skip: 216 }));
}

#[test]
fn invalid_headers_are_refused_as_early_as_possible() {
    for absent in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"proxy TCP4", b"PROXYTCP4", b"\r\n\r\n\0\r\nQUIX"] {
        assert_eq!(parse_header(absent), Err(ProxyHeaderViolation::Absent), "{absent:?}");
    }
    assert_eq!(parse_header(b"PRO"), Ok(ProxyHeaderStep::More(12)));
    for wrong in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 056324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 443\r\n",
        "PROXY TCP4 192.0.2.1 host 1 443\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 443\r\n",
        "PROXY UNKNOWNX 1 2\r\n",
        "PROXY TCP4 \u{e9}192.0.2.1 192.0.2.2 1 443\r\n",
    ] {
        assert!(matches!(parse_header(wrong.as_bytes()), Err(ProxyHeaderViolation::Malformed(_))), "{wrong:?}");
    }
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    assert!(matches!(feed_bytes(&endless), (Err(ProxyHeaderViolation::Malformed(_)), V1_MAX_BYTES)));
    for wrong in [
        v2_header(0x31, 0x11, &[0; 12]),
        v2_header(0x22, 0x11, &[0; 12]),
        v2_header(0x21, 0x12, &[0; 12]),
        v2_header(0x21, 0x21, &[0; 12]),
    ] {
        assert!(matches!(parse_header(&wrong), Err(ProxyHeaderViolation::Malformed(_))), "{wrong:?}");
    }
}

#[tokio::test]
async fn nothing_behind_the_header_is_taken() {
    let extended = [&[192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 1, 0xbb][..], &[7; 5000]].concat();
    for header in [b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec(), v2_header(0x21, 0x11, &extended)] {
        let bytes = [&header[..], b"\x16\x03\x01"].concat();
        let mut stream = std::io::Cursor::new(bytes);
        assert_eq!(read_header(&mut stream).await.unwrap(), "192.0.2.1:56324".parse().ok());
        assert_eq!(stream.position(), header.len() as u64);
    }
    let cut = v2_header(0x21, 0x11, &extended);
    let mut stream = std::io::Cursor::new(&cut[..cut.len() - 1]);
    assert!(matches!(read_header(&mut stream).await, Err(ProxyHeaderError::Io { no_byte: false, .. })));
    assert!(matches!(read_header(&mut tokio::io::empty()).await, Err(ProxyHeaderError::Io { no_byte: true, .. })));
}

proptest! {
    #[test]
    fn any_source_is_read_back_without_a_byte_too_many(
        address: std::net::IpAddr, port: u16, second: bool, extension in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let header = match (second, address) {
            (false, IpAddr::V4(from)) => format!("PROXY TCP4 {from} 127.0.0.1 {port} 443\r\n").into_bytes(),
            (false, IpAddr::V6(from)) => format!("PROXY TCP6 {from} ::1 {port} 443\r\n").into_bytes(),
            (true, IpAddr::V4(from)) => {
                v2_header(0x21, 0x11, &[&from.octets()[..], &[0; 4], &port.to_be_bytes(), &[0; 2], &extension].concat())
            }
            (true, IpAddr::V6(from)) => {
                v2_header(0x21, 0x21, &[&from.octets()[..], &[0; 16], &port.to_be_bytes(), &[0; 2], &extension].concat())
            }
        };
        let followed = [&header[..], &[0x16; 300]].concat();
        let (step, taken) = feed_bytes(&followed);
        let Ok(ProxyHeaderStep::Done { from, skip }) = step else { return Err(TestCaseError::fail(format!("{step:?}"))) };
        prop_assert_eq!(from, Some(canonical_socket(address, port)));
        prop_assert_eq!(taken + skip, header.len());
    }

    #[test]
    fn no_bytes_bring_it_down_and_it_always_comes_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for start in [&b""[..], V1_SIGNATURE, V2_SIGNATURE] {
            let (step, taken) = feed_bytes(&[start, &bytes].concat());
            prop_assert!(taken <= V2_FIXED_BYTES + 36 || taken <= V1_MAX_BYTES, "{step:?} after {taken}");
        }
    }
}
