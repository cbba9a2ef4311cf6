//! Hits and misses over time, as a picture.

use jiff::Timestamp;
use maud::{Markup, html};

use super::show;
use crate::metrics::recent::Step;
use crate::metrics::tenant::Reading;

/// Units of the picture: it is drawn as wide as there is room.
const WIDTH: usize = 864;
const HEIGHT: u64 = 120;
/// Readings that fit: a day of one each five minutes.
const BARS: usize = 288;

/// A bar for each step: what was found below, what was not above; and how much of all that is.
pub fn picture(steps: &[Step], now: Timestamp) -> Markup {
    let is_cut = steps.len() > BARS;
    let steps = &steps[steps.len().saturating_sub(BARS)..];
    let all = steps.iter().fold(Reading::default(), |sum, step| sum.plus(&step.reading));
    let Some(percent) = all.hit_percent() else {
        return html! { p.nothing { "No import has asked for a tag, manifest or blob since the start of the server." } };
    };
    let most = steps.iter().map(|step| step.reading.hits + step.reading.misses).max().unwrap_or(1).max(1);
    // The first step begins with the server, unless there have been more than are shown.
    let since = match steps.first() {
        Some(first) if is_cut => format!("in the last {}", show::age(first.at, now)),
        _ => "since the start of the server".to_string(),
    };
    let told = format!(
        "{percent:.0} % of {} tags, manifests and blobs that were asked for were there, {since}",
        all.hits + all.misses
    );
    let bar = WIDTH / BARS;
    let first = BARS - steps.len();
    let height = |count: u64| if count == 0 { 0 } else { (count * HEIGHT / most).max(1) };
    html! {
        figure {
            svg.history viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(told) {
                @for (at, step) in steps.iter().enumerate() {
                    @let x = (first + at) * bar;
                    @let (hits, misses) = (height(step.reading.hits), height(step.reading.misses));
                    @if hits > 0 { rect.hit x=(x) y=(HEIGHT - hits) width=(bar - 1) height=(hits) {} }
                    @if misses > 0 {
                        rect.miss x=(x) y=(HEIGHT.saturating_sub(hits + misses)) width=(bar - 1) height=(misses) {}
                    }
                }
            }
            figcaption {
                (told) ". " span.key.hit { "hits" } " " span.key.miss { "misses" } " One bar is five minutes, all is a day."
            }
        }
    }
}
