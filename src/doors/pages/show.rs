//! Numbers and times for people.

use jiff::Timestamp;
use maud::{Markup, html};

pub use crate::human::{age, bytes, percent};

/// How long ago something was, with the moment itself for whoever points at it.
pub fn ago(at: Timestamp, now: Timestamp) -> Markup {
    let (text, exact) = (age(at, now), format!("{at:.0}"));
    html! { time datetime=(exact) title=(exact) { (text) " ago" } }
}

/// The first digits of a digest.
pub fn short(digest: &str) -> &str {
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    &hex[..hex.floor_char_boundary(12)]
}

/// How full something is: a bar, and the same in words.
pub fn meter(part: u64, of: u64, what: &str) -> Markup {
    let percent = percent(part, of);
    html! {
        svg.meter viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            rect.track width="100" height="6" {}
            rect.fill .near[percent >= 90] width=(percent.min(100)) height="6" {}
        }
        (bytes(part)) " of " (bytes(of)) " (" (percent) " %) " (what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_known_by_its_first_digits() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
