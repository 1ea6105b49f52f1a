//! The document around every view: head, top line of the sidecar, links to the views, and what makes hidden characters visible.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

use super::assets;
use super::markup::render_clock;
use crate::pki::{format_minute, printable};

/// The views that the head links to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageTab {
    /// What to act on, and everything at a glance.
    Overview,
    /// The rotation report.
    Rotation,
    /// Live handshakes.
    Handshakes,
    /// The registry.
    Registry,
    /// The findings.
    Findings,
}

impl PageTab {
    const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::Overview, "/", "Overview"),
        (Self::Rotation, "/rotation", "Rotation"),
        (Self::Handshakes, "/handshakes", "Handshakes"),
        (Self::Registry, "/registry", "Registry"),
        (Self::Findings, "/findings", "Findings"),
    ];
}

/// What the head of the page says of the sidecar.
#[derive(Clone, Debug)]
pub(super) struct SidecarHead {
    /// This sidecar's name.
    pub(super) instance: String,
    /// The snapshot in use.
    pub(super) epoch: u64,
    /// `/readyz`.
    pub(super) ready: bool,
    /// When the page was made.
    pub(super) now: Timestamp,
}

/// A whole document.
pub(super) fn render_document(head: &SidecarHead, tab: Option<PageTab>, title: &str, content: &Markup) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Sidekey" }
                link rel="stylesheet" href=(assets::style_path());
                link rel="icon" type="image/svg+xml" href=(assets::icon_path());
                script src=(assets::script_path()) defer {}
            }
            body {
                a class="skip" href="#main" { "Skip to the content" }
                (render_header(head, tab))
                main id="main" tabindex="-1" { h1 class=[(tab == Some(PageTab::Overview)).then_some("unseen")] { (title) } (content) }
                footer {
                    p {
                        "This page is read-only: it shows the command where something can be done. Sidekey "
                        (env!("CARGO_PKG_VERSION")) "."
                    }
                    p { a href="/metrics" { "Metrics" } " · " a href="/api/v1/openapi.json" { "API" } }
                }
            }
        }
    };
    printable(&document.into_string())
}

fn render_header(head: &SidecarHead, tab: Option<PageTab>) -> Markup {
    html! {
        header {
            a class="brand" href="/" { span class="brand-mark" aria-hidden="true" {} "Sidekey" }
            nav aria-label="Views" {
                @for (one, path, name) in PageTab::ALL {
                    a href=(path) aria-current=[(tab == Some(one)).then_some("page")] { (name) }
                }
            }
            p class="sidecar" data-live="head" {
                bdi class="instance" { (head.instance) }
                span { "epoch " (head.epoch) }
                @if head.ready { span class="ready" { "ready" } } @else { span class="unready" { "not ready" } }
                span title=(format_minute(head.now)) { (render_clock(head.now, head.now)) " UTC" }
                span class="live" data-live-mark hidden {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::markup::{link_keyring, link_peer, render_command, render_fact, render_outside, render_sentence};
    use super::*;

    fn document_with(text: &str) -> String {
        let head = SidecarHead { instance: text.to_owned(), epoch: 1, ready: true, now: Timestamp::UNIX_EPOCH };
        let content = html! {
            p title=(text) { (text) (render_outside(text)) (render_sentence(text)) }
            (link_keyring(text)) (link_peer(text)) (render_command(&["sidekey", "keyring", "show", text]))
            dl { (render_fact("subject", Some(text))) }
        };
        render_document(&head, None, text, &content)
    }

    /// The tags of a document, each without the values of its attributes.
    fn tags(document: &str) -> Vec<String> {
        let mut tags = Vec::new();
        let mut rest = document;
        while let Some((_, after)) = rest.split_once('<') {
            let (mut tag, mut is_quoted, mut end) = (String::new(), false, after.len());
            for (at, c) in after.char_indices() {
                match c {
                    '"' => is_quoted = !is_quoted,
                    '>' if !is_quoted => {
                        end = at;
                        break;
                    }
                    _ if !is_quoted => tag.push(c),
                    _ => {}
                }
            }
            tags.push(tag);
            rest = &after[end..];
        }
        tags
    }

    fn hostile_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            any::<String>(),
            any::<char>().prop_map(String::from),
            prop::sample::select(vec![
                "<script>alert(1)</script>",
                "\"><img src=x onerror=y>",
                "' onload='",
                "</title><style>",
                "<!--",
                "]]>",
                "&lt;b&gt;",
                "&#60;",
                "\u{202e}",
                "\u{2066}",
                "\u{0}",
                "\r\n",
                "\u{1b}[2J",
                "\u{200b}",
                "\u{feff}",
                "\u{e0041}",
                "`<i>`",
                "${x}",
                "\\",
            ])
            .prop_map(str::to_owned),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// Whatever a text holds, the document has the tags and attributes that it has with a harmless text, and no character that
        /// hides or turns another.
        #[test]
        fn no_text_from_outside_adds_a_tag_or_an_attribute(text in hostile_text()) {
            let document = document_with(&text);
            let count = |document: &str| tags(document).into_iter().filter(|tag| tag != "code" && tag != "/code").collect::<Vec<_>>();
            prop_assert_eq!(count(&document), count(&document_with("harmless")));
            let is_hidden = |c: char| c.is_control() || printable(&c.to_string()) != c.to_string();
            prop_assert!(!document.contains(is_hidden));
        }
    }

    #[test]
    fn turned_and_hidden_characters_are_shown_by_their_numbers() {
        let document = document_with("a\u{202e}b\u{0}c");
        assert!(document.contains(r"a\u{202e}b\u{0}c") && !document.contains('\u{202e}'));
    }
}
