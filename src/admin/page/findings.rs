//! Findings and alerts: what needs attention beyond this moment, each with what to do.

use maud::{Markup, html};

use super::markup::{LabelTone, link_certificate, render_label, render_outside, render_sentence, render_unread};
use crate::pki::Fingerprint;
use crate::registry::Finding;
use crate::views::findings::{ActiveAlert, FindingList};

/// The view.
pub(super) fn render_findings(list: &FindingList) -> Markup {
    html! {
        div data-live="findings" {
            @if let Some(why) = &list.findings_unread { (render_unread(why)) }
            @if !list.alerts.is_empty() {
                h2 { "Alerts that are active (" (list.alerts.len()) ")" }
                ul class="items" { @for alert in &list.alerts { (render_alert(alert)) } }
            }
            h2 { "Findings of the registry (" (list.findings.len()) ")" }
            @if list.findings.is_empty() && list.findings_unread.is_none() { p class="empty" { "Nothing was found." } }
            ul class="items" { @for finding in list.findings.iter() { (render_finding(finding)) } }
            p class="do" { "The same on the command line, for a schedule: " (super::markup::render_command(&["sidekey", "registry", "audit"])) }
        }
    }
}

/// One finding.
pub(super) fn render_finding(finding: &Finding) -> Markup {
    html! {
        li class="item edge tone-warn" {
            p class="item-head" {
                (render_label(LabelTone::Warn, &name_code(finding.finding))) " "
                strong { (render_outside(&finding.about)) }
                @if let Some(key_pair) = finding.key_pair.as_deref().filter(|id| is_fingerprint(id)) { " " (link_certificate(key_pair)) }
            }
            p { (render_sentence(&finding.explanation)) }
            p class="do" { span class="do-mark" { "Do" } " " (render_sentence(&finding.remedy)) }
            p class="muted" {
                @if let Some(contact) = &finding.contact { "contact " (render_outside(contact)) " · " }
                "seen by " (super::markup::render_names(&finding.instances, 5))
            }
        }
    }
}

fn render_alert(alert: &ActiveAlert) -> Markup {
    let tone = if alert.urgent { LabelTone::Bad } else { LabelTone::Warn };
    html! {
        li class={ "item edge " (tone.as_class()) } {
            p class="item-head" {
                (render_label(tone, &name_code(alert.kind))) " " strong { (render_outside(&alert.keyring)) }
                @if let Some(key_pair) = alert.key_pair { " " (link_certificate(&key_pair.hex())) }
            }
            p { (render_sentence(&alert.explanation)) }
            p class="do" { span class="do-mark" { "Do" } " " (render_sentence(&alert.remedy)) }
            @if let Some(contact) = &alert.contact { p class="muted" { "contact " (render_outside(contact)) } }
        }
    }
}

/// A code as words.
pub(super) fn name_code(code: &str) -> String {
    code.replace('_', " ")
}

fn is_fingerprint(text: &str) -> bool {
    text.parse::<Fingerprint>().is_ok()
}
