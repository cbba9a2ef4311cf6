//! `Range` and `Content-Range` (RFC 9110, section 14; distribution spec, "Pushing a blob in chunks"), and answers with
//! several ranges.

use std::ops::Range;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use crate::content::read::Outgoing;
use crate::doors::kit::answer::{Answer, OCTETS};
use crate::error;

/// Longest `Range` header that is obeyed, in bytes: clients that read lazily request hundreds of ranges at once. A
/// longer one is answered with the whole content.
const RANGE_HEADER_BYTES_MAX: usize = 16 << 10;

/// The part that a `Range` header selects of content of known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedRange {
    Whole,
    Parts(Vec<Range<u64>>),
    /// None of the requested ranges exists.
    Unsatisfiable,
}

/// Parses a `Range` header. An invalid one is ignored, as the RFC says.
pub fn wanted(header: Option<&str>, size: u64) -> WantedRange {
    let header = header.filter(|header| header.len() <= RANGE_HEADER_BYTES_MAX);
    let Some(specs) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return WantedRange::Whole };
    let mut parts = Vec::new();
    for spec in specs.split(',') {
        let Some((first, last)) = spec.trim().split_once('-') else { return WantedRange::Whole };
        let part = match (number(first), number(last)) {
            (Some(first), Some(last)) => first..last.saturating_add(1).min(size),
            (Some(first), None) if last.is_empty() => first..size,
            (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
            _ => return WantedRange::Whole,
        };
        if part.start < part.end {
            parts.push(part);
        }
    }
    // Overlapping ranges that select more bytes than there are come only from attackers.
    let asked = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.end - part.start));
    match parts.len() {
        0 => WantedRange::Unsatisfiable,
        1 => WantedRange::Parts(parts),
        _ if asked <= size => WantedRange::Parts(parts),
        _ => WantedRange::Whole,
    }
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Parses the `Content-Range` of a chunk: `<first>-<last>`, without a unit.
pub fn chunk(header: &str) -> Option<Range<u64>> {
    let (first, last) = header.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then(|| Some(first..last.checked_add(1)?))?
}

/// The `Content-Range` of a part of content of `size` bytes.
pub fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end - 1)
}

/// An answer with several ranges of content of `size` bytes (RFC 9110, section 14.6). Each is read when those before it
/// have been sent.
pub fn multipart<F>(
    answer: Answer,
    size: u64,
    parts: Vec<Range<u64>>,
    read: impl Fn(Range<u64>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = error::Result<Outgoing>> + Send + 'static,
{
    let boundary = format!("larder{:032x}", rand::random::<u128>());
    let tail: Bytes = format!("\r\n--{boundary}--\r\n").into();
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    // Made once for the length and again when it is sent: there may be thousands.
    let head = move |part: &Range<u64>| {
        let range = content_range(part, size);
        format!("\r\n--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: {range}\r\n\r\n")
    };
    let length = parts.iter().map(|part| head(part).len() as u64 + part.end - part.start).sum::<u64>();
    let answer = answer.set(CONTENT_TYPE, content_type).set(CONTENT_LENGTH, length + tail.len() as u64);
    let bytes = stream::iter(parts)
        .then(move |part| {
            let (head, reading) = (Bytes::from(head(&part)), read(part));
            async move {
                let content = match reading.await {
                    Ok(Outgoing::Whole(bytes)) => stream::once(async { Ok(bytes) }).boxed(),
                    Ok(Outgoing::Stream(bytes)) => bytes,
                    Err(error) => return Err(std::io::Error::other(error)),
                };
                Ok(stream::once(async { Ok(head) }).chain(content.map_err(std::io::Error::other)))
            }
        })
        .try_flatten()
        .chain(stream::once(async { Ok(tail) }));
    answer.body(Body::from_stream(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_clipped_or_refused() {
        let one = |range: Range<u64>| WantedRange::Parts(vec![range]);
        for (header, expected) in [
            ("bytes=500-1499", one(500..1500)),
            ("bytes=500-", one(500..3000)),
            ("bytes=-500", one(2500..3000)),
            ("bytes=-5000", one(0..3000)),
            ("bytes=2000-5000", one(2000..3000)),
            ("bytes=0-0", one(0..1)),
            ("bytes=500-0", WantedRange::Unsatisfiable),
            ("bytes=3000-4000", WantedRange::Unsatisfiable),
            ("bytes=-0", WantedRange::Unsatisfiable),
            ("bytes=0-9,20-29", WantedRange::Parts(vec![0..10, 20..30])),
            ("bytes=0-9, 5000-6000", one(0..10)),
            ("bytes=0-2000,1000-2999", WantedRange::Whole),
            ("bytes=a-b", WantedRange::Whole),
            ("bytes=-", WantedRange::Whole),
            ("bytes=+1-2", WantedRange::Whole),
            ("items=0-1", WantedRange::Whole),
            ("bytes=0-18446744073709551615", one(0..3000)),
        ] {
            assert_eq!(wanted(Some(header), 3000), expected, "{header}");
        }
        assert_eq!(wanted(None, 3000), WantedRange::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), WantedRange::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn what_is_given_lies_within_the_content(header in "bytes=([0-9]{0,21}-[0-9]{0,21},?){0,5}", size: u64) {
            if let WantedRange::Parts(parts) = wanted(Some(&header), size) {
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
