//! Slow bodies: the time that a client takes to send does not count towards the wait for a busy store.

use std::io;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use larder::deadline;
use larder::digest::Digest;

use crate::call::Answer;
use crate::world::{CONFIG, LAYER, descriptor};
use crate::world::{World, image, noise, with_digest};

/// Sends a body that takes twice as long as any request waits for a store.
async fn slowly(world: &World, method: &str, uri: &str, bytes: impl Into<Bytes>) -> Answer {
    let bytes = bytes.into();
    let pieces: Vec<Bytes> = bytes.chunks(bytes.len().div_ceil(4)).map(|piece| bytes.slice_ref(piece)).collect();
    let pieces = stream::iter(pieces).then(|piece| async move {
        tokio::time::sleep(deadline::LONG / 2).await;
        Ok::<_, io::Error>(piece)
    });
    let request = http::Request::builder().method(method).uri(uri).header("content-length", bytes.len());
    world.send(request.body(Body::from_stream(pieces)).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn chunks_that_come_slowly_become_a_blob() {
    let world = World::new().await;
    let bytes = noise(2_000_000, 1);
    let digest = Digest::sha256(&bytes);
    let mut location = world.begin("a").await;
    for chunk in [bytes.slice(..700_000), bytes.slice(700_000..1_900_000)] {
        let answer = slowly(&world, "PATCH", &location, chunk).await.expect(202);
        location = answer.header("location").to_string();
    }
    slowly(&world, "PUT", &with_digest(&location, &digest), bytes.slice(1_900_000..)).await.expect(201);
    assert!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body == bytes);
    // Nothing of the session is stored, although its end took that long.
    let uploads = world.config().store.path.join("t/default/uploads");
    assert_eq!(std::fs::read_dir(uploads).map_or(0, |entries| entries.count()), 0);
}

#[tokio::test(start_paused = true)]
async fn whole_blobs_and_manifests_that_come_slowly_are_stored() {
    let world = World::new().await;
    let (config, layer) = (Bytes::from("{}"), noise(1_200_000, 2));
    for blob in [&config, &layer] {
        let location = with_digest(&world.begin("a").await, &Digest::sha256(blob));
        slowly(&world, "PUT", &location, blob.clone()).await.expect(201);
    }
    let manifest = image(descriptor(CONFIG, &config), vec![descriptor(LAYER, &layer)]).to_string();
    slowly(&world, "PUT", "/v2/a/manifests/v1", manifest).await.expect(201);
    world.get("/v2/a/manifests/v1").await.expect(200);
}
