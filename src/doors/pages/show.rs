//! Numbers and times for people.

use bytesize::ByteSize;
use jiff::Timestamp;
use maud::{Markup, html};

pub fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A part of something, in percent.
pub fn percent(part: u64, of: u64) -> u64 {
    if of == 0 { 0 } else { (u128::from(part) * 100 / u128::from(of)) as u64 }
}

/// A span of seconds, in one unit.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long ago something was.
pub fn age(at: Timestamp, now: Timestamp) -> String {
    span(u64::try_from(now.as_second() - at.as_second()).unwrap_or(0))
}

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
    fn people_read_one_unit() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let ages: Vec<String> = [5, 600, 10_000, 1_000_000].map(|second| age(at(0), at(second))).into();
        assert_eq!(ages, ["5 s", "10 min", "2 h", "11 days"]);
        assert_eq!(age(at(10), at(0)), "0 s", "clocks differ");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!((percent(1, 0), percent(u64::MAX, u64::MAX)), (0, 100));
    }
}
