//! Objects in a bucket, and the promises of buckets only.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytesize::ByteSize;
use futures::TryStreamExt;
use futures::future::join_all;
use larder::config::{Checksum, S3Config};
use larder::digest::Digest;
use larder::objects::s3::S3Objects;
use larder::objects::{Error, Key, Objects, Read, When};

use super::whole;
use crate::bucket::{Bucket, Fault, real};
use crate::world::noise;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_holds_objects() {
    let bucket = Bucket::in_process().await;
    super::basics(&bucket.open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_of_a_real_server_holds_objects() {
    let Some(mut config) = real() else { return };
    for checksum in [Checksum::Crc32c, Checksum::None] {
        config.prefix.push_str("/again");
        config.checksum = checksum;
        super::suite(&S3Objects::open(&config).await.unwrap()).await;
    }
}

fn calls<const N: usize>(expected: [(&'static str, usize); N]) -> BTreeMap<&'static str, usize> {
    expected.into()
}

async fn draft(objects: &S3Objects, key: &str, bytes: &Bytes, size: Option<u64>) -> larder::objects::Result<u64> {
    let mut draft = objects.begin(&Key::new(key), size).await?;
    for piece in bytes.chunks(512 << 10) {
        draft.write(vec![bytes.slice_ref(piece)]).await?;
    }
    Ok(draft.commit().await?.size)
}

#[tokio::test]
async fn a_blob_of_n_parts_costs_n_calls_and_two() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    bucket.calls();
    for (size, expected) in [
        (0, calls([("put", 1)])),
        (MIB, calls([("put", 1)])),
        // An object of the size of a part is one part.
        (8 * MIB, calls([("put", 1)])),
        (8 * MIB + 1, calls([("begin upload", 1), ("put part", 2), ("complete upload", 1)])),
        (33 * MIB, calls([("begin upload", 1), ("put part", 5), ("complete upload", 1)])),
    ] {
        let bytes = noise(size, size as u64);
        for told in [Some(size as u64), None] {
            assert_eq!(draft(&objects, "n", &bytes, told).await.unwrap(), size as u64);
            assert_eq!(bucket.calls(), expected, "{size} bytes, told {told:?}");
            assert!(whole(&objects, "n").await == bytes);
            assert_eq!(bucket.calls(), calls([("get", 1)]));
        }
    }
}

#[tokio::test]
async fn a_draft_that_is_dropped_leaves_no_parts_behind() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    bucket.calls();
    let mut draft = objects.begin(&Key::new("dropped"), None).await.unwrap();
    draft.write(vec![noise(20 * MIB, 1)]).await.unwrap();
    drop(draft);
    let mut seen = 0;
    for _ in 0..6000 {
        seen += bucket.calls().get("abort upload").copied().unwrap_or(0);
        if seen > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(seen, 1);
    assert!(matches!(objects.head(&Key::new("dropped")).await, Err(Error::NotFound)));
}

/// The server in process knows no list of uploads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_that_died_had_begun_is_swept_away() {
    let Some(config) = real() else { return };
    let objects = S3Objects::open(&config).await.unwrap();
    let mut died = objects.begin(&Key::new("died"), None).await.unwrap();
    died.write(vec![noise(20 * MIB, 1)]).await.unwrap();
    assert_eq!(objects.unfinished().await.unwrap().len(), 1);
    // The writer dies before it can abort its upload.
    std::mem::forget(died);
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    assert_eq!(objects.sweep_drafts(now - hour).await.unwrap(), 0);
    assert_eq!(objects.sweep_drafts(now + hour).await.unwrap(), 1);
    assert_eq!(objects.unfinished().await.unwrap(), []);
    assert!(matches!(objects.head(&Key::new("died")).await, Err(Error::NotFound)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_wait_for_memory_and_all_come_through() {
    let mut bucket = Bucket::in_process().await;
    // Two parts in all, for twelve uploads of three each.
    bucket.config.part_size = ByteSize::mib(5);
    bucket.config.upload_memory = Some(ByteSize::mib(10));
    let objects = bucket.open().await;
    let bytes = noise(11 * MIB, 2);
    let uploads = (0..12).map(|i| {
        let (objects, bytes) = (objects.clone(), bytes.clone());
        async move { draft(&objects, &format!("crowd/{i}"), &bytes, Some(bytes.len() as u64)).await.unwrap() }
    });
    let all = tokio::time::timeout(Duration::from_secs(120), join_all(uploads)).await.unwrap();
    assert_eq!(all, [11 << 20; 12]);
    assert!(whole(&objects, "crowd/7").await == bytes);
}

#[tokio::test]
async fn large_sources_are_joined_inside_the_bucket() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    let sizes = [("a", 6 * MIB), ("b", 5 * MIB), ("c", 0), ("d", 100)];
    let keys = sizes.map(|(name, _)| Key::new(format!("from/{name}")));
    let parts = sizes.map(|(_, size)| noise(size, size as u64));
    for (key, part) in keys.iter().zip(&parts) {
        objects.put(key, part.clone(), When::Always).await.unwrap();
    }
    bucket.calls();
    let joined = objects.concat(&keys, &Key::new("joined"), &Digest::sha256(&parts.concat())).await.unwrap();
    assert_eq!(joined.size, 11 * MIB as u64 + 100);
    let expected = [("head", 4), ("begin upload", 1), ("copy part", 3), ("complete upload", 1)];
    assert_eq!(bucket.calls(), calls(expected));
    assert!(whole(&objects, "joined").await == parts.concat());
    bucket.calls();
    // A small one in the middle can be no part.
    let order = [keys[3].clone(), keys[0].clone()];
    let bytes = [&parts[3][..], &parts[0][..]].concat();
    objects.concat(&order, &Key::new("through"), &Digest::sha256(&bytes)).await.unwrap();
    assert_eq!(bucket.calls(), calls([("head", 2), ("get", 2), ("put", 1)]));
    assert!(whole(&objects, "through").await == bytes);
    bucket.calls();
    objects.concat(&order[..1], &Key::new("copied"), &Digest::sha256(&parts[3])).await.unwrap();
    assert_eq!(bucket.calls(), calls([("head", 1), ("copy", 1)]));
}

#[tokio::test]
async fn bytes_that_are_damaged_while_they_are_joined_are_not_written() {
    let mut bucket = Bucket::in_process().await;
    // Only the digest reveals the damage.
    bucket.config.checksum = Checksum::None;
    let objects = bucket.open().await;
    let parts = [noise(1000, 1), noise(2000, 2)];
    let keys = ["from/a", "from/b"].map(Key::new);
    for (key, part) in keys.iter().zip(&parts) {
        objects.put(key, part.clone(), When::Always).await.unwrap();
    }
    bucket.fail("get", Fault::Flip, 1);
    bucket.calls();
    objects.concat(&keys, &Key::new("joined"), &Digest::sha256(&parts.concat())).await.unwrap();
    // Read once more, and written once.
    assert_eq!(bucket.calls(), calls([("head", 2), ("get", 4), ("put", 1)]));
    assert!(whole(&objects, "joined").await == parts.concat());
}

#[tokio::test]
async fn a_bucket_that_is_busy_is_asked_again() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    let key = Key::new("busy");
    for call in ["put", "get", "head", "list", "delete"] {
        bucket.fail(call, Fault::SlowDown, 2);
    }
    objects.put(&key, "x".into(), When::Always).await.unwrap();
    assert_eq!(whole(&objects, "busy").await, b"x");
    objects.head(&key).await.unwrap();
    assert_eq!(super::list(&objects, "", None).await, ["busy"]);
    objects.delete(std::slice::from_ref(&key)).await.unwrap();
    let asked = calls([("put", 3), ("get", 3), ("head", 3), ("list", 3), ("delete", 3)]);
    let seen = bucket.calls();
    assert!(asked.iter().all(|(call, times)| seen[call] >= *times), "{seen:?}");
    bucket.fail("head", Fault::SlowDown, 100);
    assert!(matches!(objects.head(&key).await, Err(Error::Busy(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_refusals_fails_no_upload() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    let bytes = noise(17 * MIB, 5);
    // More than all parts together are sent again by the SDK.
    bucket.fail("put part", Fault::SlowDown, 150);
    let uploads = (0..8).map(|i| draft_of(&objects, format!("storm/{i}"), &bytes));
    assert_eq!(join_all(uploads).await, [17 << 20; 8]);
    assert!(whole(&objects, "storm/7").await == bytes);
}

async fn draft_of(objects: &S3Objects, key: String, bytes: &Bytes) -> u64 {
    draft(objects, &key, bytes, Some(bytes.len() as u64)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_an_upload_is_repeated_for_longer_than_the_sdk_does() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    let small = noise(1000, 6);
    for call in ["begin upload", "put part", "complete upload"] {
        bucket.fail(call, Fault::SlowDown, 7);
        assert_eq!(draft_of(&objects, "steps/large".into(), &noise(9 * MIB, 6)).await, 9 << 20, "{call}");
    }
    bucket.fail("put", Fault::SlowDown, 7);
    assert_eq!(draft_of(&objects, "steps/small".into(), &small).await, 1000);
    let from = [Key::new("steps/small"), Key::new("steps/large")];
    for (call, from) in [("head", &from[..]), ("get", &from[..]), ("copy", &from[..1]), ("copy part", &from[1..])] {
        let again = [from, &from[from.len() - 1..]].concat();
        let from = if call == "copy part" { &again } else { from };
        let mut bytes = Vec::new();
        for key in from {
            bytes.extend(whole(&objects, key.as_str()).await);
        }
        bucket.fail(call, Fault::SlowDown, 7);
        let joined = objects.concat(from, &Key::new("steps/joined"), &Digest::sha256(&bytes)).await;
        joined.unwrap_or_else(|error| panic!("{call}: {error}"));
    }
}

#[tokio::test]
async fn only_a_refusal_of_its_age_proves_that_a_late_request_is_refused() {
    let bucket = Bucket::in_process().await;
    let age_max = async || bucket.open().await.fence().map(|fence| fence.age_max);
    let quarter = Some(Duration::from_secs(15 * 60));
    assert_eq!(age_max().await, quarter);
    // Overload proves nothing: the call is repeated.
    bucket.fail("late delete", Fault::SlowDown, 1);
    assert_eq!(age_max().await, quarter);
    bucket.fail("late delete", Fault::Denied, 1);
    assert_eq!(age_max().await, None);
}

#[tokio::test]
async fn a_bucket_that_is_gone_may_come_back() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    let key = Key::new("gone");
    for call in ["put", "get", "head", "list"] {
        bucket.fail(call, Fault::NoBucket, 1);
    }
    assert!(matches!(objects.put(&key, "x".into(), When::Always).await, Err(Error::Busy(_))));
    let read = objects.read(&key, None).await;
    assert!(matches!(&read, Err(Error::Busy(reason)) if reason.contains("create the bucket")), "{read:?}");
    assert!(matches!(objects.head(&key).await, Err(Error::Busy(_))));
    assert!(matches!(objects.list("", None).try_next().await, Err(Error::Busy(_))));
    objects.put(&key, "x".into(), When::Always).await.unwrap();
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_taken_for_somebody_elses() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    let key = Key::new("lost/put");
    bucket.fail("put", Fault::AnswerLost, 1);
    let written = objects.put(&key, "mine".into(), When::Absent).await.unwrap();
    assert_eq!(objects.head(&key).await.unwrap().version, written.version);
    assert!(matches!(objects.put(&key, "mine".into(), When::Absent).await, Err(Error::Exists)));
    bucket.fail("complete upload", Fault::AnswerLost, 1);
    let bytes = noise(9 * MIB, 3);
    assert_eq!(draft(&objects, "lost/draft", &bytes, None).await.unwrap(), 9 << 20);
    assert!(whole(&objects, "lost/draft").await == bytes);
}

/// As versitygw answers the second attempt while the first one is under way.
#[tokio::test]
async fn what_only_a_second_attempt_completed_is_looked_for() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    let bytes = noise(9 * MIB, 7);
    bucket.fail("complete upload", Fault::SlowDown, 1);
    bucket.fail("complete upload", Fault::ToldDone, 1);
    bucket.calls();
    assert_eq!(draft_of(&objects, "told/late".into(), &bytes).await, 9 << 20);
    let calls = bucket.calls();
    // Refused, then answered as done and not found, then done and found.
    assert_eq!((calls["complete upload"], calls["head"]), (3, 2), "{calls:?}");
    assert!(whole(&objects, "told/late").await == bytes);
    // The first answer is believed.
    bucket.calls();
    draft_of(&objects, "told/at-once".into(), &bytes).await;
    let calls = bucket.calls();
    assert_eq!((calls["complete upload"], calls.get("head")), (1, None), "{calls:?}");
}

/// A retry would bring back bytes that another writer has replaced meanwhile.
#[tokio::test]
async fn what_is_to_be_written_once_is_not_sent_again() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    for fault in [Fault::AnswerLost, Fault::SlowDown] {
        let key = Key::new("once");
        bucket.fail("put", fault, 1);
        bucket.calls();
        let written = objects.put(&key, "mine".into(), When::Once).await;
        assert!(matches!(written, Err(Error::Busy(_))), "{fault:?}: {written:?}");
        assert_eq!(bucket.calls()["put"], 1, "{fault:?}");
        objects.put(&key, "mine".into(), When::Once).await.unwrap();
    }
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_an_error() {
    let bucket = Bucket::in_process().await;
    let objects = bucket.open().await;
    let key = Key::new("cut");
    objects.put(&key, noise(100_000, 4), When::Always).await.unwrap();
    bucket.fail("get", Fault::Cut, 1);
    let (meta, bytes) = objects.get(&key, 0..u64::MAX).await.unwrap();
    assert_eq!(meta.size, 100_000);
    let cut = bytes.try_collect::<Vec<Bytes>>().await;
    assert!(matches!(cut, Err(Error::Busy(_))), "{:?}", cut.map(|bytes| bytes.concat().len()));
    bucket.fail("get", Fault::Cut, 1);
    assert!(matches!(objects.read(&key, None).await, Err(Error::Busy(_))));
    assert!(matches!(objects.read(&key, None).await, Ok(Read::Fresh(..))));
}

async fn refused(config: &S3Config, change: impl FnOnce(&mut S3Config)) -> String {
    let mut config = config.clone();
    change(&mut config);
    S3Objects::open(&config).await.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn what_a_bucket_lacks_is_said_at_start() {
    let bucket = Bucket::in_process().await;
    let error = refused(&bucket.config, |config| config.access_key_id = Some("other".into())).await;
    assert!(error.contains("cannot write an object in s3://it0/a/store"), "{error}");
    assert!(error.contains("does not accept these credentials"), "{error}");
    let error = refused(&bucket.config, |config| config.endpoint = Some("http://127.0.0.1:1".into())).await;
    assert!(error.contains("127.0.0.1:1") && error.contains("refused"), "{error}");
    bucket.fail("begin upload", Fault::Denied, 1);
    let error = refused(&bucket.config, |_| {}).await;
    assert!(error.contains("cannot begin an upload of parts") && error.contains("s3:PutObject"), "{error}");
    bucket.fail("abort upload", Fault::Denied, 1);
    let error = refused(&bucket.config, |_| {}).await;
    assert!(error.contains("cannot give up an upload of parts"), "{error}");
    bucket.fail("list", Fault::Unordered, 1);
    let error = refused(&bucket.config, |_| {}).await;
    assert!(error.contains("not listed in the order of their bytes"), "{error}");
    let error = refused(&bucket.config, |config| config.ca_file = Some("/nowhere/ca.pem".into())).await;
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
    if let Some(config) = real() {
        let error = refused(&config, |config| config.bucket = "larder-elsewhere".into()).await;
        let elsewhere = S3Config { bucket: "larder-elsewhere".into(), ..config.clone() }.address();
        let said = format!("{elsewhere} at {}: the bucket does not exist: create it", config.endpoint.unwrap());
        assert!(error.starts_with(&said), "{error}");
    }
}

#[tokio::test]
async fn keys_come_from_files_that_may_be_replaced() {
    let mut bucket = Bucket::in_process().await;
    let folder = tempfile::tempdir().unwrap();
    let (id, secret) = (folder.path().join("id"), folder.path().join("secret"));
    std::fs::write(&id, "key\n").unwrap();
    std::fs::write(&secret, "secret\n").unwrap();
    bucket.config.access_key_id = None;
    bucket.config.secret_access_key = None;
    bucket.config.access_key_id_file = Some(id);
    bucket.config.secret_access_key_file = Some(secret);
    bucket.open().await.probe().await.unwrap();
}

#[tokio::test]
async fn whatever_makes_an_object_names_the_key_to_encrypt_it_with() {
    let mut bucket = Bucket::in_process().await;
    bucket.open().await;
    assert_eq!(bucket.encrypted(), []);
    bucket.config.sse_kms_key = Some("a-key".into());
    let objects = bucket.open().await;
    bucket.encrypted();
    let (small, large) = (Key::new("small"), Key::new("large"));
    objects.put(&small, "x".into(), When::Always).await.unwrap();
    let bytes = noise(9 * MIB, 1);
    draft(&objects, "large", &bytes, None).await.unwrap();
    objects.concat(std::slice::from_ref(&small), &Key::new("copied"), &Digest::sha256(b"x")).await.unwrap();
    let joined = Digest::sha256(&[&bytes[..], b"x"].concat());
    objects.concat(&[large, small], &Key::new("joined"), &joined).await.unwrap();
    let makers = ["put", "begin upload", "copy", "begin upload"];
    assert_eq!(bucket.encrypted(), makers.map(|call| (call, "a-key".to_string())));
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let mut bucket = Bucket::in_process().await;
    let ours = bucket.open().await;
    ours.put(&Key::new("x"), "ours".into(), When::Always).await.unwrap();
    ours.probe().await.unwrap();
    bucket.config.prefix = "a/stor".into();
    let other = bucket.open().await;
    assert_eq!(super::list(&other, "", None).await, [""; 0]);
    other.put(&Key::new("x"), "theirs".into(), When::Absent).await.unwrap();
    assert_eq!(whole(&ours, "x").await, b"ours");
    assert_eq!(super::list(&ours, "", None).await, ["x"]);
}
