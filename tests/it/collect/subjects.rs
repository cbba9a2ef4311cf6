//! Tags that belong to a manifest, as signatures do: they stay and go with it, and no rule counts them.

use std::time::Duration;

use larder::config::Config;
use larder::digest::Digest;
use larder::lifetime::collect::Report;
use serde_json::json;

use crate::world::{CONFIG, LAYER, World, age, age_file, descriptor, image, noise};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn world(config: &str) -> World {
    let configured: Config = toml::from_str(config).unwrap();
    World::with(|config| (config.tenants, config.repositories) = (configured.tenants, configured.repositories)).await
}

const NEWEST: &str = r#"
    [[repositories]]
    pattern = "app"
    retain = [{ tags = "*", newest = 1 }]
"#;

fn signature_of(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// Pushes a manifest that belongs to `subject`; returns its tag and its digest.
async fn sign(world: &World, subject: &Digest) -> (String, Digest) {
    let tag = signature_of(subject);
    let digest = world.put_image("app", &tag, &format!("signature of {subject}")).await.digest;
    (tag, digest)
}

/// All of the store was written so many days ago.
fn aged(world: &World, days: u32) {
    age(&world.config().store.path.join("t"), days * DAY);
}

fn pushed(world: &World, tag: &str, days_ago: u32) {
    age_file(&world.config().store.path.join("t/default/repos/app/!/tags").join(tag), days_ago * DAY);
}

fn going(report: &Report) -> Vec<(&str, &str)> {
    let mut going: Vec<_> = report.decisions.iter().map(|gone| (&*gone.tag, gone.reason.rule())).collect();
    going.sort_unstable_by_key(|(tag, _)| *tag);
    going
        .into_iter()
        .map(|(tag, rule)| (tag, if rule == larder::events::Rule::Subject { "subject" } else { "rule" }))
        .collect()
}

/// Deletes condemned objects, if nothing keeps them.
async fn collect_due(world: &World) {
    age(&world.config().store.path.join("condemned"), 3 * DAY);
    world.app().collect(false).await.unwrap();
}

async fn has(world: &World, reference: &str) -> bool {
    let status = world.head(format!("/v2/app/manifests/{reference}")).await.status;
    assert!(status == 200 || status == 404, "{status}");
    status == 200
}

#[tokio::test]
async fn signatures_go_with_their_image_and_are_not_counted() {
    let world = world(NEWEST).await;
    let (old, new) = (world.put_image("app", "v1", "1").await.digest, world.put_image("app", "v2", "2").await.digest);
    let (of_old, signed) = sign(&world, &old).await;
    let (of_signature, _) = sign(&world, &signed).await;
    let (of_new, _) = sign(&world, &new).await;
    let referrers = format!("sha256-{}", old.hex());
    world.put_image("app", &referrers, "referrers").await;
    aged(&world, 10);
    pushed(&world, "v1", 20);
    // The newest tag of all, which would be the one that the rule keeps.
    pushed(&world, &of_old, 5);

    let dry = world.app().collect(true).await.unwrap();
    let mut expected =
        vec![("v1", "rule"), (&*of_old, "subject"), (&*of_signature, "subject"), (&*referrers, "subject")];
    expected.sort_unstable();
    assert_eq!(going(&dry), expected);
    assert!(has(&world, "v1").await && has(&world, &of_old).await, "a dry run changes nothing");
    aged(&world, 10);
    pushed(&world, "v1", 20);

    world.app().collect(false).await.unwrap();
    collect_due(&world).await;
    for tag in ["v1", &of_old, &of_signature, &referrers, &old.to_string()] {
        assert!(!has(&world, tag).await, "{tag} is there");
    }
    assert!(has(&world, "v2").await && has(&world, &of_new).await);
    // Their content is condemned, too.
    aged(&world, 10);
    world.app().collect(false).await.unwrap();
    collect_due(&world).await;
    assert!(!has(&world, &signed.to_string()).await);
    assert!(has(&world, &of_new).await);
}

#[tokio::test]
async fn a_signature_stays_when_its_image_is_used_again() {
    let world = world(NEWEST).await;
    let old = world.put_image("app", "v1", "1").await.digest;
    world.put_image("app", "v2", "2").await;
    let (signature, _) = sign(&world, &old).await;
    aged(&world, 10);
    pushed(&world, "v1", 20);
    world.app().collect(false).await.unwrap();
    age(&world.config().store.path.join("condemned"), 3 * DAY);
    // The image is referenced again, without a request for its signature.
    let image = world.get(format!("/v2/app/manifests/{old}")).await.expect(200);
    let bytes = image.body.clone();
    let put = world.put("/v2/app/manifests/v3").header("content-type", image.header("content-type"));
    put.body(bytes).await.expect(201);
    world.app().collect(false).await.unwrap();
    assert!(has(&world, "v3").await && has(&world, &signature).await);
}

#[tokio::test]
async fn a_tag_of_what_is_elsewhere_and_one_that_keeps_its_manifest_are_ordinary() {
    let mut world = world("").await;
    let kept = world.put_image("app", "v1", "1").await.digest;
    let own = format!("sha256-{}", kept.hex());
    world.put_image("app", &own, "1").await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", b"x")]
    });
    let mut index = manifest;
    let inner = world.put_image("app", "inner", "inner").await;
    index["manifests"][0]["digest"] = json!(inner.digest.to_string());
    index["manifests"][0]["size"] = json!(inner.manifest.to_string().len());
    let of_inner = format!("sha256-{}", inner.digest.hex());
    world.put_manifest("app", &of_inner, &index).await;
    // Its image is in another repository.
    let (elsewhere, _) = sign(&world, &Digest::sha256(b"elsewhere")).await;
    world.delete("/v2/app/manifests/v1").await.expect(202);
    world.delete("/v2/app/manifests/inner").await.expect(202);
    aged(&world, 10);
    assert_eq!(going(&world.app().collect(true).await.unwrap()), []);
    for tag in [&own, &of_inner, &elsewhere] {
        assert!(has(&world, tag).await);
    }
    // A rule is for them as for any other.
    let rules: Config = toml::from_str(&NEWEST.replace("newest = 1", "unused = '1h'")).unwrap();
    world.reconfigure(|config| config.repositories = rules.repositories).await;
    aged(&world, 10);
    std::fs::remove_dir_all(world.config().store.path.join("t/default/repos/app/!/used")).unwrap();
    let mut expected = [(&*own, "rule"), (&*of_inner, "rule"), (&*elsewhere, "rule")];
    expected.sort_unstable();
    assert_eq!(going(&world.app().collect(true).await.unwrap()), expected);
}

/// Two tags whose names have each other's manifests keep nothing alive.
#[tokio::test]
async fn signatures_of_each_other_go() {
    let world = world("").await;
    let [a, b] = ["a", "b"].map(|seed| (seed, Digest::sha256(seed.as_bytes())));
    let a = world.put_image("app", &signature_of(&a.1), a.0).await.digest;
    let b = world.put_image("app", &signature_of(&b.1), b.0).await.digest;
    let of_a = world.put_image("app", &signature_of(&a), "b").await.digest;
    let of_b = world.put_image("app", &signature_of(&b), "a").await.digest;
    assert_eq!((of_a, of_b), (b, a));
    for tag in ["a", "b"] {
        world.delete(format!("/v2/app/manifests/{}", signature_of(&Digest::sha256(tag.as_bytes())))).await.expect(202);
    }
    aged(&world, 10);
    assert_eq!(world.app().collect(true).await.unwrap().decisions.len(), 2);
}

#[tokio::test]
async fn room_is_made_by_images_with_their_signatures() {
    let limits = "[[tenants]]\nname = \"default\"\nquota = { max = \"1MB\", high = \"700kB\", low = \"500kB\" }\n";
    let world = world(limits).await;
    let mut images = Vec::new();
    for (seed, tag) in ["v1", "v2"].into_iter().enumerate() {
        let layer = noise(400_000, seed as u64);
        world.put_blob("app", layer.clone()).await;
        world.put_blob("app", "{}").await;
        let manifest = image(descriptor(CONFIG, b"{}"), vec![descriptor(LAYER, &layer)]);
        images.push(world.put_manifest("app", tag, &manifest).await);
    }
    let (of_old, _) = sign(&world, &images[0]).await;
    let (of_new, _) = sign(&world, &images[1]).await;
    aged(&world, 2);
    pushed(&world, "v1", 3);
    // Used longer ago than anything else.
    pushed(&world, &of_new, 9);
    let mut expected = [("v1", "rule"), (&*of_old, "subject")];
    expected.sort_unstable();
    assert_eq!(going(&world.app().collect(true).await.unwrap()), expected);
}

#[tokio::test]
async fn what_a_client_deletes_by_digest_takes_its_signatures_along() {
    let world = world("").await;
    let image = world.put_image("app", "v1", "1").await.digest;
    let (signature, _) = sign(&world, &image).await;
    world.delete(format!("/v2/app/manifests/{image}")).await.expect(202);
    assert!(!has(&world, "v1").await && !has(&world, &signature).await);
}

#[tokio::test]
async fn a_protected_signature_stays_whatever_happens() {
    let rules = NEWEST.replace("[{", "[{ tags = 'sha256-*', protected = true }, {");
    let world = world(&rules).await;
    let old = world.put_image("app", "v1", "1").await.digest;
    world.put_image("app", "v2", "2").await;
    let (signature, _) = sign(&world, &old).await;
    aged(&world, 10);
    pushed(&world, "v1", 20);
    assert_eq!(going(&world.app().collect(true).await.unwrap()), [("v1", "rule")]);
    assert!(has(&world, &signature).await);
}
