//! The rotation report: per keyring the verdict, how far the senders are, who is awaited and until when, and what the report
//! cannot know; the evidence of each sender below its peer.

use jiff::Timestamp;
use maud::{Markup, html};

use super::markup::{
    LabelTone, link_certificate, link_key_pair, link_keyring, link_peer, render_command, render_date, render_day,
    render_distance, render_fact, render_label, render_optional_distance, render_outside, render_sentence,
};
use super::usages::render_usages;
use crate::evidence::report::{
    PriorHistory, ReportLine, RetireAdvice, RotationProgress, RotationReport, SenderLine, SubjectKind,
};
use crate::pki::{format_day, format_length, format_minute};
use crate::snapshot::TrustUsage;

/// Lines of reports that one view shows; the command shows all.
const MOST_LINES: usize = 100;
/// Lines that it shows of each, however many reports share it; the keyring's own view shows more.
const LEAST_LINES: usize = 25;
/// Senders of one line that the page shows.
const MOST_SENDERS: usize = 20;
/// Lines that the overview shows.
const FEW_LINES: usize = 6;

/// The stages of a rotation in the order of the bar: their name, their tone, and what belongs to them.
const STAGES: [(&str, LabelTone, &[RotationProgress]); 4] = [
    ("proved the new pair", LabelTone::Good, &[RotationProgress::ProvedNew]),
    ("not proved yet", LabelTone::Warn, &[RotationProgress::Unproved, RotationProgress::StillOnOld]),
    ("not seen since", LabelTone::Info, &[RotationProgress::NotSeen]),
    (
        "need the old pair",
        LabelTone::Bad,
        &[RotationProgress::EndsUnexplained, RotationProgress::InsistsOnOld, RotationProgress::RefusesEvery],
    ),
];

/// The view: every report with its first lines, then what trusts depend on.
pub(super) fn render_rotation(reports: &[RotationReport], trusts: &[TrustUsage], now: Timestamp) -> Markup {
    html! {
        div data-live="rotation" {
            @if reports.is_empty() {
                p class="empty" { "No keyring is in overlap: nothing rotates." }
                p class="muted" { "A rotation begins when a newer key pair is dropped into a keyring's folder, or with:" }
                p { (render_command(&["sidekey", "keyring", "promote", "KEYRING"])) }
            }
            @for report in reports { (render_report(report, (MOST_LINES / reports.len()).max(LEAST_LINES), now)) }
            (render_usages(trusts, now))
        }
    }
}

/// One report for the overview: verdict, progress, and the first lines to act on.
pub(super) fn render_summary(report: &RotationReport, now: Timestamp) -> Markup {
    let open: Vec<&ReportLine> = report.lines.iter().filter(|line| is_open(line)).collect();
    html! {
        article class={ "card edge " (LabelTone::of_advice(report.verdict.retire).as_class()) } {
            (render_head(report, now))
            @if !open.is_empty() {
                ul class="rows" {
                    @for line in open.iter().take(FEW_LINES) {
                        li {
                            (render_label(LabelTone::of_progress(line.stands), line.stands.as_str())) " "
                            (link_line(line)) " "
                            span class="muted" {
                                @if let Some(until) = line.until { "awaited until " (format_day(until)) }
                                @if let Some(contact) = &line.contact { " · " (render_outside(contact)) }
                            }
                        }
                    }
                }
            }
            p class="more" {
                a href={ "/rotation#" (anchor(report)) } {
                    @if open.len() > FEW_LINES { "All " (open.len()) " that are open, with the evidence" } @else { "The evidence by sender" }
                }
            }
        }
    }
}

/// The report of a view of its own.
pub(super) fn render_single_report(report: &RotationReport, now: Timestamp) -> Markup {
    render_report(report, MOST_LINES, now)
}

/// One report with so many of its lines.
fn render_report(report: &RotationReport, most_lines: usize, now: Timestamp) -> Markup {
    html! {
        section class={ "card edge " (LabelTone::of_advice(report.verdict.retire).as_class()) } id=(anchor(report)) aria-label={ "Rotation of " (report.keyring) } {
            (render_head(report, now))
            dl class="facts" {
                (render_fact("owner", report.owner.as_deref().map(render_outside)))
                (render_fact("contact", report.contact.as_deref().map(render_outside)))
                (render_fact("rotated", Some(render_date(report.rotated, now))))
                (render_fact("counts", Some(format!("senders seen in the last {}", format_length(report.seen_within_seconds)))))
                (render_fact("watched", describe_watch(report)))
                (render_fact("wait at most", report.verdict.until.map(|until| render_date(until, now))))
                (render_fact("other instances", (!report.replicas.is_empty()).then(|| render_replicas(report, now))))
            }
            (render_lines("Peers and upstreams", &report.lines, (report, most_lines), now))
            (render_lines("Without a certificate: no say in the verdict", &report.anonymous, (report, most_lines), now))
            (render_unconfirmed(report))
            (render_unknown(report))
        }
    }
}

fn render_head(report: &RotationReport, now: Timestamp) -> Markup {
    let verdict = &report.verdict;
    html! {
        div class="card-head" {
            h2 { (link_keyring(&report.keyring)) }
            (render_label(LabelTone::of_advice(verdict.retire), verdict.retire.as_str()))
            span class="muted" { "overlap ends " (render_distance(report.ends, now)) }
        }
        p class="verdict" { (render_sentence(&verdict.sentence)) }
        p class="pairs" {
            "new " (link_key_pair(report.current)) " since " (render_distance(report.rotated, now))
            @for previous in &report.previous {
                " · old " (link_key_pair(previous.key_pair)) " until " (format_minute(previous.ends))
                @if !previous.survives_restart { " " (render_label(LabelTone::Warn, "a restart ends it")) }
            }
        }
        (render_progress(report))
        (render_next_step(report))
    }
}

/// What can be done now, as a command.
fn render_next_step(report: &RotationReport) -> Markup {
    let keyring = &*report.keyring;
    html! {
        @match report.verdict.retire {
            RetireAdvice::Safe => {
                @for previous in &report.previous {
                    p class="do" { "To end the overlap now: " (render_command(&["sidekey", "keyring", "retire", keyring, &previous.key_pair.short()])) }
                }
            }
            RetireAdvice::Blocked => {
                @if let Some(first) = &report.verdict.first {
                    p class="do" {
                        "First to contact: " (render_outside(&first.name))
                        @if let Some(contact) = &first.contact { " at " strong { (render_outside(contact)) } }
                        @else { ", whose contact is not configured: set " code { "contact" } " on its partner" }
                    }
                }
                p class="do" { "To show everyone the old pair again: " (render_command(&["sidekey", "keyring", "rollback", keyring])) }
            }
            RetireAdvice::Wait => {}
        }
    }
}

/// A bar of the peers and upstreams by stage, and the same in words.
fn render_progress(report: &RotationReport) -> Markup {
    let mut whole = 0;
    // Each stage with where it begins, and how many are in it.
    let stages = STAGES.map(|(words, tone, progress)| {
        let (start, count) = (whole, report.lines.iter().filter(|line| progress.contains(&line.stands)).count());
        whole += count;
        (words, tone, start, count)
    });
    let stages = stages.iter().filter(|(.., count)| *count > 0);
    html! {
        @if whole > 0 {
            svg class="progress" width="100%" height="10" aria-hidden="true" focusable="false" {
                @for (_, tone, start, count) in stages.clone() {
                    rect class=(tone.as_class()) x=(share(*start, whole)) y="0" width=(share(*count, whole)) height="10" {}
                }
            }
            p class="stages" {
                @for (words, tone, _, count) in stages {
                    span { span class={ "dot " (tone.as_class()) } aria-hidden="true" {} (count) " " (words) } " "
                }
            }
        }
    }
}

fn share(part: usize, whole: usize) -> String {
    let per_myriad = part * 10_000 / whole.max(1);
    format!("{}.{:02}%", per_myriad / 100, per_myriad % 100)
}

fn render_lines(
    caption: &str,
    lines: &[ReportLine],
    (report, most): (&RotationReport, usize),
    now: Timestamp,
) -> Markup {
    html! {
        @if !lines.is_empty() {
            div class="scroll" role="region" aria-label=(caption) tabindex="0" {
                table {
                    caption { (caption) }
                    thead {
                        tr {
                            th scope="col" { "Who" } th scope="col" { "Uses" } th scope="col" { "Awaited" }
                            th scope="col" { "Last on new" } th scope="col" { "Last on old" } th scope="col" { "Handshakes new / old" }
                            th scope="col" { "Contact" }
                        }
                    }
                    tbody { @for line in lines.iter().take(most) { (render_line(line, now)) } }
                }
            }
            @if lines.len() > most {
                p class="muted" {
                    (lines.len() - most) " more: "
                    @if most < MOST_LINES { (link_keyring(&report.keyring)) " shows " (MOST_LINES) ", " }
                    (render_command(&["sidekey", "rotation", "--json"]))
                    @if most < MOST_LINES { " all" }
                }
            }
        }
    }
}

fn render_line(line: &ReportLine, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" {
                (link_line(line))
                span class="sub" {
                    (describe_kind(line.kind)) " " (render_outside(&line.listener))
                    @if let Some(partner) = &line.partner { " · partner " (render_outside(partner)) }
                }
            }
            td {
                (render_label(LabelTone::of_progress(line.stands), line.stands.as_str()))
                @if let Some(since) = line.since { span class="sub" { "since " (render_distance(since, now)) } }
            }
            td { (render_awaited(line, now)) }
            td { (render_optional_distance(line.last_new, now)) }
            td { (render_optional_distance(line.last_old, now)) }
            td class="number" { (line.handshakes_new) " / " (line.handshakes_old) }
            td { @if let Some(contact) = &line.contact { (render_outside(contact)) } }
        }
        @if line.because.is_some() || !line.senders.is_empty() {
            tr class="evidence" {
                td colspan="7" {
                    @if let Some(because) = &line.because {
                        p { @if let Some(reason) = &line.reason { code { (reason) } " " } (render_sentence(because)) }
                    }
                    (render_senders(line, now))
                }
            }
        }
    }
}

fn render_senders(line: &ReportLine, now: Timestamp) -> Markup {
    let (known, proved) = (line.senders_known, line.senders_proved);
    html! {
        @if !line.senders.is_empty() {
            // The state of a sender's element is kept over a live update by its name.
            details data-keep={ (line.listener) " " (line.name) } {
                summary { (proved) " of " (known) @if known == 1 { " sender" } @else { " senders" } " proved the new pair" }
                table {
                    caption class="unseen" { "Senders of " (line.name) }
                    thead {
                        tr {
                            th scope="col" { "Source" } th scope="col" { "Certificate" } th scope="col" { "Uses" }
                            th scope="col" { "Last seen" } th scope="col" { "Proved" } th scope="col" { "Handshakes new / old" } th scope="col" { "Why, and until when" }
                        }
                    }
                    tbody { @for sender in line.senders.iter().take(MOST_SENDERS) { (render_sender(sender, now)) } }
                }
                @if known > MOST_SENDERS as u64 { p class="muted" { "Of " (known) " senders, those to act on first." } }
            }
        }
    }
}

fn render_sender(sender: &SenderLine, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" { (render_outside(if sender.source.is_empty() { "unknown" } else { &sender.source })) }
            td { @if let Some(certificate) = sender.certificate { (link_certificate(&certificate.hex())) } }
            td { (render_label(LabelTone::of_progress(sender.stands), sender.stands.as_str())) }
            td { (render_distance(sender.last_seen, now)) }
            td { (render_optional_distance(sender.proved, now)) }
            td class="number" { (sender.handshakes_new) " / " (sender.handshakes_old) }
            td {
                @if sender.unexplained_ends > 0 { (sender.unexplained_ends) " ends without a byte. " }
                @if let Some(because) = &sender.because { (render_sentence(because)) " " }
                @if let Some(habit) = &sender.habit { (habit) " " }
                @if let Some(until) = sender.until { "Awaited until " (format_minute(until)) }
            }
        }
    }
}

/// What it is waited for, and until when.
fn render_awaited(line: &ReportLine, now: Timestamp) -> Markup {
    html! {
        @if let Some(until) = line.until { span class="part" { "until " (render_day(until, now)) } }
        @if let Some(habit) = &line.habit { span class="sub" { (habit) } }
        @if let Some(next) = line.next_try { span class="sub" { "tried again " (render_distance(next, now)) } }
    }
}

fn render_unconfirmed(report: &RotationReport) -> Markup {
    html! {
        @if report.unconfirmed > 0 {
            p {
                (report.unconfirmed) @if report.unconfirmed == 1 { " source refuses" } @else { " sources refuse" }
                " the new pair without having proved that it is a peer; the verdict does not count it. To show one the new pair again:"
            }
            ul class="rows" {
                @for source in &report.unconfirmed_sources {
                    li { (render_command(&["sidekey", "rotation", "forget", source])) }
                }
            }
        }
    }
}

fn render_unknown(report: &RotationReport) -> Markup {
    html! {
        @if !report.verdict.unknown.is_empty() || report.forgotten > 0 {
            h3 { "What this report cannot know" }
            ul class="plain" {
                @for sentence in &report.verdict.unknown { li { (render_sentence(sentence)) } }
                @if report.forgotten > 0 { li { (report.forgotten) " senders were dropped from the bounded memory." } }
            }
        }
    }
}

fn render_replicas(report: &RotationReport, now: Timestamp) -> Markup {
    html! {
        @for replica in &report.replicas {
            span class="part" { (render_outside(&replica.instance)) ", heard " (render_distance(replica.last_heard, now)) } " "
        }
    }
}

fn link_line(line: &ReportLine) -> Markup {
    match line.kind {
        SubjectKind::Peer => link_peer(&line.name),
        SubjectKind::Source | SubjectKind::Upstream | SubjectKind::Anonymous => render_outside(&line.name),
    }
}

const fn describe_kind(kind: SubjectKind) -> &'static str {
    match kind {
        SubjectKind::Peer => "peer of ingress",
        SubjectKind::Source => "source at ingress",
        SubjectKind::Upstream => "upstream of egress",
        SubjectKind::Anonymous => "without certificate at ingress",
    }
}

fn is_open(line: &ReportLine) -> bool {
    !matches!(line.stands, RotationProgress::ProvedNew | RotationProgress::AsksForNone)
}

fn describe_watch(report: &RotationReport) -> Option<String> {
    let since = format_minute(report.watched_since);
    let is_younger = report.rotated < report.watched_since;
    match report.before {
        PriorHistory::Awaited => {
            Some(format!("since {since}: the registry, which may know earlier peers, has not answered yet"))
        }
        PriorHistory::Unknown if is_younger => Some(format!("since {since}: peers that came only before are unknown")),
        PriorHistory::Unknown | PriorHistory::Recalled => None,
    }
}

/// The element's name in the document: digits and letters only.
fn anchor(report: &RotationReport) -> String {
    format!("rotation-{}", report.current.short())
}
