//! Eviction: how many bytes are evicted, and in which order.

use std::sync::Arc;
use std::time::Duration;

use larder::app::App;
use larder::buildkit::CONFIG_MEDIA_TYPE;
use larder::config::Config;
use larder::digest::Digest;
use larder::lifetime::collect::{Report, Wish};
use serde_json::{Value, json};

use crate::world::{CONFIG, LAYER, World, age, age_file, descriptor, image, noise};

const HOUR: Duration = Duration::from_secs(3600);
const KB: usize = 1000;

/// A tenant that is brought from 800 kB to 600 kB. Repositories have no rules but these.
async fn world(rules: &str) -> World {
    let limits = "[[tenants]]\nname = \"default\"\nquota = { max = \"1MB\", high = \"800kB\", low = \"600kB\" }\n";
    let configured: Config = toml::from_str(&format!("{limits}{rules}")).unwrap();
    World::with(|config| {
        config.tenants = configured.tenants;
        config.repositories = configured.repositories;
    })
    .await
}

/// All of it was written so long ago.
fn aged(world: &World, by: Duration) {
    age(&world.config().store.path.join("t"), by);
}

fn aged_item(world: &World, item: &str, by: Duration) {
    age_file(&world.config().store.path.join("t/default/repos").join(item), by);
}

/// A cache tag was pulled, or found unchanged by an export, so long ago.
fn used(world: &World, tag: &str, ago: Duration) {
    let folder = world.config().store.path.join("t/default/repos/shop/cache/!/used");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(tag), "{}").unwrap();
    age_file(&folder.join(tag), ago);
}

async fn collect(app: &App, dry: bool) -> Arc<Report> {
    app.collect(dry).await.unwrap()
}

/// The planned evictions: layers, and tags as `repo:tag`.
async fn going(world: &World) -> Vec<String> {
    let report = collect(world.app(), true).await;
    let name = |layer: Option<String>, tag: String| layer.unwrap_or(tag);
    let mut going: Vec<String> = report
        .decisions
        .iter()
        .map(|gone| name(gone.layer.as_ref().map(ToString::to_string), format!("{}:{}", gone.repo, gone.tag)))
        .collect();
    going.sort();
    going
}

fn hexes(digests: &[Digest]) -> Vec<String> {
    let mut hexes: Vec<String> = digests.iter().map(Digest::hex).collect();
    hexes.sort();
    hexes
}

/// Pushes a cache with a chain of layers, as BuildKit writes it: layers in the order of their digests. From the bottom.
async fn put_chain(world: &World, tag: &str, length: usize, bytes: usize, seed: u64) -> Vec<Digest> {
    let layers: Vec<_> = (0..length).map(|at| noise(bytes, seed * 1000 + at as u64)).collect();
    let mut chain = Vec::new();
    for layer in &layers {
        chain.push(world.put_blob("shop/cache", layer.clone()).await);
    }
    let mut sorted: Vec<usize> = (0..length).collect();
    sorted.sort_by_key(|at| chain[*at].to_string());
    let place = |at: usize| sorted.iter().position(|other| *other == at).unwrap();
    let written = |at: &usize| match at.checked_sub(1) {
        None => json!({ "blob": chain[*at].to_string(), "parent": -1 }),
        Some(below) => json!({ "blob": chain[*at].to_string(), "parent": place(below) }),
    };
    let mut records = vec![json!({ "digest": Digest::sha256(format!("{seed}").as_bytes()).to_string() })];
    records.extend((0..length).map(|at| {
        let result = json!({ "layer": place(at), "createdAt": "2026-01-02T03:04:05Z" });
        let digest = Digest::sha256(format!("{seed} {at}").as_bytes()).to_string();
        json!({ "digest": digest, "inputs": [[{ "link": at }]], "layers": [result] })
    }));
    let config = json!({ "layers": sorted.iter().map(written).collect::<Vec<_>>(), "records": records }).to_string();
    world.put_blob("shop/cache", config.clone()).await;
    let named = |at: &usize| {
        let mut layer = descriptor(LAYER, &layers[*at]);
        let diff = Digest::sha256(format!("diff of {seed} {at}").as_bytes()).to_string();
        layer["annotations"] = json!({ "containerd.io/uncompressed": diff });
        layer
    };
    let manifest = image(descriptor(CONFIG_MEDIA_TYPE, config.as_bytes()), sorted.iter().map(named).collect());
    world.put_manifest("shop/cache", tag, &manifest).await;
    chain
}

async fn put_app(world: &World, tag: &str, bytes: usize, seed: u64) -> Value {
    let layer = noise(bytes, seed);
    world.put_blob("app", layer.clone()).await;
    world.put_blob("app", "{}").await;
    let manifest = image(descriptor(CONFIG, b"{}"), vec![descriptor(LAYER, &layer)]);
    world.put_manifest("app", tag, &manifest).await;
    manifest
}

#[tokio::test]
async fn what_a_manifest_says_of_a_size_lets_nothing_go() {
    let mut world = world("").await;
    world.damaged_on_purpose();
    put_chain(&world, "main", 3, 50 * KB, 1).await;
    let mut lie = put_app(&world, "honest", 50 * KB, 2).await;
    lie["layers"][0]["size"] = json!(1_u64 << 62);
    world.put_manifest("app", "lie", &lie).await;
    aged(&world, 3 * HOUR);
    assert_eq!(going(&world).await, Vec::<String>::new());
    // A blob does not count for less than its size either.
    lie["layers"][0]["size"] = json!(1);
    lie["layers"][0]["digest"] = json!(world.put_blob("app", noise(700 * KB, 3)).await.to_string());
    world.put_manifest("app", "lie", &lie).await;
    aged(&world, 3 * HOUR);
    assert!(!going(&world).await.is_empty());
}

#[tokio::test]
async fn what_has_gone_is_not_made_room_for_again() {
    let world = world("").await;
    put_chain(&world, "main", 9, 100 * KB, 1).await;
    aged(&world, 3 * HOUR);
    let first = collect(world.app(), false).await;
    assert_eq!(first.decisions.iter().map(|gone| gone.bytes).collect::<Vec<_>>(), [100_000; 4]);
    // Condemned layers do not count; nor do deleted ones, though manifests still reference them.
    assert_eq!(collect(world.app(), false).await.condemned.objects, 0);
    aged(&world, 5 * 24 * HOUR);
    age(&world.config().store.path.join("condemned"), 3 * 24 * HOUR);
    assert_eq!(collect(world.app(), false).await.deleted.bytes, 400_000);
    let last = collect(world.app(), false).await;
    assert_eq!((last.condemned.objects, last.decisions.len()), (0, 0), "{:?}", last.decisions);
}

#[tokio::test]
async fn what_no_tag_names_yet_counts_and_what_goes_by_itself_does_not() {
    let world = world("").await;
    put_chain(&world, "main", 4, 100 * KB, 1).await;
    world.put_blob("app", noise(460 * KB, 2)).await;
    // As old as garbage has to be: it is condemned as such, which frees enough.
    aged(&world, 30 * HOUR);
    assert_eq!(going(&world).await, Vec::<String>::new());
    // A recent one counts: uploads would be refused for it.
    let orphan = world.blob_file(&Digest::sha256(&noise(460 * KB, 2)));
    age_file(&orphan, HOUR / 4);
    assert_eq!(going(&world).await.len(), 3);
    // So do the parts of unfinished uploads.
    std::fs::remove_file(orphan).unwrap();
    assert_eq!(going(&world).await, Vec::<String>::new());
    let session = world.begin("app").await;
    world.patch(session).body(noise(460 * KB, 4)).await.expect(202);
    assert_eq!(going(&world).await.len(), 3);
}

#[tokio::test]
async fn of_a_chain_the_upper_half_goes() {
    let mut world = world("").await;
    let chain = put_chain(&world, "main", 40, 20_100, 1).await;
    aged(&world, 3 * HOUR);
    world.reconfigure(|config| config.tenants[0].quota.low = Some(450_000)).await;
    assert_eq!(going(&world).await, hexes(&chain[20..]));
}

/// Its builder has just been told that all of it exists.
#[tokio::test]
async fn what_is_pushed_again_after_it_was_chosen_is_served() {
    async fn layers(world: &World) -> usize {
        let served = world.get("/v2/shop/cache/manifests/main").await.expect(200).json();
        served["layers"].as_array().unwrap().len()
    }
    let mut world = world("").await;
    world.reconfigure(|config| config.tenants[0].quota.max = None).await;
    put_chain(&world, "main", 10, 90 * KB, 1).await;
    aged(&world, 4 * HOUR);
    let chosen = collect(world.app(), false).await.decisions.len();
    assert!(chosen > 0);
    assert_eq!(layers(&world).await, 10 - chosen);
    put_chain(&world, "main", 10, 90 * KB, 1).await;
    assert_eq!(layers(&world).await, 10);
    // A server that reads the stored view of this one serves the same.
    world.restart().await;
    assert_eq!(layers(&world).await, 10);
}

#[tokio::test]
async fn what_is_served_stays_before_what_was_pushed_later() {
    let world = world("").await;
    let served = put_chain(&world, "served", 4, 100 * KB, 1).await;
    aged(&world, 48 * HOUR);
    let pushed = put_chain(&world, "pushed", 5, 100 * KB, 2).await;
    aged_item(&world, "shop/cache/!/tags/pushed", 24 * HOUR);
    age(&world.config().store.path.join("t/default/repos/shop/cache/!/pushes/pushed"), 24 * HOUR);
    used(&world, "served", 2 * HOUR);
    assert_eq!(going(&world).await, hexes(&pushed[1..]));
    // Without a use, the order of the pushes decides.
    used(&world, "served", 30 * HOUR);
    assert_eq!(going(&world).await, hexes(&served));
}

#[tokio::test]
async fn all_that_a_view_has_is_used_when_it_is_served() {
    let world = world("").await;
    let first = put_chain(&world, "main", 2, 100 * KB, 1).await;
    aged(&world, 72 * HOUR);
    let second = put_chain(&world, "main", 2, 100 * KB, 2).await;
    world.head("/v2/shop/cache/manifests/main").await.expect(200);
    aged(&world, 48 * HOUR);
    let other = put_chain(&world, "other", 5, 100 * KB, 3).await;
    for item in ["pushes", "tags", "manifests"] {
        age(&world.config().store.path.join("t/default/repos/shop/cache/!").join(item), 24 * HOUR);
    }
    used(&world, "main", 2 * HOUR);
    // Both pushes are in the view of main.
    assert_eq!(going(&world).await, hexes(&other[1..]));
    used(&world, "main", 30 * HOUR);
    assert_eq!(going(&world).await.len(), 4);
    assert_eq!((first.len(), second.len()), (2, 2));
}

const RULES: &str = r#"
    [[repositories]]
    pattern = "app"
    retain = [{ tags = "main", protected = true }, { tags = "*", pushed = "240h" }]
"#;

#[tokio::test]
async fn what_was_pushed_too_long_ago_goes_and_a_protected_tag_stays_whatever_happens() {
    let mut world = world(RULES).await;
    for (seed, tag) in ["main", "old", "newer"].into_iter().enumerate() {
        put_app(&world, tag, 50 * KB, seed as u64).await;
    }
    aged(&world, 20 * 24 * HOUR);
    aged_item(&world, "app/!/tags/newer", 2 * 24 * HOUR);
    // To be pulled does not make it newer.
    world.head("/v2/app/manifests/old").await.expect(200);
    assert_eq!(going(&world).await, ["app:old"]);
    world.reconfigure(|config| (config.tenants[0].quota.high, config.tenants[0].quota.low) = (Some(2), Some(1))).await;
    assert_eq!(going(&world).await, ["app:newer", "app:old"]);
}

#[tokio::test]
async fn where_the_disk_is_short_of_its_reserve_all_goes_that_may() {
    let mut world = world(RULES).await;
    put_app(&world, "main", 50 * KB, 1).await;
    put_app(&world, "other", 50 * KB, 2).await;
    let chain = put_chain(&world, "main", 3, 50 * KB, 3).await;
    aged(&world, 24 * HOUR);
    put_app(&world, "young", 50 * KB, 4).await;
    world
        .reconfigure(|config| {
            config.tenants.clear();
            config.store.reserve = Some(bytesize::ByteSize::pib(1));
        })
        .await;
    let mut expected = hexes(&chain);
    expected.extend(["app:other".to_string(), "shop/cache:main".to_string()]);
    expected.sort();
    assert_eq!(going(&world).await, expected);
    // Before the first count the parts of the tenants are unknown.
    world.restart().await;
    let report = world.app().collector.run(Wish { dry: true }).await.unwrap();
    assert_eq!(report.decisions, []);
}

/// The state after another server that stopped before it deleted the tag: a rule has condemned the tag, and eviction a
/// layer that a cache has, too.
#[tokio::test]
async fn what_an_image_names_stays_while_its_tag_is_claimed_and_not_deleted() {
    let mut world = world(RULES).await;
    world.reconfigure(|config| config.tenants[0].quota.max = None).await;
    put_chain(&world, "main", 1, 300 * KB, 1).await;
    let image = put_app(&world, "old", 300 * KB, 1000).await;
    let shared = image["layers"][0]["digest"].as_str().unwrap();
    aged(&world, 20 * 24 * HOUR);
    put_app(&world, "main", 550 * KB, 2).await;
    collect(world.app(), false).await;
    let condemned = world.config().store.path.join("condemned");
    let with = |key: &str| -> Vec<std::path::PathBuf> {
        let batches = std::fs::read_dir(&condemned).unwrap().map(|batch| batch.unwrap().path());
        batches
            .filter(|batch| std::fs::read_to_string(batch.join("list")).is_ok_and(|list| list.contains(key)))
            .collect()
    };
    let (tag, hex) = (with("/!/tags/old"), shared.trim_start_matches("sha256:"));
    assert_eq!((tag.len(), with(hex).len()), (1, 1));
    age(&condemned, 3 * 24 * HOUR);
    std::fs::write(tag[0].join("claim"), "another").unwrap();
    collect(world.app(), false).await;
    assert!(with(hex).is_empty(), "it was not judged");
    world.get(format!("/v2/app/blobs/{shared}")).await.expect(200);
}

#[tokio::test]
async fn what_wrong_bytes_name_is_not_remembered() {
    let mut world = world("").await;
    world.damaged_on_purpose();
    let layer = world.put_image("app", "main", "seed").await.layer;
    aged(&world, 72 * HOUR);
    let manifests = world.config().store.path.join("t/default/repos/app/!/manifests/sha256");
    let file = std::fs::read_dir(manifests).unwrap().next().unwrap().unwrap().path();
    let right = std::fs::read_to_string(&file).unwrap();
    let elsewhere = Digest::sha256(b"elsewhere").to_string();
    std::fs::write(&file, right.replace(&layer.to_string(), &elsewhere)).unwrap();
    assert_eq!(collect(world.app(), true).await.condemned.objects, 1);
    std::fs::write(&file, right).unwrap();
    assert_eq!(collect(world.app(), true).await.condemned.objects, 0);
}

#[tokio::test]
async fn a_full_store_says_why_nothing_goes_and_when_something_will() {
    let world = world(RULES).await;
    for (seed, tag) in ["main", "new", "newer"].into_iter().enumerate() {
        put_app(&world, tag, 300 * KB, seed as u64).await;
    }
    let refusal = async || {
        let large = noise(200 * KB, 9);
        let uri = crate::world::with_digest("/v2/app/blobs/uploads/", &Digest::sha256(&large));
        world.post(uri).body(large).await.expect(403).json()["errors"][0].clone()
    };
    // No collection has run yet.
    assert!(refusal().await["detail"]["next_eviction"].is_null());
    let report = collect(world.app(), false).await;
    assert_eq!(report.decisions, []);
    let shortfall = report.tenants["default"].shortfall.clone().unwrap();
    assert_eq!((shortfall.in_use, shortfall.protected), (2, 1), "{shortfall:?}");
    assert!((300_000..400_000).contains(&shortfall.bytes), "{shortfall:?}");
    let (next, began) = (shortfall.next.unwrap(), report.began.unwrap());
    assert!(next > began && next <= began + jiff::SignedDuration::from_hours(1), "{shortfall:?}");
    let refused = refusal().await;
    assert_eq!(refused["detail"]["next_eviction"], json!(next));
    assert!(refused["message"].as_str().unwrap().contains("nothing is evicted before 2"), "{refused}");
    // The evictable content is evicted, and the shortfall ends.
    aged(&world, 3 * HOUR);
    let report = collect(world.app(), false).await;
    assert_eq!(report.decisions.len(), 2);
    assert_eq!(report.tenants["default"].shortfall, None);
}

#[tokio::test]
async fn a_tag_that_goes_is_reported_with_the_bytes_that_only_it_holds() {
    let world = world("[[repositories]]\npattern = \"app\"\nretain = [{ tags = \"*\", newest = 1 }]\n").await;
    put_app(&world, "alone", 50 * KB, 1).await;
    put_app(&world, "shared", 70 * KB, 2).await;
    aged(&world, 20 * 24 * HOUR);
    put_app(&world, "last", 70 * KB, 2).await;
    for dry in [true, false] {
        let report = collect(world.app(), dry).await;
        let gone: Vec<_> = report.decisions.iter().map(|gone| (&*gone.tag, gone.bytes)).collect();
        let [("alone", alone), ("shared", shared)] = gone[..] else { panic!("{gone:?}") };
        assert!((50_000..51_000).contains(&alone), "its layer and its manifest: {alone}");
        assert!(shared < 1000, "what another tag names stays: {shared}");
        assert_eq!(report.going.values().map(|sum| sum.bytes).sum::<u64>(), alone + shared);
    }
    let evicted = world.app().metrics.render();
    assert!(evicted.contains("larder_evicted_bytes_total{rule=\"not_newest\""), "{evicted}");
}

#[tokio::test]
async fn a_report_has_a_bound_and_its_sums_are_of_all() {
    let world = world("").await;
    put_chain(&world, "main", 9, 100 * KB, 1).await;
    aged(&world, 3 * HOUR);
    let report = collect(world.app(), false).await;
    assert_eq!(serde_json::to_value(&*report).unwrap()["going"], json!({ "room": { "objects": 4, "bytes": 400_000 } }));
    let counted = || world.app().metrics.render();
    assert!(counted().contains("larder_evicted_bytes_total{rule=\"room\",tenant=\"default\"} 400000"), "{}", counted());
    // The same again is not counted twice.
    collect(world.app(), false).await;
    assert!(counted().contains("larder_evicted_bytes_total{rule=\"room\",tenant=\"default\"} 400000"), "{}", counted());
}

#[tokio::test]
async fn a_tenant_that_holds_too_much_shortens_nothing_for_another() {
    let world = world("[[tenants]]\nname = \"other\"\nrepositories = [\"other/**\"]\n").await;
    world.put_blob("app", noise(850 * KB, 1)).await;
    world.put_blob("other/app", noise(100 * KB, 2)).await;
    aged(&world, 3 * HOUR);
    // Both are unreferenced, and are condemned after a day.
    let report = collect(world.app(), true).await;
    assert_eq!((report.condemned.objects, report.condemned.bytes), (1, 850_000));
    aged(&world, 48 * HOUR);
    assert_eq!(collect(world.app(), true).await.condemned.objects, 2);
}
