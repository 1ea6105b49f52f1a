//! The overview: the one thing to act on, four answers at a glance, the timeline, what rotates, what failed last, and findings.

use std::sync::Arc;

use jiff::Timestamp;
use maud::{Markup, html};

use super::markup::{
    LabelTone, link_keyring, link_peer, render_distance, render_label, render_outside, render_sentence, render_unread,
};
use super::{findings, handshakes, rotation, timeline};
use crate::event::HandshakeRecord;
use crate::evidence::report::{RotationProgress, RotationReport};
use crate::keyring::Standing;
use crate::snapshot::{KeyPairView, KeyringView};
use crate::views::findings::FindingList;
use crate::views::status::{StatusItem, StatusReport, Urgency};

/// Reasons of failures that are named at a glance.
const FEW_REASONS: usize = 2;
/// Characters of a sentence that are shown at a glance.
const GLANCE: usize = 110;
/// Findings that the overview lists.
const FEW_FINDINGS: usize = 4;

/// What the overview is made of.
pub(super) struct OverviewContent<'a> {
    pub(super) status: &'a StatusReport,
    pub(super) findings: &'a FindingList,
    /// The latest failures.
    pub(super) failed: &'a [Arc<HandshakeRecord>],
}

/// The view.
pub(super) fn render_overview(content: &OverviewContent<'_>) -> Markup {
    let (status, found) = (content.status, content.findings);
    let now = status.now;
    html! {
        div data-live="act" { (render_act_on(status)) (render_tiles(content)) }
        section aria-labelledby="timeline" {
            h2 id="timeline" { "Key pairs" }
            @if status.keyrings.is_empty() { p class="empty" { "The watched folder holds no keyring yet." } }
            @else { div data-live="timeline" { (timeline::render_timeline(&status.keyrings, now)) } }
        }
        section aria-labelledby="rotating" data-live="rotations" {
            h2 id="rotating" { "Rotations" }
            @if status.rotations.is_empty() { p class="empty" { "No keyring is in overlap: nothing rotates." } }
            @for report in status.rotations.iter() { (rotation::render_summary(report, now)) }
        }
        section aria-labelledby="failed" data-live="failed" {
            h2 id="failed" { "Handshakes that failed last" }
            @if content.failed.is_empty() { p class="empty" { "None of the handshakes in memory failed." } }
            (handshakes::render_list(content.failed, now))
            p class="more" { a href="/handshakes?failed=true" { "All that failed" } " · " a href="/handshakes" { "All handshakes" } }
        }
        section aria-labelledby="found" data-live="found" {
            h2 id="found" { "Findings" }
            @if let Some(why) = &found.findings_unread { (render_unread(why)) }
            @else if found.findings.is_empty() { p class="empty" { "The registry's audit finds nothing." } }
            ul class="items" { @for finding in found.findings.iter().take(FEW_FINDINGS) { (findings::render_finding(finding)) } }
            @if found.findings.len() > FEW_FINDINGS { p class="more" { a href="/findings" { "All " (found.findings.len()) " findings" } } }
        }
        (render_listeners(status))
    }
}

/// The one thing to act on, and the others behind it.
fn render_act_on(status: &StatusReport) -> Markup {
    html! {
        @if let Some((first, others)) = status.act_on.split_first() {
            section class={ "act edge " (urgency_tone(first.urgency).as_class()) } aria-labelledby="act" {
                h2 id="act" { "Act on this" @if first.urgency == Urgency::Now { " now" } }
                (render_item(first))
                @if !others.is_empty() {
                    details data-keep="others" {
                        summary { "and " (others.len()) @if others.len() == 1 { " other thing" } @else { " other things" } }
                        ul class="items" {
                            @for item in others { li class={ "item edge " (urgency_tone(item.urgency).as_class()) } { (render_item(item)) } }
                        }
                    }
                }
            }
        } @else {
            section class="act edge tone-good" aria-labelledby="act" { h2 id="act" { "Nothing to act on" } }
        }
        @if !status.notes.is_empty() {
            details class="notes" data-keep="notes" {
                summary { (status.notes.len()) @if status.notes.len() == 1 { " note" } @else { " notes" } }
                ul class="items" { @for item in &status.notes { li class="item edge tone-info" { (render_item(item)) } } }
            }
        }
    }
}

fn render_item(item: &StatusItem) -> Markup {
    html! {
        p class="what" { @if let Some(keyring) = &item.keyring { (link_keyring(keyring)) ": " } (render_sentence(&item.what)) }
        p class="do" { span class="do-mark" { "Do" } " " (render_sentence(&item.remedy)) }
    }
}

/// What is about to expire, what is rotating, which peers still use the old pair, why handshakes failed.
fn render_tiles(content: &OverviewContent<'_>) -> Markup {
    let (status, found) = (content.status, content.findings);
    let next = next_to_end(&status.keyrings);
    let on_old = peers_on_old(&status.rotations);
    html! {
        dl class="tiles" {
            div {
                dt { "Ends next" }
                @if let Some((keyring, ends)) = next {
                    dd class=(LabelTone::of_end(ends, status.now).as_class()) { strong { (render_distance(ends, status.now)) } }
                    dd class="muted" { (link_keyring(&keyring.name)) }
                } @else { dd { strong { "–" } } }
            }
            div {
                dt { "Rotating" }
                dd { strong { (status.rotations.len()) } }
                dd class="muted" {
                    @for report in status.rotations.iter() {
                        (link_keyring(&report.keyring)) " " (render_label(LabelTone::of_advice(report.verdict.retire), report.verdict.retire.as_str())) " "
                    }
                    @if status.rotations.is_empty() { "no keyring in overlap" }
                }
            }
            div {
                dt { "Still on an old pair" }
                dd class=(if on_old.is_empty() { "tone-good" } else { "tone-warn" }) { strong { (on_old.len()) } }
                dd class="muted" {
                    @for name in on_old.iter().take(2) { (link_peer(name)) " " }
                    @if on_old.len() > 2 { "and " (on_old.len() - 2) " more" }
                    @if on_old.is_empty() { "no peer, no upstream" }
                }
            }
            (render_failed_tile(content))
            div {
                dt { "Findings" }
                dd { a href="/findings" { strong { (found.findings.len()) } } }
                dd class="muted" { (found.alerts.len()) @if found.alerts.len() == 1 { " alert is active" } @else { " alerts are active" } }
            }
        }
    }
}

/// How many failed, and why the last one did.
fn render_failed_tile(content: &OverviewContent<'_>) -> Markup {
    let (failures, now) = (&content.status.failures, content.status.now);
    html! {
        div {
            dt { "Failed in the last hour" }
            dd class=(if failures.count == 0 { "tone-good" } else { "tone-warn" }) {
                a href="/handshakes?failed=true" { strong { (failures.count) } }
            }
            dd class="muted" {
                @for (reason, count) in failures.reasons.iter().take(FEW_REASONS) { span class="part" { (count) " × " code { (reason) } } " " }
                @if failures.reasons.len() > FEW_REASONS { "and others" }
                @if failures.count == 0 { "of the handshakes in memory" }
            }
            @if let Some(last) = content.failed.first() {
                dd class="last" {
                    "Last, " (render_distance(last.time, now)) ": "
                    a href={ "/handshakes/" (last.connection) } { (cut_sentence(&last.explanation)) }
                }
            }
        }
    }
}

/// The begin of a sentence, as far as a glance takes in.
fn cut_sentence(sentence: &str) -> String {
    match sentence.char_indices().nth(GLANCE) {
        Some((end, _)) => format!("{}…", sentence[..end].trim_end()),
        None => sentence.to_owned(),
    }
}

/// The keyring whose current pair ends first.
fn next_to_end(keyrings: &[KeyringView]) -> Option<(&KeyringView, Timestamp)> {
    let ends = |keyring: &KeyringView| keyring.pairs_with_standing(Standing::Current).map(KeyPairView::ends).min();
    keyrings.iter().filter_map(|keyring| Some((keyring, ends(keyring)?))).min_by_key(|(_, ends)| *ends)
}

/// Peers and upstreams that use or need an old pair.
fn peers_on_old(rotations: &[RotationReport]) -> Vec<&str> {
    let lines = rotations.iter().flat_map(|report| &report.lines);
    let on_old = lines.filter(|line| {
        matches!(
            line.stands,
            RotationProgress::RefusesEvery
                | RotationProgress::InsistsOnOld
                | RotationProgress::EndsUnexplained
                | RotationProgress::StillOnOld
        )
    });
    on_old.map(|line| line.name.as_str()).collect()
}

fn render_listeners(status: &StatusReport) -> Markup {
    html! {
        section aria-labelledby="listeners" data-live="listeners" {
            h2 id="listeners" { "Listeners" }
            ul class="rows" {
                @for listener in &status.listeners {
                    li {
                        (render_label(if listener.waits_for.is_none() { LabelTone::Good } else { LabelTone::Bad }, if listener.waits_for.is_none() { "serves" } else { "waits" }))
                        " " (listener.side) " " strong { (render_outside(&listener.name)) }
                        @if let Some(what) = &listener.waits_for { " for " (render_sentence(what)) }
                    }
                }
            }
        }
    }
}

const fn urgency_tone(urgency: Urgency) -> LabelTone {
    match urgency {
        Urgency::Now => LabelTone::Bad,
        Urgency::Soon => LabelTone::Warn,
        Urgency::Note => LabelTone::Info,
    }
}
