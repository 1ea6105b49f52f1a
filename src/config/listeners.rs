//! What `[[ingress]]` and `[[egress]]` have in common: addresses, TLS, limits.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;

use super::file::{Item, Section};
use super::value;
use crate::net::ListenAddress;
use crate::snapshot::ingress::Limits;
use crate::tls::{self, Alpn, Group, Version};

/// Names and addresses that are in use.
#[derive(Default)]
pub(super) struct Taken {
    addresses: RefCell<Vec<ListenAddress>>,
}

impl Taken {
    /// An address to listen on that no other listener of the file has; a socket's path is resolved.
    pub(super) fn listen(&self, item: &Item<'_>) -> Option<ListenAddress> {
        let mut address = item.parse(value::listen)?;
        if let ListenAddress::Unix { path, .. } = &mut address {
            *path = item.resolve(path);
        }
        if self.addresses.borrow().iter().any(|other| overlap(other, &address)) {
            item.fault("is already used by another listener of this file".to_owned());
        }
        self.addresses.borrow_mut().push(address.clone());
        Some(address)
    }
}

/// Whether two addresses cannot be listened on together.
fn overlap(a: &ListenAddress, b: &ListenAddress) -> bool {
    let tcp = |address: &ListenAddress| match address {
        ListenAddress::Tcp(address) => Some((Some(address.ip().to_canonical()), address.port())),
        ListenAddress::AnyTcp(port) => Some((None, *port)),
        ListenAddress::Unix { .. } => None,
    };
    match (tcp(a), tcp(b)) {
        // Port 0 is any free one.
        (Some((a, port)), Some((b, other))) => port == other && port != 0 && hosts_overlap(a, b),
        (None, None) => socket(a) == socket(b),
        _ => false,
    }
}

/// `None` = every address of this host.
fn hosts_overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

fn socket(address: &ListenAddress) -> Option<&PathBuf> {
    match address {
        ListenAddress::Unix { path, .. } => Some(path),
        _ => None,
    }
}

/// A listener's name, which no other of its side has.
pub(super) fn name(section: &Section<'_>, names: &mut Vec<std::sync::Arc<str>>) -> Option<std::sync::Arc<str>> {
    section.required("name", |item| {
        let name = item.parse(value::name)?;
        if names.contains(&name) {
            item.fault(format!("{name:?} is already the name of another listener of this side"));
        }
        names.push(std::sync::Arc::clone(&name));
        Some(name)
    })
}

/// `tls_min`, `tls_max`, `groups`, `alpn`.
pub(super) fn tls(section: &Section<'_>) -> tls::Settings {
    const VERSIONS: [(&str, Version); 2] = [("1.2", Version::Tls12), ("1.3", Version::Tls13)];
    const GROUPS: [(&str, Group); 4] = [
        ("X25519MLKEM768", Group::X25519MlKem768),
        ("X25519", Group::X25519),
        ("secp256r1", Group::Secp256r1),
        ("secp384r1", Group::Secp384r1),
    ];
    const PROTOCOLS: [(&str, Alpn); 2] = [("h2", Alpn::H2), ("http/1.1", Alpn::Http11)];
    let usual = tls::Settings::default();
    let min = section.or("tls_min", |item| item.one_of(&VERSIONS), usual.min);
    let max = section.or(
        "tls_max",
        |item| {
            let max = item.one_of(&VERSIONS)?;
            if max < min {
                item.fault("is below tls_min".to_owned());
            }
            Some(max)
        },
        usual.max,
    );
    tls::Settings {
        min,
        max,
        groups: section.or("groups", |item| distinct(item, &GROUPS), usual.groups),
        alpn: section.or("alpn", |item| distinct(item, &PROTOCOLS), usual.alpn),
    }
}

/// A list without repetitions, and not empty.
pub(super) fn distinct<T: Copy + PartialEq>(item: &Item<'_>, words: &[(&str, T)]) -> Option<Vec<T>> {
    let list = item.some(|item| item.one_of(words))?;
    if list.iter().enumerate().any(|(i, value)| list[..i].contains(value)) {
        item.fault("contains a value twice".to_owned());
    }
    Some(list)
}

/// What `[ingress.limits]` and `[egress.limits]` have in common; the caller finishes the section.
pub(super) fn limits(section: &Section<'_>) -> Limits {
    let usual = Limits::default();
    let streams = section.or("streams", |item| item.count(100_000), usual.streams as usize);
    Limits {
        handshake: section.or("handshake", Item::positive, usual.handshake),
        head: section.or("head", Item::positive, usual.head),
        // hyper's buffer holds 8 KiB at least; frames of HTTP/2 bound the other end.
        head_size: section.or("head_size", |item| item.size(8 << 10, 1 << 20), usual.head_size),
        fields: section.or("fields", |item| item.count(1_000), usual.fields),
        body_idle: section.or("body_idle", Item::positive, usual.body_idle),
        idle: section.or("idle", Item::positive, usual.idle),
        connect: section.or("connect", Item::positive, usual.connect),
        response: section.or("response", Item::positive, usual.response),
        connections: section.or("connections", |item| item.count(10_000_000), usual.connections),
        streams: u32::try_from(streams).unwrap_or(usual.streams),
        connection_age: section.maybe("connection_age", Item::positive),
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_one_could_not_be_bound() {
        let cases = [
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "[::]:2", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "[::]:1", false),
        ];
        for (a, b, expected) in cases {
            let (a, b) = (value::listen(a).unwrap(), value::listen(b).unwrap());
            assert_eq!((overlap(&a, &b), overlap(&b, &a)), (expected, expected), "{a:?} {b:?}");
        }
    }
}
