//! `/api/v1/…`: what the page shows, as JSON; errors as problem details (RFC 9457).
//!
//! It answers with the read models of `views`, unchanged: the page renders the same ones.

use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use serde_json::json;

use super::answer::{AdminAnswer, JSON};
use super::target::RequestTarget;
use crate::views::RuntimeViews;
use crate::views::status::read_status;

/// Problem details (RFC 9457 3).
const PROBLEM: &str = "application/problem+json";

/// Whether the API answers for this path.
pub(super) fn is_below(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/")
}

/// A problem that has no more to say than its status and a sentence.
pub(super) fn refuse(status: StatusCode, why: &str) -> AdminAnswer {
    let problem = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": why,
    });
    AdminAnswer::from_text(status, PROBLEM, problem.to_string())
}

/// Answers a request whose method and Host are checked.
pub(super) async fn answer_api(request: &Parts, views: &RuntimeViews) -> AdminAnswer {
    let Some(target) = RequestTarget::parse(&request.uri) else {
        return refuse(StatusCode::BAD_REQUEST, "the target cannot be decoded: escapes have to be UTF-8");
    };
    let segments: Vec<&str> = target.segments.iter().map(AsRef::as_ref).collect();
    match segments[..] {
        ["api", "v1", "status"] => show(&read_status(views).await),
        _ => refuse(StatusCode::NOT_FOUND, "this path does not exist"),
    }
}

fn show(model: &impl Serialize) -> AdminAnswer {
    match serde_json::to_vec(model) {
        Ok(json) => AdminAnswer::from_text(StatusCode::OK, JSON, json),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "this cannot be written as JSON"),
    }
}
