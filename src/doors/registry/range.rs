//! `Range` and `Content-Range`, as registries use them (RFC 9110, section 14; distribution spec, "Pushing a blob in
//! chunks").

use std::ops::Range;

/// Ranges of one request. Clients that read lazily ask for a few; more is answered with the whole.
const RANGES_MAX: usize = 64;

/// What a `Range` header asks of content of a known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    Parts(Vec<Range<u64>>),
    /// Nothing of what was asked is there.
    Unsatisfiable,
}

/// Reads a `Range` header. One that cannot be understood is ignored, as the RFC has it.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(specs) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Wanted::Whole };
    let mut parts = Vec::new();
    for spec in specs.split(',') {
        let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::Whole };
        let part = match (number(first), number(last)) {
            (Some(first), Some(last)) => first..last.saturating_add(1).min(size),
            (Some(first), None) if last.is_empty() => first..size,
            (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
            _ => return Wanted::Whole,
        };
        if part.start < part.end {
            parts.push(part);
        }
    }
    // Ranges over one another are asked for by nobody who means well: more bytes than there are.
    let asked = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.end - part.start));
    match parts.len() {
        0 => Wanted::Unsatisfiable,
        1 => Wanted::Parts(parts),
        2..=RANGES_MAX if asked <= size => Wanted::Parts(parts),
        _ => Wanted::Whole,
    }
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Reads the `Content-Range` of a chunk: `<first>-<last>`, without a unit.
pub fn chunk(header: &str) -> Option<Range<u64>> {
    let (first, last) = header.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then(|| Some(first..last.checked_add(1)?))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_clipped_or_refused() {
        let one = |range: Range<u64>| Wanted::Parts(vec![range]);
        for (header, expected) in [
            ("bytes=500-1499", one(500..1500)),
            ("bytes=500-", one(500..3000)),
            ("bytes=-500", one(2500..3000)),
            ("bytes=-5000", one(0..3000)),
            ("bytes=2000-5000", one(2000..3000)),
            ("bytes=0-0", one(0..1)),
            ("bytes=500-0", Wanted::Unsatisfiable),
            ("bytes=3000-4000", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=0-9,20-29", Wanted::Parts(vec![0..10, 20..30])),
            ("bytes=0-9, 5000-6000", one(0..10)),
            ("bytes=0-2000,1000-2999", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("bytes=0-18446744073709551615", one(0..3000)),
        ] {
            assert_eq!(wanted(Some(header), 3000), expected, "{header}");
        }
        assert_eq!(wanted(None, 3000), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn what_is_given_lies_within_the_content(header in "bytes=([0-9]{0,21}-[0-9]{0,21},?){0,5}", size: u64) {
            if let Wanted::Parts(parts) = wanted(Some(&header), size) {
                for part in parts {
                    prop_assert!(part.start < part.end && part.end <= size);
                }
            }
            let _ = chunk(&header);
        }

        #[test]
        fn a_chunk_reads_back(first in 0..u64::MAX / 2, length in 1..u64::MAX / 2) {
            prop_assert_eq!(chunk(&format!("{first}-{}", first + length - 1)), Some(first..first + length));
        }
    }
}
