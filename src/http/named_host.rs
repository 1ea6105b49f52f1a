//! The host that a request to an egress names: one that DNS rebinding could bring is refused (contract section 11).
//!
//! Pure. A page can have its own name resolve to this host: its browser then takes the egress for that site's server, and
//! marks nothing as another site's. What such a page cannot bring is an address, `localhost`, a name of one label, or a
//! name that the operator has written down.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::header::HeaderValue;

use crate::http::error::RequestError as Error;
use crate::net::ListenAddress;

/// Bytes of a host that an error repeats: no DNS name is longer.
const SHOWN_HOST_BYTES: usize = 253;

/// Refuses a request to an egress that names a host which is not its own. `host` is well formed; its port does not count.
/// `own` are the names in the settings. Browsers cannot connect to a Unix socket: there every host is accepted.
pub(crate) fn check_own_host<'a>(
    host: &HeaderValue,
    listen: &ListenAddress,
    own: impl Iterator<Item = &'a Arc<str>>,
) -> Result<(), Error> {
    let named = host.to_str().unwrap_or_default();
    if matches!(listen, ListenAddress::Unix { .. }) || is_own_host(named, own) {
        return Ok(());
    }
    Err(Error::HostNotAllowed { named: named[..named.floor_char_boundary(SHOWN_HOST_BYTES)].to_owned() })
}

fn is_own_host<'a>(authority: &str, mut own: impl Iterator<Item = &'a Arc<str>>) -> bool {
    if let Some(literal) = authority.strip_prefix('[') {
        let (address, rest) = literal.split_once(']').unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || rest.starts_with(':'));
    }
    let name = authority.split_once(':').map_or(authority, |(name, _)| name);
    let plain = strip_last_dot(name);
    is_single_label(name)
        || plain.parse::<Ipv4Addr>().is_ok()
        || plain.eq_ignore_ascii_case("localhost")
        || own.any(|own| plain.eq_ignore_ascii_case(strip_last_dot(own)))
}

/// A neighbour's name, as in a compose file. With a dot at its end it would be a top-level domain.
fn is_single_label(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn strip_last_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &'static str, listen: &ListenAddress) -> Result<(), Error> {
        let own = ["api.partner.example", "api.internal", "dotted.internal."].map(Arc::from);
        check_own_host(&HeaderValue::from_static(host), listen, own.iter())
    }

    #[test]
    fn over_tcp_an_egress_is_named_by_address_label_or_configured_name() {
        let tcp = ListenAddress::Tcp(([127, 0, 0, 1], 9001).into());
        for (host, accepted) in [
            ("127.0.0.1:9001", true),
            ("127.0.0.1", true),
            ("192.0.2.7:80", true),
            ("[::1]:9001", true),
            ("[::1]", true),
            ("[2001:db8::1]:80", true),
            ("localhost", true),
            ("LocalHost:9001", true),
            ("localhost.", true),
            ("sidekey:9001", true),
            ("my_app-2", true),
            ("api.partner.example", true),
            ("api.partner.example:8443", true),
            ("API.Internal.:9001", true),
            ("dotted.internal", true),
            ("evil.example", false),
            ("evil.example:9001", false),
            ("evil.example.", false),
            ("ai.", false),
            (".", false),
            ("", false),
            (":9001", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1.nip.io:9001", false),
            ("app.localhost", false),
            ("x.api.internal", false),
            ("api.internal.evil.example", false),
            ("api.internal..", false),
            ("evil%2Eexample", false),
            ("[evil.example]", false),
            ("[::1].evil.example", false),
            ("127.1", false),
        ] {
            assert_eq!(check(host, &tcp).is_ok(), accepted, "{host}");
        }
        assert!(check("evil.example", &ListenAddress::AnyTcp(9001)).is_err());
    }

    #[test]
    fn on_a_unix_socket_every_host_is_accepted() {
        let socket = ListenAddress::Unix { path: "/run/out.sock".into(), mode: None, group: None };
        for host in ["evil.example", "evil.example:9001", "localhost", "ai."] {
            assert!(check(host, &socket).is_ok(), "{host}");
        }
    }

    #[test]
    fn the_error_names_the_host_and_the_remedy_whatever_its_length() {
        let tcp = ListenAddress::AnyTcp(9001);
        let said = check("evil.example:9001", &tcp).unwrap_err().to_string();
        assert!(said.contains("\"evil.example:9001\"") && said.contains("list it in hosts"), "{said}");
        let long = HeaderValue::try_from("a.".repeat(10_000)).unwrap();
        let said = check_own_host(&long, &tcp, std::iter::empty()).unwrap_err().to_string();
        assert!(said.len() < 500 && said.contains("list it in hosts"), "{said}");
    }
}
