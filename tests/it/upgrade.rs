//! Stores that other versions wrote. `tests/fixtures/stores` has one of each format, made by its first version.

use std::fs;
use std::path::Path;

use larder::config::Config;
use larder::digest::Digest;
use serde_json::Value;

use crate::world::{World, with_digest};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn first_format(config: &mut Config) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores/format-1"), &config.store.path);
}

/// Two caches were pushed to this tag, each with a layer of its own.
async fn serves_both_caches(world: &World) {
    let manifest = world.get("/v2/app/cache/manifests/main").await.expect(200).json();
    let layers: Vec<&Value> = manifest["layers"].as_array().unwrap().iter().collect();
    assert_eq!(layers.len(), 2, "{manifest}");
    for named in layers.into_iter().chain([&manifest["config"]]) {
        let digest = named["digest"].as_str().unwrap();
        let blob = world.get(format!("/v2/app/cache/blobs/{digest}")).await.expect(200);
        assert_eq!(Digest::sha256(&blob.body).to_string(), digest);
    }
}

#[tokio::test]
async fn a_store_of_the_first_format_is_served_and_pushed_to() {
    let world = World::with(first_format).await;
    serves_both_caches(&world).await;
    for tag in ["one", "two"] {
        let manifest = world.get(format!("/v2/app/manifests/{tag}")).await.expect(200).json();
        for layer in manifest["layers"].as_array().unwrap() {
            world.head(format!("/v2/app/blobs/{}", layer["digest"].as_str().unwrap())).await.expect(200);
        }
    }
    // An upload in flight is resumed.
    let location = "/v2/app/blobs/uploads/9f0c1c65602821d2631e3e66aacf3b62?staged=1";
    let digest = Digest::sha256(b"half of a blob");
    world.put(with_digest(location, &digest)).body("a blob").await.expect(201);
    assert_eq!(world.get(format!("/v2/app/blobs/{digest}")).await.expect(200).body, "half of a blob");
    world.put_image("app", "three", "seed").await;
    let tags = world.get("/v2/app/tags/list").await.expect(200).json();
    assert_eq!(tags["tags"], serde_json::json!(["one", "three", "two"]));
    assert_eq!(world.check().await, []);
}

#[tokio::test]
async fn a_store_of_a_newer_format_that_this_version_can_read_is_served() {
    let newer = r#"{"format":99,"oldest_reader":1,"created":"2030-01-01T00:00:00Z"}"#;
    let world = World::with(|config| {
        first_format(config);
        fs::write(config.store.path.join("meta/format"), newer).unwrap();
    })
    .await;
    serves_both_caches(&world).await;
    // The format stays that of the newer version.
    assert_eq!(fs::read_to_string(world.config().store.path.join("meta/format")).unwrap(), newer);
}
