//! Wrong passwords are counted by address, and too many of them stop the counting: further ones are not looked at for a
//! while. Tokens and JWTs cannot be guessed and are never turned away, so one bad client behind a shared address does
//! not lock out the others that use them.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use moka::sync::Cache;

/// For how long failures count.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered.
const ADDRESSES_MAX: u64 = 10_000;

/// Failures of the last minute.
pub struct Attempts {
    failed: Cache<IpAddr, (u32, Instant)>,
}

impl Default for Attempts {
    fn default() -> Self {
        Attempts { failed: Cache::builder().max_capacity(ADDRESSES_MAX).time_to_live(WINDOW).build() }
    }
}

impl Attempts {
    /// How long to wait before a password from there is looked at again.
    pub fn barred(&self, address: IpAddr, limit: u32) -> Option<Duration> {
        let (failures, since) = self.failed.get(&household(address))?;
        (failures >= limit).then(|| WINDOW.saturating_sub(since.elapsed()).max(Duration::from_secs(1)))
    }

    pub fn failed(&self, address: IpAddr) {
        let counted = self.failed.entry(household(address));
        counted.and_upsert_with(|known| match known.map(moka::Entry::into_value) {
            Some((failures, since)) if since.elapsed() < WINDOW => (failures.saturating_add(1), since),
            _ => (1, Instant::now()),
        });
    }
}

/// One customer has a whole /64 of IPv6 addresses.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_bar_their_own_household_only() {
        let attempts = Attempts::default();
        let at = |text: &str| text.parse().unwrap();
        for address in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "fd00::2"] {
            attempts.failed(at(address));
        }
        assert!(attempts.barred(at("10.0.0.1"), 2).is_some() && attempts.barred(at("10.0.0.1"), 3).is_none());
        assert!(attempts.barred(at("fd00::3"), 2).is_some() && attempts.barred(at("fd00:0:0:1::3"), 1).is_none());
        assert!(attempts.barred(at("10.0.0.2"), 1).is_none());
    }
}
