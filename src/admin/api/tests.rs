//! What must hold: the document describes exactly what is answered, and what it does not describe is refused as a problem.

use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::Value;

use super::document::operation_ids;
use super::*;
use crate::admin::tests::{build_request, views, views_with};
use crate::event::Event;
use crate::event::handshake::tests::{accepted, refused};
use crate::keyring::Standing;
use crate::snapshot::sample;

async fn get(target: &str) -> (StatusCode, String, Value) {
    let (views, _stopping) = views(Vec::new());
    let request = build_request(http::Method::GET, target, &[]);
    let response = answer_api(&request, &views).await.into_response();
    let (status, content) = (response.status(), response.headers()["content-type"].to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, content, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn every_operation_of_the_document_is_answered() {
    let (views, _stopping) = views(Vec::new());
    assert!(operation_ids().len() >= 16, "{:?}", operation_ids());
    for operation in operation_ids() {
        let answer = answer_operation(operation, &ApiArguments::default(), &views).await.into_response();
        assert_ne!(answer.status(), StatusCode::NOT_IMPLEMENTED, "{operation}");
    }
    let (status, content, document) = get("/api/v1/openapi.json").await;
    assert_eq!((status, content.as_str()), (StatusCode::OK, "application/json"));
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn what_the_document_does_not_describe_is_a_problem() {
    let wrong = [
        ("/api", 404),
        ("/api/v1", 404),
        ("/api/v1/", 404),
        ("/api/v1/status/", 404),
        ("/api/v1//status", 404),
        ("/api/v1/keyrings/", 404),
        ("/api/v1/keyrings/..%2f..%2fetc%2fpasswd", 404),
        ("/api/v1/../v1/status", 404),
        ("/api/v1/%73tatus", 200),
        ("/api/v1/keyrings/%ff", 400),
        ("/api/v1/handshakes/-1", 400),
        ("/api/v1/handshakes/99999999999999999999", 400),
        ("/api/v1/handshakes/7", 404),
        ("/api/v1/handshakes?limit=0", 400),
        ("/api/v1/handshakes?limit=1001", 400),
        ("/api/v1/handshakes?limit=%2B5", 400),
        ("/api/v1/handshakes?limit=5&limit=6", 400),
        ("/api/v1/handshakes?failed=yes", 400),
        ("/api/v1/handshakes?since=yesterday", 400),
        ("/api/v1/handshakes?side=both", 400),
        ("/api/v1/handshakes?peer=%00", 400),
        ("/api/v1/handshakes?evil=%3Cscript%3E", 400),
        ("/api/v1/status?evil=1", 400),
        ("/api/v1/certificates/sha256:1234", 400),
        ("/api/v1/history", 503),
    ];
    for (target, expected) in wrong {
        let (status, content, problem) = get(target).await;
        assert_eq!(status.as_u16(), expected, "{target}: {problem}");
        if expected != 200 {
            assert_eq!(content, "application/problem+json", "{target}");
            assert_eq!(problem["status"], expected, "{target}");
            assert!(problem["detail"].as_str().is_some_and(|text| text.len() > 20), "{problem}");
            assert!(!problem.to_string().contains("evil"), "nothing of the request is repeated: {problem}");
        }
    }
}

#[tokio::test]
async fn a_filter_and_a_window_are_read_from_the_query() {
    let (_, _, table) = get("/api/v1/key-pairs?standing=previous&limit=5").await;
    assert_eq!((&table["total"], &table["offset"]), (&1.into(), &0.into()), "{table}");
    assert!(table["registry_unread"].as_str().unwrap().contains("not connected"), "{table}");
    let (_, _, all) = get("/api/v1/key-pairs?sort=standing&descending=true&offset=1").await;
    let standings: Vec<_> = all["entries"].as_array().unwrap().iter().map(|row| row["standing"].as_str()).collect();
    assert_eq!((&all["total"], standings), (&3.into(), vec![Some("previous"), Some("current")]));
}

/// Answers that are kept, by the name of their file.
const KEPT: [(&str, &str); 11] = [
    ("status", "/api/v1/status"),
    ("listeners", "/api/v1/listeners"),
    ("keyrings", "/api/v1/keyrings"),
    ("keyring", "/api/v1/keyrings/api"),
    ("rotation", "/api/v1/rotation"),
    ("handshakes", "/api/v1/handshakes"),
    ("upstreams", "/api/v1/upstreams"),
    ("key-pairs", "/api/v1/key-pairs?sort=not_after"),
    ("anchors", "/api/v1/anchors?sort=not_after"),
    ("crls", "/api/v1/crls"),
    ("findings", "/api/v1/findings"),
];

#[tokio::test]
async fn answers_keep_the_shape_that_is_public() {
    let (views, _stopping) = views_with(|snapshot| {
        let mut trust = sample::sample_trust(sample::sample_pair(b"a", Standing::Current).validity);
        trust.holds.crls =
            vec![sample::sample_crl("2026-11-20T00:00:00Z".parse().unwrap(), "2026-12-20T00:00:00Z".parse().unwrap())];
        snapshot.trusts = vec![trust];
    });
    for handshake in [accepted(), refused("203.0.113.9:4000")] {
        views.events.emit(Event::Handshake(handshake.into()));
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/answers");
    for (name, target) in KEPT {
        let request = build_request(http::Method::GET, target, &[]);
        let response = answer_api(&request, &views).await.into_response();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        if name == "status" {
            (answer["pid"], answer["version"]) = (1.into(), "0.0.0".into());
        }
        let text = format!("{}\n", serde_json::to_string_pretty(&answer).unwrap());
        let file = folder.join(format!("{name}.json"));
        if std::env::var_os("SIDEKEY_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, kept, "{target}: a change is public; SIDEKEY_WRITE_DOCS=1 writes it");
    }
}
