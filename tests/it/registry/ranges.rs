//! Parts of blobs, and answers that save the bytes.

use bytes::Bytes;
use larder::digest::Digest;

use crate::call::Answer;
use crate::world::{World, noise};

/// A blob kept in memory, and one that is read from its file.
async fn blobs(world: &World) -> Vec<(Digest, Bytes)> {
    let mut blobs = Vec::new();
    for length in [3_000, 3_000_000] {
        let bytes = noise(length, 1);
        blobs.push((world.put_blob("a", bytes.clone()).await, bytes));
    }
    blobs
}

async fn ranged(world: &World, digest: &Digest, range: &str) -> Answer {
    world.get(format!("/v2/a/blobs/{digest}")).header("range", range).await
}

#[tokio::test]
async fn a_range_is_answered_with_its_bytes() {
    let world = World::new().await;
    for (digest, bytes) in blobs(&world).await {
        let size = bytes.len();
        for (range, expected) in [
            ("bytes=0-0".to_string(), 0..1),
            ("bytes=500-1499".to_string(), 500..1500),
            ("bytes=500-".to_string(), 500..size),
            ("bytes=-500".to_string(), size - 500..size),
            (format!("bytes=2000-{}", size + 5000), 2000..size),
            (format!("bytes=-{}", size * 2), 0..size),
            (format!("bytes={}-", size - 1), size - 1..size),
        ] {
            let answer = ranged(&world, &digest, &range).await.expect(206);
            let shown = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
            assert_eq!(answer.header("content-range"), shown, "{range}");
            assert_eq!(answer.header("content-length"), expected.len().to_string());
            assert!(answer.body == bytes[expected], "{range}");
        }
    }
}

#[tokio::test]
async fn a_range_outside_the_blob_is_refused_with_its_size() {
    let world = World::new().await;
    for (digest, bytes) in blobs(&world).await {
        for range in [format!("bytes={}-", bytes.len()), "bytes=500-0".into(), "bytes=-0".into()] {
            let answer = ranged(&world, &digest, &range).await.expect(416);
            assert_eq!(answer.header("content-range"), format!("bytes */{}", bytes.len()), "{range}");
        }
    }
}

#[tokio::test]
async fn what_is_no_range_is_answered_with_everything() {
    let world = World::new().await;
    for (digest, bytes) in blobs(&world).await {
        for range in ["bytes=a-b", "bytes=-", "lines=1-2", "bytes", "bytes=1-2;3-4"] {
            assert!(ranged(&world, &digest, range).await.expect(200).body == bytes, "{range}");
        }
    }
}

#[tokio::test]
async fn several_ranges_come_in_one_answer() {
    let world = World::new().await;
    for (digest, bytes) in blobs(&world).await {
        let answer = ranged(&world, &digest, "bytes=0-99, 1000-1099,-7").await.expect(206);
        assert_eq!(answer.header("content-length"), answer.body.len().to_string());
        let size = bytes.len();
        assert_eq!(parts(&answer).len(), 3);
        for ((range, part), expected) in parts(&answer).into_iter().zip([0..100, 1000..1100, size - 7..size]) {
            assert_eq!(range, format!("bytes {}-{}/{size}", expected.start, expected.end - 1));
            assert!(part == bytes[expected]);
        }
        // Ranges outside of the blob are left out; no more bytes are sent than the blob has.
        let some = ranged(&world, &digest, &format!("bytes=0-9,{size}-")).await.expect(206);
        assert!(some.body == bytes[..10]);
        assert!(ranged(&world, &digest, "bytes=0-,0-,0-").await.expect(200).body == bytes);
    }
}

/// The parts of a `multipart/byteranges` body, read as a client would: `Content-Range` and bytes.
fn parts(answer: &Answer) -> Vec<(String, Vec<u8>)> {
    let boundary = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = &answer.body[..];
    let mut parts = Vec::new();
    let find = |bytes: &[u8], text: &str| bytes.windows(text.len()).position(|window| window == text.as_bytes());
    rest = &rest[find(rest, &delimiter).unwrap() + delimiter.len()..];
    while !rest.starts_with(b"--") {
        let head = find(rest, "\r\n\r\n").unwrap();
        let headers = std::str::from_utf8(&rest[..head]).unwrap();
        let range = headers.lines().find_map(|line| line.strip_prefix("Content-Range: ")).unwrap();
        rest = &rest[head + 4..];
        let end = find(rest, &delimiter).unwrap();
        parts.push((range.to_string(), rest[..end].to_vec()));
        rest = &rest[end + delimiter.len()..];
    }
    assert_eq!(rest, b"--\r\n");
    parts
}

#[tokio::test]
async fn a_client_that_has_the_blob_is_told_so() {
    let world = World::new().await;
    let digest = world.put_blob("a", "layer").await;
    let uri = format!("/v2/a/blobs/{digest}");
    let etag = world.get(&uri).await.expect(200).header("etag").to_string();
    let unchanged = world.get(&uri).header("if-none-match", &etag).await.expect(304);
    assert_eq!((unchanged.header("etag"), unchanged.body.len()), (&*etag, 0));
    assert_eq!(world.get(&uri).header("if-none-match", "\"other\"").await.expect(200).body, "layer");
}

#[tokio::test]
async fn a_resumed_download_is_of_the_same_blob_or_begins_anew() {
    let world = World::new().await;
    let digest = world.put_blob("a", "0123456789").await;
    let resume =
        |etag: String| world.get(format!("/v2/a/blobs/{digest}")).header("range", "bytes=5-").header("if-range", &etag);
    assert_eq!(resume(format!("\"{digest}\"")).await.expect(206).body, "56789");
    assert_eq!(resume("\"other\"".into()).await.expect(200).body, "0123456789");
}

/// As clients that read a layer lazily ask: for the files of a folder at once.
#[tokio::test]
async fn hundreds_of_ranges_come_in_one_answer() {
    let world = World::new().await;
    let (digest, bytes) = blobs(&world).await.pop().unwrap();
    let wanted: Vec<_> = (0..1_000).map(|at| at * 1_000..at * 1_000 + 700).collect();
    let header: Vec<String> = wanted.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
    let answer = ranged(&world, &digest, &format!("bytes={}", header.join(","))).await.expect(206);
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    let parts = parts(&answer);
    assert_eq!(parts.len(), wanted.len());
    assert!(parts.into_iter().zip(wanted).all(|((_, part), wanted)| part == bytes[wanted]));
}

#[tokio::test]
async fn hostile_ranges_are_clipped_refused_or_ignored() {
    let world = World::new().await;
    let single: Vec<String> = (0..60).map(|at| format!("{at}-{at}")).collect();
    for (digest, bytes) in blobs(&world).await {
        for (range, status, length) in [
            ("bytes=0-18446744073709551615".to_string(), 206, Some(bytes.len())),
            ("bytes=18446744073709551615-".to_string(), 416, None),
            ("bytes=-18446744073709551615".to_string(), 206, Some(bytes.len())),
            ("bytes=9999999999999999999999-".to_string(), 200, Some(bytes.len())),
            ("bytes=,".to_string(), 200, Some(bytes.len())),
            (format!("bytes={}", single.join(",")), 206, None),
            (format!("bytes={}", vec!["0-"; 500].join(",")), 200, Some(bytes.len())),
            (format!("bytes={}", ["0-1499"; 3].join(",")), if bytes.len() < 4500 { 200 } else { 206 }, None),
            (format!("bytes={}", vec!["0-0"; 5_000].join(",")), 200, Some(bytes.len())),
        ] {
            let answer = ranged(&world, &digest, &range).await.expect(status);
            assert!(length.is_none_or(|length| answer.body.len() == length), "{range}: {}", answer.body.len());
        }
    }
}
