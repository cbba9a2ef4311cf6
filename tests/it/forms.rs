//! One cache in every form: the functions below the doors, called as doors call them.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, stream};
use larder::access::{Permit, Right, Tags};
use larder::cache::WireForm;
use larder::content::pieces::PIECE_BYTES_MAX;
use larder::deadline::Deadline;
use larder::digest::Digest;
use larder::error::Error;
use larder::refs::{Repo, RepoWriter};
use larder::stream::{BodyError, Incoming};
use serde_json::Value;

use crate::views::{Cache, TAG, import};
use crate::world::World;

fn permit<R: Right>(world: &World) -> Permit<R> {
    let gate = &world.app().gate;
    gate.admit(&gate.anonymous(), "shop/cache".parse().unwrap(), Tags::None).unwrap()
}

fn writer(world: &World) -> RepoWriter {
    world.app().store.writer(permit(world), Deadline::of_each_call()).unwrap()
}

fn reader(world: &World) -> Repo {
    world.app().store.repo(permit(world), Deadline::of_each_call())
}

/// Content of a tag for a client without manifests: its steps with a result, and the blobs of its layers.
async fn inline(world: &World, tag: &str) -> (Value, BTreeSet<String>, BTreeSet<Digest>) {
    let caches = world.app().store.caches();
    let bytes = caches.serve_cache(&reader(world), &tag.parse().unwrap(), WireForm::Inline).await.unwrap();
    let config: Value = serde_json::from_slice(&bytes).unwrap();
    let records = config["records"].as_array().unwrap().iter().filter(|record| !record["layers"].is_null());
    let steps = records.map(|record| record["digest"].as_str().unwrap().to_string()).collect();
    let layers = config["layers"].as_array().unwrap().iter();
    let blobs = layers.map(|layer| layer["blob"].as_str().unwrap().parse().unwrap()).collect();
    (config, steps, blobs)
}

#[tokio::test]
async fn a_cache_is_pushed_in_one_form_and_imported_in_the_other() {
    let world = World::new().await;
    Cache::of(&world, "web", "a").await.push(&world, "web").await;
    let (web, ..) = inline(&world, "web").await;
    for layer in web["layers"].as_array().unwrap() {
        let said = &layer["annotations"];
        assert!(
            said["size"].as_u64().unwrap() > 0 && said["diffID"].as_str().unwrap().starts_with("sha256:"),
            "{said}"
        );
    }
    // Another builder, by the form without a manifest, to the tag that has the cache of a second target.
    Cache::of(&world, "api", "b").await.push(&world, "main").await;
    let (caches, tag) = (world.app().store.caches().clone(), "main".parse().unwrap());
    let body = Bytes::from(web.to_string());
    caches.push_cache(&writer(&world), &tag, WireForm::Inline, body.clone()).await.unwrap();
    let (steps, layers) = import(&world, TAG).await;
    assert_eq!((steps.len(), layers.len()), (3, 3), "the shared step, and one of each target");
    let (_, inline_steps, inline_layers) = inline(&world, "main").await;
    assert_eq!((inline_steps, inline_layers), (steps, layers));
    // The same cache, whatever its form, is one push.
    let pushes = || async { caches.inspect(&reader(&world), &tag).await.unwrap().pushes.len() };
    let before = pushes().await;
    Cache::of(&world, "web", "a").await.push(&world, "main").await;
    caches.push_cache(&writer(&world), &tag, WireForm::Inline, body).await.unwrap();
    assert_eq!((before, pushes().await), (2, 2));
}

#[tokio::test]
async fn an_inline_cache_names_only_what_is_here() {
    let world = World::new().await;
    let gone = Digest::sha256(b"never pushed");
    let config = format!(
        r#"{{"layers":[{{"blob":"{gone}","parent":-1,"annotations":{{"mediaType":"x","diffID":"{gone}","size":7}}}}]}}"#
    );
    let (caches, tag) = (world.app().store.caches(), "main".parse().unwrap());
    let refused = caches.push_cache(&writer(&world), &tag, WireForm::Inline, config.into()).await;
    assert!(matches!(refused, Err(Error::ManifestBlobUnknown(missing)) if missing == [gone]));
    let refused = caches.push_cache(&writer(&world), &tag, WireForm::Inline, "no JSON".into()).await;
    assert!(matches!(refused, Err(Error::ManifestInvalid(_))));
    world.head(TAG).await.expect(404);
}

fn body(bytes: &[u8], portion: usize) -> Incoming {
    let pieces: Vec<_> = bytes.chunks(portion).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

#[tokio::test]
async fn bytes_without_a_digest_become_pieces_that_are_stored_once() {
    let world = World::new().await;
    let whole = b"0123456789abcdef".repeat(PIECE_BYTES_MAX / 16 * 2);
    let bytes = [&whole[..], b"the rest"].concat();
    let pieces = writer(&world).blobs().put_pieces(None, u64::MAX, body(&bytes, 300_001)).await.unwrap();
    let sizes: Vec<u64> = pieces.iter().map(|piece| piece.size).collect();
    assert_eq!(sizes, [PIECE_BYTES_MAX as u64, PIECE_BYTES_MAX as u64, 8]);
    let mut read = Vec::new();
    for piece in &pieces {
        let blob = world.get(format!("/v2/shop/cache/blobs/{}", piece.digest)).await.expect(200);
        read.extend_from_slice(&blob.body);
    }
    assert!(read == bytes, "the pieces are the body");
    assert_eq!(world.app().store.usage().account(reader(&world).tenant()).blobs(), 2, "equal pieces are one");
    let again = writer(&world).blobs().put_pieces(Some(bytes.len() as u64), u64::MAX, body(&bytes, 1 << 20)).await;
    assert_eq!(again.unwrap(), pieces);
    let limited = writer(&world).blobs().put_pieces(None, 10, body(&bytes, 1 << 20)).await;
    assert!(matches!(limited, Err(Error::Body(BodyError::TooLarge { limit: 10 }))));
    let cut: Incoming = stream::iter([Ok(Bytes::from_static(b"begun")), Err(BodyError::Cut)]).boxed();
    assert!(matches!(writer(&world).blobs().put_pieces(None, u64::MAX, cut).await, Err(Error::Body(BodyError::Cut))));
    assert!(writer(&world).blobs().put_pieces(Some(0), 0, stream::empty().boxed()).await.unwrap().is_empty());
}
