//! What `[[ingress]]` and `[[egress]]` have in common: addresses, TLS, limits.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;

use super::file::{ConfigItem, ConfigSection};
use super::value;
use crate::net::ListenAddress;
use crate::snapshot::ingress::ListenerLimits;
use crate::tls::{self, AlpnProtocol, KeyExchangeGroup, TlsVersion};

/// What the only listener of a side is called.
const DEFAULT_LISTENER_NAME: &str = "default";

/// Names and addresses that are in use.
#[derive(Default)]
pub(super) struct ListenerNames {
    addresses: RefCell<Vec<ListenAddress>>,
}

impl ListenerNames {
    /// An address to listen on that no other listener of the file has; a socket's path is resolved.
    pub(super) fn reserve_address(&self, item: &ConfigItem<'_>) -> Option<ListenAddress> {
        let mut address = item.parse_text(value::parse_listen)?;
        if let ListenAddress::Unix { path, .. } = &mut address {
            *path = item.resolve_path(path);
        }
        if self.addresses.borrow().iter().any(|other| addresses_overlap(other, &address)) {
            item.add_fault("is already used by another listener of this file".to_owned());
        }
        self.addresses.borrow_mut().push(address.clone());
        Some(address)
    }
}

/// Whether two addresses cannot be listened on together.
fn addresses_overlap(a: &ListenAddress, b: &ListenAddress) -> bool {
    let tcp = |address: &ListenAddress| match address {
        ListenAddress::Tcp(address) => Some((Some(address.ip().to_canonical()), address.port())),
        ListenAddress::AnyTcp(port) => Some((None, *port)),
        ListenAddress::Unix { .. } => None,
    };
    match (tcp(a), tcp(b)) {
        // Port 0 is any free one.
        (Some((a, port)), Some((b, other))) => port == other && port != 0 && hosts_overlap(a, b),
        (None, None) => socket_of(a) == socket_of(b),
        _ => false,
    }
}

/// `None` = every address of this host.
fn hosts_overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

fn socket_of(address: &ListenAddress) -> Option<&PathBuf> {
    match address {
        ListenAddress::Unix { path, .. } => Some(path),
        _ => None,
    }
}

/// A listener's name, which no other of its side has. `is_only`: it is the only one of its side, and is `default` where
/// the file does not name it.
pub(super) fn read_listener_name(
    section: &ConfigSection<'_>,
    is_only: bool,
    names: &mut Vec<std::sync::Arc<str>>,
) -> Option<std::sync::Arc<str>> {
    if is_only && section.get("name").is_none() {
        return Some(DEFAULT_LISTENER_NAME.into());
    }
    section.read_required("name", |item| {
        let name = item.parse_text(value::parse_name)?;
        if names.contains(&name) {
            item.add_fault(format!("{name:?} is already the name of another listener of this side"));
        }
        names.push(std::sync::Arc::clone(&name));
        Some(name)
    })
}

/// `tls_min`, `tls_max`, `groups`, `alpn`.
pub(super) fn read_tls(section: &ConfigSection<'_>) -> tls::TlsSettings {
    const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    const GROUPS: [(&str, KeyExchangeGroup); 4] = [
        ("X25519MLKEM768", KeyExchangeGroup::X25519MlKem768),
        ("X25519", KeyExchangeGroup::X25519),
        ("secp256r1", KeyExchangeGroup::Secp256r1),
        ("secp384r1", KeyExchangeGroup::Secp384r1),
    ];
    const PROTOCOLS: [(&str, AlpnProtocol); 2] = [("h2", AlpnProtocol::H2), ("http/1.1", AlpnProtocol::Http11)];
    let usual = tls::TlsSettings::default();
    let min = section.read_or("tls_min", |item| item.read_word(&VERSIONS), usual.min);
    let max = section.read_or(
        "tls_max",
        |item| {
            let max = item.read_word(&VERSIONS)?;
            if max < min {
                item.add_fault("is below tls_min".to_owned());
            }
            Some(max)
        },
        usual.max,
    );
    tls::TlsSettings {
        min,
        max,
        groups: section.read_or("groups", |item| read_distinct(item, &GROUPS), usual.groups),
        alpn: section.read_or("alpn", |item| read_distinct(item, &PROTOCOLS), usual.alpn),
    }
}

/// A list without repetitions, and not empty.
pub(super) fn read_distinct<T: Copy + PartialEq>(item: &ConfigItem<'_>, words: &[(&str, T)]) -> Option<Vec<T>> {
    let list = item.nonempty_list(|item| item.read_word(words))?;
    if list.iter().enumerate().any(|(i, value)| list[..i].contains(value)) {
        item.add_fault("contains a value twice".to_owned());
    }
    Some(list)
}

/// What `[ingress.limits]` and `[egress.limits]` have in common; the caller finishes the section.
pub(super) fn read_limits(section: &ConfigSection<'_>) -> ListenerLimits {
    let usual = ListenerLimits::default();
    let streams = section.read_or("streams", |item| item.count(100_000), usual.streams as usize);
    ListenerLimits {
        handshake: section.read_or("handshake", ConfigItem::positive_duration, usual.handshake),
        head: section.read_or("head", ConfigItem::positive_duration, usual.head),
        // hyper's buffer holds 8 KiB at least; frames of HTTP/2 bound the other end.
        head_size: section.read_or("head_size", |item| item.size(8 << 10, 1 << 20), usual.head_size),
        fields: section.read_or("fields", |item| item.count(1_000), usual.fields),
        body_idle: section.read_or("body_idle", ConfigItem::positive_duration, usual.body_idle),
        answer_idle: section.read_optional("answer_idle", ConfigItem::positive_duration),
        upload_rate: section.read_optional("upload_rate", |item| item.size(1, 1 << 30)),
        continue_wait: section.read_or("continue_wait", ConfigItem::positive_duration, usual.continue_wait),
        idle: section.read_or("idle", ConfigItem::positive_duration, usual.idle),
        connect: section.read_or("connect", ConfigItem::positive_duration, usual.connect),
        response: section.read_or("response", ConfigItem::positive_duration, usual.response),
        connections: section.read_or("connections", |item| item.count(10_000_000), usual.connections),
        streams: u32::try_from(streams).unwrap_or(usual.streams),
        connection_age: section.read_optional("connection_age", ConfigItem::positive_duration),
        drain_planned: section.read_or("drain_planned", ConfigItem::positive_duration, usual.drain_planned),
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
            let (a, b) = (value::parse_listen(a).unwrap(), value::parse_listen(b).unwrap());
            assert_eq!((addresses_overlap(&a, &b), addresses_overlap(&b, &a)), (expected, expected), "{a:?} {b:?}");
        }
    }
}
