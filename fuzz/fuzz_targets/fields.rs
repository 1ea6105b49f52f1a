//! Whatever fields come in, cleaning neither panics nor leaves a field that looks like an identity.
#![no_main]

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use sidekey::http::fields::{ForwardingPolicy, StripList, clean_request, clean_response, clean_trailers};

fn looks_like_identity(name: &str) -> bool {
    let normal: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    ["client-cert", "client-cert-chain", "x-forwarded-client-cert"].contains(&normal.as_str())
        || normal.starts_with("x-sidekey-")
}

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().and_then(|name| HeaderName::from_bytes(name).ok());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default()).ok();
        if let (Some(name), Some(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let strip = StripList::new(&["x-ssl-*".to_owned()]);
    let (mut response, mut trailers) = (headers.clone(), headers.clone());
    clean_response(&mut response);
    clean_trailers(&mut trailers, &strip);
    let request = clean_request(&mut headers, &strip, ForwardingPolicy::Strip).is_ok().then_some(headers);
    for map in request.iter().chain([&response, &trailers]) {
        assert!(!map.keys().any(|name| looks_like_identity(name.as_str())));
    }
});
