//! A disk that scopes fill: main keeps its space.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use larder::digest::Digest;
use larder::lifetime::collect::Wish;
use serde_json::json;

use super::{MIB, PORTION, by, held, of, of_bytes, push, slowly, until_refused, while_room_is_made, world};
use crate::disk::{Disk, entries, taken};
use crate::world::{CONFIG, World, age, descriptor, image, noise, with_digest};

/// Size of the disk in bytes, and the part of it that uploads leave.
const DISK: usize = 8 * MIB;
const RESERVE: usize = 256 << 10;

/// A disk of 8 MiB, on which scopes may have half and each may store as much as it likes.
async fn small_disk(share: &str) -> World {
    let scopes = format!("{share}\nquota = {{ max = \"1GiB\" }}");
    world(of_bytes(DISK), &scopes, |config| config.store.reserve = Some(ByteSize::b(RESERVE as u64))).await
}

fn used(world: &World) -> usize {
    taken(&world.config().store.path) as usize
}

/// Main pushes so many blobs of a MiB.
async fn main_pushes(world: &World, blobs: std::ops::Range<u64>) {
    for seed in blobs {
        while_room_is_made(world, push(world, "main", noise(MIB, seed))).await.expect(201);
    }
}

#[tokio::test]
async fn scopes_together_hold_their_share_of_the_disk_and_no_more() {
    let world = small_disk("share = 0.25").await;
    let mut stored = Vec::new();
    for (who, seed) in [("one", 100), ("two", 200)] {
        stored.push(until_refused(async |number| push(&world, who, noise(300 << 10, seed + number)).await).await);
    }
    assert!(stored[0] == 6 && stored[1] == 0, "{stored:?}");
    let refused = push(&world, "two", noise(300 << 10, 7)).await.expect(507);
    assert!(refused.text().contains("scopes are full: together they may take 2.0 MiB"), "{}", refused.text());
    // Chunks of unknown length, staged chunks and manifests do not exceed the share either.
    let session = of(&world, "two").begin("app").await;
    of(&world, "two").patch(&session).stream(noise(2 * MIB, 8)).await.expect(507);
    assert!(used(&world) <= DISK / 4 + PORTION, "{}", used(&world));
    main_pushes(&world, 0..5).await;
}

#[tokio::test]
async fn main_has_the_room_that_a_scope_has_staged() {
    let world = small_disk("").await;
    // An upload of main that is staged stays.
    let of_main = of(&world, "main").begin("app").await;
    let of_main = of(&world, "main").patch(&of_main).body("begun").await.expect(202).header("location").to_string();
    let one = of(&world, "one");
    let session = one.begin("app").await;
    let session = one.patch(&session).stream(noise(3 * MIB + 500_000, 50)).await.expect(202);
    let session = session.header("location").to_string();
    main_pushes(&world, 0..7).await;
    assert!(held_by_scopes(&world) < MIB, "{}", held_by_scopes(&world));
    // Its client gets an error, and may begin anew.
    by(&world, "one", "PATCH", session).body("more").await.expect(404);
    by(&world, "main", "PATCH", of_main).body(" and ended").await.expect(202);
}

fn held_by_scopes(world: &World) -> usize {
    world.app().store.usage().of_scopes() as usize
}

#[tokio::test]
async fn staged_parts_that_are_idle_go_first_and_then_the_longest_idle() {
    let world = small_disk("").await;
    let one = of(&world, "one");
    let mut sessions = Vec::new();
    for seed in 0..3 {
        let session = one.begin("app").await;
        let session = one.patch(&session).body(noise(MIB, 50 + seed)).await.expect(202);
        sessions.push(session.header("location").to_string());
    }
    let uploads = super::folder(&world, true).join("uploads");
    let id = |location: &str| location.split(['?', '/']).find(|part| part.len() == 32).unwrap_or_default().to_string();
    for (session, minutes) in sessions.iter().zip([1, 3, 2]) {
        age(&uploads.join(id(session)), Duration::from_secs(60 * minutes));
    }
    // While there is free space, they stay.
    world.app().collector.run(Wish { dry: false }).await.unwrap();
    assert_eq!(std::fs::read_dir(&uploads).unwrap().count(), 3);
    main_pushes(&world, 0..5).await;
    // One is deleted: the one that has been idle longest.
    let there = |at: usize| uploads.join(id(&sessions[at])).exists();
    assert_eq!([there(0), there(1), there(2)], [true, false, true]);
}

#[tokio::test]
async fn main_has_the_room_of_what_a_scope_is_sending() {
    let world = small_disk("").await;
    let (pieces, body) = slowly();
    let large = noise(3 * MIB + 500_000, 50);
    let uri = with_digest("/v2/app/blobs/uploads/", &Digest::sha256(&large));
    let sending = by(&world, "one", "POST", uri).incoming(body, Some(large.len())).into_future();
    let main = async {
        // All but the last byte, which never arrives.
        pieces.unbounded_send(Ok(large.slice(..large.len() - 1))).unwrap();
        while used(&world) < 3 * MIB {
            tokio::task::yield_now().await;
        }
        main_pushes(&world, 0..7).await;
    };
    let (told, ()) = tokio::join!(sending, main);
    assert!(told.expect(507).text().contains("upload was cancelled to free disk space"));
}

#[tokio::test]
async fn what_a_scope_announces_stands_in_nobody_elses_way() {
    let world = small_disk("").await;
    let (pieces, body) = slowly();
    let large = noise(3 * MIB + 500_000, 50);
    let uri = with_digest("/v2/app/blobs/uploads/", &Digest::sha256(&large));
    let mut sending = Box::pin(by(&world, "one", "POST", uri).incoming(body, Some(large.len())).into_future());
    pieces.unbounded_send(Ok(large.slice(..1))).unwrap();
    assert!(futures::poll!(&mut sending).is_pending());
    // No eviction runs here: there is enough space.
    for seed in 0..7 {
        push(&world, "main", noise(MIB, seed)).await.expect(201);
    }
    // Other scopes have only the rest of their share.
    push(&world, "two", noise(MIB, 60)).await.expect(507);
}

#[tokio::test]
async fn main_has_the_room_of_what_a_scope_had_to_let_go_an_hour_ago() {
    let world = small_disk("").await;
    for seed in 0..3 {
        push(&world, "one", noise(MIB, 50 + seed)).await.expect(201);
    }
    // It is unreferenced. A collection condemns it when it is an hour old, since the disk is nearly full.
    age(&super::folder(&world, true), Duration::from_secs(2 * 3600));
    main_pushes(&world, 0..4).await;
    world.app().collector.run(Wish { dry: false }).await.unwrap();
    // Leased content is live: a client that was told of it has its hour.
    while_room_is_made(&world, push(&world, "main", noise(MIB, 4))).await.expect(507);
    assert!(held(&world) >= 3 * MIB);
    age(&world.config().store.path.join("condemned"), Duration::from_secs(2 * 3600));
    main_pushes(&world, 4..6).await;
    assert!(held_by_scopes(&world) < MIB, "{}", held_by_scopes(&world));
}

#[tokio::test]
async fn below_half_a_reserve_nobody_writes_manifests_and_scopes_none_before() {
    let world = small_disk("share = 1.0").await;
    let put = async |who: &str, number: usize, bytes: usize| {
        let mut manifest = image(descriptor(CONFIG, b"{}"), vec![]);
        manifest["annotations"] = json!({ "number": format!("{number} {}", "x".repeat(bytes)) });
        let text = manifest.to_string();
        let uri = format!("/v2/app/manifests/{}", Digest::sha256(text.as_bytes()));
        by(&world, who, "PUT", uri).body(text).await.status.as_u16()
    };
    of(&world, "main").put_blob("app", "{}").await;
    of(&world, "one").put_blob("app", "{}").await;
    // Up to the reserve.
    for seed in 0..7 {
        push(&world, "main", noise(MIB, seed)).await.expect(201);
    }
    until_refused(async |number| push(&world, "main", noise(64 << 10, 70 + number)).await).await;
    assert_eq!(put("one", 0, 10).await, 507);
    assert_eq!(push(&world, "main", noise(64 << 10, 99)).await.status, 507);
    // A build that has sent its layers ends.
    assert_eq!(put("main", 0, 10).await, 201);
    let mut number = 1;
    while put("main", number, 30 << 10).await == 201 {
        number += 1;
        assert!(number < 20);
    }
    let free = DISK - used(&world);
    assert!((RESERVE / 2..RESERVE * 3 / 4).contains(&free), "{free}");
}

#[tokio::test]
async fn tags_that_are_nothing_but_manifests_make_room_too() {
    let world = world(None, "quota = { max = \"2MiB\" }", |_| {}).await;
    let one = of(&world, "one");
    one.put_blob("app", "{}").await;
    until_refused(async |number| {
        let mut manifest = image(descriptor(CONFIG, b"{}"), vec![]);
        manifest["annotations"] = json!({ "number": format!("{number} {}", "x".repeat(200 << 10)) });
        one.put(format!("/v2/app/manifests/v{number}")).body(manifest.to_string()).await
    })
    .await;
    age(&world.config().store.path.join("t"), Duration::from_secs(2 * 3600));
    let report = world.app().collector.run(Wish { dry: true }).await.unwrap();
    let gone: Vec<&str> = report.decisions.iter().map(|gone| gone.tag.as_str()).collect();
    // From above 90 % of the quota to 81 %.
    assert!((1..=3).contains(&gone.len()), "{gone:?}");
}

/// A disk on which bytes are plenty, and of files 600.
async fn few_inodes() -> World {
    let disk = Some(Disk { bytes: 1 << 30, inodes: Some(600) });
    world(disk, "quota = { max = \"1GiB\" }", |config| config.store.reserve = Some(ByteSize::mib(1))).await
}

#[tokio::test]
async fn a_disk_without_inodes_takes_no_blobs_and_still_all_that_ends_a_build() {
    let world = few_inodes().await;
    let main = of(&world, "main");
    main.put_image("app", "begun", "before").await;
    let digests = std::cell::RefCell::new(Vec::new());
    until_refused(async |number| {
        let bytes = number.to_string();
        digests.borrow_mut().push(Digest::sha256(bytes.as_bytes()));
        push(&world, "main", bytes.into()).await
    })
    .await;
    let refused = push(&world, "main", "one more".into()).await.expect(507);
    assert!(refused.text().contains("inodes are free and 64 are kept in reserve"), "{}", refused.text());
    push(&world, "one", "of a scope".into()).await.expect(507);
    // Stored content is served; tags can be pushed, collected and deleted.
    main.get("/v2/app/manifests/begun").await.expect(200);
    let named = image(descriptor(CONFIG, b"0"), vec![]);
    main.put("/v2/app/manifests/ended").body(named.to_string()).await.expect(201);
    world.app().collector.run(Wish { dry: false }).await.unwrap();
    main.delete("/v2/app/manifests/begun").await.expect(202);
    for digest in &digests.take()[2..40] {
        main.delete(format!("/v2/app/blobs/{digest}")).await.expect(202);
    }
    push(&world, "main", "one more".into()).await.expect(201);
    assert!(entries(&world.config().store.path) < 600);
}

#[tokio::test]
async fn scopes_leave_inodes_to_others_and_what_is_old_makes_room_for_them() {
    let world = few_inodes().await;
    of(&world, "one").put_image("app", "old", "one").await;
    until_refused(async |number| push(&world, "one", format!("of one {number}").into()).await).await;
    // Two reserves.
    let mut blobs = (0..).map(|number: u64| Bytes::from(format!("of main {number}")));
    for blob in blobs.by_ref().take(15) {
        push(&world, "main", blob).await.expect(201);
    }
    let report = world.app().collector.run(Wish { dry: true }).await.unwrap();
    assert!(report.decisions.is_empty(), "what is young stays");
    age(&world.config().store.path.join("t"), Duration::from_secs(2 * 3600));
    let report = world.app().collector.run(Wish { dry: true }).await.unwrap();
    let gone: Vec<&str> = report.decisions.iter().map(|gone| gone.tag.as_str()).collect();
    assert_eq!(gone, ["old"]);
}
