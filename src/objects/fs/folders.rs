//! Folders, and the syncs that let a name in them survive a power cut.
//!
//! A name is durable when its folder has been synced after the name was made, and each folder above likewise. A sync
//! that begins after a change covers the change, whichever caller asked for it: so callers that write to one folder at
//! once share syncs. No change is left out.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

/// Folders whose entry is known to be durable. Forgetting one costs a sync.
const DURABLE_MAX: u64 = 65_536;
/// Attempts to make a folder that is removed as empty between its creation and the rename into it.
const RACES_MAX: u32 = 16;

/// The function that syncs a folder: [`sync_folder`], or one that a test observes.
pub type SyncFolder = Box<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

/// The folders below the root of a store.
pub struct Folders {
    root: PathBuf,
    sync_folder: SyncFolder,
    /// Durable folders, as texts: to hash a path component by component takes ten times as long.
    durable: moka::sync::Cache<OsString, ()>,
    /// Held exclusively while a folder is removed, shared while one is made and taken for durable.
    removing: RwLock<()>,
    syncs: Syncs,
}

impl Folders {
    pub fn new(root: PathBuf, sync_folder: SyncFolder) -> Folders {
        let durable = moka::sync::Cache::new(DURABLE_MAX);
        Folders { root, sync_folder, durable, removing: RwLock::new(()), syncs: Syncs::default() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn of<'a>(&'a self, path: &'a Path) -> &'a Path {
        path.parent().unwrap_or(&self.root)
    }

    /// Runs `place`, which makes the entry `path`, and syncs all folders that the entry needs to survive a power cut.
    /// Fails with [`io::ErrorKind::ResourceBusy`] if folders keep disappearing meanwhile.
    pub fn place(&self, path: &Path, place: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let folder = self.of(path);
        for _ in 0..RACES_MAX {
            match self.make_durable(folder).and_then(|()| place()) {
                // A folder of the path was empty and has just been removed: the remover did not know of this call.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget(folder),
                Err(error) => return Err(error),
                // Once more: the folder may have been removed since, and made again by a caller that has not synced it
                // yet.
                Ok(()) => return self.make_durable(folder).and_then(|()| self.sync_nearest(folder)),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "folder keeps disappearing"))
    }

    /// Makes a visible entry durable.
    pub fn settle(&self, path: &Path) -> io::Result<()> {
        let folder = self.of(path);
        self.make_durable(folder).and_then(|()| self.sync(folder))
    }

    /// Makes the removal of the entry `path` durable, and removes the folders that it leaves empty.
    pub fn settle_removal(&self, path: &Path) -> io::Result<()> {
        let mut folder = self.of(path);
        self.sync_nearest(folder)?;
        let _alone = self.removing.write();
        while folder != self.root {
            // Forgotten first: no caller may take a folder for durable because it existed before its removal.
            self.durable.invalidate(folder.as_os_str());
            if fs::remove_dir(folder).is_err() {
                break;
            }
            folder = self.of(folder);
        }
        Ok(())
    }

    /// Creates `folder` and its parents, and syncs each one's entry in its parent. A folder that exists is not thereby
    /// durable: another thread may have made it a moment ago and not synced it yet. Only the memory of this process
    /// tells.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        if folder == self.root || self.durable.contains_key(folder.as_os_str()) {
            return Ok(());
        }
        let parent = self.of(folder);
        self.make_durable(parent)?;
        let _shared = self.removing.read();
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.sync(parent)?;
        self.durable.insert(folder.into(), ());
        Ok(())
    }

    fn forget(&self, folder: &Path) {
        for folder in folder.ancestors().take_while(|folder| *folder != self.root) {
            self.durable.invalidate(folder.as_os_str());
        }
    }

    /// Syncs a folder or, if it was removed with its last entry, the nearest parent that exists.
    fn sync_nearest<'a>(&'a self, mut folder: &'a Path) -> io::Result<()> {
        loop {
            match self.sync(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && folder != self.root => {
                    folder = self.of(folder);
                }
                done => return done,
            }
        }
    }

    fn sync(&self, folder: &Path) -> io::Result<()> {
        self.syncs.sync(folder, || (self.sync_folder)(folder))
    }
}

/// Syncs one folder, without its parents.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The running syncs, by folder.
#[derive(Default)]
struct Syncs {
    folders: Mutex<HashMap<PathBuf, Arc<FolderSyncs>>>,
}

/// Syncs of one folder, one after the other.
#[derive(Default)]
struct FolderSyncs {
    state: Mutex<SyncState>,
    ended: Condvar,
}

#[derive(Default)]
struct SyncState {
    /// Number of the sync that began last.
    begun: u64,
    running: bool,
    /// Numbers of the last sync that succeeded and of the last that failed, and its error.
    done: u64,
    failed: u64,
    failure: Option<io::ErrorKind>,
    /// Callers of [`Syncs::sync`] that have not returned.
    callers: usize,
}

impl Syncs {
    /// Returns when a sync that began after this call has ended. Callers that wait for one share the next.
    fn sync(&self, folder: &Path, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let (turns, needed) = {
            let mut folders = self.folders.lock();
            let turns = folders.entry(folder.to_path_buf()).or_default().clone();
            let needed = turns.enter();
            (turns, needed)
        };
        let done = turns.wait(needed, sync);
        let mut folders = self.folders.lock();
        let mut state = turns.state();
        state.callers -= 1;
        if state.callers == 0 {
            folders.remove(folder);
        }
        done
    }
}

impl FolderSyncs {
    fn state(&self) -> MutexGuard<'_, SyncState> {
        self.state.lock()
    }

    /// Returns the number of the sync that a new caller needs. The running one may have begun before the caller's
    /// change.
    fn enter(&self) -> u64 {
        let mut state = self.state();
        state.callers += 1;
        state.begun + 1
    }

    fn wait(&self, needed: u64, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        loop {
            // The kernel reports a failed sync once, so a caller that relied on that one has failed, whatever comes
            // after it.
            if state.failed >= needed {
                return Err(state.failure.unwrap_or(io::ErrorKind::Other).into());
            }
            if state.done >= needed {
                return Ok(());
            }
            if state.running {
                self.ended.wait(&mut state);
                continue;
            }
            state.running = true;
            state.begun += 1;
            let number = state.begun;
            drop(state);
            let synced = sync();
            state = self.state();
            state.running = false;
            match &synced {
                Ok(()) => state.done = number,
                Err(error) => (state.failed, state.failure) = (number, Some(error.kind())),
            }
            self.ended.notify_all();
            return synced;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    /// Runs eight callers while a sync runs. Returns the result of each, and the number of syncs after the first.
    fn eight_behind_one(outcome: fn(usize) -> io::Result<()>) -> (Vec<io::Result<()>>, usize) {
        let (syncs, count) = (Syncs::default(), AtomicUsize::new(0));
        let folder = Path::new("folder");
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Mutex::new(may_go);
        let sync = |begun: mpsc::Sender<()>| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            if number == 0 {
                begun.send(()).unwrap();
                may_go.lock().recv().unwrap();
            }
            outcome(number)
        };
        std::thread::scope(|scope| {
            let (first, rest) = (begun.clone(), begun);
            let first = scope.spawn(|| syncs.sync(folder, move || sync(first.clone())));
            has_begun.recv().unwrap();
            let callers: Vec<_> = (0..8)
                .map(|_| {
                    let begun = rest.clone();
                    scope.spawn(|| syncs.sync(folder, move || sync(begun.clone())))
                })
                .collect();
            let turns = syncs.folders.lock()[folder].clone();
            while turns.state().callers < 9 {
                std::thread::yield_now();
            }
            go.send(()).unwrap();
            first.join().unwrap().unwrap();
            let told = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
            assert!(syncs.folders.lock().is_empty());
            (told, count.load(Ordering::SeqCst) - 1)
        })
    }

    #[test]
    fn a_sync_that_was_under_way_does_not_count_and_a_later_one_is_shared() {
        let (told, syncs) = eight_behind_one(|_| Ok(()));
        assert!(told.iter().all(Result::is_ok));
        assert_eq!(syncs, 1);
    }

    #[test]
    fn nobody_is_told_that_a_failed_sync_was_good() {
        // The kernel reports a failure once: the next sync succeeds, and has not written what was lost.
        let (told, syncs) = eight_behind_one(|number| if number == 1 { Err(io::Error::other("disk")) } else { Ok(()) });
        assert!(told.iter().all(Result::is_err), "{told:?} after {syncs} syncs");
    }
}
