//! Cache tags, as two builders that share one meet them.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use futures::future::join_all;
use larder::buildkit::{CONFIG_MEDIA_TYPE, CacheConfig};
use larder::digest::Digest;
use larder::objects::Objects;
use larder::oci::{DOCKER_LIST, OCI_INDEX, OCI_MANIFEST};
use serde_json::{Value, json};

use crate::world::{CONFIG, LAYER, World, descriptor, image};

pub const TAG: &str = "/v2/shop/cache/manifests/main";

/// The cache of one build: a base image, a step that all targets share, and the step of this one. `sources` is the
/// input from which the target was built.
pub struct Cache {
    config: String,
    layers: Vec<Value>,
    pub own: Digest,
}

impl Cache {
    pub async fn of(world: &World, target: &str, sources: &str) -> Cache {
        let mut layers = Vec::new();
        for content in ["the shared step".to_string(), format!("{target} from {sources}")] {
            world.put_blob("shop/cache", content.clone()).await;
            let mut layer = descriptor(LAYER, content.as_bytes());
            layer["annotations"] = json!({ "containerd.io/uncompressed": digest(&format!("diff of {content}")) });
            layers.push(layer);
        }
        let created = "2026-01-02T03:04:05Z";
        let config = json!({
            "layers": [{ "blob": layers[0]["digest"], "parent": -1 }, { "blob": layers[1]["digest"] }],
            "records": [
                { "digest": digest("FROM") },
                { "digest": digest("shared"), "inputs": [[{ "link": 0 }]], "layers": [{ "layer": 0, "createdAt": created }] },
                { "digest": digest(sources) },
                { "digest": digest(target), "inputs": [[{ "link": 1 }], [{ "link": 2 }]],
                  "layers": [{ "layer": 1, "createdAt": created }] },
            ],
        });
        let config = config.to_string();
        world.put_blob("shop/cache", config.clone()).await;
        let own = layers[1]["digest"].as_str().unwrap().parse().unwrap();
        Cache { config, layers, own }
    }

    fn config(&self) -> Value {
        descriptor(CONFIG_MEDIA_TYPE, self.config.as_bytes())
    }

    fn manifest(&self) -> Value {
        image(self.config(), self.layers.clone())
    }

    pub async fn push(&self, world: &World, tag: &str) -> Digest {
        world.put_manifest("shop/cache", tag, &self.manifest()).await
    }
}

fn digest(text: &str) -> String {
    Digest::sha256(text.as_bytes()).to_string()
}

/// Imports a cache: the digests of the steps that have a result, and the layers that the manifest references.
pub async fn import(world: &World, path: &str) -> (BTreeSet<String>, BTreeSet<Digest>) {
    let announced = world.head(path).await.expect(200).header("docker-content-digest").to_string();
    let manifest = world.get(format!("/v2/shop/cache/manifests/{announced}")).await.expect(200);
    assert_eq!(Digest::sha256(&manifest.body).to_string(), announced);
    let manifest = manifest.json();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let config = world.get(format!("/v2/shop/cache/blobs/{config}")).await.expect(200);
    let parsed = CacheConfig::parse(&config.body).unwrap();
    let steps =
        parsed.records.iter().filter(|record| !record.results.is_empty()).map(|record| record.digest.to_string());
    let named = manifest["layers"].as_array().unwrap().iter();
    (steps.collect(), named.map(|layer| layer["digest"].as_str().unwrap().parse().unwrap()).collect())
}

pub async fn steps(world: &World) -> BTreeSet<String> {
    import(world, TAG).await.0
}

pub fn the(targets: &[&str]) -> BTreeSet<String> {
    targets.iter().map(|target| digest(target)).collect()
}

async fn records(world: &World) -> usize {
    let listed = world.objects().list("t/default/repos/shop/cache/!/pushes/", None);
    listed.try_collect::<Vec<_>>().await.unwrap().len()
}

pub async fn announced(world: &World) -> String {
    world.head(TAG).await.expect(200).header("docker-content-digest").to_string()
}

#[tokio::test]
async fn a_cache_that_is_alone_is_served_as_it_was_pushed() {
    let world = World::new().await;
    let pushed = Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    assert_eq!(announced(&world).await, pushed.to_string());
}

#[tokio::test]
async fn what_two_builds_push_to_one_tag_is_all_there_also_after_a_restart() {
    let mut world = World::new().await;
    let api = Cache::of(&world, "api", "v1").await;
    let web = Cache::of(&world, "web", "v1").await;
    let pushed = api.push(&world, "main").await;
    // The answer to a push is the digest pushed, whatever the tag serves.
    let path = "/v2/shop/cache/manifests/main";
    let put = world.put(path).body(web.manifest().to_string()).await.expect(201);
    assert_eq!(put.header("docker-content-digest"), digest(&web.manifest().to_string()));
    assert_eq!(steps(&world).await, the(&["shared", "api", "web"]));
    let view = announced(&world).await;
    for digest in [pushed.to_string(), digest(&web.manifest().to_string()), view.clone()] {
        world.get(format!("/v2/shop/cache/manifests/{digest}")).await.expect(200);
    }
    world.restart().await;
    assert_eq!(announced(&world).await, view);
    assert_eq!(steps(&world).await, the(&["shared", "api", "web"]));
}

#[tokio::test]
async fn all_forms_of_a_cache_are_merged() {
    let world = World::new().await;
    let targets = ["api", "web", "job"];
    for (target, form) in targets.into_iter().zip([None, Some(OCI_INDEX), Some(DOCKER_LIST)]) {
        let cache = Cache::of(&world, target, "v1").await;
        let manifest = match form {
            None => cache.manifest(),
            Some(form) => {
                let entries: Vec<Value> = cache.layers.iter().cloned().chain([cache.config()]).collect();
                json!({ "schemaVersion": 2, "mediaType": form, "manifests": entries })
            }
        };
        world.put_manifest("shop/cache", "main", &manifest).await;
    }
    assert_eq!(steps(&world).await, the(&["shared", "api", "web", "job"]));
}

#[tokio::test]
async fn pushing_what_is_there_adds_nothing() {
    let world = World::new().await;
    let (api, web) = (Cache::of(&world, "api", "v1").await, Cache::of(&world, "web", "v1").await);
    api.push(&world, "main").await;
    web.push(&world, "main").await;
    let before = announced(&world).await;
    for _ in 0..5 {
        api.push(&world, "main").await;
        web.push(&world, "main").await;
    }
    assert_eq!((records(&world).await, announced(&world).await), (2, before));
}

#[tokio::test]
async fn a_builder_that_imported_its_cache_finds_its_own_digest_after_it_exported_again() {
    let world = World::new().await;
    let mut cache = Cache::of(&world, "api", "v1").await;
    cache.push(&world, "main").await;
    // BuildKit notes the registry from which it imported a layer; all else is unchanged.
    cache.layers[0]["annotations"]["containerd.io/distribution.source.127.0.0.1"] = "shop/cache".into();
    let again = cache.push(&world, "main").await;
    assert_eq!((announced(&world).await, records(&world).await), (again.to_string(), 1));
}

#[tokio::test]
async fn a_layer_that_is_lost_is_not_named_until_it_is_back() {
    let mut world = World::new().await;
    let (api, web) = (Cache::of(&world, "api", "v1").await, Cache::of(&world, "web", "v1").await);
    api.push(&world, "main").await;
    web.push(&world, "main").await;
    assert!(import(&world, TAG).await.1.contains(&api.own));
    std::fs::remove_file(world.blob_file(&api.own)).unwrap();
    let (steps_left, layers) = import(&world, TAG).await;
    assert_eq!(steps_left, the(&["shared", "web"]));
    assert!(!layers.contains(&api.own));
    Cache::of(&world, "api", "v1").await;
    assert_eq!(steps(&world).await, the(&["shared", "api", "web"]));
    world.damaged_on_purpose();
}

#[tokio::test]
async fn the_only_push_of_a_tag_loses_a_layer_and_keeps_the_rest() {
    let mut world = World::new().await;
    let api = Cache::of(&world, "api", "v1").await;
    api.push(&world, "main").await;
    assert_eq!(steps(&world).await, the(&["shared", "api"]));
    std::fs::remove_file(world.blob_file(&api.own)).unwrap();
    assert_eq!(steps(&world).await, the(&["shared"]));
    world.damaged_on_purpose();
}

/// A builder that finds no cache under a digest builds without it; a builder whose cache has a missing layer fails.
#[tokio::test]
async fn a_cache_pulled_by_digest_that_lacks_a_layer_is_not_there() {
    let mut world = World::new().await;
    let api = Cache::of(&world, "api", "v1").await;
    let (of_manifest, list) = (
        api.manifest(),
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [api.layers[0], api.layers[1], api.config()],
        }),
    );
    let mut digests = Vec::new();
    for (tag, manifest) in [("manifest", &of_manifest), ("index", &list)] {
        digests.push(world.put_manifest("shop/cache", tag, manifest).await);
    }
    // A cache that no tag has served, and an image with the same layers: a client that pulls the image finds out by
    // itself.
    world.put_blob("shop/cache", "{}").await;
    let image = world.put_manifest("shop/cache", "image", &image(descriptor(CONFIG, b"{}"), api.layers.clone())).await;
    let pull = async |digest: &Digest| {
        let uri = format!("/v2/shop/cache/manifests/{digest}");
        let (got, head) = (world.get(&*uri).await.status, world.head(&*uri).await.status);
        assert_eq!(got, head);
        got.as_u16()
    };
    assert_eq!([pull(&digests[0]).await, pull(&digests[1]).await], [200, 200]);
    std::fs::remove_file(world.blob_file(&api.own)).unwrap();
    assert_eq!([pull(&digests[0]).await, pull(&digests[1]).await, pull(&image).await], [404, 404, 200]);
    Cache::of(&world, "api", "v1").await;
    assert_eq!([pull(&digests[0]).await, pull(&digests[1]).await], [200, 200]);
    // A manifest that a tag has just announced is served: a builder that received its digest has no other way.
    let told = world.head("/v2/shop/cache/manifests/manifest").await.expect(200);
    let told: Digest = told.header("docker-content-digest").parse().unwrap();
    std::fs::remove_file(world.blob_file(&api.own)).unwrap();
    assert_eq!(pull(&told).await, 200);
    world.damaged_on_purpose();
}

#[tokio::test]
async fn fifty_builds_that_push_at_once_are_all_in_the_view() {
    let world = World::new().await;
    let names: Vec<String> = (0..50).map(|n| format!("target-{n}")).collect();
    join_all(names.iter().map(|name| async {
        Cache::of(&world, name, "v1").await.push(&world, "main").await;
    }))
    .await;
    let mut expected = the(&["shared"]);
    expected.extend(names.iter().map(|name| digest(name)));
    assert_eq!(steps(&world).await, expected);
}

#[tokio::test]
async fn a_busy_target_does_not_push_out_its_sibling() {
    let world = World::new().await;
    Cache::of(&world, "web", "v1").await.push(&world, "main").await;
    for n in 0..80 {
        Cache::of(&world, "api", &format!("v{n}")).await.push(&world, "main").await;
    }
    assert_eq!(records(&world).await, 64);
    let (_, layers) = import(&world, TAG).await;
    assert!(layers.contains(&Cache::of(&world, "web", "v1").await.own));
    assert!(layers.contains(&Cache::of(&world, "api", "v79").await.own));
    assert!(!layers.contains(&Cache::of(&world, "api", "v0").await.own));
}

#[tokio::test]
async fn without_views_the_last_push_wins() {
    let rule = r#"repositories = [{ pattern = "shop/**", views = false }]"#;
    let parsed: larder::config::Config = toml::from_str(rule).unwrap();
    let world = World::with(|config| config.repositories = parsed.repositories).await;
    Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    let web = Cache::of(&world, "web", "v1").await.push(&world, "main").await;
    assert_eq!((announced(&world).await, records(&world).await), (web.to_string(), 0));
}

#[tokio::test]
async fn a_deleted_tag_takes_its_pushes_along() {
    let world = World::new().await;
    Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    Cache::of(&world, "web", "v1").await.push(&world, "main").await;
    world.delete(TAG).await.expect(202);
    world.get(TAG).await.expect(404);
    Cache::of(&world, "job", "v1").await.push(&world, "main").await;
    assert_eq!(steps(&world).await, the(&["shared", "job"]));
}

#[tokio::test]
async fn a_deleted_push_leaves_the_others() {
    let world = World::new().await;
    let api = Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    let web = Cache::of(&world, "web", "v1").await.push(&world, "main").await;
    // The newest, to which the tag points.
    world.delete(format!("/v2/shop/cache/manifests/{web}")).await.expect(202);
    world.get(format!("/v2/shop/cache/manifests/{web}")).await.expect(404);
    assert_eq!(steps(&world).await, the(&["shared", "api"]));
    world.delete(format!("/v2/shop/cache/manifests/{api}")).await.expect(202);
    world.get(TAG).await.expect(404);
}

#[tokio::test]
async fn deleting_the_view_deletes_the_tag_and_what_was_pushed_to_it() {
    let world = World::new().await;
    Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    Cache::of(&world, "web", "v1").await.push(&world, "main").await;
    let view = announced(&world).await;
    world.delete(format!("/v2/shop/cache/manifests/{view}")).await.expect(202);
    world.get(TAG).await.expect(404);
    assert_eq!(records(&world).await, 0);
}

#[tokio::test]
async fn an_image_pushed_over_a_cache_ends_it() {
    let world = World::new().await;
    Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    let pushed = world.put_image("shop/cache", "main", "x").await.digest;
    assert_eq!(announced(&world).await, pushed.to_string());
    Cache::of(&world, "web", "v1").await.push(&world, "main").await;
    assert_eq!(steps(&world).await, the(&["shared", "web"]));
}

#[tokio::test]
async fn a_cache_that_builders_could_not_read_is_served_as_it_is_and_spoils_no_other() {
    let world = World::new().await;
    let api = Cache::of(&world, "api", "v1").await;
    let config = r#"{"records":[{"digest":"sha256:00","inputs":[[]]}]}"#;
    world.put_blob("shop/cache", config).await;
    let broken = image(descriptor(CONFIG_MEDIA_TYPE, config.as_bytes()), vec![]);
    let broken = world.put_manifest("shop/cache", "main", &broken).await;
    assert_eq!(announced(&world).await, broken.to_string());
    api.push(&world, "main").await;
    assert_eq!(steps(&world).await, the(&["shared", "api"]));
}

#[tokio::test]
async fn a_push_whose_records_were_damaged_is_asked_for_again_and_its_siblings_stay() {
    let mut world = World::new().await;
    let (api, web) = (Cache::of(&world, "api", "v1").await, Cache::of(&world, "web", "v1").await);
    api.push(&world, "main").await;
    web.push(&world, "main").await;
    let config = Digest::sha256(api.config.as_bytes());
    std::fs::write(world.blob_file(&config), "x".repeat(api.config.len())).unwrap();
    world.restart().await;
    // The builder exports again: it is told that its config is missing, and sends it.
    let manifest = api.manifest().to_string();
    world.put(TAG).body(manifest).await.expect(404);
    world.head(format!("/v2/shop/cache/blobs/{config}")).await.expect(404);
    assert_eq!(steps(&world).await, the(&["shared", "web"]));
    Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    assert_eq!(steps(&world).await, the(&["shared", "api", "web"]));
    assert_eq!(records(&world).await, 2);
}

#[tokio::test]
async fn when_the_newest_push_is_lost_the_one_before_is_served() {
    let mut world = World::new().await;
    let (api, web) = (Cache::of(&world, "api", "v1").await, Cache::of(&world, "web", "v1").await);
    let older = api.push(&world, "main").await;
    web.push(&world, "main").await;
    std::fs::remove_file(world.blob_file(&Digest::sha256(web.config.as_bytes()))).unwrap();
    world.restart().await;
    assert_eq!(announced(&world).await, older.to_string());
    world.damaged_on_purpose();
}

#[tokio::test]
async fn a_push_that_came_after_the_view_outlives_it() {
    let world = World::new().await;
    Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    Cache::of(&world, "web", "v1").await.push(&world, "main").await;
    let view = announced(&world).await;
    let later = Cache::of(&world, "job", "v1").await.push(&world, "main").await;
    world.delete(format!("/v2/shop/cache/manifests/{view}")).await.expect(202);
    assert_eq!(announced(&world).await, later.to_string());
}

#[tokio::test]
async fn a_tag_that_cannot_be_read_is_replaced_by_the_next_push_and_can_be_deleted() {
    let mut world = World::new().await;
    let tag = world.config().store.path.join("t/default/repos/shop/cache/!/tags/main");
    let web = Cache::of(&world, "web", "v1").await;
    web.push(&world, "main").await;
    std::fs::write(&tag, "not a pointer").unwrap();
    world.restart().await;
    world.get(TAG).await.expect(404);
    web.push(&world, "main").await;
    assert_eq!(steps(&world).await, the(&["shared", "web"]));
    std::fs::write(&tag, "not a pointer").unwrap();
    world.delete(TAG).await.expect(202);
    assert!(!tag.exists());
}

#[tokio::test]
async fn inspect_says_what_a_tag_is_made_of() {
    let mut world = World::new().await;
    let api = Cache::of(&world, "api", "v1").await;
    api.push(&world, "main").await;
    Cache::of(&world, "web", "v1").await.push(&world, "main").await;
    std::fs::remove_file(world.blob_file(&api.own)).unwrap();
    let answer = world.get("/api/inspect?ref=shop/cache:main").await.expect(200).json();
    assert_eq!(answer["is_view"], true);
    assert_eq!(answer["pushes"].as_array().unwrap().len(), 2);
    assert_eq!(answer["explanation"]["missing_layers"], json!([api.own.to_string()]));
    assert_eq!(answer["explanation"]["layers_out"], 2);
    world.get("/api/inspect?ref=shop/cache:none").await.expect(404);
    world.get("/api/inspect?ref=A:b").await.expect(400);
    world.damaged_on_purpose();
}

#[tokio::test]
async fn inspect_says_what_a_tag_is_that_is_no_cache() {
    let world = World::new().await;
    let repo = "shop/cache";
    for target in ["api", "web"] {
        Cache::of(&world, target, "v1").await.push(&world, target).await;
    }
    let image = world.put_image(repo, "image", "an image").await;
    let described = async |tag: &str| {
        let answer = world.get(format!("/v2/{repo}/manifests/{tag}")).await.expect(200);
        descriptor(answer.header("content-type"), &answer.body)
    };
    let index = |manifests: Vec<Value>| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    let (api, web) = (described("api").await, described("web").await);
    world.put_manifest(repo, "caches", &index(vec![api.clone(), web])).await;
    let of_image = descriptor(OCI_MANIFEST, image.manifest.to_string().as_bytes());
    world.put_manifest(repo, "images", &index(vec![of_image.clone()])).await;
    world.put_manifest(repo, "both", &index(vec![api, of_image])).await;
    let mut artifact = image.manifest.clone();
    artifact["config"]["mediaType"] = json!("application/vnd.example+json");
    world.put_manifest(repo, "artifact", &artifact).await;
    artifact["artifactType"] = json!("application/\u{1b}[31mred");
    world.put_manifest(repo, "strange", &artifact).await;
    for (tag, kind) in [
        ("api", json!("cache")),
        ("image", json!("image")),
        ("images", json!("image_index")),
        ("both", json!("image_index")),
        ("caches", json!("cache_index")),
        ("artifact", json!({ "artifact": "application/vnd.example+json" })),
        ("strange", json!({ "artifact": null })),
    ] {
        let answer = world.get(format!("/api/inspect?ref={repo}:{tag}")).await.expect(200).json();
        assert_eq!(answer["kind"], kind, "{tag}");
    }
    let page = world.get(format!("/repo/{repo}:caches")).await.expect(200);
    assert!(page.text().contains("builders import nothing from it"), "{}", page.text());
}

#[tokio::test]
async fn who_looks_at_a_tag_does_not_use_it() {
    let mut world = World::new().await;
    Cache::of(&world, "api", "v1").await.push(&world, "main").await;
    world.put_image("shop/cache", "image", "an image").await;
    // A push counts as a use for an hour.
    world.restart().await;
    let note = |tag: &str| world.config().store.path.join("t/default/repos/shop/cache/!/used").join(tag);
    for tag in ["main", "image"] {
        for page in ["/api/inspect?ref=shop/cache:", "/repo/shop/cache:", "/api/repo/shop/cache:"] {
            world.get(format!("{page}{tag}")).await.expect(200);
        }
        assert!(!note(tag).exists(), "{tag}");
        world.get(format!("/v2/shop/cache/manifests/{tag}")).await.expect(200);
        assert!(note(tag).exists(), "{tag}");
    }
}

#[tokio::test]
async fn a_pull_by_digest_is_a_use_of_the_tag_that_points_there() {
    let mut world = World::new().await;
    let image = world.put_image("shop/app", "v1", "an image").await;
    let note = |world: &World, tag: &str| world.config().store.path.join("t/default/repos/shop/app/!/used").join(tag);
    world.head(format!("/v2/shop/app/manifests/{}", image.digest)).await.expect(200);
    assert!(note(&world, "v1").exists());
    // A new server knows the tags of a manifest after its count; of several tags it notes the one that was used last.
    std::fs::remove_file(note(&world, "v1")).unwrap();
    world.put_manifest("shop/app", "v2", &image.manifest).await;
    world.restart().await;
    world.get(format!("/v2/shop/app/manifests/{}", image.digest)).await.expect(200);
    assert!(!note(&world, "v1").exists() && !note(&world, "v2").exists(), "nothing is counted yet");
    world.restart().await;
    world.app().store.scan_usage().await.unwrap();
    world.get(format!("/v2/shop/app/manifests/{}", image.digest)).await.expect(200);
    assert_eq!((note(&world, "v1").exists(), note(&world, "v2").exists()), (false, true));
}
