//! One keyring: its settings, its pairs on a timeline and with what can be done, its rotation, and its history.

use jiff::Timestamp;
use maud::{Markup, html};

use super::markup::{
    LabelTone, encode_part, link_key_pair, render_command, render_date, render_fact, render_label, render_names,
    render_outside, render_sentence, render_unread,
};
use super::timeline::{TimeScale, render_lanes};
use super::{registry, rotation};
use crate::keyring::{ActivationPolicy, PreferPolicy, Standing};
use crate::pki::format_length;
use crate::snapshot::{KeyPairView, KeyringView};
use crate::views::keyrings::KeyringDetails;

/// The view.
pub(super) fn render_keyring(details: &KeyringDetails, now: Timestamp) -> Markup {
    let keyring = &details.keyring.keyring;
    html! {
        @if let Some(purpose) = &keyring.purpose { p class="lead" { (render_outside(purpose)) } }
        dl class="facts" {
            (render_fact("owner", keyring.owner.as_deref().map(render_outside)))
            (render_fact("contact", keyring.contact.as_deref().map(render_outside)))
            (render_fact("shown by", (!details.listeners.is_empty()).then(|| render_names(&details.listeners, 10))))
            (render_fact("overlap", Some(format_length(keyring.overlap_seconds))))
            (render_fact("prefers", Some(if keyring.prefer == PreferPolicy::Old { "the old pair" } else { "the new pair" })))
            (render_fact("arrivals", Some(if keyring.activate == ActivationPolicy::Manual { "wait until promoted" } else { "become current by themselves" })))
            (render_fact("rotated every", keyring.rotate_every.map(|every| format_length(every.as_secs()))))
            (render_fact("differs from the folder", keyring.diverges.map(|(key_pair, since)| html! { (link_key_pair(key_pair)) " since " (render_date(since, now)) })))
        }
        section aria-labelledby="pairs" data-live="pairs" {
            h2 id="pairs" { "Key pairs" }
            div class="timeline" { (render_lanes(&keyring.key_pairs, TimeScale::fit_pairs(&keyring.key_pairs, now))) }
            @for pair in &keyring.key_pairs { (render_pair(keyring, pair, now)) }
            @for key in &keyring.waiting { p class="notice tone-info" { "A private key waits for its certificate: " (render_outside(&key.file)) } }
        }
        @if let Some(report) = &details.rotation {
            section aria-labelledby="rotation" data-live="rotation" { h2 id="rotation" { "Rotation" } (rotation::render_single_report(report, now)) }
        }
        section aria-labelledby="history" {
            h2 id="history" { "History" }
            @if let Some(why) = &details.history_unread { (render_unread(why)) }
            @else if details.history.is_empty() { p class="empty" { "The registry has no line about this keyring yet." } }
            @else { (registry::render_history(&details.history, now)) }
        }
        p { a href={ "/handshakes?keyring=" (encode_part(&keyring.name)) } { "Handshakes that showed its pairs" } }
    }
}

fn render_pair(keyring: &KeyringView, pair: &KeyPairView, now: Timestamp) -> Markup {
    let standing = pair.standing.as_str();
    html! {
        article class={ "card edge " (LabelTone::of_standing(standing).as_class()) } {
            div class="card-head" {
                h3 { (link_key_pair(pair.key_pair)) }
                (render_label(LabelTone::of_standing(standing), standing))
                span class="muted" { "since " (render_date(pair.since, now)) }
            }
            @if let Some(why) = &pair.why { p { (render_sentence(why)) } }
            dl class="facts" {
                (render_fact("subject", Some(render_outside(&pair.subject))))
                (render_fact("names", (!pair.names.is_empty()).then(|| render_names(&pair.names, 20))))
                (render_fact("issuer", Some(render_outside(&pair.issuer))))
                (render_fact("key", Some(pair.key.as_str())))
                (render_fact("valid from", Some(render_date(pair.validity.not_before, now))))
                (render_fact("ends", Some(render_date(pair.ends(), now))))
                (render_fact("its chain ends first at", pair.chain_ends.as_ref().map(|chain| render_outside(&chain.subject))))
                (render_fact("overlap ends", pair.overlap_ends.map(|ends| render_date(ends, now))))
                (render_fact("files", (!pair.sources.is_empty()).then(|| html! { @for file in &pair.sources { span class="part mono" { (render_outside(file)) } " " } })))
                (render_fact("weakness", pair.weakness.as_deref().map(render_sentence)))
                (render_fact("survives a restart", (!pair.survives_restart).then_some("no: only this process has it")))
            }
            (render_actions(keyring, pair))
        }
    }
}

/// The commands that make sense for this standing.
fn render_actions(keyring: &KeyringView, pair: &KeyPairView) -> Markup {
    let (name, short) = (&*keyring.name, pair.key_pair.short());
    let command = |what: &str, verb: &str| html! { p class="do" { (what) " " (render_command(&["sidekey", "keyring", verb, name, &short])) } };
    html! {
        @match pair.standing {
            Standing::Staged => (command("To make it current:", "promote")),
            Standing::Previous => (command("To end its overlap now:", "retire")),
            Standing::Current if keyring.pairs_with_standing(Standing::Previous).next().is_some() => {
                p class="do" { "To go back to the previous pair: " (render_command(&["sidekey", "keyring", "rollback", name])) }
            }
            Standing::Refused => p class="do" {
                "To see what is wrong with its files: " (render_command(&["sidekey", "inspect", pair.sources.first().map_or("FILE", |file| file)]))
            },
            _ => {}
        }
    }
}
