//! Large blobs that do not arrive as they were announced.

use std::io;

use axum::body::Body;
use futures::{StreamExt, stream};
use larder::capacity::usage::OBJECT_FLOOR;
use larder::digest::Digest;
use larder::names::Tenant;

use super::{Replica, blob_uri, eventually};
use crate::call::Answer;
use crate::tap::Tap;
use crate::world::{noise, with_digest};

const MIB: usize = 1 << 20;

/// Checks that neither digest exists, and that no parts stay in the bucket.
async fn assert_given_up(tap: &Tap, replica: &Replica, digests: [Digest; 2]) {
    let (mut aborted, mut completed) = (0, 0);
    eventually(async || {
        let calls = tap.calls();
        aborted += calls.of("abort upload");
        completed += calls.of("complete upload");
        (aborted > 0).then_some(())
    })
    .await;
    assert_eq!((aborted, completed), (1, 0));
    for digest in digests {
        replica.send("HEAD", &blob_uri(&digest), "").await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_another_digest_is_given_up() {
    for tap in Tap::all().await {
        let replica = Replica::over(&tap).await;
        let (blob, other) = (noise(20 * MIB, 1), Digest::sha256(b"other"));
        let begun = replica.send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
        let refused =
            replica.send("PUT", &with_digest(begun.header("location"), &other), blob.clone()).await.expect(400);
        assert_eq!(refused.code(), "DIGEST_INVALID");
        assert_given_up(&tap, &replica, [other, Digest::sha256(&blob)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_whose_client_goes_away_is_given_up() {
    for tap in Tap::all().await {
        let replica = Replica::over(&tap).await;
        let (blob, sent) = (noise(40 * MIB, 1), 20 * MIB);
        let digest = Digest::sha256(&blob);
        let begun = replica.send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
        let pieces = stream::iter([Ok(blob.slice(..sent))]).chain(stream::iter([Err(io::Error::other("gone"))]));
        let request = http::Request::put(with_digest(begun.header("location"), &digest));
        let request = request.header("content-length", blob.len()).body(Body::from_stream(pieces)).unwrap();
        let Ok(answer) = tower::ServiceExt::oneshot(replica.front.clone(), request).await;
        Answer::of(answer).await.expect(400);
        assert_given_up(&tap, &replica, [digest, Digest::sha256(&blob[..sent])]).await;
    }
}

/// An overwrite in a bucket is not counted until the next scan: so nothing is overwritten here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_follows_what_is_written_to_a_bucket_and_removed() {
    for tap in Tap::all().await {
        let replica = Replica::over(&tap).await;
        let account = replica.app.store.usage().account(&Tenant::default_tenant());
        let assert_right = async || {
            let followed = (account.stored(), account.blobs());
            replica.app.store.scan_usage().await.unwrap();
            assert_eq!(followed, (account.stored(), account.blobs()));
            followed
        };
        // By one PUT, by parts, and out of chunks.
        for blob in [noise(10, 1), noise(20 * MIB, 2)] {
            let begun = replica.send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
            let uri = with_digest(begun.header("location"), &Digest::sha256(&blob));
            replica.send("PUT", &uri, blob).await.expect(201);
        }
        let begun = replica.send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
        let chunk = noise(MIB, 3);
        let staged = replica.send("PATCH", begun.header("location"), chunk.clone()).await.expect(202);
        let uri = with_digest(staged.header("location"), &Digest::sha256(&chunk));
        replica.send("PUT", &uri, "").await.expect(201);
        let stored = OBJECT_FLOOR + 21 * MIB as u64;
        assert_eq!(assert_right().await, (stored, 3));
        // A chunk that is given up leaves nothing.
        let begun = replica.send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
        let staged = replica.send("PATCH", begun.header("location"), noise(MIB, 4)).await.expect(202);
        assert_eq!(account.stored(), stored + MIB as u64);
        replica.send("DELETE", staged.header("location"), "").await.expect(204);
        assert_eq!(assert_right().await, (stored, 3));
    }
}
