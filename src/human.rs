//! Numbers and times for display: the same words in errors, pages and commands.

use bytesize::ByteSize;
use jiff::Timestamp;

/// A number of bytes in binary units: `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A part of a whole in percent, rounded down; 0 if the whole is 0.
pub fn percent(part: u64, of: u64) -> u64 {
    if of == 0 { 0 } else { (u128::from(part) * 100 / u128::from(of)) as u64 }
}

/// A span of seconds in one unit: `90 s`, `10 min`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The time from `at` to `now` in one unit; 0 s if clocks differ.
pub fn age(at: Timestamp, now: Timestamp) -> String {
    span(u64::try_from(now.as_second() - at.as_second()).unwrap_or(0))
}

/// How long ago a moment was, in one unit.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    if now.as_second() <= at.as_second() { "just now".to_string() } else { format!("{} ago", age(at, now)) }
}

/// A time to the next full minute, in UTC: `2026-05-01 17:20 UTC`.
pub fn minute(at: Timestamp) -> String {
    let whole = at.as_second().saturating_add(59).div_euclid(60).saturating_mul(60);
    Timestamp::from_second(whole).unwrap_or(at).strftime("%F %H:%M UTC").to_string()
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
        assert_eq!(
            [ago(at(0), at(600)), ago(at(10), at(10)), ago(at(10), at(0))],
            ["10 min ago", "just now", "just now"]
        );
        assert_eq!(
            [0, 1, 60].map(|second| minute(at(second))),
            ["1970-01-01 00:00 UTC", "1970-01-01 00:01 UTC", "1970-01-01 00:01 UTC"]
        );
        assert_eq!((percent(1, 0), percent(u64::MAX, u64::MAX)), (0, 100));
    }
}
