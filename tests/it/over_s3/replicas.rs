//! Several servers over one bucket.

use larder::digest::Digest;
use larder::layout;
use larder::names::Tenant;
use larder::objects::{Key, Objects};

use super::{Export, Replica, assert_sound, blob_uri, eventually};
use crate::tap::Tap;
use crate::world::{CONFIG, LAYER, descriptor, image, noise, with_digest};

const MIB: usize = 1 << 20;

/// A chunked upload is continued by a replica that knows only the bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_at_another_replica() {
    let tap = Tap::in_process().await;
    let replicas = [Replica::over(&tap).await, Replica::over(&tap).await, Replica::over(&tap).await];
    let bytes = noise(11 * MIB + 12_345, 7);
    let digest = Digest::sha256(&bytes);
    let begun = replicas[0].send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
    let mut location = begun.header("location").to_string();
    for (i, range) in [0..6 * MIB, 6 * MIB..11 * MIB].into_iter().enumerate() {
        let sent = replicas[i].send("PATCH", &location, bytes.slice(range)).await.expect(202);
        location = sent.header("location").to_string();
    }
    tap.calls();
    replicas[2].send("PUT", &with_digest(&location, &digest), bytes.slice(11 * MIB..)).await.expect(201);
    // The parts are joined inside the bucket.
    assert_eq!(tap.calls().of("copy part"), 3);
    assert!(replicas[0].get_blob(&bytes).await.expect(200).body == bytes);
    let staged = tap.objects().await;
    assert_eq!(crate::objects::list(&staged, "t/default/uploads/", None).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_pushed_at_one_replica_is_what_the_next_get_at_every_other_sees() {
    for tap in Tap::all().await {
        let replicas = [Replica::over(&tap).await, Replica::over(&tap).await, Replica::over(&tap).await];
        for i in 0..9 {
            let export = Export::of(&format!("RUN {i}"), vec![noise(1000, i)]);
            replicas[i as usize % 3].export(&export).await;
            for replica in &replicas {
                let layers = replica.import().await["layers"].as_array().unwrap().len();
                assert_eq!(layers as u64, i + 1);
            }
        }
        assert_sound(&tap).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_pushes_at_once_through_two_replicas_are_all_in_the_view() {
    for tap in Tap::all().await {
        let replicas = [Replica::over(&tap).await, Replica::over(&tap).await];
        let exports: Vec<Export> = (0..50).map(|i| Export::of(&format!("RUN {i}"), vec![noise(1000, i)])).collect();
        let pushes = exports.iter().enumerate().map(|(i, export)| replicas[i % 2].export(export));
        futures::future::join_all(pushes).await;
        for replica in &replicas {
            assert_eq!(replica.import().await["layers"].as_array().unwrap().len(), 50);
        }
        assert_sound(&tap).await;
    }
}

/// A pointer written before its record would tell a reader between the two that the view is complete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_between_two_halves_of_a_push_does_not_miss_it_for_ever() {
    let tap = Tap::in_process().await;
    let [one, two, reader] = [Replica::over(&tap).await, Replica::over(&tap).await, Replica::over(&tap).await];
    let export = |i| Export::of(&format!("RUN {i}"), vec![noise(1000, i)]);
    one.export(&export(1)).await;
    tap.hold_at("put", "/pushes/");
    let (two_more, (of_one, of_two)) = (tap.is_holding(2), (export(2), export(3)));
    let pushed = async { tokio::join!(one.export(&of_one), two.export(&of_two)) };
    let read = async {
        two_more.await;
        reader.import().await;
        tap.hold(None);
    };
    tokio::join!(pushed, read);
    assert_eq!(reader.import().await["layers"].as_array().unwrap().len(), 3);
}

/// A pointer whose answer was lost is written again, perhaps after another push's. With the same bytes, a reader of the
/// first writing would be told that nothing has changed, and serve the view from before the other push.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_pointer_is_written_twice_hides_no_push_in_between() {
    let tap = Tap::in_process().await;
    let far = tap.before().await;
    let [one, two, reader] = [Replica::over(&far).await, Replica::over(&tap).await, Replica::over(&tap).await];
    let export = |i| Export::of(&format!("RUN {i}"), vec![noise(1000, i)]);
    let layers = async || reader.import().await["layers"].as_array().unwrap().len();
    one.export(&export(1)).await;
    far.lose_at("put", "/tags/");
    let of_one = export(2);
    let between = async {
        far.is_holding(1).await;
        assert_eq!(layers().await, 2);
        two.export(&export(3)).await;
        far.hold(None);
    };
    tokio::join!(one.export(&of_one), between);
    assert_eq!(layers().await, 3);
}

/// Builders retry once: the work that the first request began must not be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_made_though_who_asked_for_it_has_gone() {
    let tap = Tap::in_process().await;
    let one = Replica::over(&tap).await;
    one.export(&Export::of("RUN a", vec![noise(1000, 1)])).await;
    one.export(&Export::of("RUN b", vec![noise(1000, 2)])).await;
    // The notes that the first server leaves for others.
    let (objects, hint) = (tap.objects().await, Key::new("t/default/repos/c/!/views/m"));
    eventually(async || objects.head(&hint).await.ok()).await;
    objects.delete(&[hint]).await.unwrap();
    let two = Replica::over(&tap).await;
    tap.hold(Some("list"));
    tokio::select! {
        answer = two.send("HEAD", "/v2/c/manifests/m", "") => panic!("no list was needed: {answer:?}"),
        () = tap.is_holding(1) => {}
    }
    tap.hold(None);
    eventually(async || (two.app.metrics.views_made.get() == 1).then_some(())).await;
    assert_eq!(two.import().await["layers"].as_array().unwrap().len(), 2);
    assert_eq!(two.app.metrics.views_made.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_was_written_again_elsewhere_is_opened_again() {
    for tap in Tap::all().await {
        let blob = noise(3 * MIB, 1);
        let (one, two) = (Replica::over(&tap).await, Replica::over(&tap).await);
        one.push_blob(&blob).await;
        two.send("HEAD", &blob_uri(&Digest::sha256(&blob)), "").await.expect(200);
        let begun = one.send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
        let location = with_digest(begun.header("location"), &Digest::sha256(&blob));
        one.send("PUT", &location, blob.clone()).await.expect(201);
        assert!(two.get_blob(&blob).await.expect(200).body == blob);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_finds_a_layer_gone_mends_the_view() {
    for tap in Tap::all().await {
        let lost = noise(3 * MIB, 1);
        let one = Replica::over(&tap).await;
        one.export(&Export::of("RUN a", vec![lost.clone()])).await;
        one.export(&Export::of("RUN b", vec![noise(1000, 2)])).await;
        let two = Replica::over(&tap).await;
        assert_eq!(two.import().await["layers"].as_array().unwrap().len(), 2);
        let key = layout::blob(&Tenant::default_tenant(), &Digest::sha256(&lost));
        tap.objects().await.delete(&[key]).await.unwrap();
        // Replica two keeps the answer of a moment ago, until a read proves it wrong.
        assert_eq!(two.import().await["layers"].as_array().unwrap().len(), 2);
        two.get_blob(&lost).await.expect(404);
        assert_eq!(two.import().await["layers"].as_array().unwrap().len(), 1);
        two.send("HEAD", &blob_uri(&Digest::sha256(&lost)), "").await.expect(404);
    }
}

/// One server tells a builder that a blob exists; another one deletes it; the builder pushes a reference to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_at_one_replica_is_kept_for_whoever_was_told_of_it_by_another() {
    for tap in Tap::all().await {
        let collects = |config: &mut larder::config::Config| config.collect.without_fence = true;
        let [one, two] = [Replica::with(&tap, collects).await, Replica::with(&tap, collects).await];
        let (config, layer) = (noise(100, 1), noise(3 * MIB, 2));
        let image = image(descriptor(CONFIG, &config), vec![descriptor(LAYER, &layer)]).to_string();
        let (manifest, layer_uri) = (Digest::sha256(image.as_bytes()), blob_uri(&Digest::sha256(&layer)));
        let by_digest = format!("/v2/c/manifests/{manifest}");
        for blob in [&config, &layer] {
            one.push_blob(blob).await;
        }
        one.send("PUT", "/v2/c/manifests/first", image.clone()).await.expect(201);
        let other = image.replace("{\"", "{ \"");
        one.send("PUT", "/v2/c/manifests/other", other.clone()).await.expect(201);
        two.send("HEAD", &layer_uri, "").await.expect(200);
        two.send("HEAD", &blob_uri(&Digest::sha256(&config)), "").await.expect(200);

        one.send("DELETE", &by_digest, "").await.expect(202);
        one.send("DELETE", &layer_uri, "").await.expect(405);
        // A later delete brings nothing back.
        one.send("DELETE", &format!("/v2/c/manifests/{}", Digest::sha256(other.as_bytes())), "").await.expect(202);
        one.send("DELETE", &layer_uri, "").await.expect(202);
        for uri in [layer_uri.as_str(), &by_digest, "/v2/c/manifests/first"] {
            one.get(uri).await.expect(404);
            one.send("DELETE", uri, "").await.expect(404);
        }

        two.send("PUT", "/v2/c/manifests/second", image.clone()).await.expect(201);
        // A builder that was served the tag by the other one.
        assert!(one.get_blob(&layer).await.expect(200).body == layer);
        one.get(&by_digest).await.expect(200);
        for replica in [&one, &two] {
            assert_eq!(replica.get("/v2/c/manifests/second").await.expect(200).body, image);
            assert!(replica.get_blob(&layer).await.expect(200).body == layer);
            replica.get(&by_digest).await.expect(200);
        }
        assert_sound(&tap).await;
    }
}
