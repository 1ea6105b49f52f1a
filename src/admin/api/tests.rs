//! What must hold: the document describes exactly what is answered, and what it does not describe is refused as a problem.

use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::Value;

use super::document::operation_ids;
use super::*;
use crate::admin::tests::{build_request, views};

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
