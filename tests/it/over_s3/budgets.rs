//! Budgets for calls to the bucket: bounds that keep a change from adding calls unseen.

use bytesize::ByteSize;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use larder::config::Span;
use larder::digest::Digest;
use larder::layout;
use larder::lifetime::collect::{Collector, Wish};
use larder::names::Tenant;
use larder::objects::s3::S3Objects;
use larder::objects::{Key, Meta, Objects, Read, When};
use serde_json::{Value, json};

use super::{Export, Replica, assert_sound, blob_uri, eventually};
use crate::tap::{Calls, Tap};
use crate::world::{CONFIG, descriptor, image, noise};

const MIB: usize = 1 << 20;

fn show(what: &str, calls: &Calls) {
    println!("{what}: {} calls, {} bytes read: {:?}", calls.sum(), calls.read_bytes, calls.by_name);
}

/// Ten layers of a mebibyte.
fn export(step: &str, seed: u64) -> Export {
    Export::of(step, (0..10).map(|i| noise(MIB, seed + i)).collect())
}

/// Number of pushes in the stored view that another server would find.
async fn hinted_pushes(objects: &S3Objects) -> usize {
    match objects.read(&Key::new("t/default/repos/c/!/views/m"), None).await {
        Ok(Read::Fresh(_, hint)) => serde_json::from_slice::<Value>(&hint).unwrap()["pushes"].as_array().unwrap().len(),
        _ => 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_exports_and_imports() {
    for tap in Tap::all().await {
        let replica = Replica::over(&tap).await;
        let count = |what: &str| {
            let calls = tap.calls();
            show(what, &calls);
            calls
        };
        let first = export("RUN first", 100);
        assert!(replica.export(&first).await);
        let calls = count("export of 10 new layers, config and manifest");
        // Looks for 11 blobs, and writes them; the tag is read for the builder and for its push; manifest, record, tag.
        assert!(calls.sum() <= 27 && calls.of("head") <= 11, "{calls:?}");

        assert!(!replica.export(&first).await);
        let calls = count("export again, the tag serves what was pushed");
        assert!(calls.sum() <= 1, "{calls:?}");

        replica.import().await;
        let layers = join_all(first.blobs.iter().map(|blob| replica.get_blob(blob))).await;
        assert!(layers.into_iter().zip(&first.blobs).all(|(got, blob)| got.expect(200).body == *blob));
        let calls = count("import with all layers, hot");
        assert!(calls.sum() <= 2, "{calls:?}");

        Replica::over(&tap).await.import().await;
        let calls = count("import by another replica, cold, of a tag that was pushed once");
        assert!(calls.sum() <= 6 + 10 && calls.of("head") <= 10, "{calls:?}");

        let mut pushes = vec![first];
        for i in 1..5 {
            pushes.push(export(&format!("RUN {i}"), 1_000 * i));
            assert!(replica.export(&pushes[i as usize]).await);
        }
        let objects = tap.objects().await;
        let records = async || crate::objects::list(&objects, "t/default/repos/c/!/pushes/", None).await.len();
        assert_eq!(records().await, 5);
        // No request has come since the last push.
        eventually(async || (hinted_pushes(&objects).await == 5).then_some(())).await;
        tap.calls();
        assert!(replica.export(&pushes[2]).await);
        let calls = count("export again, the tag serves a view of 5 pushes");
        assert!(calls.sum() <= 3, "{calls:?}");
        assert_eq!(records().await, 5);

        let cold = Replica::over(&tap).await;
        let manifest = cold.import().await;
        let calls = count("import by another replica, cold");
        let layers = manifest["layers"].as_array().unwrap().len();
        assert_eq!(layers, 50);
        // Tag, list, hint, manifest, config, last use.
        assert!(calls.sum() <= 6 + layers && calls.of("head") <= layers, "{calls:?}");
        let blob = &pushes[3].blobs[0];
        assert!(cold.get_blob(blob).await.expect(200).body == *blob);
        let calls = count("one of its layers");
        assert_eq!((calls.sum(), calls.read_bytes), (1, MIB as u64), "{calls:?}");
        assert_sound(&tap).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_n_parts_is_pushed_with_n_calls_and_three() {
    for tap in Tap::all().await {
        let replica = Replica::over(&tap).await;
        for (size, parts) in [(MIB, 1), (8 * MIB, 1), (33 * MIB, 5)] {
            let blob = noise(size, size as u64);
            replica.push_blob(&blob).await;
            let calls = tap.calls();
            show(&format!("blob of {parts} parts"), &calls);
            assert!(calls.sum() <= parts + 3, "{calls:?}");
            // A sibling reads it from memory, and another push of it sends nothing.
            assert!(replica.get_blob(&blob).await.expect(200).body == blob || size > 32 * MIB);
            replica.push_blob(&blob).await;
            let calls = tap.calls();
            assert!(calls.sum() == 0 || size > 32 * MIB, "{calls:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_read_one_cold_blob_and_no_byte_is_fetched_twice() {
    const CLIENTS: usize = 64;
    let size = 256 * MIB;
    let blob = noise(size, 1);
    for tap in Tap::all().await {
        Replica::over(&tap).await.push_blob(&blob).await;
        let replica = Replica::with(&tap, |config| config.hot.size = ByteSize::mib(512)).await;
        let uri = blob_uri(&Digest::sha256(&blob));
        let read = async |looks: bool| {
            let response = replica.respond("GET", &uri, ("accept", "*/*"), bytes::Bytes::new()).await;
            assert_eq!(response.status(), 200);
            let (mut body, mut at) = (response.into_body(), 0);
            while let Some(frame) = body.frame().await {
                let piece = frame.unwrap().into_data().unwrap();
                assert!(!looks || blob[at..at + piece.len()] == piece);
                at += piece.len();
            }
            assert_eq!(at, size);
        };
        join_all((0..CLIENTS).map(|i| read(i % 8 == 0))).await;
        let calls = tap.calls();
        show("64 clients read one cold blob of 256 MiB", &calls);
        assert_eq!(calls.read_bytes, size as u64);
        assert_eq!((calls.of("get"), calls.sum()), (256, 257), "{calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_collection() {
    const BLOBS: usize = 2_100;
    const TAGS: usize = 30;
    for tap in Tap::all().await {
        let replica = Replica::with(&tap, |config| config.collect.without_fence = true).await;
        let config = noise(100, 1);
        replica.push_blob(&config).await;
        for i in 0..TAGS {
            replica.send("PUT", &format!("/v2/c/manifests/{i}"), numbered(&config, i)).await.expect(201);
        }
        let objects = tap.objects().await;
        let plant = |i: usize| {
            let (key, bytes) =
                (layout::blob(&Tenant::default_tenant(), &Digest::sha256(&i.to_le_bytes())), noise(10, i as u64));
            let objects = &objects;
            async move { drop(objects.put(&key, bytes, When::Always).await.unwrap()) }
        };
        stream::iter(0..BLOBS).for_each_concurrent(16, plant).await;
        let collector = Collector::new(replica.app.store.refs().clone());
        let listed: Vec<Meta> = objects.list("t/default/repos/c/!/tags/", None).try_collect().await.unwrap();
        // If lists do not show versions, tags are read each time.
        let again = if listed.iter().any(|meta| meta.version.0.is_empty()) { TAGS } else { 0 };
        // Pointers and manifests that it does not know yet: then it knows them.
        for (what, reads) in [("a collection", 2 * TAGS), ("the next one", again)] {
            tap.calls();
            let report = collector.run(Wish::default()).await.unwrap();
            let calls = tap.calls();
            show(&format!("{what} of {} objects, {TAGS} of them manifests", report.objects), &calls);
            assert!(report.objects as usize > BLOBS && report.skipped.is_none(), "{report:?}");
            // One for each thousand objects, and one for each place in the bucket.
            assert!(calls.of("list") <= report.objects as usize / 1000 + 7, "{calls:?}");
            assert!(calls.of("get") <= reads && calls.sum() <= calls.of("list") + reads + 2, "{calls:?}");
        }
    }
}

/// Before each batch of deletes the format of the store is read again, so that no delete hits content that only the
/// roots of a newer version reference. That is one GET, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_deletes_costs_one_look_at_the_format() {
    for tap in Tap::all().await {
        let collects = |config: &mut larder::config::Config| {
            (config.collect.grace, config.collect.lease) = (Span::seconds(1), Span::seconds(1));
            config.collect.without_fence = true;
        };
        let replica = Replica::with(&tap, collects).await;
        let collector = Collector::new(replica.app.store.refs().clone());
        let pause = || tokio::time::sleep(std::time::Duration::from_millis(2_100));
        replica.push_blob(&noise(100, 1)).await;
        pause().await;
        assert_eq!(collector.run(Wish::default()).await.unwrap().condemned.objects, 1);
        pause().await;
        tap.calls();
        let report = collector.run(Wish::default()).await.unwrap();
        let calls = tap.calls();
        show("a collection that deletes a batch of one blob", &calls);
        assert_eq!(report.deleted.objects, 1, "{report:?}");
        // The list of the batch, and the format.
        assert_eq!(calls.of("get"), 2, "{calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_costs_the_same_though_much_was_deleted_before() {
    for tap in Tap::all().await {
        let replica = Replica::with(&tap, |config| config.collect.without_fence = true).await;
        let config = noise(100, 1);
        replica.push_blob(&config).await;
        let images: Vec<String> = (0..20).map(|i| numbered(&config, i)).collect();
        let uri = |image: &str| format!("/v2/c/manifests/{}", Digest::sha256(image.as_bytes()));
        for image in &images {
            replica.send("PUT", &uri(image), image.clone()).await.expect(201);
        }
        let delete = async |image: &str| {
            tap.calls();
            replica.send("DELETE", &uri(image), "").await.expect(202);
            tap.calls().sum()
        };
        let mut calls = Vec::new();
        for image in &images[..19] {
            calls.push(delete(image).await);
        }
        // Manifests written in between are read once, not for each deleted object.
        replica.send("PUT", "/v2/c/manifests/more", numbered(&config, 20)).await.expect(201);
        let behind_a_push = delete(&images[19]).await;
        println!("calls of deletions, one after the other: {calls:?}, and behind a push: {behind_a_push}");
        // The first one reads all manifests, the next ones know them.
        assert!(calls[18] <= calls[1] + 2 && behind_a_push <= calls[1] + 9, "{calls:?}, {behind_a_push}");
    }
}

/// An image that is like no other.
fn numbered(config: &[u8], number: usize) -> String {
    let mut image = image(descriptor(CONFIG, config), Vec::new());
    image["annotations"] = json!({ "number": number.to_string() });
    image.to_string()
}
