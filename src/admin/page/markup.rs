//! The small parts that every view of the page is made of: texts from outside, times, labels, commands and links.
//!
//! maud escapes the markup of every text. Characters that would hide or turn what stands around them are made visible for the
//! document as a whole, in `document`.

use jiff::Timestamp;
use maud::{Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::evidence::report::{RetireAdvice, RotationProgress};
use crate::pki::{Fingerprint, format_day, format_distance, format_minute, format_second};

/// Characters of a text from outside that a list shows; pages about one thing show all.
pub(super) const CLIPPED: usize = 80;

/// What stays as it is in a path or a query; the rest is escaped.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// What a label's colour says beside its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelTone {
    /// Something fails, or soon will.
    Bad,
    /// Something waits for a decision.
    Warn,
    /// As it should be.
    Good,
    /// Worth knowing.
    Info,
    /// Over, or without weight.
    Mute,
}

impl LabelTone {
    /// The class of the style sheet.
    pub(super) const fn as_class(self) -> &'static str {
        match self {
            Self::Bad => "tone-bad",
            Self::Warn => "tone-warn",
            Self::Good => "tone-good",
            Self::Info => "tone-info",
            Self::Mute => "tone-mute",
        }
    }

    /// Of a key pair's standing.
    pub(super) fn of_standing(standing: &str) -> Self {
        match standing {
            "current" => Self::Good,
            "previous" => Self::Warn,
            "staged" => Self::Info,
            "refused" | "revoked" => Self::Bad,
            _ => Self::Mute,
        }
    }

    /// Of a handshake's outcome.
    pub(super) fn of_outcome(outcome: &str) -> Self {
        match outcome {
            "accepted" => Self::Good,
            "unproved" => Self::Info,
            "doubted" => Self::Warn,
            _ => Self::Bad,
        }
    }

    /// Of a verdict.
    pub(super) const fn of_advice(advice: RetireAdvice) -> Self {
        match advice {
            RetireAdvice::Safe => Self::Good,
            RetireAdvice::Wait => Self::Warn,
            RetireAdvice::Blocked => Self::Bad,
        }
    }

    /// Of a sender's progress.
    pub(super) const fn of_progress(progress: RotationProgress) -> Self {
        match progress {
            RotationProgress::ProvedNew => Self::Good,
            RotationProgress::AsksForNone => Self::Mute,
            RotationProgress::NotSeen => Self::Info,
            RotationProgress::Unproved | RotationProgress::StillOnOld => Self::Warn,
            RotationProgress::EndsUnexplained | RotationProgress::InsistsOnOld | RotationProgress::RefusesEvery => {
                Self::Bad
            }
        }
    }

    /// Of an end that is so near.
    pub(super) fn of_end(end: Timestamp, now: Timestamp) -> Self {
        match end.duration_since(now).as_hours() {
            ..72 => Self::Bad,
            72..720 => Self::Warn,
            _ => Self::Good,
        }
    }
}

/// A word in a coloured frame.
pub(super) fn render_label(tone: LabelTone, word: &str) -> Markup {
    html! { span class={ "label " (tone.as_class()) } { (word) } }
}

/// A text from outside, isolated from the direction of the text around it, and clipped.
pub(super) fn render_outside(text: &str) -> Markup {
    html! { bdi { (clip_text(text)) } }
}

/// The first characters of a long text, and how many there are beside them.
pub(super) fn clip_text(text: &str) -> String {
    match text.char_indices().nth(CLIPPED) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text.to_owned(),
    }
}

/// A time of what may never have been, by its distance from now.
pub(super) fn render_optional_distance(at: Option<Timestamp>, now: Timestamp) -> Markup {
    html! { @if let Some(at) = at { (render_distance(at, now)) } @else { span class="muted" { "never" } } }
}

/// A time by its distance from now; the tooltip and the element have the date.
pub(super) fn render_distance(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(format_second(at)) title=(format_minute(at)) { (format_distance(now, at)) } }
}

/// A time as a date, with its distance from now.
pub(super) fn render_date(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(format_second(at)) { (format_minute(at)) } " (" (format_distance(now, at)) ")" }
}

/// A clock time of today, to the second; of another day the date too.
pub(super) fn render_clock(at: Timestamp, now: Timestamp) -> Markup {
    let is_today = at.strftime("%F").to_string() == now.strftime("%F").to_string();
    let shown = at.strftime(if is_today { "%H:%M:%S" } else { "%F %H:%M:%S" }).to_string();
    html! { time datetime=(format_second(at)) title=(format_distance(now, at)) { (shown) } }
}

/// A time as a day, with its distance from now below it.
pub(super) fn render_day(at: Timestamp, now: Timestamp) -> Markup {
    html! { span class="day" { (format_day(at)) } span class="sub" { (render_distance(at, now)) } }
}

/// A sentence whose commands stand between backticks.
pub(super) fn render_sentence(sentence: &str) -> Markup {
    let parts: Vec<&str> = sentence.split('`').collect();
    // An odd number of backticks quotes nothing.
    if parts.len().is_multiple_of(2) {
        return html! { (sentence) };
    }
    html! {
        @for (number, part) in parts.iter().enumerate() {
            @if number % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// A command to run, its words quoted for a shell.
pub(super) fn render_command(words: &[&str]) -> Markup {
    let line = words.iter().map(|word| quote_word(word)).collect::<Vec<_>>().join(" ");
    html! { code class="command" { (line) } }
}

/// A word as a POSIX shell reads it back.
fn quote_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+=,-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A name as a segment of a path, or a value in a query.
pub(super) fn encode_part(text: &str) -> String {
    utf8_percent_encode(text, LINK).to_string()
}

/// A link to a keyring's page.
pub(super) fn link_keyring(name: &str) -> Markup {
    html! { a href={ "/keyrings/" (encode_part(name)) } { (render_outside(name)) } }
}

/// A link to a certificate's page, by its whole fingerprint.
pub(super) fn link_certificate(fingerprint: &str) -> Markup {
    let hex = fingerprint.strip_prefix("sha256:").unwrap_or(fingerprint);
    let short = hex.get(..12).unwrap_or(hex);
    html! { a class="mono" href={ "/certificates/" (encode_part(hex)) } title={ "SHA-256 " (hex) } { (short) } }
}

/// A link to one of our key pairs.
pub(super) fn link_key_pair(key_pair: Fingerprint) -> Markup {
    link_certificate(&key_pair.hex())
}

/// A link to a peer's page, by its identity or subject.
pub(super) fn link_peer(name: &str) -> Markup {
    html! { a href={ "/peers/" (encode_part(name)) } { (render_outside(name)) } }
}

/// A line of a list of facts, left out where nothing is known.
pub(super) fn render_fact(name: &str, value: Option<impl maud::Render>) -> Markup {
    html! { @if let Some(value) = value { div { dt { (name) } dd { (value) } } } }
}

/// A list of names in short form.
pub(super) fn render_names(names: &[String], most: usize) -> Markup {
    html! {
        @for (number, name) in names.iter().take(most).enumerate() {
            @if number > 0 { ", " } (render_outside(name))
        }
        @if names.len() > most { " and " (names.len() - most) " more" }
    }
}

/// Why a part of the view cannot be shown.
pub(super) fn render_unread(why: &str) -> Markup {
    html! { p class="notice tone-warn" { (render_sentence(why)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_quoted_for_a_shell() {
        let shown = |words: &[&str]| render_command(words).into_string();
        assert!(shown(&["sidekey", "keyring", "show", "api"]).contains("sidekey keyring show api"));
        assert!(shown(&["show", "a b;$(id)"]).contains("show 'a b;$(id)'"));
        assert!(shown(&["show", "it's"]).contains(r"show 'it'\''s'"));
        assert!(shown(&["show", ""]).contains("show ''"));
    }

    #[test]
    fn commands_in_a_sentence_are_told_from_its_words() {
        let shown = render_sentence("fix it, then run `sidekey reload` again").into_string();
        assert_eq!(shown, "fix it, then run <code>sidekey reload</code> again");
        assert_eq!(render_sentence("a ` alone").into_string(), "a ` alone");
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(encode_part("uri:spiffe://a/../b?c#d\"'<&"), "uri:spiffe:%2F%2Fa%2F..%2Fb%3Fc%23d%22%27%3C%26");
    }

    #[test]
    fn long_texts_are_clipped_between_characters() {
        assert_eq!(clip_text("short"), "short");
        assert_eq!(clip_text(&"é".repeat(4096)), format!("{}… (4096 characters)", "é".repeat(CLIPPED)));
    }
}
