//! Tenants: walls between them, and how much each may store.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use larder::config::Config;
use larder::digest::Digest;
use larder::names::Tenant;
use serde_json::json;

use crate::world::{CONFIG, LAYER, World, descriptor, image, noise};

const TEAMS: &str = "[[tenants]]\nname = \"red\"\nrepositories = [\"red/**\", \"r-*\"]\n\
                     [[tenants]]\nname = \"blue\"\nrepositories = [\"blue/**\"]\n";

async fn configured(text: &str) -> World {
    let configured: Config = toml::from_str(text).unwrap();
    World::with(|config| {
        config.tenants = configured.tenants;
        config.store.reserve = configured.store.reserve;
    })
    .await
}

#[tokio::test]
async fn a_tenant_does_not_learn_what_another_has() {
    let world = configured(TEAMS).await;
    let pushed = world.put_image("red/app", "v1", "seed").await;
    let (layer, digest) = (pushed.layer, pushed.digest);
    world.get(format!("/v2/red/app/blobs/{layer}")).await.expect(200);
    world.get(format!("/v2/r-other/blobs/{layer}")).await.expect(200);
    let nothing = Digest::sha256(b"nothing");
    for repo in ["blue/app", "app"] {
        // A blob of another tenant, and one that exists nowhere, are answered alike.
        let mut answers = Vec::new();
        for blob in [layer, nothing] {
            let mut seen = Vec::new();
            for uri in [format!("/v2/{repo}/blobs/{blob}"), format!("/v2/{repo}/manifests/{blob}")] {
                for method in ["HEAD", "GET", "DELETE"] {
                    let got = world.call(method, uri.clone()).await;
                    seen.push((got.status, got.text().replace(&blob.hex(), "")));
                }
            }
            for from in ["", "&from=red/app"] {
                let mounted = world.post(format!("/v2/{repo}/blobs/uploads/?mount={blob}{from}")).await;
                seen.push((mounted.status, String::new()));
            }
            let manifest = image(json!({ "mediaType": CONFIG, "digest": blob.to_string(), "size": 1 }), vec![]);
            let put = world.put(format!("/v2/{repo}/manifests/x")).body(manifest.to_string()).await;
            seen.push((put.status, put.text().replace(&blob.hex(), "")));
            answers.push(seen);
        }
        assert_eq!(answers[0], answers[1], "{repo}");
        assert!(answers[0].iter().all(|(status, _)| matches!(status.as_u16(), 202 | 404)), "{:?}", answers[0]);
        world.get(format!("/v2/{repo}/manifests/{digest}")).await.expect(404);
    }
    // Within the tenant a mount moves nothing.
    world.post(format!("/v2/red/two/blobs/uploads/?mount={layer}&from=red/app")).await.expect(201);
}

#[tokio::test]
async fn who_knows_the_id_of_an_upload_of_another_tenant_cannot_end_it() {
    let world = configured(TEAMS).await;
    let fresh = world.begin("red/app").await;
    let staged = world.patch(world.begin("red/app").await).body("hel").await.expect(202).header("location").to_string();
    for repo in ["blue/app", "app", "red/other"] {
        for location in [&fresh, &staged] {
            let elsewhere = location.replace("/v2/red/app/", &format!("/v2/{repo}/"));
            // Without the mark that the session has stored state.
            for location in [&elsewhere, &elsewhere.replace("?staged=1", "")] {
                world.delete(location).await;
            }
        }
    }
    let digest = Digest::sha256(b"hello");
    world.put(crate::world::with_digest(&fresh, &Digest::sha256(b"fresh"))).body("fresh").await.expect(201);
    world.put(crate::world::with_digest(&staged, &digest)).header("content-range", "3-4").body("lo").await.expect(201);
    world.get(format!("/v2/red/app/blobs/{digest}")).await.expect(200);
}

#[tokio::test]
async fn what_one_tenant_deletes_another_keeps() {
    let world = configured(TEAMS).await;
    for repo in ["red/app", "blue/app", "app"] {
        world.put_blob(repo, "shared").await;
    }
    let digest = Digest::sha256(b"shared");
    world.delete(format!("/v2/red/app/blobs/{digest}")).await.expect(202);
    world.get(format!("/v2/red/app/blobs/{digest}")).await.expect(404);
    for repo in ["blue/app", "app"] {
        world.get(format!("/v2/{repo}/blobs/{digest}")).await.expect(200);
    }
}

#[tokio::test]
async fn the_catalog_has_every_tenant_in_one_order_and_in_pages() {
    let mut world = configured(TEAMS).await;
    let repos = ["app", "blue/a", "blue/b", "r-x", "red/a-b", "red/a/b", "zoo"];
    for repo in repos {
        world.put_image(repo, "v1", "seed").await;
    }
    let names = async |uri: &str| world.get(uri).await.expect(200).json()["repositories"].clone();
    assert_eq!(names("/v2/_catalog").await, json!(repos));
    let (mut all, mut uri) = (Vec::new(), "/v2/_catalog?n=2".to_string());
    loop {
        let page = world.get(&uri).await.expect(200);
        all.extend(page.json()["repositories"].as_array().unwrap().clone());
        let Some(link) = page.headers.get("link") else { break };
        uri = link.to_str().unwrap().split(['<', '>']).nth(1).unwrap().to_string();
    }
    assert_eq!(json!(all), json!(repos));
    // A repository that now belongs to another tenant is not in the catalog of readable ones.
    world.reconfigure(|config| config.tenants.clear()).await;
    assert_eq!(world.get("/v2/_catalog").await.expect(200).json()["repositories"], json!(["app", "zoo"]));
}

#[tokio::test]
async fn idle_uploads_of_every_tenant_are_swept() {
    let world = configured(TEAMS).await;
    for repo in ["red/app", "blue/app", "app"] {
        let session = world.begin(repo).await;
        world.patch(session).body("chunk").await.expect(202);
    }
    let store = &world.app().store;
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(7200);
    assert_eq!(store.sweep_all_uploads(std::time::Duration::from_secs(3600), later).await.unwrap(), 3);
}

const QUOTA: &str = "[[tenants]]\nname = \"red\"\nrepositories = [\"red/**\"]\nquota = { max = \"1MB\" }\n";

#[tokio::test]
async fn a_quota_refuses_what_does_not_fit_before_it_is_sent_and_only_that() {
    let world = configured(QUOTA).await;
    world.put_blob("red/app", noise(900_000, 1)).await;
    let location = world.begin("red/app").await;
    let large = noise(200_000, 2);
    let uri = crate::world::with_digest(&location, &Digest::sha256(&large));
    let refused = world.put(&uri).body(large.clone()).await.expect(403);
    assert_eq!(refused.code(), "DENIED");
    let error = &refused.json()["errors"][0];
    assert_eq!(error["detail"], json!({ "tenant": "red", "stored": 900_000, "max": 1_000_000, "size": 200_000 }));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("tenant red has 878.9 KiB of the 976.6 KiB that it may store"), "{message}");
    // An upload of unknown length is cut when it exceeds the quota.
    let chunk = world.begin("red/app").await;
    world.patch(chunk).body(large.clone()).await.expect(403);
    // A push that fits is accepted, stored content is read, and others have their own quota.
    let small = world.put_blob("red/app", noise(100_000, 3)).await;
    world.put_blob("app", large).await;
    world.get(format!("/v2/red/app/blobs/{small}")).await.expect(200);
    // Full to the last byte: refused at the first request.
    let refused = world.post("/v2/red/app/blobs/uploads/").await.expect(403);
    assert_eq!(refused.code(), "DENIED");
    // A manifest may go a little beyond: the build has sent its layers.
    let layer = descriptor(LAYER, &noise(100_000, 3));
    world.put_manifest("red/app", "v1", &image(layer, vec![])).await;
    // Mounts move nothing either.
    world.post(format!("/v2/red/two/blobs/uploads/?mount={small}")).await.expect(201);
    let metrics = world.app().metrics.render();
    assert!(metrics.contains("larder_uploads_refused_total 3"), "{metrics}");
    // The manifest takes 4 KiB, and its tag 8 with the note of its use.
    assert!(metrics.contains("larder_stored_bytes{tenant=\"red\"} 1012288"), "{metrics}");
}

#[tokio::test]
async fn what_is_deleted_or_about_to_be_makes_room_at_once() {
    let world = configured(QUOTA).await;
    let old = world.put_blob("red/app", noise(900_000, 1)).await;
    let new = noise(200_000, 2);
    let put = async || {
        let uri = crate::world::with_digest("/v2/red/app/blobs/uploads/", &Digest::sha256(&new));
        world.post(uri).body(new.clone()).await.status.as_u16()
    };
    assert_eq!(put().await, 403);
    let account = world.app().store.usage().account(&"red".parse::<Tenant>().unwrap());
    account.set_condemned(100_000);
    assert_eq!(put().await, 201);
    account.set_condemned(0);
    world.delete(format!("/v2/red/app/blobs/{old}")).await.expect(202);
    assert_eq!(account.stored(), 200_000);
    assert_eq!(put().await, 201);
}

#[tokio::test]
async fn uploads_at_the_same_time_do_not_take_one_room_twice() {
    let world = configured(QUOTA).await;
    let blobs: Vec<_> = (0..8).map(|seed| noise(300_000, seed)).collect();
    let puts = blobs.iter().map(|blob| async {
        let uri = crate::world::with_digest("/v2/red/app/blobs/uploads/", &Digest::sha256(blob));
        world.post(uri).body(blob.clone()).await.status.as_u16()
    });
    let mut answers = futures::future::join_all(puts).await;
    answers.sort();
    assert!(answers.iter().filter(|status| **status == 201).count() <= 3, "{answers:?}");
    let room = world.app().store.usage().account(&"red".parse::<Tenant>().unwrap());
    assert_eq!(room.arriving(), 0);
    assert!(room.stored() <= 1_000_000, "{}", room.stored());
}

#[tokio::test]
async fn above_the_high_mark_somebody_is_told_to_make_room() {
    let world = configured(QUOTA).await;
    let (room, red) = (world.app().store.room(), "red".parse::<Tenant>().unwrap());
    world.put_blob("red/app", noise(850_000, 1)).await;
    assert!(futures::poll!(Box::pin(room.pressed())).is_pending());
    assert_eq!(room.excess(&red), 0);
    world.put_blob("red/app", noise(100_000, 2)).await;
    drop(room.pressed().await);
    assert_eq!(room.excess(&red), 950_000 - 810_000);
}

#[tokio::test]
async fn an_upload_waits_for_room_that_is_being_made_and_no_longer() {
    let world = configured(QUOTA).await;
    let (room, red) = (world.app().store.room(), "red".parse::<Tenant>().unwrap());
    let account = world.app().store.usage().account(&red);
    let put = async |bytes: usize, seed: u64| {
        let new = noise(bytes, seed);
        let uri = crate::world::with_digest("/v2/red/app/blobs/uploads/", &Digest::sha256(&new));
        let put = world.post(uri).body(new.clone()).into_future();
        tokio::time::timeout(Duration::from_secs(30), put).await.expect("it waits for nobody").status.as_u16()
    };
    // Evicts whenever that is requested, until something is done.
    let evicting = async |condemned: u64, until: Pin<Box<dyn Future<Output = u16> + '_>>| {
        let rounds = async {
            loop {
                let round = room.pressed().await;
                account.set_condemned(condemned);
                drop(round);
            }
        };
        tokio::select! {
            () = rounds => 0,
            status = until => status,
        }
    };
    // The first call tells the server that there is a task which evicts.
    assert!(futures::poll!(Box::pin(room.pressed())).is_pending());
    assert_eq!(put(850_000, 1).await, 201);
    assert_eq!(evicting(300_000, Box::pin(put(200_000, 2))).await, 201);
    // There is free space again, but not enough.
    assert_eq!(evicting(300_000, Box::pin(put(300_000, 3))).await, 403);
    // No more can be evicted, and usage is still too high: no request waits for another round.
    assert_eq!(evicting(0, Box::pin(put(300_000, 4))).await, 403);
    assert_eq!(put(300_000, 5).await, 403);
}

#[tokio::test]
async fn the_reserve_of_the_disk_is_not_for_uploads() {
    let mut world = World::new().await;
    let image = world.put_image("app", "v1", "seed").await;
    let chunked = world.begin("app").await;
    world.reconfigure(|config| config.store.reserve = Some(bytesize::ByteSize::pib(1))).await;
    let refused = world.post("/v2/app/blobs/uploads/").await.expect(507);
    assert_eq!(refused.code(), "DENIED");
    let text = refused.text();
    assert!(text.contains("store is full") && text.contains("1.0 PiB are kept in reserve"), "{text}");
    let uri = crate::world::with_digest("/v2/app/blobs/uploads/", &Digest::sha256(b"x"));
    world.post(uri).body("x").await.expect(507);
    world.patch(chunked).stream("x").await.expect(507);
    drop(world.app().store.room().pressed().await);
    assert!(world.app().store.room().shortage() > 0);
    // Manifests may not use all of it either.
    world.put("/v2/app/manifests/v2").body(image.manifest.to_string()).await.expect(507);
    // All other requests succeed: reads, deletes, health.
    world.get("/v2/app/manifests/v1").await.expect(200);
    world.get(format!("/v2/app/blobs/{}", image.layer)).await.expect(200);
    world.delete("/v2/app/manifests/v1").await.expect(202);
    world.get("/readyz").await.expect(200);
    world.reconfigure(|config| config.store.reserve = None).await;
    world.put_blob("app", "x").await;
}

#[tokio::test]
async fn usage_is_counted_at_the_start_and_kept_by_tenant_and_repository() {
    let mut world = configured(TEAMS).await;
    world.put_image("red/app", "v1", "seed").await;
    world.put_image("red/app", "v2", "seed").await;
    world.put_image("red/two", "v1", "other").await;
    world.put_blob("blue/app", "orphan").await;
    let session = world.begin("blue/app").await;
    world.patch(session).body("chunk").await.expect(202);
    let usage = async |world: &World| {
        let told = world.get("/api/usage").await.expect(200).json();
        let shown =
            |tenant: &serde_json::Value| (tenant["tenant"].clone(), tenant["bytes"].clone(), tenant["blobs"].clone());
        (told["tenants"].as_array().unwrap().iter().map(shown).collect::<Vec<_>>(), told)
    };
    let (followed, _) = usage(&world).await;
    world.restart().await;
    world.app().store.scan_usage().await.unwrap();
    let (counted, told) = usage(&world).await;
    let seed = (r#"{"seed":"seed"}"#.len() + "layer of seed".len()) as u64;
    let other = (r#"{"seed":"other"}"#.len() + "layer of other".len()) as u64;
    // Small as they are, each takes 4 KiB: a blob, a chunk and its state; four blobs, two manifests, and twice that a
    // tag.
    let [blue, red] = [3, 4 + 2 + 3 * 2].map(|objects: u64| objects * 4096);
    assert_eq!(counted, [(json!("blue"), json!(blue), json!(1)), (json!("red"), json!(red), json!(4))]);
    // The first image was pushed twice, and counts once.
    assert_eq!(followed, counted);
    let repos = &told["tenants"][1]["counted"]["repositories"];
    assert_eq!(repos["red/app"], json!({ "manifests": 1, "tags": 2, "bytes": seed }));
    assert_eq!(repos["red/two"], json!({ "manifests": 1, "tags": 1, "bytes": other }));
}

#[tokio::test]
async fn what_another_server_deleted_with_its_tenant_is_not_counted_any_more() {
    let world = World::new().await;
    world.put_image("a", "v1", "seed").await;
    world.app().store.scan_usage().await.unwrap();
    let counted = async || {
        let told = world.get("/api/usage").await.expect(200).json();
        let tags = world.get("/api/overview").await.expect(200).json()["tags_in_all"].clone();
        let known = told["tenants"].as_array().unwrap().iter().map(|tenant| tenant["bytes"].as_u64().unwrap());
        (known.sum::<u64>() > 0, tags)
    };
    assert_eq!(counted().await, (true, json!(1)));
    std::fs::remove_dir_all(world.config().store.path.join("t/default")).unwrap();
    world.app().store.scan_usage().await.unwrap();
    assert_eq!(counted().await, (false, json!(0)));
}
