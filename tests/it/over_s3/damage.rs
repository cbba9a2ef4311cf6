//! Bytes that have changed in the bucket are never passed off as what was pushed.

use larder::digest::Digest;
use larder::names::Tenant;
use larder::objects::{Key, Objects, When};
use larder::store::layout;

use super::{Replica, blob_uri, eventually};
use crate::tap::Tap;
use crate::world::noise;

const MIB: usize = 1 << 20;

fn key(digest: &Digest) -> Key {
    layout::blob(&Tenant::default_tenant(), digest)
}

/// A blob of which one byte is another in the bucket.
async fn rotten(tap: &Tap, size: usize, at: usize) -> bytes::Bytes {
    let blob = noise(size, (size + at) as u64);
    let mut bytes = blob.to_vec();
    bytes[at] ^= 1;
    tap.objects().await.put(&key(&Digest::sha256(&blob)), bytes.into(), When::Always).await.unwrap();
    blob
}

/// Whether the answer came whole.
async fn came_whole(replica: &Replica, uri: &str) -> bool {
    let response = replica.respond("GET", uri, ("accept", "*/*"), bytes::Bytes::new()).await;
    assert_eq!(response.status(), 200);
    http_body_util::BodyExt::collect(response.into_body()).await.is_ok()
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
            // The builder was told that it is missing, and sends it.
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
