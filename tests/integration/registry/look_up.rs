//! What a page about a single thing asks of the registry: the rows of one peer, and of those that showed one certificate, found
//! without all the others being read, on SQLite and on Postgres alike.

use sidekey::registry::store::{ObservedState, StoreAccess, WriteBatch};
use sidekey::registry::{PeerRow, RegistrySettings, RegistryStore, UnixSeconds};

use crate::support::database::databases;

/// Peers of the table.
const PEERS: i64 = 400;

/// A peer whose certificate has this number.
fn peer(number: i64, identity: Option<&str>, subject: &str) -> PeerRow {
    PeerRow {
        instance: "one".to_owned(),
        side: "ingress".to_owned(),
        listener: "api".to_owned(),
        certificate: format!("sha256:{number:064x}"),
        identity: identity.map(str::to_owned),
        partner: None,
        subject: subject.to_owned(),
        issuer: "CN=CA".to_owned(),
        serial: "01".to_owned(),
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(4_000_000_000),
        public_ca: false.into(),
        address: None,
        keyring: None,
        key_pair: None,
        chosen_by: None,
        handshakes: 1,
        first_seen: UnixSeconds(1_000 + number),
        last_seen: UnixSeconds(1_000 + number),
    }
}

/// A text of the length that the registry keeps, which no compression makes short.
fn long_text(start: &str) -> String {
    let mut state = 7_u64;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + u8::try_from((state >> 33) % 90).expect("a letter"))
    });
    start.chars().chain(letters).take(4_000).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_found_by_its_name_however_long_that_is_and_by_its_certificate() {
    let (longest, shared) = (long_text("dns:"), "x".repeat(300));
    let (one, other) = (format!("{shared}one"), format!("{shared}other"));
    for database in databases().await {
        let settings = RegistrySettings { place: database.place.clone(), instance: "one".into() };
        let store = RegistryStore::open(&settings, StoreAccess::Write).await.expect("opened");
        let mut peers: Vec<PeerRow> =
            (0..PEERS).map(|number| peer(number, Some(&format!("dns:{number}.example")), "CN=any")).collect();
        peers.push(peer(PEERS, Some("dns:7.example"), "CN=renewed"));
        peers.push(peer(PEERS + 1, None, "CN=without a name"));
        peers.push(peer(PEERS + 2, Some(&longest), "CN=long"));
        peers.push(peer(PEERS + 3, Some(&one), "CN=one"));
        peers.push(peer(PEERS + 4, Some(&other), "CN=other"));
        peers.push(PeerRow { listener: "second".to_owned(), ..peer(7, Some("dns:7.example"), "CN=any") });
        let batch = WriteBatch { peers, ..WriteBatch::default() };
        let now = UnixSeconds(2_000).time();
        store.write((&ObservedState::default(), None), (1, &batch), now).await.expect("written");

        let named = async |name: &str, most: i64| {
            let rows = store.find_peers_by_name(name, most).await.expect("read");
            rows.into_iter().map(|row| (row.listener, row.subject)).collect::<Vec<_>>()
        };
        let row = |listener: &str, subject: &str| (listener.to_owned(), subject.to_owned());
        let of_seven = [row("api", "CN=renewed"), row("api", "CN=any"), row("second", "CN=any")];
        assert_eq!(named("dns:7.example", 50).await, of_seven, "{}: the latest first", database.kind);
        assert_eq!(named("dns:7.example", 1).await, of_seven[..1]);
        assert_eq!(named("CN=without a name", 50).await, [row("api", "CN=without a name")]);
        assert_eq!(named("CN=any", 50).await, [], "a peer with an identity is not found by its subject");
        assert_eq!(named(&longest, 50).await, [row("api", "CN=long")]);
        assert_eq!(named(&one, 50).await, [row("api", "CN=one")], "names that begin alike are not one");
        for strange in ["", "dns:7.exampl", "DNS:7.example", "%", "' OR 1=1 --", "a\0b"] {
            assert_eq!(named(strange, 50).await, [], "{strange:?}");
        }

        let shown = store.find_peers_by_certificate(&format!("sha256:{:064x}", 7), 50).await.expect("read");
        assert_eq!(shown.iter().map(|row| &*row.listener).collect::<Vec<_>>(), ["api", "second"]);
        assert_eq!(store.find_peers_by_certificate("sha256:", 50).await.expect("read"), []);
    }
}
