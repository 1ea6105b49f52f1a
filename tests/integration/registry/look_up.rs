//! What a page asks of the registry without all of it being read: the rows of one peer, of those that showed one certificate, and of
//! a part of a long list, on SQLite and on Postgres alike.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use sidekey::pki::Fingerprint;
use sidekey::registry::store::{ObservedState, PeerOrder, PeerQuery, PeerVisits, StoreAccess, WriteBatch};
use sidekey::registry::{PeerRow, RegistrySettings, RegistryStore, UnixSeconds, findings};
use sidekey::snapshot::Side;

use crate::support::database::{Database, databases};

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

async fn write_peers(database: &Database, peers: Vec<PeerRow>) -> RegistryStore {
    let settings = RegistrySettings { place: database.place.clone(), instance: "one".into() };
    let store = RegistryStore::open(&settings, StoreAccess::Write).await.expect("opened");
    let batch = WriteBatch { peers, ..WriteBatch::default() };
    let now = UnixSeconds(2_000).time();
    store.write((&ObservedState::default(), None), (1, &batch), now).await.expect("written");
    store
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
async fn a_batch_with_one_peer_twice_counts_both_and_keeps_the_latter() {
    for database in databases().await {
        let mut peers: Vec<PeerRow> = (0..200).map(|number| peer(number, None, "CN=any")).collect();
        // Postgres takes no NUL, so that these two are one.
        let named = |certificate: &str, address: &str| PeerRow {
            certificate: certificate.to_owned(),
            address: Some(address.to_owned()),
            ..peer(1_000, Some("dns:twice.example"), "CN=twice")
        };
        peers.insert(3, named("twice", "192.0.2.1"));
        peers.push(named("twice\0", "192.0.2.2"));
        let store = write_peers(&database, peers).await;
        let rows = store.find_peers_by_name("dns:twice.example", 9).await.expect("read");
        let found: Vec<_> = rows.iter().map(|row| (row.handshakes, row.address.as_deref())).collect();
        assert_eq!(found, [(2, Some("192.0.2.2"))], "{}", database.kind);
        assert_eq!(store.peers().await.expect("read").len(), 201, "{}", database.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn further_handshakes_of_a_peer_are_added_to_its_row_and_to_no_other() {
    let visits = |number: u8, listener: &str, handshakes| PeerVisits {
        side: Side::Ingress,
        listener: listener.into(),
        certificate: Fingerprint::from_bytes([number; 32]),
        handshakes,
        last_seen: UnixSeconds(1_999),
        address: Some([192, 0, 2, number].into()),
        keyring: Some("api".into()),
        key_pair: None,
        chosen_by: None,
    };
    for database in databases().await {
        let of_number = |number: u8| PeerRow {
            certificate: Fingerprint::from_bytes([number; 32]).to_string(),
            ..peer(i64::from(number), None, "CN=any")
        };
        let store = write_peers(&database, (0..150).map(of_number).collect()).await;
        // One of them is not there any more, and one never came to this listener.
        let mut all: Vec<PeerVisits> = (100..200).map(|number| visits(number, "api", 4)).collect();
        all.push(visits(1, "second", 7));
        let batch = WriteBatch { visits: all, ..WriteBatch::default() };
        store.write((&ObservedState::default(), None), (1, &batch), UnixSeconds(2_000).time()).await.expect("written");
        let rows = store.peers().await.expect("read");
        for row in &rows {
            let came = (100..150).map(|number| of_number(number).certificate).any(|known| known == row.certificate);
            let last_seen = if came { UnixSeconds(1_999) } else { row.first_seen };
            assert_eq!((row.handshakes, row.last_seen), (if came { 5 } else { 1 }, last_seen), "{}", database.kind);
            let address = came.then(|| format!("192.0.2.{}", row.first_seen.0 - 1_000));
            assert_eq!((row.address.as_ref(), row.keyring.is_some()), (address.as_ref(), came));
        }
        assert_eq!(rows.len(), 150);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_reads_the_peers_of_its_findings_only_and_finds_what_it_would_with_all() {
    const DAY: i64 = 86_400;
    let now = UnixSeconds(1_900_000_000);
    for database in databases().await {
        let lasting = |number: i64, days: i64| PeerRow {
            not_before: UnixSeconds(now.0 - 100 * DAY),
            not_after: UnixSeconds(now.0 + days * DAY),
            first_seen: UnixSeconds(now.0 - 20 * DAY),
            last_seen: UnixSeconds(now.0 - 60),
            ..peer(number, Some(&format!("dns:{number}.example")), "CN=any")
        };
        let mut peers: Vec<PeerRow> = (0..200).map(|number| lasting(number, 300)).collect();
        // Of two that end soon, one has shown a successor.
        peers.push(lasting(200, 20));
        peers.push(PeerRow { last_seen: UnixSeconds(now.0 - 9 * DAY), ..lasting(201, 20) });
        peers.push(PeerRow {
            certificate: "renewed".to_owned(),
            first_seen: UnixSeconds(now.0 - 8 * DAY),
            ..lasting(201, 300)
        });
        peers.push(PeerRow { public_ca: true.into(), ..lasting(202, 300) });
        peers.push(PeerRow { side: "egress".to_owned(), listener: "out".to_owned(), ..lasting(203, 300) });
        peers.push(PeerRow { last_seen: UnixSeconds(now.0 - 31 * DAY), ..lasting(204, 20) });
        let store = write_peers(&database, peers).await;
        // Its instance is alive.
        let nothing = (&ObservedState::default(), None);
        store.write(nothing, (1, &WriteBatch::default()), now.time()).await.expect("written");

        let (all, audited) = (store.inventory().await, store.audited_inventory(now.time()).await);
        let (all, audited) = (all.expect("read"), audited.expect("read"));
        assert_eq!((all.peers.len(), audited.peers.len()), (206, 5), "{}", database.kind);
        let found = findings(&audited, now.time());
        assert_eq!(found, findings(&all, now.time()));
        let codes: Vec<_> = found.iter().map(|finding| finding.finding).collect();
        assert_eq!(codes, ["partner_certificate_expires", "peer_uses_public_ca", "upstream_not_mutual"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_found_by_its_name_however_long_that_is_and_by_its_certificate() {
    let (longest, shared) = (long_text("dns:"), "x".repeat(300));
    let (one, other) = (format!("{shared}one"), format!("{shared}other"));
    for database in databases().await {
        let mut peers: Vec<PeerRow> =
            (0..PEERS).map(|number| peer(number, Some(&format!("dns:{number}.example")), "CN=any")).collect();
        peers.push(peer(PEERS, Some("dns:7.example"), "CN=renewed"));
        peers.push(peer(PEERS + 1, None, "CN=without a name"));
        peers.push(peer(PEERS + 2, Some(&longest), "CN=long"));
        peers.push(peer(PEERS + 3, Some(&one), "CN=one"));
        peers.push(peer(PEERS + 4, Some(&other), "CN=other"));
        peers.push(PeerRow { listener: "second".to_owned(), ..peer(7, Some("dns:7.example"), "CN=any") });
        let store = write_peers(&database, peers).await;

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

/// Rows of names that come back, on two sides and two listeners, with values that many of them share.
fn scattered_peers() -> Vec<PeerRow> {
    let scattered = |number: i64| {
        let (name, tenth) = (number * 7 % 60, number % 10);
        PeerRow {
            side: if tenth < 8 { "ingress" } else { "egress" }.to_owned(),
            listener: if tenth < 5 { "api" } else { "web" }.to_owned(),
            partner: (tenth < 3).then(|| format!("partner{}", name % 4)),
            address: (tenth < 6).then(|| format!("192.0.2.{}", name % 20)),
            not_after: UnixSeconds(5_000 + number * 13 % 8),
            last_seen: UnixSeconds(1_000 + number * 11 % 9),
            handshakes: number % 3,
            ..peer(
                number,
                (name % 5 > 0).then(|| format!("dns:name{name:02}.example")).as_deref(),
                &format!("CN={} {name:02}", if name % 6 == 0 { "Sübject" } else { "Subject" }),
            )
        }
    };
    (0..PEERS).map(scattered).collect()
}

/// The names that all rows together give, in the order that is asked for.
fn list_names(rows: &[PeerRow], asked: &PeerQuery) -> Vec<(String, String)> {
    let is = |wanted: &Option<String>, text: Option<&str>| wanted.as_deref().is_none_or(|wanted| Some(wanted) == text);
    let mut by_name = BTreeMap::<(&str, &str), Vec<&PeerRow>>::new();
    for row in rows {
        let texts = [row.identity.as_deref(), Some(&*row.subject), row.partner.as_deref(), row.address.as_deref()];
        let has = |text: &String| texts.iter().flatten().any(|one| one.to_lowercase().contains(&text.to_lowercase()));
        if is(&asked.side, Some(&row.side))
            && is(&asked.listener, Some(&row.listener))
            && is(&asked.partner, row.partner.as_deref())
            && asked.text.as_ref().is_none_or(has)
        {
            by_name.entry((&row.side, row.identity_or_subject())).or_default().push(row);
        }
    }
    let key = |(name, rows): (&(&str, &str), &Vec<&PeerRow>)| {
        let last = rows.iter().map(|row| row.last_seen.0).max().expect("a row");
        let latest = || rows.iter().filter(|row| row.last_seen.0 == last);
        let handshakes = rows.iter().map(|row| row.handshakes).sum();
        let (text, number) = match asked.sort {
            None => (String::new(), 0),
            Some(PeerOrder::Identity) => (name.1.to_owned(), 0),
            Some(PeerOrder::Partner) => (latest().filter_map(|row| row.partner.clone()).max().unwrap_or_default(), 0),
            Some(PeerOrder::NotAfter) => (String::new(), latest().map(|row| row.not_after.0).max().expect("a row")),
            Some(PeerOrder::Handshakes) => (String::new(), handshakes),
            Some(PeerOrder::LastSeen) => (String::new(), last),
        };
        (text, number, Reverse(last), name.0.to_owned(), name.1.to_owned())
    };
    let mut keys: Vec<_> = by_name.iter().map(key).collect();
    keys.sort();
    if asked.descending {
        keys.reverse();
    }
    keys.into_iter().map(|(.., side, name)| (side, name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_the_peers_together_are_the_whole_filtered_and_sorted_list() {
    let text = |text: &str| Some(text.to_owned());
    let filters = [
        PeerQuery::default(),
        PeerQuery { side: text("egress"), ..PeerQuery::default() },
        PeerQuery { listener: text("web"), partner: text("partner1"), ..PeerQuery::default() },
        PeerQuery { text: text("NAME1"), ..PeerQuery::default() },
        PeerQuery { text: text("192.0.2.1"), side: text("ingress"), ..PeerQuery::default() },
        PeerQuery { text: text("%"), ..PeerQuery::default() },
        PeerQuery { text: text("cn=Sübj"), ..PeerQuery::default() },
        PeerQuery { text: text("name__.example"), ..PeerQuery::default() },
    ];
    let orders =
        [PeerOrder::Identity, PeerOrder::Partner, PeerOrder::NotAfter, PeerOrder::Handshakes, PeerOrder::LastSeen];
    let rows = scattered_peers();
    for database in databases().await {
        let store = write_peers(&database, rows.clone()).await;
        for (filter, sort) in
            filters.iter().flat_map(|filter| orders.map(Some).into_iter().chain([None]).map(move |sort| (filter, sort)))
        {
            for descending in [false, true] {
                let asked = PeerQuery { sort, descending, limit: 17, ..filter.clone() };
                let (expected, mut seen) = (list_names(&rows, &asked), Vec::new());
                loop {
                    let query = PeerQuery { offset: seen.len(), ..asked.clone() };
                    let part = store.peer_part(&query, None).await.expect("read");
                    let known = store.peer_part(&query, Some(expected.len())).await.expect("read");
                    assert_eq!(part, known, "{}: {query:?}", database.kind);
                    assert_eq!(part.total, expected.len(), "{}: {asked:?}", database.kind);
                    let mut names: Vec<_> =
                        part.rows.iter().map(|row| (row.side.clone(), row.identity_or_subject().to_owned())).collect();
                    names.dedup();
                    if names.is_empty() {
                        break;
                    }
                    assert!(
                        names.len() <= 17
                            && part.rows.is_sorted_by_key(|row| {
                                let place = names
                                    .iter()
                                    .position(|name| (&*name.0, &*name.1) == (&*row.side, row.identity_or_subject()));
                                (place, Reverse(row.last_seen))
                            })
                    );
                    seen.extend(names);
                }
                assert_eq!(seen, expected, "{}: {asked:?}", database.kind);
            }
        }
    }
}
