//! The contract of `Objects`. A backend is right if it passes [`suite`]; promises of only one backend are in its own
//! file.
//!
//! Each step uses keys of its own, below its own name, so the steps can share a store.

mod fs;
mod model;
mod s3;

use std::time::SystemTime;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use larder::digest::Digest;
use larder::objects::{Error, Key, Meta, Objects, READ_BYTES_MAX, Read, When};

use crate::world::noise;

pub async fn suite(objects: &dyn Objects) {
    basics(objects).await;
    a_missing_object_is_not_found(objects).await;
    of_many_puts_into_nothing_one_wins(objects).await;
}

/// The part of the contract that also holds for a server that takes a folder for an object, and whose writes are no
/// atomic creates.
pub async fn basics(objects: &dyn Objects) {
    an_object_is_found_with_its_size_and_bytes(objects).await;
    a_range_is_clipped_to_the_object(objects).await;
    an_empty_object_is_an_object(objects).await;
    a_put_replaces_unless_told_otherwise(objects).await;
    two_writings_of_the_same_bytes_have_two_versions(objects).await;
    a_known_version_is_not_read_again(objects).await;
    a_reader_keeps_the_object_it_opened(objects).await;
    keys_are_listed_in_byte_order(objects).await;
    a_list_goes_on_behind_any_text(objects).await;
    a_prefix_may_end_within_a_name(objects).await;
    a_long_list_is_complete(objects).await;
    a_draft_appears_at_its_commit_and_not_before(objects).await;
    a_dropped_draft_leaves_nothing(objects).await;
    a_draft_replaces_what_was_there(objects).await;
    the_time_of_an_object_is_that_of_its_commit(objects).await;
    a_large_object_comes_back_as_it_went(objects).await;
    objects_are_joined_in_order(objects).await;
    deleted_objects_are_gone_and_missing_ones_do_not_matter(objects).await;
    neighbours_come_and_go_at_once(objects).await;
    objects.probe().await.unwrap();
}

async fn put(objects: &dyn Objects, key: &str, bytes: impl Into<Bytes>) {
    objects.put(&Key::new(key), bytes.into(), When::Always).await.unwrap();
}

async fn get(objects: &dyn Objects, key: &str, range: std::ops::Range<u64>) -> (u64, Vec<u8>) {
    let (meta, bytes) = objects.get(&Key::new(key), range).await.unwrap();
    (meta.size, bytes.try_collect::<Vec<Bytes>>().await.unwrap().concat())
}

async fn whole(objects: &dyn Objects, key: &str) -> Vec<u8> {
    get(objects, key, 0..u64::MAX).await.1
}

pub async fn list(objects: &dyn Objects, prefix: &str, after: Option<&str>) -> Vec<String> {
    objects.list(prefix, after).map_ok(|meta| meta.key.to_string()).try_collect().await.unwrap()
}

async fn an_object_is_found_with_its_size_and_bytes(objects: &dyn Objects) {
    let key = Key::new("found/a/b");
    let written = objects.put(&key, "hello".into(), When::Always).await.unwrap();
    let head = objects.head(&key).await.unwrap();
    assert_eq!((head.size, &head.key, &head.version), (5, &key, &written.version));
    let Read::Fresh(read, bytes) = objects.read(&key, None).await.unwrap() else { panic!("nothing was known") };
    assert_eq!((&read.version, bytes), (&written.version, Bytes::from("hello")));

    let listed: Vec<Meta> = objects.list("found/a/", None).try_collect().await.unwrap();
    let [listed] = &listed[..] else { panic!("{listed:?}") };
    // The list of some buckets has no versions.
    assert!(written.version.is_listed_as(&listed.version) || listed.version.0.is_empty(), "{listed:?}");
    let other = objects.put(&key, "other".into(), When::Always).await.unwrap();
    assert!(!other.version.is_listed_as(&listed.version), "{other:?} {listed:?}");
}

async fn a_missing_object_is_not_found(objects: &dyn Objects) {
    put(objects, "missing/a/b", "x").await;
    // An object below or above a key does not make the key exist.
    for key in ["missing/b", "missing/a", "missing/a/b/c"] {
        let key = Key::new(key);
        assert!(matches!(objects.head(&key).await, Err(Error::NotFound)), "{key}");
        assert!(matches!(objects.read(&key, None).await, Err(Error::NotFound)), "{key}");
        assert!(matches!(objects.get(&key, 0..1).await.map(drop), Err(Error::NotFound)), "{key}");
    }
    assert_eq!(list(objects, "missing/b", None).await, [""; 0]);
}

async fn a_range_is_clipped_to_the_object(objects: &dyn Objects) {
    put(objects, "range", "0123456789").await;
    for (range, expected) in [
        (0..10, "0123456789"),
        (2..5, "234"),
        (9..10, "9"),
        (8..u64::MAX, "89"),
        (0..u64::MAX, "0123456789"),
        (4..4, ""),
        (10..20, ""),
        (1000..u64::MAX, ""),
    ] {
        assert_eq!(get(objects, "range", range.clone()).await, (10, expected.into()), "{range:?}");
    }
}

async fn an_empty_object_is_an_object(objects: &dyn Objects) {
    put(objects, "empty/put", "").await;
    objects.begin(&Key::new("empty/draft"), Some(0)).await.unwrap().commit().await.unwrap();
    objects.concat(&[Key::new("empty/put")], &Key::new("empty/concat"), &Digest::sha256(b"")).await.unwrap();
    for key in ["empty/put", "empty/draft", "empty/concat"] {
        assert_eq!(get(objects, key, 0..u64::MAX).await, (0, Vec::new()), "{key}");
    }
    assert_eq!(list(objects, "empty/", None).await, ["empty/concat", "empty/draft", "empty/put"]);
}

async fn a_put_replaces_unless_told_otherwise(objects: &dyn Objects) {
    let key = Key::new("when");
    objects.put(&key, "first".into(), When::Absent).await.unwrap();
    assert!(matches!(objects.put(&key, "second".into(), When::Absent).await, Err(Error::Exists)));
    assert_eq!(whole(objects, "when").await, b"first");
    objects.put(&key, "third".into(), When::Always).await.unwrap();
    assert_eq!(whole(objects, "when").await, b"third");
    objects.delete(std::slice::from_ref(&key)).await.unwrap();
    objects.put(&key, "fourth".into(), When::Absent).await.unwrap();
    assert_eq!(whole(objects, "when").await, b"fourth");
}

async fn of_many_puts_into_nothing_one_wins(objects: &dyn Objects) {
    let key = Key::new("race/deep/down");
    let puts = (0..16).map(|i| objects.put(&key, Bytes::from(format!("put {i}")), When::Absent));
    let done = join_all(puts).await;
    let winners: Vec<usize> = (0..16).filter(|i| done[*i].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{done:?}");
    assert!(done.iter().filter(|done| done.is_err()).all(|done| matches!(done, Err(Error::Exists))), "{done:?}");
    assert_eq!(whole(objects, "race/deep/down").await, format!("put {}", winners[0]).as_bytes());
}

async fn two_writings_of_the_same_bytes_have_two_versions(objects: &dyn Objects) {
    let key = Key::new("versions/a");
    let mut versions = Vec::new();
    for _ in 0..8 {
        versions.push(objects.put(&key, "same".into(), When::Always).await.unwrap().version);
    }
    let mut draft = objects.begin(&key, None).await.unwrap();
    draft.write(vec!["same".into()]).await.unwrap();
    versions.push(draft.commit().await.unwrap().version);
    let source = Key::new("versions/b");
    objects.put(&source, "same".into(), When::Always).await.unwrap();
    for _ in 0..2 {
        let digest = Digest::sha256(b"same");
        versions.push(objects.concat(std::slice::from_ref(&source), &key, &digest).await.unwrap().version);
    }
    objects.delete(std::slice::from_ref(&key)).await.unwrap();
    versions.push(objects.put(&key, "same".into(), When::Absent).await.unwrap().version);
    assert_eq!(objects.head(&key).await.unwrap().version, *versions.last().unwrap());
    let distinct: std::collections::HashSet<_> = versions.iter().collect();
    assert_eq!(distinct.len(), versions.len(), "{versions:?}");
}

async fn a_known_version_is_not_read_again(objects: &dyn Objects) {
    let key = Key::new("known");
    let first = objects.put(&key, "one".into(), When::Always).await.unwrap().version;
    assert!(matches!(objects.read(&key, Some(&first)).await.unwrap(), Read::Same));
    let second = objects.put(&key, "two".into(), When::Always).await.unwrap().version;
    let Read::Fresh(meta, bytes) = objects.read(&key, Some(&first)).await.unwrap() else { panic!("it changed") };
    assert_eq!((meta.version, bytes), (second.clone(), Bytes::from("two")));
    objects.delete(std::slice::from_ref(&key)).await.unwrap();
    assert!(matches!(objects.read(&key, Some(&second)).await, Err(Error::NotFound)));
}

async fn a_reader_keeps_the_object_it_opened(objects: &dyn Objects) {
    let (old, new) = (noise(3 << 20, 1), noise(3 << 20, 2));
    put(objects, "reader", old.clone()).await;
    let (_, mut bytes) = objects.get(&Key::new("reader"), 0..u64::MAX).await.unwrap();
    let mut seen = bytes.next().await.unwrap().unwrap().to_vec();
    put(objects, "reader", new.clone()).await;
    // The rest of the old object, or an error where the backend cannot give it: never the two mixed.
    match bytes.try_collect::<Vec<Bytes>>().await {
        Ok(rest) => {
            seen.extend(rest.concat());
            assert!(seen == old || seen == new);
        }
        Err(error) => assert!(!matches!(error, Error::Exists | Error::Full), "{error:?}"),
    }
}

async fn keys_are_listed_in_byte_order(objects: &dyn Objects) {
    // `-` and `.` come before `/`, digits and letters after it: a walk of sorted folders would get this wrong.
    let sorted = [
        "order/a",
        "order/a!b/x",
        "order/a-b/x",
        "order/a.b",
        "order/a0",
        "order/aa/x/y",
        "order/aa/x0",
        "order/aa0/x",
    ];
    for key in sorted.iter().rev() {
        put(objects, key, "x").await;
        assert!(list(objects, "order/", None).await.contains(&key.to_string()), "{key} is not seen at once");
    }
    assert_eq!(list(objects, "order/", None).await, sorted);
    for key in ["order/b-c/1", "order/b/1", "order/b/2", "order/b0/1"] {
        put(objects, key, "x").await;
    }
    let expected = ["order/b-c/1", "order/b/1", "order/b/2", "order/b0/1"];
    assert_eq!(list(objects, "order/b", None).await, expected);
    assert!(list(objects, "", None).await.is_sorted());
}

async fn a_list_goes_on_behind_any_text(objects: &dyn Objects) {
    let keys = ["after/a-b/1", "after/a/b/c/1", "after/a/b/c/2", "after/a/b/d", "after/a/c", "after/a0", "after/b/1"];
    for key in keys {
        put(objects, key, "x").await;
    }
    let between =
        ["after/", "after/a/b", "after/a/b/", "after/a/b/c/", "after/a/b/c/10", "after/a/b~", "after/a/~", "z"];
    for after in keys.iter().chain(&between) {
        let expected: Vec<&str> = keys.into_iter().filter(|key| key > after).collect();
        assert_eq!(list(objects, "after/", Some(after)).await, expected, "after {after}");
        let below: Vec<&str> = expected.into_iter().filter(|key| key.starts_with("after/a/")).collect();
        assert_eq!(list(objects, "after/a/", Some(after)).await, below, "below after/a/, after {after}");
    }
}

async fn a_prefix_may_end_within_a_name(objects: &dyn Objects) {
    for key in ["prefix/ab/1", "prefix/abc/2", "prefix/abd", "prefix/b"] {
        put(objects, key, "x").await;
    }
    assert_eq!(list(objects, "prefix/ab", None).await, ["prefix/ab/1", "prefix/abc/2", "prefix/abd"]);
    assert_eq!(list(objects, "prefix/abc", None).await, ["prefix/abc/2"]);
    assert_eq!(list(objects, "prefix/ab/", None).await, ["prefix/ab/1"]);
    assert_eq!(list(objects, "prefix/abd", None).await, ["prefix/abd"]);
    assert_eq!(list(objects, "prefix/abd/", None).await, [""; 0]);
    assert_eq!(list(objects, "pref", Some("prefix/abd")).await, ["prefix/b"]);
    assert_eq!(list(objects, "no/such/prefix", None).await, [""; 0]);
}

async fn a_long_list_is_complete(objects: &dyn Objects) {
    // More than a page of any backend.
    let keys: Vec<String> = (0..1_100).map(|i| format!("long/{:02}/{i:05}", i % 7)).collect();
    futures::stream::iter(&keys).for_each_concurrent(16, |key| put(objects, key, "x")).await;
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(list(objects, "long/", None).await, sorted);
    assert_eq!(list(objects, "long/", Some(&sorted[600])).await, sorted[601..]);
    let few: Vec<_> = objects.list("long/", None).take(3).map_ok(|meta| meta.size).try_collect().await.unwrap();
    assert_eq!(few, [1, 1, 1]);
    let all: Vec<Key> = keys.into_iter().map(Key::new).collect();
    objects.delete(&all).await.unwrap();
    assert_eq!(list(objects, "long/", None).await, [""; 0]);
}

async fn a_draft_appears_at_its_commit_and_not_before(objects: &dyn Objects) {
    let key = Key::new("draft/a");
    let mut draft = objects.begin(&key, None).await.unwrap();
    draft.write(vec!["one ".into(), Bytes::new(), "two ".into()]).await.unwrap();
    draft.write(Vec::new()).await.unwrap();
    draft.write(vec!["three".into()]).await.unwrap();
    assert!(matches!(objects.head(&key).await, Err(Error::NotFound)));
    assert_eq!(list(objects, "draft/", None).await, [""; 0]);
    let committed = draft.commit().await.unwrap();
    assert_eq!((committed.size, &committed.key), (13, &key));
    assert_eq!(whole(objects, "draft/a").await, b"one two three");
    assert_eq!(objects.head(&key).await.unwrap().version, committed.version);
}

async fn a_dropped_draft_leaves_nothing(objects: &dyn Objects) {
    let key = Key::new("dropped/a");
    let mut draft = objects.begin(&key, Some(1 << 20)).await.unwrap();
    draft.write(vec![noise(1 << 19, 3)]).await.unwrap();
    drop(draft);
    assert!(matches!(objects.head(&key).await, Err(Error::NotFound)));
    put(objects, "dropped/a", "kept").await;
    drop(objects.begin(&key, None).await.unwrap());
    assert_eq!(whole(objects, "dropped/a").await, b"kept");
}

async fn a_draft_replaces_what_was_there(objects: &dyn Objects) {
    put(objects, "replaced", "old").await;
    let mut draft = objects.begin(&Key::new("replaced"), None).await.unwrap();
    draft.write(vec!["new".into()]).await.unwrap();
    assert_eq!(whole(objects, "replaced").await, b"old");
    draft.commit().await.unwrap();
    assert_eq!(whole(objects, "replaced").await, b"new");
}

async fn the_time_of_an_object_is_that_of_its_commit(objects: &dyn Objects) {
    let key = Key::new("time/draft");
    let mut draft = objects.begin(&key, None).await.unwrap();
    draft.write(vec!["x".into()]).await.unwrap();
    // Something that happens between the beginning and the commit, by the backend's own clock.
    put(objects, "time/between", "x").await;
    let between = objects.head(&Key::new("time/between")).await.unwrap();
    draft.commit().await.unwrap();
    let modified = objects.head(&key).await.unwrap().modified;
    assert!(modified >= between.modified, "{modified:?} is before {:?}", between.modified);
    assert!(modified > SystemTime::UNIX_EPOCH);
}

async fn a_large_object_comes_back_as_it_went(objects: &dyn Objects) {
    // Larger than anything that is read or written at once, and no multiple of it.
    let bytes = noise((READ_BYTES_MAX as usize) + 12_345, 4);
    let key = Key::new("large");
    let mut draft = objects.begin(&key, Some(bytes.len() as u64)).await.unwrap();
    for piece in bytes.chunks(700_001) {
        let (first, second) = piece.split_at(piece.len() / 3);
        draft.write(vec![bytes.slice_ref(first), bytes.slice_ref(second)]).await.unwrap();
    }
    draft.commit().await.unwrap();
    let (size, back) = get(objects, "large", 0..u64::MAX).await;
    assert_eq!(size, bytes.len() as u64);
    assert!(back == bytes, "the bytes differ");
    let middle = get(objects, "large", 1_048_570..9_000_001).await.1;
    assert!(middle == bytes[1_048_570..9_000_001], "the range differs");
    assert!(objects.read(&key, None).await.is_err(), "too large to be read whole");
    objects.delete(&[key]).await.unwrap();
}

async fn objects_are_joined_in_order(objects: &dyn Objects) {
    let parts: Vec<Key> = (0..3).map(|i| Key::new(format!("concat/part{i}"))).collect();
    for (i, part) in parts.iter().enumerate() {
        objects.put(part, noise(100_000 + i, i as u64), When::Always).await.unwrap();
    }
    let expected: Vec<u8> = (0..3).flat_map(|i| noise(100_000 + i, i as u64)).collect();
    objects.concat(&parts, &Key::new("concat/joined"), &Digest::sha256(&expected)).await.unwrap();
    assert!(whole(objects, "concat/joined").await == expected);
    // From one part: neither the source nor the target may change with the other afterwards.
    objects.concat(&parts[..1], &Key::new("concat/one"), &Digest::sha256(&noise(100_000, 0))).await.unwrap();
    put(objects, "concat/part0", "changed").await;
    assert!(whole(objects, "concat/one").await == noise(100_000, 0));
    objects.delete(&parts).await.unwrap();
    assert!(whole(objects, "concat/one").await == noise(100_000, 0));
    for missing in [&parts[..1], &[Key::new("concat/one"), Key::new("concat/nothing")]] {
        let joined = objects.concat(missing, &Key::new("concat/bad"), &Digest::sha256(b"")).await;
        assert!(matches!(joined, Err(Error::NotFound)), "{joined:?}");
    }
    assert_eq!(list(objects, "concat/", None).await, ["concat/joined", "concat/one"]);
}

async fn deleted_objects_are_gone_and_missing_ones_do_not_matter(objects: &dyn Objects) {
    for key in ["delete/a/1", "delete/a/2", "delete/b"] {
        put(objects, key, "x").await;
    }
    let keys: Vec<Key> = ["delete/a/1", "delete/none", "delete/a/1/x", "delete/b"].map(Key::new).into();
    objects.delete(&keys).await.unwrap();
    assert_eq!(list(objects, "delete/", None).await, ["delete/a/2"]);
    objects.delete(&keys).await.unwrap();
    objects.delete(&[]).await.unwrap();
    put(objects, "delete/a/1", "again").await;
    assert_eq!(list(objects, "delete/", None).await, ["delete/a/1", "delete/a/2"]);
}

async fn neighbours_come_and_go_at_once(objects: &dyn Objects) {
    // On a filesystem an empty folder is removed while another task is about to use it.
    let lives = (0..8).map(|i| async move {
        let key = Key::new(format!("crowd/{}/deep/{i}", i % 2));
        for life in 0..20 {
            let body = Bytes::from(format!("{i} {life}"));
            objects.put(&key, body.clone(), When::Always).await.expect("put");
            let Read::Fresh(_, bytes) = objects.read(&key, None).await.expect("read") else { panic!("nothing known") };
            assert_eq!(bytes, body);
            objects.delete(std::slice::from_ref(&key)).await.expect("delete");
            assert!(matches!(objects.head(&key).await, Err(Error::NotFound)));
        }
    });
    join_all(lives).await;
    assert_eq!(list(objects, "crowd/", None).await, [""; 0]);
    // Several delete the same.
    for _ in 0..10 {
        put(objects, "crowd/same/deep/x", "x").await;
        let keys = [Key::new("crowd/same/deep/x")];
        for deleted in join_all((0..4).map(|_| objects.delete(&keys))).await {
            deleted.unwrap();
        }
    }
}
