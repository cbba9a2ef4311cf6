//! Uploads in flight: the bytes that each has announced, that have arrived, and that are reserved for it.
//!
//! Announced bytes count against other uploads, so that simultaneous uploads do not claim the same space twice. A
//! reservation does not last for ever: every [`LAPSE`] an upload keeps the bytes that it would bring at its pace within
//! [`LAPSES_AHEAD`] times that, and announces the rest again, portion by portion, as it arrives.
//!
//! Nothing here waits or takes a lock while bytes arrive; the list of uploads is locked only by an upload that finds
//! too little space.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::usage::Account;
use super::{Capacity, Wanted};
use crate::error::{Error, Result};

/// Time for which all announced bytes stay reserved; after it, only those that arrive at the pace of the upload.
pub const LAPSE: Duration = Duration::from_secs(60);
/// Number of times [`LAPSE`] for which bytes are reserved at that pace.
const LAPSES_AHEAD: u64 = 5;
/// Shortest time between two checks of all uploads for lapsed reservations.
const LAPSE_EVERY: Duration = Duration::from_secs(1);
/// Time in which an upload that is ended to free space may release it.
const ENDING: Duration = Duration::from_secs(1);

/// The uploads in flight in this process.
pub(super) struct UnderWay {
    /// Bytes announced and not written, of tenants that are no scopes.
    coming: AtomicU64,
    /// The same, of scopes. They count only against scopes.
    coming_to_scopes: AtomicU64,
    uploads: Mutex<BTreeMap<u64, Arc<Upload>>>,
    numbered: AtomicU64,
    began: Instant,
    /// Time of the last check of all uploads. Milliseconds since the beginning, like all times here.
    looked: AtomicU64,
    /// Notified when an ended upload has released its space.
    gone: Notify,
}

/// One upload and its reservation, in bytes.
struct Upload {
    account: Arc<Account>,
    is_scope: bool,
    /// Announced and not written.
    coming: AtomicU64,
    /// Written, and not yet an object.
    written: AtomicU64,
    /// Arrived since the time `since`.
    came: AtomicU64,
    since: AtomicU64,
    /// Time of the last arrival.
    touched: AtomicU64,
    is_ended: AtomicBool,
    ended: Notify,
}

impl UnderWay {
    pub fn new() -> UnderWay {
        UnderWay {
            coming: AtomicU64::new(0),
            coming_to_scopes: AtomicU64::new(0),
            uploads: Mutex::default(),
            numbered: AtomicU64::new(0),
            began: Instant::now(),
            looked: AtomicU64::new(0),
            gone: Notify::new(),
        }
    }

    /// Bytes announced and not written, of tenants that are no scopes.
    pub fn coming(&self) -> u64 {
        self.coming.load(Relaxed)
    }

    /// Number of uploads in flight.
    pub fn uploads(&self) -> u64 {
        self.uploads.lock().len() as u64
    }

    /// Bytes announced and not written, of scopes.
    pub fn coming_to_scopes(&self) -> u64 {
        self.coming_to_scopes.load(Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn sum(&self, is_scope: bool) -> &AtomicU64 {
        if is_scope { &self.coming_to_scopes } else { &self.coming }
    }

    fn begin(&self, account: Arc<Account>, is_scope: bool, bytes: u64) -> (u64, Arc<Upload>) {
        account.announce(bytes);
        self.sum(is_scope).fetch_add(bytes, Relaxed);
        let now = self.now();
        let upload = Arc::new(Upload {
            account,
            is_scope,
            coming: AtomicU64::new(bytes),
            written: AtomicU64::new(0),
            came: AtomicU64::new(0),
            since: AtomicU64::new(now),
            touched: AtomicU64::new(now),
            is_ended: AtomicBool::new(false),
            ended: Notify::new(),
        });
        let number = self.numbered.fetch_add(1, Relaxed);
        self.uploads.lock().insert(number, upload.clone());
        (number, upload)
    }

    /// Counts bytes of an upload that are about to be written. Returns how many of them had not been announced; now
    /// they are.
    fn write(&self, upload: &Upload, bytes: u64) -> u64 {
        let announced = upload.take_coming(|coming| coming.min(bytes));
        self.sum(upload.is_scope).fetch_sub(announced, Relaxed);
        upload.account.announce(bytes - announced);
        upload.written.fetch_add(bytes, Relaxed);
        upload.came.fetch_add(bytes, Relaxed);
        upload.touched.store(self.now(), Relaxed);
        bytes - announced
    }

    /// Ends an upload, and releases its reservation.
    fn end(&self, number: u64, upload: &Upload) {
        self.uploads.lock().remove(&number);
        let coming = upload.take_coming(|coming| coming);
        self.sum(upload.is_scope).fetch_sub(coming, Relaxed);
        upload.account.arrived(coming + upload.written.swap(0, Relaxed));
        if upload.is_ended.load(Relaxed) {
            self.gone.notify_waiters();
        }
    }

    /// Releases announced bytes that do not arrive. Returns whether there were any.
    pub fn lapse(&self) -> bool {
        let (now, looked) = (self.now(), self.looked.load(Relaxed));
        let every = LAPSE_EVERY.as_millis() as u64;
        if now - looked < every || self.looked.compare_exchange(looked, now, Relaxed, Relaxed).is_err() {
            return false;
        }
        let mut lapsed = 0;
        for upload in self.uploads.lock().values() {
            let window = now.saturating_sub(upload.since.load(Relaxed));
            let lapse = LAPSE.as_millis() as u64;
            if window < lapse {
                continue;
            }
            let ahead =
                u128::from(upload.came.swap(0, Relaxed)) * u128::from(LAPSES_AHEAD * lapse) / u128::from(window);
            upload.since.store(now, Relaxed);
            let gone = upload.take_coming(|coming| coming.saturating_sub(u64::try_from(ahead).unwrap_or(u64::MAX)));
            self.sum(upload.is_scope).fetch_sub(gone, Relaxed);
            upload.account.arrived(gone);
            lapsed += gone;
        }
        lapsed > 0
    }

    /// Ends the upload of a scope that has been idle longest, and for `idle` at least, and waits until it has released
    /// its written bytes. Returns whether there was one.
    pub async fn end_idle_of_scopes(&self, idle: Duration) -> bool {
        let now = self.now();
        let longest = {
            let uploads = self.uploads.lock();
            let ending = uploads.iter().filter(|(_, upload)| {
                let touched = upload.touched.load(Relaxed);
                let is_idle = u128::from(now.saturating_sub(touched)) >= idle.as_millis();
                upload.is_scope && is_idle && upload.written.load(Relaxed) > 0 && !upload.is_ended.load(Relaxed)
            });
            let longest = ending.min_by_key(|(_, upload)| upload.touched.load(Relaxed));
            longest.map(|(number, upload)| (*number, upload.clone()))
        };
        let Some((number, upload)) = longest else { return false };
        upload.is_ended.store(true, Relaxed);
        upload.ended.notify_waiters();
        let left = async {
            loop {
                let gone = self.gone.notified();
                if !self.uploads.lock().contains_key(&number) {
                    return;
                }
                gone.await;
            }
        };
        // The upload may be writing to a slow disk: then a later round finds the space that it frees.
        let _ = tokio::time::timeout(ENDING, left).await;
        true
    }
}

impl Upload {
    /// Reduces the announced bytes by `wanted` of them. Returns by how much.
    fn take_coming(&self, wanted: impl Fn(u64) -> u64) -> u64 {
        let taken = self.coming.fetch_update(Relaxed, Relaxed, |coming| Some(coming - wanted(coming)));
        taken.map_or(0, wanted)
    }
}

/// The reservation of one upload, released when it is dropped.
pub struct Reservation {
    room: Arc<Capacity>,
    wanted: Wanted,
    number: u64,
    upload: Arc<Upload>,
}

impl Reservation {
    /// Announces the bytes of `wanted`; the caller has to check whether they fit.
    pub(super) fn new(room: &Arc<Capacity>, wanted: Wanted) -> Reservation {
        let is_scope = wanted.tenant.is_scope();
        let (number, upload) = room.under_way.begin(wanted.account.clone(), is_scope, wanted.bytes);
        Reservation { room: room.clone(), wanted, number, upload }
    }

    /// Reserves space for bytes that are about to be written. Bytes that were not announced, or have lapsed, are
    /// announced now, and admitted or refused like a new upload; those of a tenant that is no scope wait for a round of
    /// eviction.
    ///
    /// # Errors
    ///
    /// As those of [`Capacity::wait`]. An upload that is dropped after one keeps no reservation.
    pub async fn write(&mut self, bytes: u64) -> Result<()> {
        self.check_ended()?;
        let new = self.room.under_way.write(&self.upload, bytes);
        let is_scope = self.upload.is_scope;
        if new == 0 && !is_scope {
            // The length was announced, and checked then.
            return Ok(());
        }
        // For a scope, announced bytes are checked too: nothing was kept free for them.
        let wanted = Wanted { bytes: new, ..self.wanted.clone() };
        let mut fits = self.room.fits(&wanted, bytes);
        if fits.is_err() && !is_scope {
            fits = self.room.when_there_is_room(&wanted, || self.room.fits(&wanted, bytes)).await;
        }
        self.room.refusing(&wanted, fits)
    }

    /// Result of `body`, unless the upload is ended meanwhile to free space.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`].
    pub async fn unless_ended<T>(&self, body: impl Future<Output = T>) -> Result<T> {
        if !self.upload.is_scope {
            return Ok(body.await);
        }
        let ended = async {
            loop {
                let told = self.upload.ended.notified();
                if self.check_ended().is_err() {
                    return;
                }
                told.await;
            }
        };
        tokio::select! {
            came = body => Ok(came),
            () = ended => Err(Error::Ended),
        }
    }

    fn check_ended(&self) -> Result<()> {
        if self.upload.is_ended.load(Relaxed) { Err(Error::Ended) } else { Ok(()) }
    }

    /// Counts written bytes as stored: they are in an object now, which counts by itself.
    pub fn stored(&mut self, bytes: u64) {
        let written = &self.upload.written;
        let stored = written.fetch_update(Relaxed, Relaxed, |written| Some(written.saturating_sub(bytes)));
        self.upload.account.arrived(stored.unwrap_or(0).min(bytes));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.under_way.end(self.number, &self.upload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::usage::Usage;
    use crate::metrics::Metrics;
    use crate::names::Tenant;

    #[tokio::test(start_paused = true)]
    async fn an_upload_keeps_the_room_that_it_needs_at_its_pace_and_not_what_does_not_come() {
        let usage = Usage::new(Arc::new(Metrics::default()));
        let (account, uploads) = (usage.account(&Tenant::default_tenant()), UnderWay::new());
        let (fast, slow) =
            (uploads.begin(account.clone(), false, 1000), uploads.begin(account.clone(), false, 1_000_000));
        assert_eq!((uploads.write(&fast.1, 400), uploads.write(&slow.1, 1)), (0, 0));
        tokio::time::advance(LAPSE / 2).await;
        assert!(!uploads.lapse());
        assert_eq!((uploads.coming(), account.arriving()), (600 + 999_999, 1_001_000));
        tokio::time::advance(LAPSE / 2).await;
        assert!(uploads.lapse());
        // All bytes of the one, and of the other those that arrive within five times that at a byte a minute.
        assert_eq!((uploads.coming(), account.arriving()), (600 + 5, 605 + 401));
        // Lapsed bytes are announced again when they arrive.
        assert_eq!(uploads.write(&slow.1, 100), 95);
        assert_eq!((uploads.coming(), account.arriving()), (600, 600 + 501));
        for (number, upload) in [fast, slow] {
            uploads.end(number, &upload);
        }
        assert_eq!((uploads.coming(), account.arriving(), uploads.coming_to_scopes()), (0, 0, 0));
    }
}
