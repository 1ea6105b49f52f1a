//! Requests that a browser sends on behalf of another site: an egress refuses them (contract section 11).
//!
//! Pure. A client that reaches an egress speaks as us, and a page of any site can make a browser here try. Browsers say
//! so themselves: in `Sec-Fetch-Site` (W3C Fetch Metadata), older ones only in `Origin` (RFC 6454). Other clients send
//! neither, or what they like, and could reach the egress anyhow. `Referer` marks nothing: the page decides whether it is
//! sent (`docs/decisions/0031-referer.md`).

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, ORIGIN};
use http::uri::Uri;

use crate::http::error::RequestError as Error;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a request that its browser marks as another site's. Origins of `host`, which the request names, and of
/// `upstream` are the same site.
pub(crate) fn check_same_site(headers: &HeaderMap, host: &HeaderValue, upstream: &str) -> Result<(), Error> {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    if sites.peek().is_some() {
        // `none` is an address that the user typed. `same-site` is another port of this host, or a neighbour's name.
        let own = |site: &HeaderValue| matches!(site.as_bytes().trim_ascii(), b"same-origin" | b"none");
        return if sites.all(own) { Ok(()) } else { Err(Error::CrossSite) };
    }
    let own = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        let authority = origin.as_ref().and_then(Uri::authority);
        authority.is_some_and(|origin| {
            [host.as_bytes(), upstream.as_bytes()]
                .iter()
                .any(|own| origin.as_str().as_bytes().eq_ignore_ascii_case(own))
        })
    };
    if headers.get_all(ORIGIN).iter().all(own) { Ok(()) } else { Err(Error::CrossSite) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(fields: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_same_site(&headers, &HeaderValue::from_static("127.0.0.1:9001"), "api.example:8443").is_ok()
    }

    #[test]
    fn what_a_browser_marks_as_another_sites_is_refused() {
        for fields in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:9001")],
            &[("origin", "https://evil.example")],
            &[("origin", "http://127.0.0.1:3000")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "http://127.0.0.1:9001"), ("origin", "https://evil.example")],
        ] {
            assert!(!passes(fields), "{fields:?}");
        }
    }

    #[test]
    fn non_browsers_and_own_origins_pass() {
        for fields in [
            &[][..],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "same-origin"), ("origin", "https://shop.example")],
            &[("origin", "http://127.0.0.1:9001")],
            &[("origin", "https://API.example:8443")],
            &[("referer", "https://shop.example/cart")],
        ] {
            assert!(passes(fields), "{fields:?}");
        }
    }
}
