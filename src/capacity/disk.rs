//! Room on a disk: bytes and inodes, what of them is kept in reserve, and how much should go.
//!
//! A filesystem whose inodes have gone takes no file more, whatever bytes are free: so they have a reserve of their own,
//! of the same part of the whole as that of the bytes. What should go for them is told in bytes too, by the bytes that the
//! filesystem has for each inode: files that use up the inodes first are smaller than that, so more inodes come free than
//! were missing, never less.

use std::sync::atomic::Ordering::Relaxed;

use super::{Capacity, Purpose, Wanted};
use crate::error::{Error, Result};
use crate::objects::{Inodes, Space};

/// Eviction for the disk begins when less than so many reserves are free, and ends when so many are.
pub(super) const LOW_RESERVES: u64 = 2;
const ENOUGH_RESERVES: u64 = 3;
/// The same for what scopes have: it is condemned while the tenants still have room, so that it has gone when they need
/// it.
pub(super) const SCOPES_LOW_RESERVES: u64 = 4;
pub(super) const SCOPES_ENOUGH_RESERVES: u64 = 5;
/// Scopes leave so many reserves to the tenants.
const SCOPES_LEAVE_RESERVES: u64 = 2;
/// The least that counts as a reserve for eviction, as a part of the disk: without one, eviction would begin when the
/// disk is full.
const EVICTION_PART: u64 = 100;
/// Manifests leave so much of the reserve to what makes room: one part in so many.
const RECORDS_LEAVE_PART: u64 = 2;
/// The least reserve of inodes: what the records of a build and a collection take. Of a filesystem that has few, one part in
/// [`INODES_PART`].
const INODES_MIN: u64 = 64;
const INODES_PART: u64 = 4;

/// `part` of `whole`, of something else that has `of`.
fn share(part: u64, whole: u64, of: u64) -> u64 {
    u64::try_from(u128::from(part) * u128::from(of) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

impl Capacity {
    pub(super) fn space(&self) -> Option<Space> {
        let space = self.objects.space()?;
        let gauge = |free: u64| i64::try_from(free).unwrap_or(i64::MAX);
        self.metrics.free_bytes.set(gauge(space.free));
        self.metrics.free_inodes.set(space.inodes.map_or(0, |inodes| gauge(inodes.free)));
        Some(space)
    }

    /// Inodes of the disk, where it has a bound of them, and how many of them are kept in reserve.
    fn inodes(&self, space: Space) -> Option<(Inodes, u64)> {
        let inodes = space.inodes?;
        let reserve = share(self.config.store.reserve(space.total), space.total, inodes.total);
        Some((inodes, reserve.max(INODES_MIN).min(inodes.total / INODES_PART)))
    }

    pub(super) fn fits_share(&self, wanted: &Wanted, space: Space) -> Result<()> {
        let max = self.config.scope_limits().share.of(space.total);
        if wanted.tenant.is_scope() && self.usage.of_scopes() > max {
            return Err(Error::ScopesFull { max });
        }
        Ok(())
    }

    pub(super) fn fits_disk(&self, wanted: &Wanted, space: Space, unwritten: u64) -> Result<()> {
        let reserve = self.config.store.reserve(space.total);
        if space.free < LOW_RESERVES.saturating_mul(reserve) {
            self.press(&wanted.tenant);
        }
        let (reserve, coming) = match wanted.purpose {
            _ if wanted.tenant.is_scope() => {
                let coming = self.under_way.coming().saturating_add(self.under_way.coming_to_scopes());
                (SCOPES_LEAVE_RESERVES.saturating_mul(reserve), coming)
            }
            Purpose::Content => (reserve, self.under_way.coming()),
            Purpose::Records => (reserve / RECORDS_LEAVE_PART, wanted.bytes),
        };
        let coming = coming.saturating_add(unwritten);
        if space.free < reserve.saturating_add(coming) {
            return Err(Error::Short { free: space.free, reserve, coming });
        }
        Ok(())
    }

    pub(super) fn fits_inodes(&self, wanted: &Wanted, space: Space) -> Result<()> {
        let Some((Inodes { free, .. }, reserve)) = self.inodes(space) else { return Ok(()) };
        if free < LOW_RESERVES * reserve {
            self.press(&wanted.tenant);
        }
        let reserve = match wanted.purpose {
            _ if wanted.tenant.is_scope() => SCOPES_LEAVE_RESERVES * reserve,
            Purpose::Content => reserve,
            Purpose::Records => reserve / RECORDS_LEAVE_PART,
        };
        // Each of the other uploads makes a file. They are counted only where that matters.
        let others = || match wanted.purpose {
            Purpose::Content => self.under_way.uploads().saturating_sub(1),
            Purpose::Records => 0,
        };
        if free >= reserve.saturating_add(self.config.limits.uploads as u64) || free >= reserve + others() {
            return Ok(());
        }
        Err(Error::ShortOfInodes { free, reserve })
    }

    /// Bytes that should go, of whichever tenant, for the disk. What is condemned goes already.
    pub fn shortage(&self) -> u64 {
        self.shortage_below(LOW_RESERVES, ENOUGH_RESERVES)
    }

    pub(super) fn shortage_below(&self, low: u64, enough: u64) -> u64 {
        let Some(space) = self.space() else { return 0 };
        let reserve = self.config.store.reserve(space.total).max(space.total / EVICTION_PART);
        let condemned: u64 = self.usage.accounts().iter().map(|(_, account)| account.stored() - account.live()).sum();
        let free = space.free.saturating_add(condemned).saturating_sub(self.under_way.coming());
        let short = |free, reserve: u64| {
            if free < low.saturating_mul(reserve) { enough.saturating_mul(reserve).saturating_sub(free) } else { 0 }
        };
        let of_inodes = self.inodes(space).map_or(0, |(inodes, reserve)| {
            let condemned = share(condemned, space.total, inodes.total);
            let reserve = reserve.max(inodes.total / EVICTION_PART);
            share(short(inodes.free.saturating_add(condemned), reserve), inodes.total, space.total)
        });
        short(free, reserve).max(of_inodes)
    }

    /// Bytes that scopes should give for what tenants wait for.
    pub(super) fn lacking(&self) -> u64 {
        let (awaited, Some(space)) = (self.awaited.load(Relaxed), self.space()) else { return 0 };
        if awaited == 0 {
            return 0;
        }
        let needed = self.config.store.reserve(space.total).saturating_add(self.under_way.coming());
        let of_inodes = self.inodes(space).map_or(0, |(inodes, reserve)| {
            let needed = reserve + self.under_way.uploads() + 1;
            share(needed.saturating_sub(inodes.free), inodes.total, space.total)
        });
        needed.saturating_add(awaited).saturating_sub(space.free).max(of_inodes).min(self.usage.of_scopes())
    }

    /// Whether there is less than so many reserves beside what is being sent to tenants. Unlike an upload that finds it
    /// so, whoever collects does not ask for another collection.
    pub(super) fn is_below(&self, reserves: u64) -> bool {
        self.space().is_some_and(|space| {
            let reserve = self.config.store.reserve(space.total).saturating_mul(reserves);
            let of_inodes = self.inodes(space).is_some_and(|(inodes, reserve)| inodes.free < reserves * reserve);
            of_inodes || space.free < reserve.saturating_add(self.under_way.coming())
        })
    }

    /// Bytes of the disk that scopes may hold together; nothing where there is no disk.
    pub(super) fn share_of_scopes(&self) -> Option<u64> {
        Some(self.config.scope_limits().share.of(self.space()?.total))
    }
}
