//! What the registry's tables have in common: the form that filters, the region that scrolls, and the links to other parts.

use maud::{Markup, html};

use super::query::ViewQuery;

/// A table that sorts and filters.
#[derive(Clone, Copy)]
pub(super) struct TableFrame<'a> {
    /// What is asked for.
    pub(super) query: &'a ViewQuery,
    /// Where the table is.
    pub(super) path: &'a str,
    /// What its rows are, for those who do not see it.
    pub(super) name: &'a str,
    /// What it shows, in a sentence.
    pub(super) caption: &'a str,
}

impl TableFrame<'_> {
    /// The form that filters by text (`hint`: in which columns) and by these fields.
    pub(super) fn render_filters(&self, hint: &str, fields: &Markup) -> Markup {
        html! {
            form class="filters" method="get" action=(self.path) role="search" aria-label={ "Filter " (self.name) } {
                label {
                    "Contains"
                    input type="search" name="text" value=(self.query.get("text").unwrap_or_default()) placeholder=(hint) maxlength="200";
                }
                (fields)
                (self.query.render_kept(&["sort", "order"]))
                button type="submit" { "Show" }
                a href=(self.path) { "Clear" }
            }
        }
    }

    /// A field in which a value is typed.
    pub(super) fn render_field(&self, name: &str, label: &str) -> Markup {
        html! {
            label { (label) input type="search" name=(name) value=(self.query.get(name).unwrap_or_default()) maxlength="200"; }
        }
    }

    /// A field in which one of these values is chosen, each with its words; `any`: the words for no choice.
    pub(super) fn render_choice(&self, (name, label): (&str, &str), any: &str, values: &[(&str, &str)]) -> Markup {
        html! {
            label {
                (label)
                select name=(name) {
                    option value="" { (any) }
                    @for (value, words) in values {
                        option value=(value) selected[self.query.get(name) == Some(*value)] { (words) }
                    }
                }
            }
        }
    }

    /// The table, and links to the parts before and after this one (`part`: offset, rows here, rows in all).
    pub(super) fn render_rows(&self, head: &Markup, rows: &Markup, part: (usize, usize, usize)) -> Markup {
        html! {
            div class="scroll" role="region" aria-label=(self.name) tabindex="0" {
                table {
                    caption { (self.caption) }
                    thead { tr { (head) } }
                    tbody { (rows) }
                }
            }
            (self.query.render_pager(part))
        }
    }
}
