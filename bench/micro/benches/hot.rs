//! The pure functions that run for each request or handshake, timed by divan.

use divan::{Bencher, black_box};
use http::header::HeaderValue;
use sidekey::http::fields::{BackendFields, ForwardingPolicy, StripList, clean_request, clean_response};
use sidekey::http::framing::{FramingLimits, FramingScanner};
use sidekey::keyring::{PeerHints, choose_with_hints};
use sidekey::snapshot::ingress::IdentityHeaders;
use sidekey::trust::{Partners, Peer, PeerRole};
use sidekey_micro::{HEAD, candidates, fields, now, trust_and_chain};

fn main() {
    divan::main();
}

#[divan::bench]
fn scan_a_request_head(bencher: Bencher<'_, '_>) {
    let mut scanner = FramingScanner::new(FramingLimits { head_size: 64 * 1024, fields: 100 });
    bencher.bench_local(|| scanner.scan(black_box(HEAD)).pass);
}

#[divan::bench]
fn clean_the_fields_of_a_request(bencher: Bencher<'_, '_>) {
    let (fields, strip) = (fields(), StripList::new(&["x-ssl-*".to_owned()]));
    bencher
        .with_inputs(|| fields.clone())
        .bench_local_values(|mut fields| clean_request(&mut fields, &strip, ForwardingPolicy::Strip).is_ok());
}

#[divan::bench]
fn clean_the_fields_of_a_response(bencher: Bencher<'_, '_>) {
    let fields = fields();
    bencher.with_inputs(|| fields.clone()).bench_local_values(|mut fields| clean_response(&mut fields));
}

#[divan::bench]
fn set_who_the_peer_is(bencher: Bencher<'_, '_>) {
    let ((trust, chain), host) = (trust_and_chain(), HeaderValue::from_static("api.example:8443"));
    let verified = trust.verify(&chain, &PeerRole::Client, now()).expect("a verified chain");
    let peer = Peer::new(verified, &Partners::default());
    let (from, fields) = (Some([192, 0, 2, 7].into()), fields());
    let prepared = BackendFields::new(Some(&peer), from, IdentityHeaders::default());
    bencher.with_inputs(|| fields.clone()).bench_local_values(|mut fields| {
        prepared.apply_to(&mut fields, &host);
        fields
    });
}

#[divan::bench]
fn choose_among_two_pairs(bencher: Bencher<'_, '_>) {
    let ((candidates, asked), known) = (candidates(), PeerHints::default());
    assert!(choose_with_hints(&candidates, &asked, &known, now()).is_some());
    bencher.bench_local(|| choose_with_hints(black_box(&candidates), &asked, &known, now()).is_some());
}

#[divan::bench]
fn find_a_verified_chain(bencher: Bencher<'_, '_>) {
    let (trust, chain) = trust_and_chain();
    assert!(trust.verify(&chain, &PeerRole::Client, now()).is_ok());
    bencher.bench_local(|| trust.verify(black_box(&chain), &PeerRole::Client, now()).is_ok());
}

/// Each time with a trust that has not seen it.
#[divan::bench(sample_count = 20)]
fn verify_a_chain(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(trust_and_chain)
        .bench_local_values(|(trust, chain)| trust.verify(&chain, &PeerRole::Client, now()).is_ok());
}
