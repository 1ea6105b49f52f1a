//! The page for people (contract section 10): which view a path leads to, and the files that it needs.
//!
//! It is rendered here, whole, from what `views` reads, and works without a script; the script only asks for the same page again.
//! It is read-only: where something can be done it shows the command.

mod assets;
mod certificate;
mod document;
mod findings;
mod handshakes;
mod keyring;
mod markup;
mod overview;
mod peer;
mod query;
mod registry;
mod rotation;
mod table;
mod timeline;
mod trust;
mod usages;

#[cfg(test)]
mod tests;

use http::StatusCode;
use http::request::Parts;
use maud::{Markup, html};

use super::answer::AdminAnswer;
use super::target::{RequestTarget, parse_word};
use crate::pki::Fingerprint;
use crate::views::RuntimeViews;
use crate::views::handshakes::{HandshakeFilter, find_handshake, find_recent};
use crate::views::list_window::ListWindow;
use crate::views::peers::PeerQuery;
use crate::views::registry::KeyPairFilter;
use crate::views::trusts::AnchorFilter;
use crate::views::{
    certificates, findings as finding_list, keyrings, peers, registry as tables, rotation as reports, status, trusts,
};
use document::{PageTab, SidecarHead, render_document};
use overview::OverviewContent;
use query::ViewQuery;
use registry::RegistryTab;

/// Handshakes that a list shows.
const MOST_HANDSHAKES: usize = 100;
/// Failed handshakes that the overview shows.
const FEW_FAILED: usize = 5;
/// Handshakes that the page of a peer shows.
const PEER_HANDSHAKES: usize = 20;

/// One view, before the document is put around it.
struct PageView {
    tab: Option<PageTab>,
    title: String,
    content: Markup,
}

impl PageView {
    fn new(tab: PageTab, title: impl Into<String>, content: Markup) -> Self {
        Self { tab: Some(tab), title: title.into(), content }
    }
}

/// Answers a request for a view or for one of the page's files; anything else is not found. Method and Host are checked before.
pub(super) async fn answer_page(request: &Parts, views: &RuntimeViews) -> AdminAnswer {
    if let Some(asset) = assets::find_asset(request.uri.path()) {
        return AdminAnswer::from_asset(asset.content_type, asset.content);
    }
    reports::refresh_reports(views).await;
    let view = match RequestTarget::parse(&request.uri) {
        Some(target) => {
            let query = ViewQuery::from_parameters(request.uri.path(), &target.parameters);
            let segments: Vec<&str> = target.segments.iter().map(AsRef::as_ref).collect();
            find_view(&segments, &query, views).await
        }
        None => None,
    };
    let status = if view.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let view = view.unwrap_or_else(describe_absence);
    let snapshot = views.reader.latest();
    let head = SidecarHead {
        instance: views.instance.to_string(),
        epoch: snapshot.epoch.0,
        ready: views.is_ready(),
        now: views.events.now(),
    };
    AdminAnswer::from_page(status, render_document(&head, view.tab, &view.title, &view.content))
}

async fn find_view(segments: &[&str], query: &ViewQuery, views: &RuntimeViews) -> Option<PageView> {
    let now = views.events.now();
    match *segments {
        [""] => Some(show_overview(views).await),
        ["rotation"] => {
            let answer = reports::read_rotation(views);
            let content = rotation::render_rotation(&answer.keyrings, &answer.trusts, now);
            Some(PageView::new(PageTab::Rotation, "Rotation report", content))
        }
        ["handshakes"] => Some(show_handshakes(query, views)),
        ["handshakes", id] => show_handshake(id, views),
        ["findings"] => {
            let list = finding_list::read_findings(views).await;
            Some(PageView::new(PageTab::Findings, "Findings", findings::render_findings(&list)))
        }
        ["registry", ..] => show_registry(segments, query, views).await,
        ["keyrings", name] => {
            let details = keyrings::find_keyring(views, name).await?;
            let title = format!("Keyring {name}");
            Some(PageView { tab: None, title, content: keyring::render_keyring(&details, now) })
        }
        ["peers", identity] => show_peer(identity, views).await,
        ["certificates", fingerprint] => {
            let fingerprint: Fingerprint = fingerprint.parse().ok()?;
            let details = certificates::find_certificate(views, fingerprint).await?;
            let title = format!("Certificate {}", fingerprint.short());
            Some(PageView { tab: None, title, content: certificate::render_certificate(&details, now) })
        }
        _ => None,
    }
}

async fn show_overview(views: &RuntimeViews) -> PageView {
    let status = status::read_status(views).await;
    let found = finding_list::read_findings(views).await;
    let filter = HandshakeFilter { failed: true, last: Some(FEW_FAILED), ..HandshakeFilter::default() };
    let failed = find_recent(&views.events, &filter);
    let content = OverviewContent { status: &status, findings: &found, failed: &failed };
    PageView::new(PageTab::Overview, "Overview", overview::render_overview(&content))
}

fn show_handshakes(query: &ViewQuery, views: &RuntimeViews) -> PageView {
    let filter = HandshakeFilter {
        failed: query.get("failed") == Some("true"),
        peer: query.get_text("peer"),
        keyring: query.get_text("keyring"),
        side: query.get_text("side"),
        last: Some(MOST_HANDSHAKES),
        ..HandshakeFilter::default()
    };
    let snapshot = views.reader.latest();
    let keyrings: Vec<&str> = snapshot.keyrings.iter().map(|keyring| &*keyring.name).collect();
    let shown = find_recent(&views.events, &filter);
    let content = handshakes::render_handshakes(&filter, &keyrings, &shown, views.events.now());
    PageView::new(PageTab::Handshakes, "Handshakes", content)
}

fn show_handshake(id: &str, views: &RuntimeViews) -> Option<PageView> {
    let id: u64 = id.parse().ok()?;
    let fields = find_handshake(&views.events, id)?;
    let handshake = views.events.recent().into_iter().rev().find(|handshake| handshake.connection == id)?;
    let content = handshakes::render_handshake(&handshake, &fields, views.events.now());
    Some(PageView { tab: None, title: format!("Handshake #{id}"), content })
}

async fn show_registry(segments: &[&str], query: &ViewQuery, views: &RuntimeViews) -> Option<PageView> {
    let (tab, content) = match *segments {
        ["registry"] => (RegistryTab::KeyPairs, show_key_pairs(query, views).await),
        ["registry", "peers"] => (RegistryTab::Peers, show_peers(query, views).await),
        ["registry", "trust"] => (RegistryTab::Trust, show_trust(query, views).await),
        ["registry", "history"] => {
            let (name, window, now) = (query.get_text("name"), query.window(), views.events.now());
            let content = match tables::list_history(views, name, window).await {
                Ok(rows) => html! {
                    (registry::render_history(&rows.entries, now))
                    (query.render_pager((rows.offset, rows.entries.len(), rows.total)))
                },
                Err(unread) => markup::render_unread(&unread.to_string()),
            };
            (RegistryTab::History, content)
        }
        ["registry", "failures"] => {
            let content = match tables::list_failures(views, query.window()).await {
                Ok(rows) => html! {
                    p class="muted" { "Of the last 30 days, on every instance that writes to this registry." }
                    (registry::render_failures(&rows.entries, views.events.now()))
                    (query.render_pager((rows.offset, rows.entries.len(), rows.total)))
                },
                Err(unread) => markup::render_unread(&unread.to_string()),
            };
            (RegistryTab::Failures, content)
        }
        _ => return None,
    };
    Some(PageView::new(PageTab::Registry, "Registry", registry::render_registry(tab, &content)))
}

async fn show_key_pairs(query: &ViewQuery, views: &RuntimeViews) -> Markup {
    let filter = KeyPairFilter {
        standing: query.get_text("standing"),
        owner: query.get_text("owner"),
        text: query.get_text("text"),
        sort: query.get("sort").and_then(parse_word).unwrap_or_default(),
        descending: query.is_descending(),
        window: query.window(),
        ..KeyPairFilter::default()
    };
    let table = tables::list_key_pairs(views, &filter).await;
    registry::render_key_pairs(query, &table, views.events.now())
}

async fn show_peers(query: &ViewQuery, views: &RuntimeViews) -> Markup {
    let ListWindow { offset, limit } = query.window();
    let asked = PeerQuery {
        side: query.get_text("side"),
        partner: query.get_text("partner"),
        text: query.get_text("text"),
        sort: query.get("sort").and_then(parse_word),
        descending: query.is_descending(),
        offset,
        limit,
        ..PeerQuery::default()
    };
    match peers::list_peers(views, asked).await {
        Ok(rows) => registry::render_peers(query, &rows, views.events.now()),
        Err(unread) => markup::render_unread(&unread.to_string()),
    }
}

async fn show_trust(query: &ViewQuery, views: &RuntimeViews) -> Markup {
    let filter = AnchorFilter {
        trust: query.get_text("trust"),
        kind: query.get_text("kind"),
        standing: query.get_text("standing"),
        text: query.get_text("text"),
        sort: query.get("sort").and_then(parse_word).unwrap_or_default(),
        descending: query.is_descending(),
        window: query.window(),
    };
    let anchors = trusts::list_anchors(views, &filter).await;
    let crls = trusts::list_crls(views, ListWindow::default()).await;
    trust::render_trust(query, &anchors, &crls, views.events.now())
}

async fn show_peer(identity: &str, views: &RuntimeViews) -> Option<PageView> {
    let is_it = |text: Option<&str>| text == Some(identity);
    let mut recent = find_recent(&views.events, &HandshakeFilter::default());
    recent.retain(|handshake| {
        is_it(handshake.identity.as_deref()) || is_it(handshake.peer.as_ref().map(|peer| peer.subject.as_str()))
    });
    recent.truncate(PEER_HANDSHAKES);
    let content = match peers::find_peer(views, identity).await {
        Ok(details) => peer::render_peer(&details?, &recent, views.events.now()),
        Err(unread) => markup::render_unread(&unread.to_string()),
    };
    Some(PageView { tab: None, title: format!("Peer {}", markup::clip_text(identity)), content })
}

fn describe_absence() -> PageView {
    let content = html! {
        p { "Nothing is at this address, or it is no longer in memory." }
        p { a href="/" { "To the overview" } }
    };
    PageView { tab: None, title: "Not found".to_owned(), content }
}
