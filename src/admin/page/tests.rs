//! What must hold: every view answers, without a registry too; names stay text; nothing is at other paths; files are kept by caches.

use std::sync::Arc;

use http::{Request, StatusCode};
use http_body_util::BodyExt;

use super::super::tests::{views, views_of, views_with};
use super::*;
use crate::keyring::Standing;
use crate::snapshot::{KeyringView, sample};

async fn get(target: &str, views: &RuntimeViews) -> (StatusCode, String, String) {
    let (request, ()) = Request::builder().uri(target).body(()).unwrap().into_parts();
    let response = answer_page(&request, views).await.into_response();
    let (status, cache) = (response.status(), response.headers()["cache-control"].to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, cache, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn every_view_answers_without_a_registry_too() {
    let (views, _stopping) = views(Vec::new());
    for target in [
        "/",
        "/rotation",
        "/handshakes",
        "/handshakes?failed=true",
        "/registry",
        "/registry/peers",
        "/registry/trust",
        "/registry/history",
        "/registry/failures",
        "/findings",
        "/keyrings/api",
    ] {
        let (status, cache, html) = get(target, &views).await;
        assert_eq!((status, cache.as_str()), (StatusCode::OK, "no-store"), "{target}");
        assert_eq!((html.matches("<main").count(), html.matches("<h1").count()), (1, 1), "{target}");
    }
}

#[tokio::test]
async fn nothing_is_at_other_paths_and_none_is_repeated() {
    let (views, _stopping) = views(Vec::new());
    for target in [
        "/nothing",
        "/keyrings/nothing",
        "/keyrings",
        "/peers/x/y",
        "/certificates/00",
        "/handshakes/-1",
        "/registry/nothing",
        "/assets/page.css",
        "/assets/page-000000000000.css",
        "/%ff",
        "/../nothing",
        "//nothing",
    ] {
        let (status, _, html) = get(target, &views).await;
        assert_eq!((status, html.contains("nothing")), (StatusCode::NOT_FOUND, false), "{target}");
    }
}

#[tokio::test]
async fn the_files_of_the_page_are_kept_because_their_paths_change_with_them() {
    let (views, _stopping) = views(Vec::new());
    let (.., html) = get("/", &views).await;
    for path in [assets::style_path(), assets::script_path(), assets::icon_path()] {
        assert!(html.contains(path), "{path}");
        let (status, cache, content) = get(path, &views).await;
        assert_eq!((status, content.is_empty()), (StatusCode::OK, false), "{path}");
        assert!(cache.ends_with("immutable"), "{cache}");
    }
}

#[tokio::test]
async fn a_keyring_with_a_hostile_name_has_its_page_and_stays_text() {
    let name = "a\"><script>alert(1)</script>\u{202e}/../b";
    let keyring = KeyringView {
        name: Arc::from(name),
        ..sample::sample_keyring(vec![sample::sample_pair(b"a", Standing::Current)])
    };
    let (views, _stopping) = views_of(vec![keyring], |_| ());
    let target = format!("/keyrings/{}", markup::encode_part(name));
    for target in ["/", &target] {
        let (status, _, html) = get(target, &views).await;
        assert_eq!(status, StatusCode::OK, "{target}");
        assert!(
            html.contains("&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}/../b") && !html.contains("<script>"),
            "{html}"
        );
    }
}

#[tokio::test]
async fn anchors_and_lists_are_a_tab_that_filters_and_says_what_uses_them() {
    let (views, _stopping) = views_with(|snapshot| {
        let mut trust = sample::sample_trust(sample::sample_pair(b"a", Standing::Current).validity);
        let at = |text: &str| text.parse().unwrap();
        trust.holds.name = "own:api".into();
        trust.holds.anchors[0].cannot_vouch = Some("its key is of a kind that is not known".to_owned());
        trust.holds.crls = vec![sample::sample_crl(at("2026-11-01T00:00:00Z"), at("2026-11-20T00:00:00Z"))];
        snapshot.trusts = vec![trust];
    });
    let (_, _, all) = get("/registry/trust", &views).await;
    assert!(all.contains("own trust of <a href=\"/keyrings/api\">"), "{all}");
    for text in ["CN=Partners' CA", "accepted", "out of date", "CN=CA", "no listener here", "verifies no peer: its key"]
    {
        assert!(all.contains(text), "{text}: {all}");
    }
    for (query, is_there) in
        [("standing=accepted&kind=anchor", true), ("standing=removed", false), ("text=PARTNERS", true)]
    {
        let (_, _, shown) = get(&format!("/registry/trust?{query}"), &views).await;
        assert_eq!(shown.contains("CN=Partners' CA"), is_there, "{query}");
    }
}
