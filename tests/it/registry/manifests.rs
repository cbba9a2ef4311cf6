//! Manifests: pushed, served exactly as pushed, refused if they reference missing content, deleted.

use larder::access::Tags;
use larder::deadline::Deadline;
use larder::digest::{Algorithm, Digest};
use larder::error::Error;
use larder::names::RepoName;
use larder::oci::{DOCKER_LIST, DOCKER_MANIFEST, ManifestContent, OCI_INDEX, OCI_MANIFEST};
use serde_json::{Value, json};

use crate::world::{CONFIG, LAYER, World, descriptor, image, noise};

const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

fn index(media_type: &str, children: Vec<Value>) -> Value {
    json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": children })
}

#[tokio::test]
async fn a_manifest_is_found_by_tag_and_by_digest() {
    let world = World::new().await;
    let pushed = world.put_image("team/app", "v1", "seed").await;
    for reference in ["v1".to_string(), pushed.digest.to_string()] {
        let got = world.get(format!("/v2/team/app/manifests/{reference}")).await.expect(200);
        assert_eq!(got.body, pushed.manifest.to_string());
        assert_eq!(got.header("content-type"), OCI_MANIFEST);
        assert_eq!(got.header("docker-content-digest"), pushed.digest.to_string());
        let etag = got.header("etag");
        let uri = format!("/v2/team/app/manifests/{reference}");
        world.get(uri).header("if-none-match", etag).await.expect(304);
    }
    // Manifests, unlike blobs, belong to one repository.
    world.get(format!("/v2/other/manifests/{}", pushed.digest)).await.expect(404);
}

#[tokio::test]
async fn a_manifest_is_served_byte_for_byte() {
    let mut world = World::new().await;
    world.put_blob("a", "{}").await;
    let config = descriptor(CONFIG, b"{}");
    // White space, unknown fields, an order of its own, and no media type at the end.
    let text = format!("\n{{ \"layers\" :[],\t\"x\":{{\"é\":1.50}}, \"config\":{config} ,\"schemaVersion\": 2}}\r\n\n");
    let put = world.put("/v2/a/manifests/odd").header("content-type", "application/json; charset=utf-8");
    let put = put.body(text.clone()).await.expect(201);
    let digest = Digest::sha256(text.as_bytes());
    assert_eq!(put.header("docker-content-digest"), digest.to_string());
    assert_eq!(put.header("location"), format!("/v2/a/manifests/{digest}"));
    for _ in 0..2 {
        let got = world.get("/v2/a/manifests/odd").await.expect(200);
        assert_eq!((&got.body[..], got.header("content-type")), (text.as_bytes(), OCI_MANIFEST));
        world.restart().await;
    }
}

#[tokio::test]
async fn a_tag_moves_and_the_old_manifest_stays() {
    let world = World::new().await;
    let old = world.put_image("a", "latest", "old").await;
    let new = world.put_image("a", "latest", "new").await;
    let got = world.get("/v2/a/manifests/latest").await.expect(200);
    assert_eq!(got.header("docker-content-digest"), new.digest.to_string());
    world.get(format!("/v2/a/manifests/{}", old.digest)).await.expect(200);
}

#[tokio::test]
async fn a_push_by_digest_may_set_tags() {
    let world = World::new().await;
    world.put_blob("a", "{}").await;
    let text = image(descriptor(CONFIG, b"{}"), vec![]).to_string();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = Digest::of(algorithm, text.as_bytes());
        let tags = [format!("{}-a", algorithm.as_str()), format!("{}-b", algorithm.as_str())];
        let uri = format!("/v2/a/manifests/{digest}?tag={}&tag={}", tags[0], tags[1]);
        let put = world.put(uri).header("content-type", OCI_MANIFEST).body(text.clone()).await.expect(201);
        let said: Vec<_> = put.headers.get_all("oci-tag").iter().collect();
        assert_eq!(said, tags.iter().collect::<Vec<_>>());
        assert_eq!(put.header("docker-content-digest"), digest.to_string());
        for tag in &tags {
            let got = world.get(format!("/v2/a/manifests/{tag}")).await.expect(200);
            assert_eq!(got.header("docker-content-digest"), digest.to_string());
        }
    }
    let other = Digest::sha256(b"something else");
    let refused = world.put(format!("/v2/a/manifests/{other}?tag=c")).body(text).await.expect(400);
    assert_eq!(refused.code(), "DIGEST_INVALID");
    world.get("/v2/a/manifests/c").await.expect(404);
}

#[tokio::test]
async fn four_mebibytes_are_accepted_and_no_more() {
    let world = World::new().await;
    world.put_blob("a", "{}").await;
    let mut manifest = image(descriptor(CONFIG, b"{}"), vec![]);
    manifest["annotations"] = json!({ "filler": "" });
    let filler = (4 << 20) - manifest.to_string().len();
    manifest["annotations"]["filler"] = "x".repeat(filler).into();
    let text = manifest.to_string();
    assert_eq!(text.len(), 4 << 20);
    world.put("/v2/a/manifests/large").body(text.clone()).await.expect(201);
    assert!(world.get("/v2/a/manifests/large").await.expect(200).body == text);
    for refused in [
        world.put("/v2/a/manifests/larger").body(format!("{text} ")).await,
        world.put("/v2/a/manifests/larger").stream(format!("{text} ")).await,
    ] {
        assert_eq!(refused.expect(413).code(), "SIZE_INVALID");
    }
    world.get("/v2/a/manifests/larger").await.expect(404);
}

#[tokio::test]
async fn a_manifest_that_names_unknown_content_is_refused_with_its_digest() {
    let world = World::new().await;
    world.put_blob("a", "{}").await;
    let child = json!({ "mediaType": OCI_MANIFEST, "digest": Digest::sha256(b"child").to_string(), "size": 5 });
    for (manifest, missing) in [
        (image(descriptor(CONFIG, b"no config"), vec![]), "no config"),
        (image(descriptor(CONFIG, b"{}"), vec![descriptor(LAYER, b"{}"), descriptor(LAYER, b"no layer")]), "no layer"),
        (index(OCI_INDEX, vec![child.clone()]), "child"),
        (index(DOCKER_LIST, vec![child]), "child"),
        // Cache manifests of either form, too.
        (image(descriptor(CACHE_CONFIG, b"{}"), vec![descriptor(LAYER, b"no layer")]), "no layer"),
        (index(OCI_INDEX, vec![descriptor(LAYER, b"no layer"), descriptor(CACHE_CONFIG, b"{}")]), "no layer"),
    ] {
        let put = world.put("/v2/a/manifests/v1").header("content-type", manifest["mediaType"].as_str().unwrap());
        let refused = put.body(manifest.to_string()).await.expect(404);
        assert_eq!(refused.code(), "MANIFEST_BLOB_UNKNOWN");
        let digest = Digest::sha256(missing.as_bytes()).to_string();
        assert_eq!(refused.json()["errors"][0]["detail"]["digests"], json!([digest]));
        assert!(refused.json()["errors"][0]["message"].as_str().unwrap().contains(&digest));
    }
    world.get("/v2/a/manifests/v1").await.expect(404);
    world.get("/v2/a/tags/list").await.expect(404);
}

#[tokio::test]
async fn a_child_of_an_index_must_be_in_the_same_repository() {
    let world = World::new().await;
    let child = world.put_image("a", "v1", "seed").await;
    let manifest = index(OCI_INDEX, vec![descriptor(OCI_MANIFEST, child.manifest.to_string().as_bytes())]);
    let elsewhere = world.put("/v2/b/manifests/all").header("content-type", OCI_INDEX);
    assert_eq!(elsewhere.body(manifest.to_string()).await.expect(404).code(), "MANIFEST_BLOB_UNKNOWN");
    world.put_manifest("a", "all", &manifest).await;
    let nested = index(OCI_INDEX, vec![descriptor(OCI_INDEX, manifest.to_string().as_bytes())]);
    world.put_manifest("a", "nested", &nested).await;
    world.put_manifest("a", "empty", &index(OCI_INDEX, vec![])).await;
}

#[tokio::test]
async fn a_cache_may_be_an_index_of_layers() {
    let world = World::new().await;
    for blob in ["layer one", "layer two", "cache config"] {
        world.put_blob("a", blob).await;
    }
    let children = vec![
        descriptor(LAYER, b"layer one"),
        descriptor(LAYER, b"layer two"),
        descriptor(CACHE_CONFIG, b"cache config"),
    ];
    for media_type in [OCI_INDEX, DOCKER_LIST] {
        let manifest = index(media_type, children.clone());
        let digest = world.put_manifest("a", "cache", &manifest).await;
        let got = world.get(format!("/v2/a/manifests/{digest}")).await.expect(200);
        assert_eq!(got.header("content-type"), media_type);
        assert_eq!(got.body, manifest.to_string());
    }
    world.delete(format!("/v2/a/blobs/{}", Digest::sha256(b"layer two"))).await.expect(405);
}

#[tokio::test]
async fn docker_manifests_keep_their_type() {
    let world = World::new().await;
    let pushed = world.put_image("a", "oci", "seed").await;
    let mut manifest = pushed.manifest.clone();
    manifest["mediaType"] = DOCKER_MANIFEST.into();
    world.put_manifest("a", "docker", &manifest).await;
    let list = index(DOCKER_LIST, vec![descriptor(DOCKER_MANIFEST, manifest.to_string().as_bytes())]);
    world.put_manifest("a", "list", &list).await;
    for (tag, media_type) in [("docker", DOCKER_MANIFEST), ("list", DOCKER_LIST), ("oci", OCI_MANIFEST)] {
        // Whatever the client would rather have.
        let got = world.get(format!("/v2/a/manifests/{tag}")).header("accept", OCI_INDEX).await.expect(200);
        assert_eq!(got.header("content-type"), media_type);
    }
}

#[tokio::test]
async fn schema_1_is_refused_clearly() {
    let world = World::new().await;
    let manifest = json!({ "schemaVersion": 1, "name": "a", "tag": "v1", "fsLayers": [], "history": [] });
    let put = world.put("/v2/a/manifests/v1");
    let put = put.header("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws");
    let refused = put.body(manifest.to_string()).await.expect(400);
    assert_eq!(refused.code(), "MANIFEST_INVALID");
    assert!(refused.text().contains("schema 1"), "{}", refused.text());
}

#[tokio::test]
async fn layers_that_are_fetched_elsewhere_need_not_be_here() {
    let world = World::new().await;
    world.put_blob("a", "{}").await;
    let mut foreign = descriptor(LAYER, b"far away");
    foreign["urls"] = json!(["https://example.com/layer"]);
    let nondistributable = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"too");
    let manifest = image(descriptor(CONFIG, b"{}"), vec![foreign, nondistributable]);
    world.put_manifest("a", "v1", &manifest).await;
}

#[tokio::test]
async fn a_sparse_repository_takes_what_is_incomplete_but_no_incomplete_cache() {
    let world = World::with(|config| {
        config.repositories = toml::from_str::<larder::config::Config>("[[repositories]]\npattern='s/*'\nsparse=true")
            .unwrap()
            .repositories;
    })
    .await;
    let sparse = image(descriptor(CONFIG, b"elsewhere"), vec![descriptor(LAYER, b"elsewhere too")]);
    world.put_manifest("s/mirror", "v1", &sparse).await;
    world.put("/v2/other/manifests/v1").body(sparse.to_string()).await.expect(404);
    let cache = image(descriptor(CACHE_CONFIG, b"elsewhere"), vec![]);
    world.put("/v2/s/mirror/manifests/cache").body(cache.to_string()).await.expect(404);
}

#[tokio::test]
async fn a_deleted_manifest_takes_its_tags_with_it() {
    let world = World::new().await;
    let pushed = world.put_image("a", "v1", "seed").await;
    world.put_manifest("a", "v2", &pushed.manifest).await;
    let other = world.put_image("a", "other", "another").await;
    world.delete(format!("/v2/a/manifests/{}", pushed.digest)).await.expect(202);
    for reference in ["v1".to_string(), "v2".to_string(), pushed.digest.to_string()] {
        let gone = world.get(format!("/v2/a/manifests/{reference}")).await.expect(404);
        assert_eq!(gone.code(), "MANIFEST_UNKNOWN");
        world.delete(format!("/v2/a/manifests/{reference}")).await.expect(404);
    }
    assert_eq!(world.get("/v2/a/tags/list").await.expect(200).json()["tags"], json!(["other"]));
    world.get(format!("/v2/a/manifests/{}", other.digest)).await.expect(200);
}

#[tokio::test]
async fn a_child_cannot_be_deleted_before_its_index() {
    let world = World::new().await;
    let child = world.put_image("a", "amd64", "seed").await;
    let all = index(OCI_INDEX, vec![descriptor(OCI_MANIFEST, child.manifest.to_string().as_bytes())]);
    let parent = world.put_manifest("a", "v1", &all).await;
    let refused = world.delete(format!("/v2/a/manifests/{}", child.digest)).await.expect(405);
    assert_eq!(refused.code(), "UNSUPPORTED");
    assert!(refused.text().contains(&format!("a@{parent}")), "{}", refused.text());
    for reference in ["amd64".to_string(), "v1".to_string(), child.digest.to_string()] {
        world.get(format!("/v2/a/manifests/{reference}")).await.expect(200);
    }
    // An index of another repository references its own copy.
    world.put_manifest("b", "amd64", &child.manifest).await;
    world.delete(format!("/v2/b/manifests/{}", child.digest)).await.expect(202);
    world.delete(format!("/v2/a/manifests/{parent}")).await.expect(202);
    world.delete(format!("/v2/a/manifests/{}", child.digest)).await.expect(202);
    world.get("/v2/a/manifests/amd64").await.expect(404);
}

#[tokio::test]
async fn a_deleted_tag_leaves_its_manifest() {
    let world = World::new().await;
    let pushed = world.put_image("a", "v1", "seed").await;
    world.delete("/v2/a/manifests/v1").await.expect(202);
    world.get("/v2/a/manifests/v1").await.expect(404);
    world.get(format!("/v2/a/manifests/{}", pushed.digest)).await.expect(200);
    world.put_manifest("a", "v1", &pushed.manifest).await;
    world.get("/v2/a/manifests/v1").await.expect(200);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let mut world = World::new().await;
    let pushed = world.put_image("a", "v1", "seed").await;
    let large = noise(3_000_000, 1);
    let blob = world.put_blob("a", large.clone()).await;
    world.restart().await;
    assert_eq!(world.get("/v2/a/manifests/v1").await.expect(200).body, pushed.manifest.to_string());
    assert_eq!(world.get(format!("/v2/a/blobs/{}", pushed.layer)).await.expect(200).body, "layer of seed");
    assert!(world.get(format!("/v2/a/blobs/{blob}")).await.expect(200).body == large);
    assert_eq!(world.get("/v2/_catalog").await.expect(200).json(), json!({ "repositories": ["a"] }));
}

#[tokio::test]
async fn a_blob_deleted_beside_the_push_that_names_it_is_refused_or_the_push_is() {
    let world = World::new().await;
    world.put_blob("a", "{}").await;
    for round in 0..20 {
        let layer = format!("layer {round}");
        let digest = world.put_blob("a", layer.clone()).await;
        let manifest = image(descriptor(CONFIG, b"{}"), vec![descriptor(LAYER, layer.as_bytes())]);
        let push = world.put(format!("/v2/a/manifests/v{round}")).body(manifest.to_string());
        let delete = world.delete(format!("/v2/a/blobs/{digest}"));
        let (pushed, deleted) = futures::future::join(async { push.await.status }, async { delete.await.status }).await;
        let outcome = (pushed.as_u16(), deleted.as_u16());
        assert!(matches!(outcome, (201, 405) | (404, 202)), "{outcome:?}");
    }
}

#[tokio::test]
async fn what_is_deleted_after_it_was_looked_for_is_looked_for_again() {
    let world = World::new().await;
    for blob in ["{}", "kept", "deleted"] {
        world.put_blob("a", blob).await;
    }
    let (app, deadline) = (world.app(), Deadline::of_each_call());
    let (caller, repo) = (app.gate.anonymous(), "a".parse::<RepoName>().unwrap());
    let to = app.store.writer(app.gate.admit(&caller, repo.clone(), Tags::None).unwrap(), deadline).unwrap();
    let from = app.store.eraser(app.gate.admit(&caller, repo, Tags::None).unwrap(), deadline).unwrap();
    let pin = app.store.content().pin(deadline).await.unwrap();
    let manifest =
        |layer: &str| image(descriptor(CONFIG, b"{}"), vec![descriptor(LAYER, layer.as_bytes())]).to_string();
    let [kept, deleted] = ["kept", "deleted"].map(|layer| bytes::Bytes::from(manifest(layer)));
    let [of_kept, of_deleted] = [&kept, &deleted].map(|bytes| ManifestContent::parse(bytes, None).unwrap());
    let required = [to.require(&pin, &of_kept).await.unwrap(), to.require(&pin, &of_deleted).await.unwrap()];
    // Deletes like a request that gets the lock of references first.
    app.store.deletion().delete_blob(&from, &Digest::sha256(b"deleted")).await.unwrap();
    let _writing = app.store.refs().writing(deadline).await.unwrap();
    to.store_manifest(&pin, &required[0], &Digest::sha256(&kept), &of_kept, &kept).await.unwrap();
    let refused = to.store_manifest(&pin, &required[1], &Digest::sha256(&deleted), &of_deleted, &deleted).await;
    let is_it = |missing: &[Digest]| missing == [Digest::sha256(b"deleted")];
    assert!(matches!(&refused, Err(Error::ManifestBlobUnknown(missing)) if is_it(missing)), "{refused:?}");
    world.get(format!("/v2/a/manifests/{}", Digest::sha256(&kept))).await.expect(200);
    world.get(format!("/v2/a/manifests/{}", Digest::sha256(&deleted))).await.expect(404);
}
