//! Whatever a load balancer sends, reading its PROXY header neither panics nor takes a byte beyond the header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidekey::net::proxy_protocol::{ProxyHeaderStep, parse_header};

fuzz_target!(|data: &[u8]| {
    let mut taken = 0;
    loop {
        match parse_header(&data[..taken]) {
            Ok(ProxyHeaderStep::More(count)) => {
                assert!(count > 0);
                if taken == data.len() {
                    return;
                }
                taken += count.min(data.len() - taken);
            }
            Ok(ProxyHeaderStep::Done { skip, .. }) => {
                // Version 1 ends with its line, version 2 where its length says.
                let end = match data[0] {
                    b'P' => data.iter().position(|byte| *byte == b'\n').map(|end| end + 1),
                    _ => Some(16 + usize::from(u16::from_be_bytes([data[14], data[15]]))),
                };
                assert_eq!(Some(taken + skip), end);
                return;
            }
            Err(_) => return,
        }
    }
});
