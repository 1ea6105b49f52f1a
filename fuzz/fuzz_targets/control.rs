//! A line from a command: whatever it holds, it is a request or a refusal in one printable line, and a request is read
//! back from its own text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidekey::control::parse;

fuzz_target!(|line: &[u8]| {
    match parse(line) {
        Ok(request) => {
            let text = serde_json::to_vec(&request).expect("a request has a text");
            assert_eq!(parse(&text).as_ref(), Ok(&request));
        }
        Err(refused) => assert!(!refused.why.contains(['\n', '\r', '\u{1b}'])),
    }
});
