//! `/api/v1/…`: what the page shows, as JSON; errors as problem details (RFC 9457).
//!
//! It answers with the read models of `views`, unchanged: the page renders the same ones. Which paths and parameters there
//! are says the OpenAPI document.

mod document;

use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::answer::{AdminAnswer, JSON};
use super::target::{RequestTarget, parse_word};
use crate::pki::Fingerprint;
use crate::views::RuntimeViews;
use crate::views::certificates::find_certificate;
use crate::views::findings::read_findings;
use crate::views::handshakes::{self, HandshakeFilter};
use crate::views::keyrings::{find_keyring, list_keyrings};
use crate::views::list_window::{ListPart, ListWindow};
use crate::views::listeners::list_listeners;
use crate::views::peers::{PeerQuery, find_peer, list_peers};
use crate::views::registry::{KeyPairFilter, list_failures, list_history, list_key_pairs};
use crate::views::registry_reader::RegistryUnread;
use crate::views::rotation::{read_rotation, refresh_reports};
use crate::views::status::read_status;
use crate::views::trusts::{AnchorFilter, list_anchors, list_crls};
use crate::views::upstreams::list_upstreams;
use document::{ApiArguments, ApiRefusal, DOCUMENT, find_operation};

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
        return refuse(StatusCode::BAD_REQUEST, "the target has too many parts, or escapes that are not UTF-8");
    };
    match find_operation(&target) {
        Ok((operation, arguments)) => answer_operation(operation, &arguments, views).await,
        Err(ApiRefusal::NoPath) => {
            refuse(StatusCode::NOT_FOUND, "this path does not exist: /api/v1/openapi.json describes those that do")
        }
        Err(ApiRefusal::Parameter(why)) => refuse(StatusCode::BAD_REQUEST, &why),
    }
}

async fn answer_operation(operation: &str, asked: &ApiArguments, views: &RuntimeViews) -> AdminAnswer {
    refresh_reports(views).await;
    match operation {
        "document" => AdminAnswer::from_text(StatusCode::OK, JSON, DOCUMENT),
        "status" => show(&read_status(views).await),
        "listeners" => show(&list_listeners(views)),
        "keyrings" => show(&list_keyrings(views)),
        "keyring" => {
            let found = find_keyring(views, &asked.text("name").unwrap_or_default()).await;
            show_found(found.as_ref(), "no keyring has this name: /api/v1/keyrings lists them")
        }
        "rotation" => show(&read_rotation(views)),
        "handshakes" => show(&list_handshakes(asked, views)),
        "handshake" => {
            let id = asked.number("connection").unwrap_or_default();
            let found = handshakes::find_handshake(&views.events, id);
            show_found(
                found.as_ref(),
                "no recent handshake has this number: the last 2,000 are kept, the log has the others",
            )
        }
        "peers" => show_read(&list_peers(views, read_peer_query(asked)).await),
        "peer" => match find_peer(views, &asked.text("identity").unwrap_or_default()).await {
            Ok(found) => show_found(found.as_ref(), "no peer of this identity was seen"),
            Err(unread) => refuse(StatusCode::SERVICE_UNAVAILABLE, &unread.to_string()),
        },
        "upstreams" => show(&list_upstreams(views)),
        "key_pairs" => show(&list_key_pairs(views, &read_key_pair_filter(asked)).await),
        "anchors" => show(&list_anchors(views, &read_anchor_filter(asked)).await),
        "crls" => show(&list_crls(views, read_window(asked)).await),
        "history" => show_read(&list_history(views, asked.text("name"), read_window(asked)).await),
        "failures" => show_read(&list_failures(views, read_window(asked)).await),
        "findings" => show(&read_findings(views).await),
        "certificate" => match asked.text("fingerprint").unwrap_or_default().parse::<Fingerprint>() {
            Ok(fingerprint) => show_found(
                find_certificate(views, fingerprint).await.as_ref(),
                "the sidecar does not know this certificate",
            ),
            Err(not_hash) => refuse(StatusCode::BAD_REQUEST, &not_hash.to_string()),
        },
        _ => refuse(StatusCode::NOT_IMPLEMENTED, "the document describes what this version does not answer"),
    }
}

/// Handshakes as objects, made only for the part that is shown.
fn list_handshakes(asked: &ApiArguments, views: &RuntimeViews) -> ListPart<Value> {
    let filter = HandshakeFilter {
        failed: asked.has_flag("failed"),
        peer: asked.text("peer"),
        since: asked.time("since"),
        side: asked.text("side"),
        listener: asked.text("listener"),
        keyring: asked.text("keyring"),
        last: None,
    };
    let ListPart { total, offset, entries } = read_window(asked).cut(handshakes::find_recent(&views.events, &filter));
    let entries = entries.iter().map(|handshake| handshakes::handshake_object(handshake)).collect();
    ListPart { total, offset, entries }
}

fn read_window(asked: &ApiArguments) -> ListWindow {
    let usual = ListWindow::default();
    let number = |name: &str, usual: usize| {
        asked.number(name).map_or(usual, |number| usize::try_from(number).unwrap_or(usize::MAX))
    };
    ListWindow { offset: number("offset", usual.offset), limit: number("limit", usual.limit) }
}

fn read_peer_query(asked: &ApiArguments) -> PeerQuery {
    let ListWindow { offset, limit } = read_window(asked);
    PeerQuery {
        side: asked.text("side"),
        listener: asked.text("listener"),
        partner: asked.text("partner"),
        text: asked.text("text"),
        sort: read_word(asked, "sort"),
        descending: asked.has_flag("descending"),
        offset,
        limit,
    }
}

fn read_key_pair_filter(asked: &ApiArguments) -> KeyPairFilter {
    KeyPairFilter {
        keyring: asked.text("keyring"),
        standing: asked.text("standing"),
        owner: asked.text("owner"),
        text: asked.text("text"),
        expires_before: asked.time("expires_before"),
        sort: read_word(asked, "sort").unwrap_or_default(),
        descending: asked.has_flag("descending"),
        window: read_window(asked),
    }
}

fn read_anchor_filter(asked: &ApiArguments) -> AnchorFilter {
    AnchorFilter {
        trust: asked.text("trust"),
        kind: asked.text("kind"),
        standing: asked.text("standing"),
        text: asked.text("text"),
        sort: read_word(asked, "sort").unwrap_or_default(),
        descending: asked.has_flag("descending"),
        window: read_window(asked),
    }
}

/// A parameter as one of an enum's names.
fn read_word<T: DeserializeOwned>(asked: &ApiArguments, parameter: &str) -> Option<T> {
    parse_word(&asked.text(parameter)?)
}

fn show(model: &impl Serialize) -> AdminAnswer {
    match serde_json::to_vec(model) {
        Ok(json) => AdminAnswer::from_text(StatusCode::OK, JSON, json),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "this cannot be written as JSON"),
    }
}

fn show_read(read: &Result<impl Serialize, RegistryUnread>) -> AdminAnswer {
    match read {
        Ok(model) => show(model),
        Err(unread) => refuse(StatusCode::SERVICE_UNAVAILABLE, &unread.to_string()),
    }
}

fn show_found(found: Option<&impl Serialize>, missing: &str) -> AdminAnswer {
    found.map_or_else(|| refuse(StatusCode::NOT_FOUND, missing), show)
}

#[cfg(test)]
mod tests;
