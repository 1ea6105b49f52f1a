//! What a trust depends on: its anchors and pins, and which peers would fail without each.

use jiff::Timestamp;
use maud::{Markup, html};

use super::markup::{render_date, render_names, render_optional_distance, render_outside};
use crate::snapshot::TrustUsage;

/// Which peers need which anchor.
pub(super) fn render_usages(trusts: &[TrustUsage], now: Timestamp) -> Markup {
    html! {
        @for trust in trusts.iter().filter(|trust| !trust.vouchers.is_empty()) {
            section class="card" aria-label={ "Trust " (trust.trust) } {
                h2 { "Trust " (render_outside(&trust.trust)) }
                div class="scroll" role="region" aria-label={ "Anchors and pins of " (trust.trust) } tabindex="0" {
                    table {
                        caption { "Anchors and pins, and which peers would fail without each" }
                        thead { tr { th scope="col" { "Anchor or pin" } th scope="col" { "Accepted" } th scope="col" { "Last verified a peer" } th scope="col" { "Would break" } } }
                        tbody {
                            @for voucher in &trust.vouchers {
                                tr {
                                    th scope="row" { (render_outside(&voucher.subject)) span class="sub mono" { (shorten_id(&voucher.id)) } }
                                    td { @if let Some(until) = voucher.until { "until " (render_date(until, now)) } @else { "without end" } }
                                    td { (render_optional_distance(voucher.last_matched, now)) }
                                    td { @if voucher.would_break.is_empty() { "no known peer" } @else { (render_names(&voucher.would_break, 5)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The first 12 digits of a fingerprint or pin.
fn shorten_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}
