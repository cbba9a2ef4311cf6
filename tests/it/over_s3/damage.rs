//! Bytes that have changed in the bucket are never served as the pushed ones.

use axum::body::Body;
use bytes::Bytes;
use bytesize::ByteSize;
use http_body_util::BodyExt;
use larder::digest::Digest;
use larder::layout;
use larder::names::Tenant;
use larder::objects::{Key, Objects, When};

use super::{Replica, blob_uri, eventually};
use crate::tap::Tap;
use crate::world::noise;

const MIB: usize = 1 << 20;

fn key(digest: &Digest) -> Key {
    layout::blob(&Tenant::default_tenant(), digest)
}

/// A blob of which one byte is another in the bucket.
async fn rotten(tap: &Tap, size: usize, at: usize) -> Bytes {
    let blob = noise(size, (size + at) as u64);
    let mut bytes = blob.to_vec();
    bytes[at] ^= 1;
    tap.objects().await.put(&key(&Digest::sha256(&blob)), bytes.into(), When::Always).await.unwrap();
    blob
}

/// Reads a blob; nothing if it did not arrive whole.
async fn whole(replica: &Replica, uri: &str) -> Option<Bytes> {
    let response = replica.respond("GET", uri, ("accept", "*/*"), Bytes::new()).await;
    assert_eq!(response.status(), 200);
    Some(response.into_body().collect().await.ok()?.to_bytes())
}

async fn came_whole(replica: &Replica, uri: &str) -> bool {
    whole(replica, uri).await.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_rotted_is_cut_for_all_its_readers_then_missing_then_healed() {
    for tap in Tap::all().await {
        let size = 5 * MIB + 1;
        for at in [0, 2_500_000, size - 1] {
            let blob = rotten(&tap, size, at).await;
            let replica = Replica::over(&tap).await;
            let uri = blob_uri(&Digest::sha256(&blob));
            let reads = futures::future::join_all((0..8).map(|_| came_whole(&replica, &uri))).await;
            assert_eq!(reads, [false; 8]);
            replica.send("HEAD", &uri, "").await.expect(404);
            replica.get(&uri).await.expect(404);
            replica.get_range(&blob, 0..10).await.expect(404);
            let shown = replica.app.metrics.render();
            assert!(shown.contains("larder_corrupt_objects_total 1"), "{shown}");
            // The builder received "missing", and sends the blob.
            replica.push_blob(&blob).await;
            assert!(replica.get(&uri).await.expect(200).body == blob);
            let other = Replica::over(&tap).await;
            assert!(other.get(&uri).await.expect(200).body == blob);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_blob_that_rotted_is_missing() {
    for tap in Tap::all().await {
        let blob = rotten(&tap, 1000, 500).await;
        let replica = Replica::over(&tap).await;
        replica.get_blob(&blob).await.expect(404);
        replica.push_blob(&blob).await;
        assert!(replica.get_blob(&blob).await.expect(200).body == blob);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_a_part_has_the_whole_checked() {
    for tap in Tap::all().await {
        let blob = rotten(&tap, 5 * MIB, 4 * MIB).await;
        let replica = Replica::over(&tap).await;
        let got = replica.get_range(&blob, 0..10).await.expect(206);
        assert!(got.body == blob[..10]);
        let uri = blob_uri(&Digest::sha256(&blob));
        eventually(async || (replica.send("HEAD", &uri, "").await.status == 404).then_some(())).await;
        replica.get_range(&blob, 0..10).await.expect(404);
    }
}

/// A blob of 12 chunks behind a hot layer of five, and a client that reads it slowly.
struct SlowRead {
    blob: Bytes,
    uri: String,
    replica: Replica,
    body: Body,
}

impl SlowRead {
    /// Ten chunks have been read: the first are not in memory any more.
    async fn begin(tap: &Tap) -> SlowRead {
        let blob = noise(12 * MIB, 7);
        let uri = blob_uri(&Digest::sha256(&blob));
        Replica::over(tap).await.push_blob(&blob).await;
        let replica = Replica::with(tap, |config| config.hot.size = ByteSize::mib(8)).await;
        let mut body = replica.respond("GET", &uri, ("accept", "*/*"), Bytes::new()).await.into_body();
        for _ in 0..10 {
            body.frame().await.unwrap().unwrap();
        }
        SlowRead { blob, uri, replica, body }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flips_in_a_chunk_that_comes_again_reaches_no_reader_of_the_whole() {
    for tap in Tap::all().await {
        let SlowRead { blob, uri, replica, body } = SlowRead::begin(&tap).await;
        // No digest is verified yet with which the chunk could be compared.
        tap.flip(5);
        assert!(replica.get_range(&blob, 0..10).await.expect(206).body != blob[..10]);
        assert!(BodyExt::collect(body).await.is_ok());
        // Now the blob is verified, and the chunk in memory differs.
        for _ in 0..2 {
            assert!(whole(&replica, &uri).await.is_some_and(|got| got == blob));
        }
        assert!(replica.get_range(&blob, 0..10).await.expect(206).body == blob[..10]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_does_not_fit_a_verification_is_fetched_again() {
    for tap in Tap::all().await {
        let SlowRead { blob, uri, replica, body } = SlowRead::begin(&tap).await;
        tap.flip(5);
        assert!(whole(&replica, &uri).await.is_some_and(|got| got == blob));
        assert!(BodyExt::collect(body).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_a_flipped_bit_is_cut_and_nobody_else() {
    for tap in Tap::all().await {
        tap.flip(5);
        let SlowRead { blob, uri, replica, body } = SlowRead::begin(&tap).await;
        for _ in 0..2 {
            assert!(whole(&replica, &uri).await.is_some_and(|got| got == blob));
        }
        assert!(BodyExt::collect(body).await.is_err());
        assert!(whole(&replica, &uri).await.is_some_and(|got| got == blob));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_verdict_does_not_outlive_the_read_that_came_to_it() {
    for tap in Tap::all().await {
        let blob = noise(12 * MIB, 7);
        let uri = blob_uri(&Digest::sha256(&blob));
        Replica::over(&tap).await.push_blob(&blob).await;
        // The hot layer has space for all of it: both readers get the same wrong chunk.
        let replica = Replica::over(&tap).await;
        tap.flip(5);
        let slow = replica.respond("GET", &uri, ("accept", "*/*"), Bytes::new()).await;
        assert!(whole(&replica, &uri).await.is_none());
        for _ in 0..2 {
            assert!(whole(&replica, &uri).await.is_some_and(|got| got == blob));
        }
        assert!(BodyExt::collect(slow.into_body()).await.is_err());
    }
}
