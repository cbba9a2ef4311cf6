//! Limits of tenants and scopes: the space that they may use of the store and of the disk, whatever they send.

mod accounts;
mod disk;

use std::future::IntoFuture;
use std::path::PathBuf;

use axum::body::Body;
use bytes::Bytes;
use futures::channel::mpsc;
use larder::buildkit::CONFIG_MEDIA_TYPE;
use larder::config::Config;
use larder::digest::Digest;
use larder::lifetime::collect::Wish;
use larder::names::Tenant;
use serde_json::{Value, json};

use crate::auth::{basic, configure, static_token, token_entry};
use crate::call::{Answer, Call};
use crate::disk::Disk;
use crate::views::Cache;
use crate::world::{CONFIG, LAYER, World, descriptor, image, noise, with_digest};

const MIB: usize = 1 << 20;
/// Size of a portion of a body, in bytes.
const PORTION: usize = 512 << 10;
/// The quota of each scope in these tests, in bytes.
const QUOTA: usize = 2 * MIB;

/// `main` writes to the tenant, `one` and `two` are pull requests.
const RULES: &str = r#"
    [[rules]]
    identity = "token:main"
    may = ["pull", "push", "delete", "admin"]
    [[rules]]
    identity = "token:one"
    may = ["pull", "push", "delete"]
    scope = "pr:1"
    [[rules]]
    identity = "token:two"
    may = ["pull", "push", "delete"]
    scope = "pr:2"
"#;

/// Main and its pull requests, on a disk of their own where it is given; `scopes` is a piece of `[scopes]`.
async fn world(disk: Option<Disk>, scopes: &str, change: impl FnOnce(&mut Config)) -> World {
    let tokens: String = ["main", "one", "two"].map(token_entry).concat();
    World::on_disk(disk, |config| {
        configure(config, &format!("{tokens}{RULES}\n[scopes]\n{scopes}\n"));
        change(config);
    })
    .await
}

/// A disk of so many bytes, and of any number of files.
fn of_bytes(bytes: usize) -> Option<Disk> {
    Some(Disk { bytes: bytes as u64, inodes: None })
}

/// A world in which each scope has a small quota.
async fn small_scopes() -> World {
    world(None, &format!("quota = {{ max = \"{QUOTA}B\" }}"), |_| {}).await
}

/// The same world for one of them.
fn of<'w>(world: &'w World, who: &str) -> &'w World {
    world.show(basic("any", &static_token(who)))
}

/// A request of one of them, beside those of others.
fn by<'w>(world: &'w World, who: &str, method: &str, uri: impl Into<String>) -> Call<'w> {
    Call::new(world, method, uri.into()).header("authorization", &basic("any", &static_token(who)))
}

/// Sends a blob in one request.
fn push<'w>(world: &'w World, who: &str, bytes: Bytes) -> Call<'w> {
    let uri = with_digest("/v2/app/blobs/uploads/", &Digest::sha256(&bytes));
    by(world, who, "POST", uri).body(bytes)
}

/// A body that its client sends piece by piece: its sender, and the body.
fn slowly() -> (mpsc::UnboundedSender<Result<Bytes, std::io::Error>>, Body) {
    let (pieces, body) = mpsc::unbounded();
    (pieces, Body::from_stream(body))
}

/// The folder of a tenant, or of the only scope.
fn folder(world: &World, of_scope: bool) -> PathBuf {
    let tenants = std::fs::read_dir(world.config().store.path.join("t")).unwrap().map(|found| found.unwrap().path());
    tenants.into_iter().find(|path| path.display().to_string().contains('~') == of_scope).unwrap()
}

/// Bytes that the only scope uses on the disk.
fn held(world: &World) -> usize {
    crate::disk::taken(&folder(world, true)) as usize
}

fn scope(world: &World) -> Tenant {
    folder(world, true).file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// Evicts whenever that is requested, as the job does, until `work` is done.
async fn while_room_is_made<T>(world: &World, work: impl IntoFuture<Output = T>) -> T {
    let room = world.app().store.room();
    let rounds = async {
        loop {
            let round = room.pressed().await;
            world.app().collector.run(Wish { dry: false }).await.unwrap();
            drop(round);
        }
    };
    tokio::select! {
        biased;
        () = rounds => unreachable!("it goes on for ever"),
        done = work.into_future() => done,
    }
}

/// Repeats a request until it is refused for lack of space, and returns the number of successes.
async fn until_refused(mut again: impl AsyncFnMut(u64) -> Answer) -> u64 {
    for times in 0..10_000 {
        let answer = again(times).await;
        match answer.status.as_u16() {
            201 | 202 => {}
            403 | 507 => return times,
            _ => panic!("{answer:?}"),
        }
    }
    panic!("nothing was refused");
}

#[tokio::test]
async fn a_body_of_untold_length_stays_within_the_quota() {
    let world = small_scopes().await;
    let one = of(&world, "one");
    let large = noise(3 * QUOTA, 1);
    let whole = with_digest("/v2/app/blobs/uploads/", &Digest::sha256(&large));
    for uri in [whole.as_str(), &with_digest(&one.begin("app").await, &Digest::sha256(&large))] {
        let method = if uri == whole { "POST" } else { "PUT" };
        let refused = one.call(method, uri).stream(large.clone()).await.expect(403);
        assert_eq!(refused.json()["errors"][0]["detail"]["max"], json!(QUOTA));
    }
    let chunked = one.begin("app").await;
    one.patch(&chunked).stream(noise(QUOTA / 2, 2)).await.expect(202);
    let other = one.begin("app").await;
    one.patch(&other).stream(large.clone()).await.expect(403);
    assert!(held(&world) <= QUOTA + PORTION, "{}", held(&world));
    // A tenant with a quota is held to it alike, and one without is not.
    of(&world, "main").put_blob("app", large).await;
}

#[tokio::test]
async fn an_upload_that_was_refused_half_way_leaves_its_room_to_others() {
    let world = small_scopes().await;
    let one = of(&world, "one");
    let chunked = one.begin("app").await;
    one.patch(&chunked).stream(noise(3 * QUOTA, 1)).await.expect(403);
    let account = world.app().store.usage().account(&scope_named(&world, "one").await);
    assert_eq!((account.stored(), account.arriving()), (0, 0));
    one.put_blob("app", noise(QUOTA / 2, 2)).await;
}

/// The scope of a caller, with nothing stored yet.
async fn scope_named(world: &World, who: &str) -> Tenant {
    let blob = of(world, who).put_blob("app", "x").await;
    let scope = scope(world);
    of(world, who).delete(format!("/v2/app/blobs/{blob}")).await.expect(202);
    scope
}

#[tokio::test]
async fn manifests_and_their_referrers_stay_within_the_quota_of_a_scope() {
    let world = small_scopes().await;
    let one = of(&world, "one");
    one.put_blob("app", "{}").await;
    let padding = "x".repeat(200 << 10);
    let subject = json!({ "mediaType": CONFIG, "digest": Digest::sha256(b"{}").to_string(), "size": 2 });
    let pushed = until_refused(async |number| {
        let mut manifest = image(descriptor(CONFIG, b"{}"), vec![]);
        manifest["annotations"] = json!({ "number": format!("{number} {padding}") });
        manifest["subject"] = subject.clone();
        let bytes = manifest.to_string();
        one.put(format!("/v2/app/manifests/{}", Digest::sha256(bytes.as_bytes()))).body(bytes).await
    });
    assert!((7..=10).contains(&pushed.await));
    assert!(held(&world) <= QUOTA, "{}", held(&world));
    // The usage of main does not count for scopes.
    of(&world, "main").put_image("app", "v1", "seed").await;
}

#[tokio::test]
async fn what_is_tiny_counts_as_much_as_it_takes() {
    for what in ["blobs", "tags", "sessions", "records"] {
        let world = world(None, "quota = { max = \"128KiB\" }", |_| {}).await;
        let one = of(&world, "one");
        let image = one.put_image("app", "latest", "seed").await;
        let done = until_refused(async |number| match what {
            "blobs" => push(&world, "one", number.to_string().into()).await,
            "tags" => {
                let put = one.put(format!("/v2/app/manifests/v{number}")).body(image.manifest.to_string());
                put.header("content-type", image.manifest["mediaType"].as_str().unwrap()).await
            }
            "sessions" => {
                let begun = one.post("/v2/app/blobs/uploads/").await;
                if begun.status != 202 {
                    return begun;
                }
                one.patch(begun.header("location")).body("x").await
            }
            _ => {
                let (layer, result) =
                    (number.to_string(), json!([{ "layer": 0, "createdAt": "2026-01-02T03:04:05Z" }]));
                let mut named = descriptor(LAYER, layer.as_bytes());
                named["annotations"] = json!({ "containerd.io/uncompressed": Digest::sha256(b"diff").to_string() });
                let records = json!([{ "digest": named["digest"], "layers": result }]);
                let layers = json!([{ "blob": named["digest"], "parent": -1 }]);
                let config = json!({ "layers": layers, "records": records }).to_string();
                let manifest = crate::world::image(descriptor(CONFIG_MEDIA_TYPE, config.as_bytes()), vec![named]);
                for blob in [layer, config] {
                    let sent = push(&world, "one", blob.into()).await;
                    if sent.status != 201 {
                        return sent;
                    }
                }
                one.put("/v2/app/manifests/cache").body(manifest.to_string()).await
            }
        })
        .await;
        assert!((4..=32).contains(&done), "{what}: {done}");
        assert!(held(&world) <= (128 << 10), "{what}: {}", held(&world));
        // Reads are not refused.
        one.get("/v2/app/manifests/latest").await.expect(200);
    }
}

#[tokio::test]
async fn a_cache_of_a_scope_that_is_full_is_read_though_its_view_has_no_room() {
    let world = world(None, "quota = { max = \"96KiB\" }", |_| {}).await;
    let main = of(&world, "main");
    Cache::of(main, "a", "sources of a").await.push(main, "main").await;
    let one = of(&world, "one");
    let own = Cache::of(one, "b", "sources of b").await.push(one, "main").await;
    until_refused(async |number| push(&world, "one", number.to_string().into()).await).await;
    let served = of(&world, "one").head(crate::views::TAG).await.expect(200);
    assert_eq!(served.header("docker-content-digest"), own.to_string());
    assert!(held(&world) <= (96 << 10), "{}", held(&world));
}

#[tokio::test]
async fn annotations_that_a_list_of_referrers_repeats_have_a_bound() {
    let world = World::new().await;
    world.put_blob("app", "{}").await;
    let subject = json!({ "mediaType": CONFIG, "digest": Digest::sha256(b"{}").to_string(), "size": 2 });
    let mut listed = Vec::new();
    for bytes in [1 << 10, 100 << 10] {
        let mut manifest = image(descriptor(CONFIG, b"{}"), vec![]);
        manifest["annotations"] = json!({ "text": "x".repeat(bytes) });
        manifest["subject"] = subject.clone();
        let text = manifest.to_string();
        let digest = Digest::sha256(text.as_bytes());
        world.put(format!("/v2/app/manifests/{digest}")).body(text.clone()).await.expect(201);
        // The manifest itself has all of them.
        assert_eq!(world.get(format!("/v2/app/manifests/{digest}")).await.expect(200).text(), text);
        listed.push((digest.to_string(), bytes <= 64 << 10));
    }
    let referrers = world.get(format!("/v2/app/referrers/{}", Digest::sha256(b"{}"))).await.expect(200).json();
    let entries = referrers["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for (digest, has_annotations) in listed {
        let entry: &Value = entries.iter().find(|entry| entry["digest"] == *digest).unwrap();
        assert_eq!(entry["annotations"].is_object(), has_annotations, "{digest}");
    }
}

#[tokio::test]
async fn a_tenant_ends_its_build_with_a_manifest_a_little_beyond_its_quota_and_not_far() {
    let limits = "[[tenants]]\nname = \"default\"\nquota = { max = \"1MiB\" }\n";
    let configured: Config = toml::from_str(limits).unwrap();
    let world = World::with(|config| config.tenants = configured.tenants).await;
    world.put_blob("app", "{}").await;
    world.put_blob("app", noise(MIB - (8 << 10), 1)).await;
    let pushed = until_refused(async |number| {
        let mut manifest = image(descriptor(CONFIG, b"{}"), vec![]);
        manifest["annotations"] = json!({ "number": format!("{number} {}", "x".repeat(20 << 10)) });
        let bytes = manifest.to_string();
        world.put(format!("/v2/app/manifests/{}", Digest::sha256(bytes.as_bytes()))).body(bytes).await
    });
    assert!((3..=5).contains(&pushed.await));
}

#[tokio::test]
async fn a_tenants_body_of_untold_length_waits_for_room_that_is_being_made() {
    let limits = "[[tenants]]\nname = \"default\"\nquota = { max = \"1MiB\" }\n";
    let configured: Config = toml::from_str(limits).unwrap();
    let world = World::with(|config| config.tenants = configured.tenants).await;
    world.put_blob("app", noise(800 << 10, 1)).await;
    let (room, account) = (world.app().store.room(), world.app().store.usage().account(&Tenant::default_tenant()));
    let rounds = async {
        loop {
            let round = room.pressed().await;
            account.set_condemned(400 << 10);
            drop(round);
        }
    };
    let blob = noise(500 << 10, 2);
    let uri = with_digest("/v2/app/blobs/uploads/", &Digest::sha256(&blob));
    tokio::select! {
        biased;
        () = rounds => unreachable!("it goes on for ever"),
        put = world.post(uri).stream(blob).into_future() => put.expect(201),
    };
}

#[tokio::test(start_paused = true)]
async fn what_was_announced_and_does_not_come_is_room_for_others_after_a_minute() {
    let limits = "[[tenants]]\nname = \"default\"\nquota = { max = \"1MiB\", high = \"1MiB\" }\n";
    let configured: Config = toml::from_str(limits).unwrap();
    let world = World::with(|config| config.tenants = configured.tenants).await;
    let announced = noise(900 << 10, 1);
    let uri = with_digest("/v2/app/blobs/uploads/", &Digest::sha256(&announced));
    let (pieces, body) = slowly();
    let mut sending = Box::pin(world.post(&uri).incoming(body, Some(announced.len())).into_future());
    pieces.unbounded_send(Ok(announced.slice(..1000))).unwrap();
    assert!(futures::poll!(&mut sending).is_pending());
    let other = noise(800 << 10, 2);
    let push = || world.post(with_digest("/v2/app/blobs/uploads/", &Digest::sha256(&other))).body(other.clone());
    push().await.expect(403);
    tokio::time::advance(larder::capacity::LAPSE).await;
    push().await.expect(201);
    // The rest reserves its space again when it arrives, and is refused.
    pieces.unbounded_send(Ok(announced.slice(1000..))).unwrap();
    drop(pieces);
    sending.await.expect(403);
}
