//! Bytes that have changed in the store are never served as the pushed ones.

use std::os::unix::fs::FileExt;

use larder::check::Problem;
use larder::digest::Digest;
use larder::oci::OCI_MANIFEST;

use crate::call::Answer;
use crate::world::{LAYER, World, descriptor, image, noise};

/// Changes one byte of a stored blob, as a failing disk does: unseen by the server.
fn flip(world: &mut World, digest: &Digest, at: u64) {
    world.damaged_on_purpose();
    let file = std::fs::File::options().read(true).write(true).open(world.blob_file(digest)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[tokio::test]
async fn a_large_blob_that_rotted_is_cut_then_missing_then_healed() {
    let bytes = noise(20_000_000, 1);
    for at in [0, 10_000_000, 19_999_999] {
        let mut world = World::new().await;
        let digest = world.put_blob("a", bytes.clone()).await;
        flip(&mut world, &digest, at);
        let server = world.serve().await;
        let (uri, client) = (format!("/v2/a/blobs/{digest}"), reqwest::Client::new());
        let got = client.get(server.url(&uri)).send().await.unwrap();
        assert_eq!(got.status(), 200);
        assert!(Answer::over_tcp(got).await.is_err(), "wrong bytes came as if they were right");
        world.head(&uri).await.expect(404);
        world.get(&uri).await.expect(404);
        world.get(&uri).header("range", "bytes=0-9").await.expect(404);
        world.post(format!("/v2/a/blobs/uploads/?mount={digest}")).await.expect(202);
        let manifest = image(descriptor(LAYER, &bytes), vec![]);
        let put = world.put("/v2/a/manifests/v1").header("content-type", OCI_MANIFEST);
        assert_eq!(put.body(manifest.to_string()).await.expect(404).code(), "MANIFEST_BLOB_UNKNOWN");
        assert!(world.app().metrics.render().contains("larder_corrupt_objects_total 1"));
        // The client was told that the blob is missing, so it sends it, and the blob is right again.
        world.put_blob("a", bytes.clone()).await;
        world.head(&uri).await.expect(200);
        let got = client.get(server.url(&uri)).send().await.unwrap();
        assert!(Answer::over_tcp(got).await.unwrap().body == bytes);
        assert_eq!(world.check().await, []);
        server.stopped().await;
    }
}

#[tokio::test]
async fn a_small_blob_that_rotted_is_missing_until_it_is_sent_again() {
    let mut world = World::new().await;
    let digest = world.put_blob("a", "layer").await;
    flip(&mut world, &digest, 2);
    // A server that has not seen the upload.
    world.restart().await;
    let uri = format!("/v2/a/blobs/{digest}");
    for _ in 0..2 {
        assert_eq!(world.get(&uri).await.expect(404).code(), "BLOB_UNKNOWN");
        world.head(&uri).await.expect(404);
    }
    world.put_blob("a", "layer").await;
    assert_eq!(world.get(&uri).await.expect(200).body, "layer");
    assert_eq!(world.check().await, []);
}

#[tokio::test]
async fn a_manifest_that_rotted_is_missing_and_can_be_deleted() {
    let mut world = World::new().await;
    let pushed = world.put_image("a", "v1", "seed").await;
    world.damaged_on_purpose();
    let path = format!("t/default/repos/a/!/manifests/sha256/{}", pushed.digest.hex());
    std::fs::write(world.config().store.path.join(path), "{}").unwrap();
    world.restart().await;
    world.get("/v2/a/manifests/v1").await.expect(404);
    world.get(format!("/v2/a/manifests/{}", pushed.digest)).await.expect(404);
    assert_eq!(world.check().await.len(), 1);
    world.delete(format!("/v2/a/manifests/{}", pushed.digest)).await.expect(202);
    world.get("/v2/a/tags/list").await.expect(404);
    assert_eq!(world.check().await, []);
}

#[tokio::test]
async fn a_check_finds_what_was_damaged_and_nothing_else() {
    let mut world = World::new().await;
    let one = world.put_image("a", "v1", "one").await;
    let two = world.put_image("a", "v2", "two").await;
    let about = image(descriptor(LAYER, b"layer of two"), vec![]);
    let mut about = about.clone();
    about["subject"] = descriptor(OCI_MANIFEST, two.manifest.to_string().as_bytes());
    let about = world.put_manifest("a", "about", &about).await;
    let session = world.begin("a").await;
    world.patch(session).body("chunk").await.expect(202);
    assert_eq!(world.check().await, []);

    world.damaged_on_purpose();
    let store = world.config().store.path.clone();
    std::fs::write(store.join("t/default/stranger"), "x").unwrap();
    std::fs::remove_file(world.blob_file(&one.layer)).unwrap();
    let manifests = store.join("t/default/repos/a/!/manifests/sha256");
    std::fs::remove_file(manifests.join(about.hex())).unwrap();
    std::fs::write(world.blob_file(&two.layer), "layer of you").unwrap();
    std::fs::write(store.join("t/default/repos/a/!/tags/v2"), "not a pointer").unwrap();
    let session = std::fs::read_dir(store.join("t/default/uploads")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_dir_all(session.join("parts")).unwrap();

    let findings = world.check().await;
    let mut shown: Vec<(String, &str)> = findings
        .iter()
        .map(|finding| {
            let name = finding.key.to_string();
            let kind = match &finding.problem {
                Problem::UnknownKey => "unknown",
                Problem::WrongBytes => "wrong",
                Problem::Unreadable(_) => "unreadable",
                Problem::Missing(_) => "missing",
                other => other.name(),
            };
            (name.rsplit('/').next().unwrap().to_string(), kind)
        })
        .collect();
    shown.sort();
    let mut expected = vec![
        ("stranger".to_string(), "unknown"),
        (one.digest.hex(), "missing"),
        ("about".to_string(), "missing"),
        (format!("sha256-{}", about.hex()), "missing"),
        (two.layer.hex(), "wrong"),
        ("v2".to_string(), "unreadable"),
        ("state".to_string(), "missing"),
    ];
    expected.sort();
    assert_eq!(shown, expected, "{findings:#?}");
}

#[tokio::test]
async fn a_store_that_is_not_sound_fails_the_test_that_used_it() {
    let outcome = tokio::spawn(async {
        let world = World::new().await;
        std::fs::write(world.config().store.path.join("stranger"), "x").unwrap();
    });
    let panic = outcome.await.unwrap_err().into_panic();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("stranger is not a key of this store"), "{message}");
}
