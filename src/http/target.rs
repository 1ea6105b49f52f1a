//! Method, target and Host of a request: what hyper lets through and a strict proxy must not (RFC 9112 3.2, RFC 9113 8.3.1).
//!
//! Pure. Message boundaries, methods and forms of targets on HTTP/1 are `framing`'s, which has judged the bytes before;
//! what stands in for a request that it refused ends here.

use std::cell::RefCell;

use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

use super::fields::is_framing_twin;
use super::framing::{FramingFault, parse_decimal};
use crate::http::error::RequestError as Error;

/// The last Host or `:authority` of a connection that was found well formed: almost always the next request's too.
#[derive(Default)]
pub(crate) struct HostCache(RefCell<Option<HeaderValue>>);

impl HostCache {
    /// The cached value, if it equals `named`.
    fn get(&self, named: &[u8]) -> Option<HeaderValue> {
        self.0.borrow().as_ref().filter(|known| known.as_bytes() == named).cloned()
    }

    /// Caches a copy and returns it: the value itself is a part of the buffer that its whole head was read into, which an idle
    /// connection would keep.
    fn store(&self, named: &HeaderValue) -> HeaderValue {
        let copy = HeaderValue::from_bytes(named.as_bytes()).unwrap_or_else(|_| named.clone());
        *self.0.borrow_mut() = Some(copy.clone());
        copy
    }
}

/// Checks a request as it came and returns the host it is for: the one Host that everything it carries agrees on.
pub(crate) fn request_host<B>(request: &Request<B>, known: &HostCache) -> Result<HeaderValue, Error> {
    if let Some(fault) = request.extensions().get::<FramingFault>() {
        return Err(Error::Framing(*fault));
    }
    if request.version() == Version::HTTP_2 { host_of_h2(request, known) } else { host_of_h1(request, known) }
}

fn host_of_h1<B>(request: &Request<B>, known: &HostCache) -> Result<HeaderValue, Error> {
    let host = single_host(request.headers())?.ok_or(Error::Malformed("missing Host"))?;
    let target = request.uri().authority();
    if target.is_none()
        && let Some(last) = known.get(host.as_bytes())
    {
        return Ok(last);
    }
    let authority = parse_authority(host)?;
    if let Some(target) = target {
        // Absolute form; the authority form belongs to CONNECT.
        let scheme = request.uri().scheme().ok_or(Error::Malformed("target in authority form"))?;
        check_agreement(&authority, target, scheme)?;
    }
    Ok(known.store(host))
}

fn host_of_h2<B>(request: &Request<B>, known: &HostCache) -> Result<HeaderValue, Error> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) || request.uri().path() == "*" {
        return Err(Error::Method);
    }
    // On HTTP/1 the guard has seen to both.
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|length| parse_decimal(length.as_bytes()).is_none()) {
        return Err(Error::Framing(FramingFault::Length));
    }
    if lengths.next().is_some() {
        return Err(Error::Framing(FramingFault::SeveralLengths));
    }
    if request.headers().keys().any(|name| is_framing_twin(name.as_str().as_bytes())) {
        return Err(Error::Framing(FramingFault::Twin));
    }
    let host = single_host(request.headers())?;
    let Some(target) = request.uri().authority() else {
        let host = host.ok_or(Error::Malformed("missing :authority and Host"))?;
        parse_authority(host)?;
        return Ok(known.store(host));
    };
    let scheme = request.uri().scheme().ok_or(Error::Malformed("missing :scheme"))?;
    let last = known.get(target.as_str().as_bytes());
    if last.is_none() {
        check_authority(target).map_err(|()| Error::Malformed("invalid :authority"))?;
    }
    match host {
        Some(host) => check_agreement(&parse_authority(host)?, target, scheme)?,
        None => drop(default_port(scheme)?),
    }
    if let Some(last) = last {
        return Ok(last);
    }
    let named = HeaderValue::from_str(target.as_str()).map_err(|_| Error::Malformed("invalid :authority"))?;
    *known.0.borrow_mut() = Some(named.clone());
    Ok(named)
}

fn single_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Error> {
    let mut hosts = headers.get_all(HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() { Err(Error::Malformed("several Host fields")) } else { Ok(first) }
}

fn parse_authority(host: &HeaderValue) -> Result<Authority, Error> {
    let parsed = Authority::try_from(host.as_bytes()).map_err(|_| Error::Malformed("invalid Host"))?;
    check_authority(&parsed).map_err(|()| Error::Malformed("invalid Host"))?;
    Ok(parsed)
}

/// A host, and a port only if it is valid; no user information.
fn check_authority(authority: &Authority) -> Result<(), ()> {
    let text = authority.as_str();
    // Parsing alone would take `+80`.
    let bad_port = text
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']') && (authority.port_u16().is_none() || port.starts_with('+')));
    if text.contains('@') || authority.host().is_empty() || bad_port { Err(()) } else { Ok(()) }
}

fn default_port(scheme: &Scheme) -> Result<u16, Error> {
    match scheme.as_str() {
        "https" => Ok(443),
        "http" => Ok(80),
        _ => Err(Error::Malformed("scheme is neither http nor https")),
    }
}

/// Host and target name the same place; a default port may be written or left out.
fn check_agreement(host: &Authority, target: &Authority, scheme: &Scheme) -> Result<(), Error> {
    let default = default_port(scheme)?;
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    if check_authority(target).is_err() {
        Err(Error::Malformed("user information or an invalid port in the target"))
    } else if !host.host().eq_ignore_ascii_case(target.host()) || port(host) != port(target) {
        Err(Error::Malformed("Host and target do not match"))
    } else {
        Ok(())
    }
}

/// Whether a Host names the server that the handshake was for (in lower case), whatever its port.
pub(crate) fn names_server(host: &HeaderValue, server_name: &str) -> bool {
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    Authority::try_from(host.as_bytes()).is_ok_and(|host| plain(host.host()) == plain(server_name))
}

/// The target in origin form (RFC 9112 3.2.1), with `path` in place of its own path where a rule has normalised it.
pub(crate) fn origin_form(uri: &Uri, path: Option<&str>) -> Result<Uri, Error> {
    let bad = Error::Malformed("invalid target");
    let target = match (path, uri.query(), uri.path_and_query()) {
        (Some(path), Some(query), _) => format!("{path}?{query}").try_into(),
        (Some(path), None, _) => path.try_into(),
        // `http://a?b` has a query and no path.
        (None, Some(query), Some(all)) if !all.as_str().starts_with('/') => format!("/?{query}").try_into(),
        (None, _, Some(all)) => return Ok(Uri::from(all.clone())),
        (None, _, None) => return Ok(Uri::from_static("/")),
    };
    target.map_err(|_| bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h1(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<HeaderValue, Error> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request_host(&request.body(()).unwrap(), &HostCache::default())
    }

    fn h2(target: &str, fields: &[(&str, &str)]) -> Result<HeaderValue, Error> {
        let mut request = Request::builder().uri(target).version(Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request_host(&request.body(()).unwrap(), &HostCache::default())
    }

    #[test]
    fn a_host_that_is_kept_does_not_keep_the_head_that_it_came_in() {
        let known = HostCache::default();
        for target in ["/", "https://a.example/"] {
            let head = bytes::Bytes::from(b"Host: a.example".to_vec());
            let named = HeaderValue::from_maybe_shared(head.slice(6..)).unwrap();
            let request = Request::builder().uri(target).header(HOST, named).body(()).unwrap();
            let host = request_host(&request, &known).unwrap();
            drop(request);
            assert!(head.is_unique() && host == "a.example", "{target}");
        }
    }

    #[test]
    fn one_valid_host_is_needed_on_http_1() {
        assert_eq!(h1("GET", "/x", &[("host", "a.example:8443")]).unwrap(), "a.example:8443");
        assert_eq!(h1("GET", "/x", &[("host", "[::1]:80")]).unwrap(), "[::1]:80");
        assert_eq!(h1("GET", "/x", &[("host", "[::1]")]).unwrap(), "[::1]");
        for hosts in [&[][..], &[("host", "")], &[("host", "a"), ("host", "a")], &[("host", "u@a")], &[("host", "a:b")]]
        {
            assert!(matches!(h1("GET", "/x", hosts), Err(Error::Malformed(_))), "{hosts:?}");
        }
        assert!(h1("GET", "/x", &[("host", "a b")]).is_err());
        assert!(h1("GET", "/x", &[("host", "a/b")]).is_err());
    }

    #[test]
    fn an_absolute_target_agrees_with_its_host_or_is_refused() {
        assert!(h1("GET", "http://a.example/x", &[("host", "A.example:80")]).is_ok());
        assert!(h1("GET", "https://a.example/x", &[("host", "a.example:443")]).is_ok());
        for target in [
            "http://a.example:x/",
            "http://b.example/x",
            "http://u@a.example/x",
            "ftp://a.example/x",
            "http://a.example:81/x",
        ] {
            assert!(matches!(h1("GET", target, &[("host", "a.example")]), Err(Error::Malformed(_))), "{target}");
        }
        assert!(matches!(h1("GET", "a.example:80", &[("host", "a.example")]), Err(Error::Malformed(_))));
    }

    #[test]
    fn connect_trace_and_asterisk_are_not_forwarded() {
        for (method, target) in [("CONNECT", "a:80"), ("TRACE", "https://a/"), ("OPTIONS", "*")] {
            let request = Request::builder().method(method).uri(target).version(Version::HTTP_2).body(()).unwrap();
            assert!(matches!(request_host(&request, &HostCache::default()), Err(Error::Method)), "{method}");
        }
    }

    #[test]
    fn what_stands_in_for_a_refused_request_is_refused_as_that() {
        let request = Request::get("/").header("host", "a").extension(FramingFault::BareLineFeed).body(()).unwrap();
        assert!(matches!(
            request_host(&request, &HostCache::default()),
            Err(Error::Framing(FramingFault::BareLineFeed))
        ));
    }

    #[test]
    fn http_2_needs_an_authority_that_its_host_does_not_contradict() {
        assert_eq!(h2("https://a.example/x", &[]).unwrap(), "a.example");
        assert_eq!(h2("https://a.example/x", &[("host", "a.example:443")]).unwrap(), "a.example");
        assert_eq!(h2("/x", &[("host", "a.example")]).unwrap(), "a.example");
        assert!(h2("/x", &[]).is_err());
        assert!(h2("https://a.example/x", &[("host", "b.example")]).is_err());
        assert!(h2("foo://a.example/x", &[]).is_err());
        assert!(h2("https://a.example/x", &[("content_length", "3")]).is_err());
        assert!(h2("https://a.example/x", &[("content-length", "03")]).is_err());
        assert!(h2("https://a.example/x", &[("content-length", "3"), ("content-length", "3")]).is_err());
        assert!(h2("https://a.example/x", &[("content-length", "3")]).is_ok());
        assert!(h2("https://u@a.example/x", &[]).is_err());
    }

    #[test]
    fn what_a_connection_has_named_before_is_judged_no_more_mildly_the_second_time() {
        let known = HostCache::default();
        let ask = |version, target: &str, fields: &[(&str, &str)]| {
            let mut request = Request::builder().version(version).uri(target);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            request_host(&request.body(()).unwrap(), &known)
        };
        for _ in 0..2 {
            assert_eq!(ask(Version::HTTP_11, "/", &[("host", "a.example")]).unwrap(), "a.example");
            assert_eq!(ask(Version::HTTP_2, "https://a.example/", &[]).unwrap(), "a.example");
            assert!(ask(Version::HTTP_11, "http://b.example/", &[("host", "a.example")]).is_err());
            assert!(ask(Version::HTTP_11, "/", &[("host", "a.example"), ("host", "a.example")]).is_err());
            assert!(ask(Version::HTTP_11, "/", &[("host", "u@a.example")]).is_err());
            assert!(ask(Version::HTTP_2, "https://a.example/", &[("host", "b.example")]).is_err());
            assert!(ask(Version::HTTP_2, "ftp://a.example/", &[]).is_err());
        }
        assert_eq!(ask(Version::HTTP_11, "/", &[("host", "b.example")]).unwrap(), "b.example");
    }

    #[test]
    fn a_host_is_for_the_server_name_whatever_its_case_port_and_last_dot() {
        let is_for = |host: &'static str| names_server(&HeaderValue::from_static(host), "a.example");
        assert!(is_for("a.example") && is_for("A.example:8443") && is_for("a.example."));
        assert!(!is_for("b.example") && !is_for("a.example.b") && !is_for("[::1]"));
    }

    #[test]
    fn the_origin_form_keeps_the_query_and_takes_the_normalised_path() {
        let form = |uri: &str, path| origin_form(&uri.parse().unwrap(), path).unwrap().to_string();
        assert_eq!(form("http://a/x/../y?q=1", None), "/x/../y?q=1");
        assert_eq!(form("/x/../y?q=1", Some("/y")), "/y?q=1");
        assert_eq!(form("http://a", None), "/");
        assert_eq!(form("http://a?q", None), "/?q");
    }
}
