//! Uploads in chunks: their order, their end, and their life across restarts.

use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use larder::digest::{Algorithm, Digest};
use larder::names::Tenant;

use crate::call::Answer;
use crate::world::{World, noise, with_digest};

/// Sends one chunk; returns the URL of the next.
async fn append(world: &World, location: &str, bytes: impl Into<Bytes>) -> String {
    world.patch(location).body(bytes).await.expect(202).header("location").to_string()
}

async fn offset(world: &World, location: &str) -> String {
    world.get(location).await.expect(204).header("range").to_string()
}

#[tokio::test]
async fn chunks_become_a_blob() {
    let world = World::new().await;
    let bytes = noise(1_300_000, 1);
    let digest = Digest::sha256(&bytes);
    let mut location = world.begin("a").await;
    let mut sent = 0;
    for chunk in bytes.chunks(500_000) {
        let range = format!("{sent}-{}", sent + chunk.len() - 1);
        sent += chunk.len();
        let call = world.patch(&location).header("content-range", &range).body(bytes.slice_ref(chunk));
        let answer = call.await.expect(202);
        assert_eq!(answer.header("range"), format!("0-{}", sent - 1));
        location = answer.header("location").to_string();
    }
    assert_eq!(offset(&world, &location).await, "0-1299999");
    world.put(with_digest(&location, &digest)).body("").await.expect(201);
    assert!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body == bytes);
    // The session has ended, and nothing of it is stored.
    assert_eq!(world.get(&location).await.expect(404).code(), "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(uploads(&world), 0);
}

#[tokio::test]
async fn chunks_may_come_without_a_range_and_without_a_length() {
    let world = World::new().await;
    let location = world.begin("a").await;
    let location = world.patch(location).stream("one ").await.expect(202).header("location").to_string();
    let location = append(&world, &location, "two").await;
    let digest = Digest::sha256(b"one two");
    world.put(with_digest(&location, &digest)).await.expect(201);
}

#[tokio::test]
async fn a_chunk_that_does_not_follow_is_refused_and_the_upload_goes_on() {
    let world = World::new().await;
    let location = world.begin("a").await;
    let early = world.patch(&location).header("content-range", "5-9").body("world").await.expect(416);
    assert_eq!(early.code(), "BLOB_UPLOAD_INVALID");
    let location = append(&world, early.header("location"), "hello").await;
    for (range, body) in [("0-4", "hello"), ("4-8", "world"), ("6-10", "world")] {
        let refused = world.patch(&location).header("content-range", range).body(body).await.expect(416);
        assert_eq!((refused.header("range"), refused.header("location")), ("0-4", &*location));
        let digest = Digest::sha256(b"helloworld");
        let closing = world.put(with_digest(&location, &digest)).header("content-range", range).body(body);
        closing.await.expect(416);
    }
    assert_eq!(offset(&world, &location).await, "0-4");
    let digest = Digest::sha256(b"helloworld");
    let closing = world.put(with_digest(&location, &digest)).header("content-range", "5-9").body("world");
    closing.await.expect(201);
}

#[tokio::test]
async fn an_empty_chunk_changes_nothing() {
    let world = World::new().await;
    let location = append(&world, &world.begin("a").await, "").await;
    assert_eq!(offset(&world, &location).await, "0-0");
    let location = append(&world, &append(&world, &location, "hello").await, "").await;
    assert_eq!(offset(&world, &location).await, "0-4");
    world.put(with_digest(&location, &Digest::sha256(b"hello"))).await.expect(201);
}

#[tokio::test]
async fn the_last_chunk_may_come_with_the_closing_put() {
    let world = World::new().await;
    let location = append(&world, &world.begin("a").await, "hello ").await;
    let digest = Digest::sha256(b"hello world");
    world.put(with_digest(&location, &digest)).body("world").await.expect(201);
    assert_eq!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body, "hello world");
}

#[tokio::test]
async fn a_closing_put_may_send_everything_again() {
    let world = World::new().await;
    let bytes = noise(1_200_000, 2);
    let digest = Digest::sha256(&bytes);
    let location = append(&world, &world.begin("a").await, bytes.slice(..700_000)).await;
    world.put(with_digest(&location, &digest)).body(bytes.clone()).await.expect(201);
    assert!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body == bytes);
    assert_eq!(uploads(&world), 0);
}

/// A proxy that had no answer sends it again, and so does a client.
#[tokio::test]
async fn a_closing_put_that_was_done_is_answered_again() {
    let world = World::new().await;
    for last in ["", "the end"] {
        let location = append(&world, &world.begin("a").await, format!("all but{last}, ")).await;
        let digest = Digest::sha256(format!("all but{last}, {last}").as_bytes());
        for _ in 0..3 {
            let done = world.put(with_digest(&location, &digest)).body(last).await.expect(201);
            assert_eq!(done.header("docker-content-digest"), digest.to_string());
        }
        let range = world.put(with_digest(&location, &digest)).header("content-range", "9-15").body("the end");
        range.await.expect(201);
        // A blob that was not made is still unknown.
        let other = Digest::sha256(b"other");
        let refused = world.put(with_digest(&location, &other)).body("").await.expect(404);
        assert_eq!(refused.code(), "BLOB_UPLOAD_UNKNOWN");
        world.delete(format!("/v2/a/blobs/{digest}")).await.expect(202);
        world.put(with_digest(&location, &digest)).body("").await.expect(404);
    }
}

#[tokio::test]
async fn a_closing_put_with_wrong_bytes_leaves_the_upload_as_it_was() {
    let world = World::new().await;
    let location = append(&world, &world.begin("a").await, "hello ").await;
    let digest = Digest::sha256(b"hello world");
    for body in ["", "moon", "hello moon"] {
        let refused = world.put(with_digest(&location, &digest)).body(body).await.expect(400);
        assert_eq!(refused.code(), "DIGEST_INVALID");
        world.head(format!("/v2/a/blobs/{digest}")).await.expect(404);
    }
    assert_eq!(offset(&world, &location).await, "0-5");
    world.put(with_digest(&location, &digest)).body("world").await.expect(201);
}

#[tokio::test]
async fn chunks_can_be_named_by_either_algorithm() {
    let world = World::new().await;
    let digest = Digest::of(Algorithm::Sha512, b"hello world");
    let begun = world.post("/v2/a/blobs/uploads/?digest-algorithm=sha512").await.expect(202);
    let location = append(&world, begun.header("location"), "hello ").await;
    world.put(with_digest(&location, &digest)).body("world").await.expect(201);
    // Also if the client names the algorithm only at the end: the earlier chunks are hashed once more.
    world.delete(format!("/v2/a/blobs/{digest}")).await.expect(202);
    let location = append(&world, &append(&world, &world.begin("a").await, "hel").await, "lo ").await;
    world.put(with_digest(&location, &digest)).body("world").await.expect(201);
    assert_eq!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body, "hello world");
}

#[tokio::test]
async fn a_cancelled_upload_stays_unknown() {
    let world = World::new().await;
    let fresh = world.begin("a").await;
    let staged = append(&world, &world.begin("a").await, "hello").await;
    for location in [fresh, staged] {
        world.delete(&location).await.expect(204);
        let digest = Digest::sha256(b"hello");
        let late: [Answer; 4] = [
            world.get(&location).await,
            world.patch(&location).body("x").await,
            // Not even the tolerance for whole blobs brings it back.
            world.put(with_digest(&location, &digest)).body("hello").await,
            world.delete(&location).await,
        ];
        for late in late {
            assert_eq!(late.status, 404, "{}", late.text());
        }
        world.head(format!("/v2/a/blobs/{digest}")).await.expect(404);
    }
    assert_eq!(uploads(&world), 0);
}

#[tokio::test]
async fn an_upload_belongs_to_the_repository_that_began_it() {
    let world = World::new().await;
    let location = append(&world, &world.begin("a").await, "hello").await;
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    assert_eq!(world.get(&elsewhere).await.expect(404).code(), "BLOB_UPLOAD_UNKNOWN");
    world.patch(&elsewhere).body("x").await.expect(404);
    world.delete(&elsewhere).await.expect(404);
    world.put(with_digest(&elsewhere, &Digest::sha256(b"hello"))).body("").await.expect(404);
    world.put(with_digest(&location, &Digest::sha256(b"hello"))).await.expect(201);
}

#[tokio::test]
async fn an_upload_outlives_the_server_that_began_it() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let mut world = World::new().await;
        let bytes = noise(1_000_003, 3);
        let digest = Digest::of(algorithm, &bytes);
        let query = format!("digest-algorithm={}", algorithm.as_str());
        let begun = world.post(format!("/v2/a/blobs/uploads/?{query}")).await.expect(202);
        let mut location = begun.header("location").to_string();
        for chunk in bytes.chunks(333_333) {
            location = append(&world, &location, bytes.slice_ref(chunk)).await;
            world.restart().await;
        }
        assert_eq!(offset(&world, &location).await, "0-1000002");
        world.put(with_digest(&location, &digest)).await.expect(201);
        world.restart().await;
        assert!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body == bytes);
    }
}

#[tokio::test]
async fn an_upload_that_nobody_goes_on_with_is_removed() {
    let world = World::new().await;
    let idle = append(&world, &world.begin("a").await, "hello").await;
    let (store, tenant) = (&world.app().store, Tenant::default_tenant());
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    assert_eq!(store.content().staging(&tenant).sweep(hour, now + hour / 2).await.unwrap(), 0);
    assert_eq!(offset(&world, &idle).await, "0-4");
    assert_eq!(store.content().staging(&tenant).sweep(hour, now + 2 * hour).await.unwrap(), 1);
    assert_eq!(world.get(&idle).await.expect(404).code(), "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(uploads(&world), 0);
    // A whole blob is still accepted there.
    world.put(with_digest(&idle, &Digest::sha256(b"whole"))).body("whole").await.expect(201);
}

#[tokio::test]
async fn two_chunks_for_one_place_do_not_mix() {
    let world = World::new().await;
    let location = append(&world, &world.begin("a").await, "head ").await;
    let chunk = |body: &'static str| world.patch(&location).header("content-range", "5-8").body(body).into_future();
    let answers = futures::future::join(chunk("ones"), chunk("twos")).await;
    assert!([answers.0.status, answers.1.status].iter().any(|status| *status == 202));
    assert_eq!(offset(&world, &location).await, "0-8");
    let close = |text: &str| world.put(with_digest(&location, &Digest::sha256(text.as_bytes()))).into_future();
    let (one, two) = (close("head ones").await.status, close("head twos").await.status);
    assert!((one == 201) != (two == 201), "{one} {two}");
}

/// Files that belong to uploads.
fn uploads(world: &World) -> usize {
    let folder = world.config().store.path.join("t/default/uploads");
    std::fs::read_dir(folder).map_or(0, |entries| entries.count())
}
