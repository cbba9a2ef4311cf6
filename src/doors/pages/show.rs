//! Numbers and times for people.

use std::net::IpAddr;

use jiff::Timestamp;
use maud::{Markup, html};

use crate::human;

pub use crate::human::{age, bytes, percent};

/// The time since a moment; the moment itself is shown when the mouse points at it.
pub fn ago(at: Timestamp, now: Timestamp) -> Markup {
    let exact = format!("{at:.0}");
    html! { time datetime=(exact) title=(exact) { (human::ago(at, now)) } }
}

/// A short span in seconds.
pub fn seconds(seconds: f64) -> String {
    if seconds < 0.1 { "< 0.1 s".to_string() } else { format!("{seconds:.1} s") }
}

/// Whether a `HOST` or `HOST:PORT` is a loopback address, or its name.
pub fn is_loopback(name: &str) -> bool {
    let host = name
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(name, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The first digits of a digest.
pub fn short(digest: &str) -> &str {
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    &hex[..hex.floor_char_boundary(12)]
}

/// A level: a bar, and the same in words.
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

    #[test]
    fn a_builder_on_this_host_reaches_loopback() {
        for name in ["127.0.0.1:5000", "127.0.0.1", "[::1]:5000", "[::1]", "localhost:5000", "localhost"] {
            assert!(is_loopback(name), "{name}");
        }
        for name in ["10.0.0.1:5000", "cache.example.com", "localhost.example.com:80", "", "[::2]:1"] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
