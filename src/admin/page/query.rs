//! What a request's query says: filters, the column to sort by, which part of a list; and links that change one of these.

use std::borrow::Cow;

use maud::{Markup, html};

use super::markup::encode_part;
use crate::views::list_window::ListWindow;

/// Rows of a table on one page.
pub(super) const PAGE_ROWS: usize = 100;
/// Characters of a filter that count.
const MOST_CHARACTERS: usize = 200;

/// The parameters of a query, those that are empty left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ViewQuery {
    path: String,
    parameters: Vec<(String, String)>,
}

impl ViewQuery {
    /// Of a request for this path; of a parameter that is repeated the first counts.
    pub(super) fn from_parameters(path: &str, parameters: &[(Cow<'_, str>, Cow<'_, str>)]) -> Self {
        let mut kept: Vec<(String, String)> = Vec::new();
        for (name, value) in parameters {
            if !value.is_empty() && kept.iter().all(|(known, _)| known != name) {
                kept.push((name.to_string(), value.chars().take(MOST_CHARACTERS).collect()));
            }
        }
        Self { path: path.to_owned(), parameters: kept }
    }

    /// A parameter's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter's value as an owned text.
    pub(super) fn get_text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// Whether the order is the other way round.
    pub(super) fn is_descending(&self) -> bool {
        self.get("order") == Some("descending")
    }

    /// The part of a list that is asked for.
    pub(super) fn window(&self) -> ListWindow {
        let offset = self.get("offset").and_then(|offset| offset.parse().ok()).unwrap_or(0);
        ListWindow { offset, limit: PAGE_ROWS }
    }

    /// A link to the same view with some parameters changed; an empty value removes one.
    pub(super) fn link_with(&self, changes: &[(&str, &str)]) -> String {
        let is_changed = |name: &str| changes.iter().any(|(changed, _)| *changed == name);
        let kept = self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let kept = kept.filter(|(name, _)| !is_changed(name));
        let all = kept.chain(changes.iter().copied().filter(|(_, value)| !value.is_empty()));
        let query: Vec<String> =
            all.map(|(name, value)| format!("{}={}", encode_part(name), encode_part(value))).collect();
        if query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, query.join("&")) }
    }

    /// The head of a column, which sorts by it; the column that sorts now turns the order.
    pub(super) fn render_sorter(&self, key: &str, name: &str, usual: &str) -> Markup {
        let is_sorted = self.get("sort").unwrap_or(usual) == key;
        let turns = is_sorted && !self.is_descending();
        let link = self.link_with(&[("sort", key), ("order", if turns { "descending" } else { "" }), ("offset", "")]);
        let order = if self.is_descending() { "descending" } else { "ascending" };
        html! {
            th scope="col" aria-sort=[is_sorted.then_some(order)] {
                a class="sorter" href=(link) {
                    (name)
                    @if is_sorted { span aria-hidden="true" { @if self.is_descending() { " ↓" } @else { " ↑" } } }
                }
            }
        }
    }

    /// Links to the parts before and after this one.
    pub(super) fn render_pager(&self, (offset, shown, total): (usize, usize, usize)) -> Markup {
        let last = offset.saturating_add(shown);
        html! {
            nav class="pager" aria-label="Parts of the table" {
                @if total == 0 { span { "Nothing passes this filter." } }
                @else if shown == 0 { span { "The table has " (total) " rows, and none here." } }
                @else { span { (offset + 1) "–" (last) " of " (total) } }
                @if offset > 0 {
                    @let before = offset.saturating_sub(PAGE_ROWS).min(total);
                    a href=(self.link_with(&[("offset", &format_offset(before))])) rel="prev" { "← Before" }
                }
                @if last < total && shown > 0 { a href=(self.link_with(&[("offset", &format_offset(last))])) rel="next" { "After →" } }
            }
        }
    }

    /// The parameters that a form has to keep, as hidden fields.
    pub(super) fn render_kept(&self, names: &[&str]) -> Markup {
        html! {
            @for name in names {
                @if let Some(value) = self.get(name) { input type="hidden" name=(name) value=(value); }
            }
        }
    }
}

/// Nothing for the first part.
fn format_offset(offset: usize) -> String {
    if offset == 0 { String::new() } else { offset.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(parameters: &[(&str, &str)]) -> ViewQuery {
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| (Cow::from(*name), Cow::from(*value))).collect();
        ViewQuery::from_parameters("/registry", &parameters)
    }

    #[test]
    fn a_link_keeps_what_it_does_not_change() {
        let asked = query(&[("text", "a b&c"), ("sort", "subject"), ("offset", "100"), ("empty", "")]);
        assert_eq!(asked.link_with(&[("offset", "")]), "/registry?text=a%20b%26c&sort=subject");
        assert_eq!(asked.link_with(&[("sort", "owner")]), "/registry?text=a%20b%26c&offset=100&sort=owner");
        assert_eq!(query(&[]).link_with(&[]), "/registry");
    }

    #[test]
    fn the_column_that_sorts_turns_the_order() {
        let sorter = |parameters: &[(&str, &str)]| {
            query(parameters).render_sorter("subject", "Subject", "keyring").into_string()
        };
        assert!(sorter(&[]).contains("href=\"/registry?sort=subject\"") && !sorter(&[]).contains("aria-sort"));
        let up = sorter(&[("sort", "subject")]);
        assert!(up.contains("aria-sort=\"ascending\"") && up.contains("order=descending"), "{up}");
        let down = sorter(&[("sort", "subject"), ("order", "descending")]);
        assert!(down.contains("aria-sort=\"descending\"") && !down.contains("order=descending"), "{down}");
    }

    #[test]
    fn a_part_far_behind_the_end_leads_back() {
        assert_eq!(query(&[("offset", "-1")]).window().offset, 0);
        let pager = query(&[("offset", "900")]).render_pager((900, 0, 5)).into_string();
        assert!(pager.contains("offset=5") && !pager.contains("next"), "{pager}");
    }
}
