//! Objects as files, and the promises of files only.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use larder::digest::Digest;
use larder::objects::fs::FsObjects;
use larder::objects::{Error, Key, Objects, When};
use tempfile::tempdir;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn files_are_objects() {
    let folder = tempdir().unwrap();
    let objects = FsObjects::open(folder.path()).unwrap();
    super::suite(&objects).await;
}

#[tokio::test]
async fn a_folder_has_one_owner() {
    let folder = tempdir().unwrap();
    let first = FsObjects::open(folder.path()).unwrap();
    let refused = FsObjects::open(folder.path()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("is in use by another larder") && refused.contains("LARDER_STORE_PATH"), "{refused}");
    drop(first);
    FsObjects::open(folder.path()).unwrap();
}

fn mode(folder: &Path) -> u32 {
    fs::metadata(folder).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_store_is_for_its_owner_alone() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("outer/store");
    drop(FsObjects::open(&root).unwrap());
    assert_eq!((mode(&root), mode(&root.join(".larder"))), (0o700, 0o700));
    // Modes that an earlier version left: others lose their rights, and a group keeps those that it may have been
    // given.
    for (before, after) in [(0o755, 0o750), (0o2775, 0o2770), (0o700, 0o700), (0o1777, 0o1777)] {
        fs::set_permissions(&root, fs::Permissions::from_mode(before)).unwrap();
        fs::set_permissions(root.join(".larder"), fs::Permissions::from_mode(0o755)).unwrap();
        drop(FsObjects::open(&root).unwrap());
        assert_eq!((mode(&root), mode(&root.join(".larder"))), (after, 0o700), "{before:o}");
    }
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_cleared() {
    let folder = tempdir().unwrap();
    let objects = FsObjects::open(folder.path()).unwrap();
    objects.put(&Key::new("a/b"), "kept".into(), When::Always).await.unwrap();
    let mut draft = objects.begin(&Key::new("a/c"), None).await.unwrap();
    draft.write(vec!["half".into()]).await.unwrap();
    // As in a process that dies, nothing is dropped.
    std::mem::forget(draft);
    drop(objects);
    let tmp = folder.path().join(".larder/tmp");
    fs::write(tmp.join("leftover"), "x").unwrap();
    assert!(files(&tmp).len() >= 2);
    // The forgotten draft keeps the lock as well; a copy of the folder has none.
    let copy = tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(folder.path()).arg(copy.path()).status().unwrap();
    assert!(status.success());
    let root = copy.path().join(folder.path().file_name().unwrap());
    let objects = FsObjects::open(&root).unwrap();
    assert_eq!(files(&root.join(".larder/tmp")).len(), 0);
    assert_eq!(super::whole(&objects, "a/b").await, b"kept");
    assert!(matches!(objects.head(&Key::new("a/c")).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn writes_that_fail_leave_every_file_as_it_was() {
    let folder = tempdir().unwrap();
    let objects = FsObjects::open(folder.path()).unwrap();
    for key in ["a", "b/c", "b/d"] {
        objects.put(&Key::new(key), Bytes::from(key), When::Always).await.unwrap();
    }
    let before = files(folder.path());
    objects.put(&Key::new("b/c"), "x".into(), When::Absent).await.unwrap_err();
    // `a` is a file, so it cannot have files below it; `b` is a folder, so it cannot be a file.
    objects.put(&Key::new("a/x"), "x".into(), When::Always).await.unwrap_err();
    objects.put(&Key::new("b"), "x".into(), When::Always).await.unwrap_err();
    let digest = Digest::sha256(b"");
    objects.concat(&[Key::new("b/c"), Key::new("none")], &Key::new("b/d"), &digest).await.unwrap_err();
    let mut draft = objects.begin(&Key::new("b/d"), None).await.unwrap();
    draft.write(vec!["x".into()]).await.unwrap();
    drop(draft);
    assert_eq!(files(folder.path()), before);
    assert_eq!(files(&folder.path().join(".larder/tmp")).len(), 0, "a failed write leaves no temporary file");
}

#[tokio::test]
async fn our_own_folder_is_in_no_list() {
    let folder = tempdir().unwrap();
    let objects = FsObjects::open(folder.path()).unwrap();
    objects.put(&Key::new("a"), "x".into(), When::Always).await.unwrap();
    assert_eq!(super::list(&objects, "", None).await, ["a"]);
}

#[tokio::test]
async fn an_empty_folder_is_removed_with_its_last_object() {
    let folder = tempdir().unwrap();
    let objects = FsObjects::open(folder.path()).unwrap();
    let keys = [Key::new("a/b/c/1"), Key::new("a/b/2")];
    for key in &keys {
        objects.put(key, "x".into(), When::Always).await.unwrap();
    }
    objects.delete(&keys[..1]).await.unwrap();
    assert!(!folder.path().join("a/b/c").exists() && folder.path().join("a/b").exists());
    objects.delete(&keys[1..]).await.unwrap();
    assert!(!folder.path().join("a").exists());
}

/// Every file outside our own folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with(".larder") {
            found.extend(files(&path));
        } else if path.is_file() {
            found.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    found
}
