//! The timeline: every keyring's pairs with their validities, the overlaps, and now, on one scale.
//!
//! Each bar is a small SVG whose geometry is in per cent of its width, so that it fits every screen and needs no style of its own.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use maud::{Markup, html};

use super::markup::{LabelTone, link_key_pair, link_keyring, render_label};
use crate::keyring::Standing;
use crate::pki::{format_day, format_distance, format_minute};
use crate::snapshot::{KeyPairView, KeyringView};

/// The scale reaches at most so far back, and so far ahead.
const MOST_PAST: SignedDuration = SignedDuration::from_hours(24 * 200);
const MOST_AHEAD: SignedDuration = SignedDuration::from_hours(24 * 400);
/// It reaches at least so far.
const LEAST: SignedDuration = SignedDuration::from_hours(1);
/// Marks that a scale has at most.
const MOST_MARKS: i64 = 6;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// Distances between marks that are shorter than a month, in seconds.
const STEPS: [i64; 10] = [HOUR / 4, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 4 * DAY, 7 * DAY, 14 * DAY];
/// Distances between marks in months.
const MONTHS: [i64; 5] = [1, 2, 3, 6, 12];

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeScale {
    from: Timestamp,
    to: Timestamp,
    now: Timestamp,
}

impl TimeScale {
    /// Of all that these pairs say, within bounds.
    pub(super) fn fit_pairs<'a>(pairs: impl IntoIterator<Item = &'a KeyPairView>, now: Timestamp) -> Self {
        let (mut past, mut ahead) = (LEAST, LEAST);
        for pair in pairs.into_iter().filter(|pair| is_usable(pair.standing)) {
            past = past.max(now.duration_since(pair.validity.not_before));
            ahead = ahead.max(pair.ends().duration_since(now));
        }
        let (past, ahead) = (past.min(MOST_PAST), ahead.min(MOST_AHEAD));
        // A little more than there is, so that an end is seen as one.
        let (from, to) = (now.checked_sub(past + past / 20), now.checked_add(ahead + ahead / 20));
        Self { from: from.unwrap_or(Timestamp::MIN), to: to.unwrap_or(Timestamp::MAX), now }
    }

    /// Where a time is, in per cent, at most at either end.
    fn locate(self, at: Timestamp) -> f64 {
        let whole = self.to.duration_since(self.from).as_secs_f64();
        (at.duration_since(self.from).as_secs_f64() / whole * 100.0).clamp(0.0, 100.0)
    }

    /// The marks, with their words.
    fn marks(self) -> Vec<(Timestamp, String)> {
        let seconds = self.to.duration_since(self.from).as_secs();
        match STEPS.into_iter().find(|step| seconds / step <= MOST_MARKS) {
            Some(step) => {
                let first = (self.from.as_second() / step + 1) * step;
                let words = if step < DAY { "%d %b %H:%M" } else { "%d %b" };
                let marks = (0..=MOST_MARKS).filter_map(|number| Timestamp::from_second(first + number * step).ok());
                marks.filter(|at| *at < self.to).map(|at| (at, at.strftime(words).to_string())).collect()
            }
            None => self.month_marks(seconds / (30 * DAY)),
        }
    }

    fn month_marks(self, months: i64) -> Vec<(Timestamp, String)> {
        let step = MONTHS.into_iter().find(|step| months / step <= MOST_MARKS).unwrap_or(12);
        let first = TimeZone::UTC.to_datetime(self.from).date().first_of_month();
        let at = |date: Date| TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok();
        let dates = (1..=MOST_MARKS * step).filter_map(|number| first.checked_add(number.months()).ok());
        let dates = dates.filter(|date| (i64::from(date.month()) - 1) % step == 0);
        let marks = dates.filter_map(|date| Some((at(date)?, date.strftime("%b %Y").to_string())));
        marks.filter(|(at, _)| *at < self.to).collect()
    }
}

/// The timeline of these keyrings, those that end first on top.
pub(super) fn render_timeline(keyrings: &[KeyringView], now: Timestamp) -> Markup {
    let scale = TimeScale::fit_pairs(keyrings.iter().flat_map(|keyring| &keyring.key_pairs), now);
    let mut ordered: Vec<&KeyringView> = keyrings.iter().collect();
    ordered.sort_by_key(|keyring| {
        (keyring.pairs_with_standing(Standing::Current).map(KeyPairView::ends).min(), &keyring.name)
    });
    html! {
        div class="timeline" {
            (render_axis(scale))
            @for keyring in ordered {
                section class="keyring" aria-label={ "Keyring " (keyring.name) } {
                    div class="keyring-head" {
                        h3 { (link_keyring(&keyring.name)) }
                        @if let Some(purpose) = &keyring.purpose { span class="muted" { (purpose) } }
                    }
                    (render_lanes(&keyring.key_pairs, scale))
                }
            }
        }
        p class="legend" aria-hidden="true" {
            span class="key key-valid" {} "valid " span class="key key-previous" {} "previous, valid too "
            span class="key key-overlap" {} "overlap " span class="key key-staged" {} "staged " span class="key key-today" {} "now"
        }
    }
}

/// The lanes of one keyring's pairs: those that may be shown now or later, and those that are refused.
pub(super) fn render_lanes(pairs: &[KeyPairView], scale: TimeScale) -> Markup {
    let is_shown = |pair: &&KeyPairView| !matches!(pair.standing, Standing::Retired | Standing::Revoked);
    let mut shown: Vec<&KeyPairView> = pairs.iter().filter(is_shown).collect();
    let rank = |standing: Standing| match standing {
        Standing::Staged => 0,
        Standing::Current => 1,
        Standing::Previous => 2,
        _ => 3,
    };
    shown.sort_by_key(|pair| (rank(pair.standing), std::cmp::Reverse(pair.validity.not_before)));
    html! {
        @if shown.is_empty() { p class="muted" { "It holds no key pair that could be shown." } }
        @for pair in shown { (render_lane(pair, scale)) }
    }
}

fn render_lane(pair: &KeyPairView, scale: TimeScale) -> Markup {
    let (standing, ends) = (pair.standing.as_str(), pair.ends());
    let overlap = pair.overlap_ends.map_or_else(String::new, |ends| format!(", overlap until {}", format_minute(ends)));
    html! {
        div class="lane" {
            span class="lane-name" { (render_label(LabelTone::of_standing(standing), standing)) " " (link_key_pair(pair.key_pair)) }
            svg class="bar" width="100%" height="20" role="img" focusable="false" {
                title {
                    (standing) " key pair " (pair.key_pair.short()) ", valid from " (format_minute(pair.validity.not_before)) " to "
                    (format_minute(ends)) (overlap)
                }
                @for (at, _) in scale.marks() { (render_line("grid", scale.locate(at))) }
                (render_span(&format!("valid is-{standing}"), scale, (pair.validity.not_before, ends), (4, 12)))
                @if let Some(overlap_ends) = pair.overlap_ends {
                    (render_span("overlap", scale, (pair.since, overlap_ends), (8, 4)))
                }
                (render_line("now", scale.locate(scale.now)))
            }
            span class="lane-end" {
                @if let Some(overlap_ends) = pair.overlap_ends {
                    "overlap ends " (format_distance(scale.now, overlap_ends))
                } @else {
                    span class=(LabelTone::of_end(ends, scale.now).as_class()) {
                        @if ends <= scale.now { "expired " } @else { "ends " }
                        (format_distance(scale.now, ends))
                    }
                }
                span class="lane-day" { (format_day(pair.overlap_ends.unwrap_or(ends))) }
            }
        }
    }
}

fn render_axis(scale: TimeScale) -> Markup {
    html! {
        div class="lane axis" aria-hidden="true" {
            span {}
            svg class="bar" width="100%" height="18" focusable="false" {
                @for (number, (at, words)) in scale.marks().into_iter().enumerate() {
                    @let x = scale.locate(at);
                    @let distance = (x - scale.locate(scale.now)).abs();
                    @if (4.0..96.0).contains(&x) && distance > 7.0 {
                        // On a narrow screen half of the words have to do.
                        text class={ "mark" @if number % 2 == 1 || distance < 16.0 { " wide-only" } } x=(format_percent(x)) y="12" text-anchor="middle" { (words) }
                    }
                }
                text class="mark mark-now" x=(format_percent(scale.locate(scale.now))) y="12" text-anchor="middle" { "now" }
            }
            span {}
        }
    }
}

fn render_line(class: &str, x: f64) -> Markup {
    html! { line class=(class) x1=(format_percent(x)) x2=(format_percent(x)) y1="0" y2="100%" {} }
}

/// A bar from one time to another; at least a sliver.
fn render_span(class: &str, scale: TimeScale, (from, to): (Timestamp, Timestamp), (y, height): (u8, u8)) -> Markup {
    let (start, end) = (scale.locate(from), scale.locate(to));
    let width = format_percent((end - start).max(0.3));
    html! { rect class=(class) x=(format_percent(start.min(99.7))) y=(y) width=(width) height=(height) rx="2" {} }
}

fn format_percent(share: f64) -> String {
    format!("{share:.2}%")
}

/// Whether its validity shapes the scale.
fn is_usable(standing: Standing) -> bool {
    matches!(standing, Standing::Staged | Standing::Current | Standing::Previous)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pki::Validity;
    use crate::snapshot::sample;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    proptest! {
        #[test]
        fn every_scale_holds_now_and_a_few_marks_in_order(before in 0i64..4_000_000_000, lasts in 1i64..1_000_000_000, now in 1_000_000_000i64..4_000_000_000) {
            let validity = Validity { not_before: at(before), not_after: at(before + lasts) };
            let pair = KeyPairView { validity, ..sample::sample_pair(b"a", Standing::Current) };
            let scale = TimeScale::fit_pairs([&pair], at(now));
            prop_assert!(scale.from < at(now) && at(now) < scale.to);
            let marks = scale.marks();
            prop_assert!(marks.len() <= 7, "{:?}", marks);
            prop_assert!(marks.is_sorted_by(|one, next| one.0 < next.0));
            prop_assert!(marks.iter().all(|(at, _)| scale.from <= *at && *at < scale.to));
        }
    }

    #[test]
    fn a_refused_pair_of_long_ago_does_not_stretch_the_scale() {
        let validity = Validity { not_before: at(0), not_after: at(10) };
        let old = KeyPairView { validity, ..sample::sample_pair(b"a", Standing::Refused) };
        let scale = TimeScale::fit_pairs([&old], at(1_000_000_000));
        assert!(scale.to.duration_since(scale.from) < SignedDuration::from_hours(3));
    }
}
