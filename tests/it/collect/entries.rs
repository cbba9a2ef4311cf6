//! Entries, a kind of root beside tags: collected, evicted, checked, counted and protected like them. No door writes them
//! as yet: these tests do.

use std::path::PathBuf;
use std::time::Duration;

use larder::check::Problem;
use larder::config::Config;
use larder::digest::Digest;
use larder::layout::{self, EntryItem, EntryName};
use larder::names::{RepoName, Tenant};
use larder::objects::{Key, Objects, When};
use larder::refs::entries::{EntryBlob, EntryRecord};

use crate::world::{World, age, age_file, noise};

const DAY: Duration = Duration::from_secs(24 * 3600);
const PIECE: usize = 150_000;

fn key(entry: &str, item: EntryItem) -> Key {
    let repo: RepoName = "shop/app".parse().unwrap();
    layout::entry(&Tenant::default_tenant(), &repo, &EntryName::new("gha", "v1", entry).unwrap(), item)
}

fn file(world: &World, entry: &str, item: EntryItem) -> PathBuf {
    world.config().store.path.join(key(entry, item).as_str())
}

/// Stores an entry of two pieces: content, then record.
async fn put_entry(world: &World, entry: &str, seed: u64) -> [Digest; 2] {
    let pieces = [noise(PIECE, 2 * seed), noise(PIECE, 2 * seed + 1)];
    let [first, second] = pieces.map(|piece| async { world.put_blob("shop/app", piece).await });
    let digests = [first.await, second.await];
    let blobs = digests.map(|digest| EntryBlob { digest, size: PIECE as u64 }).to_vec();
    let record = EntryRecord { key: entry.to_string(), blobs, created: jiff::Timestamp::now() };
    let body = serde_json::to_vec(&record).unwrap();
    world.objects().put(&key(entry, EntryItem::Record), body.into(), When::Absent).await.unwrap();
    digests
}

fn aged(world: &World, folder: &str, days: u32) {
    age(&world.config().store.path.join(folder), days * DAY);
}

fn used(world: &World, entry: &str, days_ago: u32) {
    let note = file(world, entry, EntryItem::Used);
    std::fs::write(&note, "{}").unwrap();
    age_file(&note, days_ago * DAY);
}

#[tokio::test]
async fn what_an_entry_names_stays_for_as_long_as_the_entry() {
    let world = World::new().await;
    put_entry(&world, "cargo/Linux-1", 1).await;
    used(&world, "cargo/Linux-1", 30);
    aged(&world, "t", 30);
    let report = world.app().collect(false).await.unwrap();
    assert_eq!((report.condemned.objects, report.tenants["default"].live.objects), (0, 2));
    std::fs::remove_file(file(&world, "cargo/Linux-1", EntryItem::Record)).unwrap();
    let report = world.app().collect(false).await.unwrap();
    assert_eq!((report.condemned.objects, report.condemned.bytes), (2, 2 * PIECE as u64));
    assert!(!file(&world, "cargo/Linux-1", EntryItem::Used).exists(), "the note of an entry that is gone");
}

#[tokio::test]
async fn the_least_recently_used_entry_makes_room_and_all_of_it_goes() {
    let limits = "[[tenants]]\nname = \"default\"\nquota = { max = \"1MB\", high = \"800kB\", low = \"620kB\" }\n";
    let configured: Config = toml::from_str(limits).unwrap();
    let world = World::with(|config| config.tenants = configured.tenants).await;
    for (seed, entry) in ["a/1", "b/2", "c/3"].into_iter().enumerate() {
        put_entry(&world, entry, seed as u64).await;
    }
    aged(&world, "t", 10);
    used(&world, "a/1", 2);
    used(&world, "c/3", 5);
    let dry = world.app().collect(true).await.unwrap();
    let going: Vec<_> = dry.decisions.iter().map(|gone| (&*gone.repo, &*gone.tag, gone.layer.as_deref())).collect();
    assert_eq!(going, [("shop/app", "b/2", None)]);

    let condemned = world.app().collect(false).await.unwrap().condemned;
    assert_eq!((condemned.objects, condemned.bytes), (3, 2 * PIECE as u64), "the record and its pieces");
    aged(&world, "condemned", 3);
    let deleted = world.app().collect(false).await.unwrap().deleted;
    assert_eq!((deleted.objects, deleted.bytes), (3, 2 * PIECE as u64));
    for (entry, stays) in [("a/1", true), ("b/2", false), ("c/3", true)] {
        assert_eq!(file(&world, entry, EntryItem::Record).exists(), stays, "{entry}");
    }
    assert_eq!(world.app().collect(true).await.unwrap().decisions, []);
}

#[tokio::test]
async fn an_entry_that_is_used_after_it_was_chosen_stays() {
    let limits = "[[tenants]]\nname = \"default\"\nquota = { max = \"1MB\", high = \"500kB\", low = \"400kB\" }\n";
    let configured: Config = toml::from_str(limits).unwrap();
    let world = World::with(|config| config.tenants = configured.tenants).await;
    put_entry(&world, "a", 1).await;
    let [piece, _] = put_entry(&world, "b", 2).await;
    aged(&world, "t", 10);
    used(&world, "a", 2);
    assert_eq!(world.app().collect(false).await.unwrap().condemned.objects, 3);
    aged(&world, "condemned", 3);
    used(&world, "b", 0);
    world.app().collect(false).await.unwrap();
    assert!(file(&world, "b", EntryItem::Record).exists());
    world.get(format!("/v2/shop/app/blobs/{piece}")).await.expect(200);
}

#[tokio::test]
async fn check_finds_an_entry_that_names_a_missing_blob() {
    let mut world = World::new().await;
    let [first, _] = put_entry(&world, "a", 1).await;
    assert_eq!(world.check().await, []);
    world.damaged_on_purpose();
    std::fs::remove_file(world.blob_file(&first)).unwrap();
    let found = world.check().await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].key, key("a", EntryItem::Record));
    assert!(matches!(found[0].problem, Problem::Missing(_)), "{found:?}");
}

#[tokio::test]
async fn a_blob_of_an_entry_is_not_deleted_by_its_digest() {
    let world = World::new().await;
    let [first, _] = put_entry(&world, "a/1", 1).await;
    let refused = world.delete(format!("/v2/shop/app/blobs/{first}")).await.expect(405);
    assert!(refused.text().contains("a/1"), "{}", refused.text());
    std::fs::remove_file(file(&world, "a/1", EntryItem::Record)).unwrap();
    world.delete(format!("/v2/shop/app/blobs/{first}")).await.expect(202);
}

#[tokio::test]
async fn a_count_of_the_store_counts_what_entries_name() {
    let world = World::new().await;
    put_entry(&world, "a", 1).await;
    world.app().store.scan_usage().await.unwrap();
    let found = world.app().store.usage().account(&Tenant::default_tenant()).scanned().unwrap();
    assert_eq!((found.named_bytes, found.repositories["shop/app"].bytes), (2 * PIECE as u64, 2 * PIECE as u64));
}
