//! Which folders are synced, and when. `tests/e2e/cases/61-syscalls.sh` shows that files are synced before they get
//! their names.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use futures::poll;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::folders::{Folders, SyncFolder, sync_folder};
use super::{FsObjects, Key, Objects, OpenFolderError, READ_BYTES, Read, When};

/// Events of a store, in order: syncs of its folders, by path below the root and with the names in them, and the notes
/// that a test wrote in between.
#[derive(Clone, Default)]
struct Record {
    events: Arc<Mutex<Vec<String>>>,
    fails: Arc<AtomicBool>,
    gate: Arc<Gate>,
}

/// A gate that, while closed, holds each sync of a folder just after its beginning.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
}

struct Closed(Arc<Gate>);

impl Drop for Closed {
    fn drop(&mut self) {
        *self.0.closed.lock().unwrap() = false;
        self.0.changed.notify_all();
    }
}

impl Record {
    fn note(&self, event: impl Into<String>) {
        self.events.lock().unwrap().push(event.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    /// Closes the gate until the returned guard is dropped, so that a test which fails does not wait for ever.
    fn close(&self) -> Closed {
        *self.gate.closed.lock().unwrap() = true;
        Closed(self.gate.clone())
    }

    /// Returns when a sync has begun that `work` waits for.
    async fn begun<T>(&self, work: &JoinHandle<T>) {
        while self.events.lock().unwrap().is_empty() {
            assert!(!work.is_finished(), "nothing is synced");
            tokio::task::yield_now().await;
        }
        assert!(!work.is_finished());
    }

    fn sync(&self, root: &Path) -> SyncFolder {
        let (record, root) = (self.clone(), root.canonicalize().unwrap());
        Box::new(move |folder| {
            let name = match folder.strip_prefix(&root) {
                Ok(below) if below.as_os_str().is_empty() => "root".to_string(),
                Ok(below) => below.display().to_string(),
                Err(_) => "parent".to_string(),
            };
            let mut names: Vec<_> = fs::read_dir(folder)?.map(|entry| entry.unwrap().file_name()).collect();
            names.retain(|name| name != ".larder");
            names.sort();
            sync_folder(folder)?;
            record.note(format!("{name}({})", names.join(OsStr::new(" ")).display()));
            let closed = record.gate.closed.lock().unwrap();
            drop(record.gate.changed.wait_while(closed, |closed| *closed).unwrap());
            if record.fails.load(Ordering::SeqCst) { Err(io::Error::other("disk")) } else { Ok(()) }
        })
    }
}

fn store() -> (TempDir, Record, FsObjects) {
    let (folder, record) = (tempfile::tempdir().unwrap(), Record::default());
    let objects = FsObjects::open_with(folder.path(), record.sync(folder.path())).unwrap();
    record.take();
    (folder, record, objects)
}

fn folders() -> (TempDir, Record, Folders, PathBuf) {
    let (folder, record) = (tempfile::tempdir().unwrap(), Record::default());
    let root = folder.path().canonicalize().unwrap();
    let folders = Folders::new(root.clone(), record.sync(&root));
    (folder, record, folders, root)
}

async fn put(objects: &FsObjects, key: &str) -> super::Result<()> {
    objects.put(&Key::new(key), "bytes".into(), When::Always).await.map(drop)
}

#[test]
fn a_new_store_is_there_to_stay() {
    let (folder, record) = (tempfile::tempdir().unwrap(), Record::default());
    let root = folder.path().join("store");
    fs::create_dir(&root).unwrap();
    FsObjects::open_with(&root, record.sync(&root)).unwrap();
    let mut synced = record.take();
    synced.sort();
    assert_eq!(synced, [".larder(case lock tmp)", "parent(store)", "root()"]);
}

#[test]
fn a_name_is_placed_below_durable_folders_and_its_own_folder_synced_behind_it() {
    let (_folder, record, folders, root) = folders();
    let place = |name: &str| {
        let path = root.join(name);
        let placed = folders.place(&path, || {
            record.note("placed");
            fs::write(&path, "")
        });
        placed.unwrap();
        record.take()
    };
    assert_eq!(place("a/b/x"), ["root(a)", "a(b)", "placed", "a/b(x)"]);
    assert_eq!(place("a/b/y"), ["placed", "a/b(x y)"]);
    assert_eq!(place("a/c/x"), ["a(b c)", "placed", "a/c(x)"]);
    // A folder that exists may have been made a moment ago, by a caller that has not synced it yet.
    fs::create_dir(root.join("found")).unwrap();
    assert_eq!(place("found/x"), ["root(a found)", "placed", "found(x)"]);
}

#[test]
fn a_folder_that_went_and_came_while_a_name_was_placed_in_it_is_synced_again() {
    let (_folder, record, folders, root) = folders();
    let path = root.join("a/b/x");
    let placed = folders.place(&path, || {
        folders.settle_removal(&root.join("a/b/last")).unwrap();
        assert!(!root.join("a").exists());
        fs::create_dir_all(root.join("a/b")).unwrap();
        record.take();
        fs::write(&path, "")
    });
    placed.unwrap();
    assert_eq!(record.take(), ["root(a)", "a(b)", "a/b(x)"]);
}

#[test]
fn what_is_settled_has_all_its_folders_synced() {
    let (_folder, record, folders, root) = folders();
    fs::create_dir_all(root.join("a/b")).unwrap();
    folders.settle(&root.join("a/b/x")).unwrap();
    assert_eq!(record.take(), ["root(a)", "a(b)", "a/b()"]);
}

#[tokio::test]
async fn nobody_is_told_of_a_name_that_is_not_durable() {
    let (_folder, record, objects) = store();
    put(&objects, "a/first").await.unwrap();
    record.take();
    let closed = record.close();
    let putting = tokio::spawn({
        let objects = objects.clone();
        async move { put(&objects, "a/x").await }
    });
    // The object has its name, and the sync of its folder is in flight.
    record.begun(&putting).await;
    let key = Key::new("a/x");
    let mut look = pin!(objects.head(&key));
    assert!(poll!(look.as_mut()).is_pending());
    drop(closed);
    look.await.unwrap();
    putting.await.unwrap().unwrap();
    // The sync in flight may have begun before the name existed, for all that the second caller knows.
    assert_eq!(record.take(), ["a(first x)", "a(first x)"]);
}

#[tokio::test]
async fn what_could_not_be_synced_is_not_acknowledged_and_synced_by_whoever_asks_for_it() {
    let (_folder, record, objects) = store();
    put(&objects, "a/first").await.unwrap();
    record.fails.store(true, Ordering::SeqCst);
    put(&objects, "a/x").await.unwrap_err();
    objects.head(&Key::new("a/x")).await.unwrap_err();
    record.fails.store(false, Ordering::SeqCst);
    record.take();
    objects.head(&Key::new("a/x")).await.unwrap();
    assert_eq!(record.take(), ["a(first x)"]);
    objects.head(&Key::new("a/x")).await.unwrap();
    assert_eq!(record.take(), [""; 0]);
}

#[tokio::test]
async fn what_is_deleted_does_not_come_back() {
    let (folder, record, objects) = store();
    for key in ["a/b/x", "a/b/y"] {
        put(&objects, key).await.unwrap();
    }
    record.take();
    let closed = record.close();
    let deleting = tokio::spawn({
        let objects = objects.clone();
        async move { objects.delete(&[Key::new("a/b/x")]).await }
    });
    // The sync has begun after the removal, and the delete waits for it.
    record.begun(&deleting).await;
    assert!(!folder.path().join("a/b/x").exists());
    drop(closed);
    deleting.await.unwrap().unwrap();
    assert_eq!(record.take(), ["a/b(y)"]);
    // Another caller may have removed the object and not synced yet.
    objects.delete(&[Key::new("a/b/x")]).await.unwrap();
    assert_eq!(record.take(), ["a/b(y)"]);
    objects.delete(&[Key::new("a/b/y")]).await.unwrap();
    assert!(!folder.path().join("a").exists());
    record.take();
    // The folder was removed with its last entry.
    objects.delete(&[Key::new("a/b/y")]).await.unwrap();
    assert_eq!(record.take(), ["root()"]);
}

#[tokio::test]
async fn a_large_object_is_read_whole_by_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let objects = FsObjects::open(folder.path()).unwrap();
    for size in [0, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 3 * READ_BYTES, 3 * READ_BYTES + 7] {
        let (key, body) = (Key::new("t/k"), (0..size).map(|at| (at / 1000) as u8).collect::<bytes::Bytes>());
        objects.put(&key, body.clone(), When::Always).await.unwrap();
        let Ok(Read::Fresh(meta, bytes)) = objects.read(&key, None).await else { panic!("not read") };
        assert!(bytes == body && meta.size == size as u64, "{size}");
        // All pieces came in one buffer: the only memory that a dropped read leaves to a thread.
        assert_eq!(objects.inner.buffers.drain(), usize::from(size > READ_BYTES), "{size}");
    }
}

#[test]
fn a_folder_that_cannot_be_opened_is_told_once_with_what_to_do() {
    let error = |kind| OpenFolderError::of(Path::new("/srv/ro"), io::Error::from(kind));
    let uid = rustix::process::geteuid().as_raw();
    let told = format!("{:#}", anyhow::Error::from(error(io::ErrorKind::PermissionDenied)));
    assert!(
        told.contains(&format!("/srv/ro: permission denied for uid {uid}: ")) && told.contains("--store"),
        "{told}"
    );
    let told = format!("{:#}", anyhow::Error::from(error(io::ErrorKind::ReadOnlyFilesystem)));
    assert_eq!(told, "cannot open the store in /srv/ro: read-only filesystem or storage medium");
}
