//! The order in which passwords are checked, and the number of wrong ones that an address may send.
//!
//! An attempt is reserved before it waits for its turn, and counts as a wrong password until it proves right. So an
//! address never has more passwords checked than wrong ones are allowed, however many it sends at once.
//!
//! Invariant: no address waits behind the passwords of one other address. An address has one check at a time, which
//! leaves one for all others, and the next turn is that of the address with the fewest wrong passwords.
//!
//! Tokens and JWTs cannot be guessed and are never limited, so one bad client behind a shared address does not lock out
//! the others that use them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Time for which a wrong password counts.
const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of addresses whose wrong passwords are remembered.
const ADDRESSES_MAX: u64 = 10_000;
/// Maximum number of passwords checked at once. Each takes a core for as long as its bcrypt cost requires.
const CHECKS_MAX: usize = 2;
/// Maximum number of passwords of one address checked at once: fewer than [`CHECKS_MAX`].
const CHECKS_OF_ONE_MAX: usize = 1;
/// Maximum number of passwords of one address that are being checked or wait.
const PENDING_OF_ONE_MAX: usize = 4;
/// Maximum number of waiting passwords of all addresses.
const WAITING_MAX: usize = 256;
/// Retry time for an address that has enough passwords pending.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// All attempts to log in with a password.
pub struct Attempts {
    /// Number of wrong passwords of an address, and the time since which they are counted.
    wrong: Cache<IpAddr, (u32, Instant)>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    last: u64,
    checking: Vec<QueuePlace>,
    /// Waiting attempts, in the order of their arrival.
    waiting: Vec<(QueuePlace, oneshot::Sender<()>)>,
}

#[derive(Clone, Copy)]
struct QueuePlace {
    number: u64,
    from: IpAddr,
}

/// The right to check one password, now. If it is dropped without [`right`](Attempt::right), the password was wrong.
pub struct Attempt {
    place: Reserved,
}

/// A place in the queue or at its head. Dropping it frees the place.
struct Reserved {
    attempts: Arc<Attempts>,
    place: QueuePlace,
    is_wrong: bool,
}

impl Default for Attempts {
    fn default() -> Self {
        let wrong = Cache::builder().max_capacity(ADDRESSES_MAX).time_to_live(WINDOW).build();
        Attempts { wrong, queue: Mutex::default() }
    }
}

impl Attempts {
    /// Waits until a password from this address may be checked, if fewer than `limit` a minute were wrong. An error is
    /// the time after which to try again.
    pub async fn begin(self: Arc<Self>, address: Option<IpAddr>, limit: u32) -> Result<Attempt, Duration> {
        let (mut place, turn) = self.reserve(household(address), limit)?;
        // The place was given to an address with fewer attempts.
        turn.await.map_err(|_| TRY_AGAIN)?;
        place.is_wrong = true;
        Ok(Attempt { place })
    }

    fn reserve(self: Arc<Self>, from: IpAddr, limit: u32) -> Result<(Reserved, oneshot::Receiver<()>), Duration> {
        let mut queue = self.queue.lock();
        let (wrong, since) = self.wrong_of(from);
        if wrong >= limit {
            return Err(WINDOW.saturating_sub(since.elapsed()).max(TRY_AGAIN));
        }
        let pending = queue.pending(from);
        if pending >= PENDING_OF_ONE_MAX || self.weight(&queue, from) >= limit {
            return Err(TRY_AGAIN);
        }
        if queue.waiting.len() >= WAITING_MAX {
            let heaviest =
                queue.waiting.iter().enumerate().max_by_key(|(_, (place, _))| self.weight(&queue, place.from));
            match heaviest.map(|(at, (place, _))| (at, self.weight(&queue, place.from))) {
                Some((at, weight)) if weight > self.weight(&queue, from) + 1 => drop(queue.waiting.remove(at)),
                _ => return Err(TRY_AGAIN),
            }
        }
        queue.last += 1;
        let place = QueuePlace { number: queue.last, from };
        let (turn, told) = oneshot::channel();
        queue.waiting.push((place, turn));
        self.admit(&mut queue);
        drop(queue);
        Ok((Reserved { attempts: self, place, is_wrong: false }, told))
    }

    /// Starts waiting attempts, up to the limits of simultaneous checks.
    fn admit(&self, queue: &mut Queue) {
        while queue.checking.len() < CHECKS_MAX {
            let waiting = queue.waiting.iter().enumerate();
            let may = waiting.filter(|(_, (place, _))| queue.checks(place.from) < CHECKS_OF_ONE_MAX);
            let Some((at, _)) = may.min_by_key(|(_, (place, _))| self.wrong_of(place.from).0) else { return };
            let (place, turn) = queue.waiting.remove(at);
            queue.checking.push(place);
            // If the client has left meanwhile, dropping its `Reserved` frees the place.
            let _ = turn.send(());
        }
    }

    /// Wrong passwords of an address, including pending ones that may prove wrong.
    fn weight(&self, queue: &Queue, from: IpAddr) -> u32 {
        let pending = u32::try_from(queue.pending(from)).unwrap_or(u32::MAX);
        self.wrong_of(from).0.saturating_add(pending)
    }

    fn wrong_of(&self, from: IpAddr) -> (u32, Instant) {
        self.wrong.get(&from).unwrap_or_else(|| (0, Instant::now()))
    }

    fn count_wrong(&self, from: IpAddr) {
        self.wrong.entry(from).and_upsert_with(|known| match known.map(moka::Entry::into_value) {
            Some((wrong, since)) if since.elapsed() < WINDOW => (wrong.saturating_add(1), since),
            _ => (1, Instant::now()),
        });
    }
}

impl Queue {
    fn checks(&self, from: IpAddr) -> usize {
        self.checking.iter().filter(|place| place.from == from).count()
    }

    fn pending(&self, from: IpAddr) -> usize {
        self.checks(from) + self.waiting.iter().filter(|(place, _)| place.from == from).count()
    }
}

impl Attempt {
    /// Records that the password was right.
    pub fn right(mut self) {
        self.place.is_wrong = false;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut queue = self.attempts.queue.lock();
        // Counted before the place is freed: in between, another attempt would be one too many.
        if self.is_wrong {
            self.attempts.count_wrong(self.place.from);
        }
        queue.checking.retain(|place| place.number != self.place.number);
        queue.waiting.retain(|(place, _)| place.number != self.place.number);
        self.attempts.admit(&mut queue);
    }
}

/// The address that counts for a client: a customer has a whole /64 of IPv6 addresses. Requests without an address
/// share one.
pub fn household(address: Option<IpAddr>) -> IpAddr {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        Some(v4) => v4,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    const LIMIT: u32 = 30;

    type Begun = BoxFuture<'static, Result<Attempt, Duration>>;

    struct Clients(Arc<Attempts>);

    impl Clients {
        fn new() -> Clients {
            Clients(Arc::default())
        }

        /// Sends an attempt, which waits unless it was refused.
        fn send(&self, from: &str, limit: u32) -> (Begun, Option<Result<Attempt, Duration>>) {
            let mut begun = self.0.clone().begin(Some(from.parse().unwrap()), limit).boxed();
            let now = (&mut begun).now_or_never();
            (begun, now)
        }

        fn is_refused(&self, from: &str, limit: u32) -> bool {
            matches!(self.send(from, limit).1, Some(Err(_)))
        }

        /// Sends a wrong password, and has it checked.
        fn fail(&self, from: &str) {
            drop(self.send(from, LIMIT).1.unwrap().ok().unwrap());
        }
    }

    #[test]
    fn wrong_passwords_bar_their_own_household_only() {
        let clients = Clients::new();
        for address in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "fd00::2"] {
            clients.fail(address);
        }
        assert!(clients.is_refused("10.0.0.1", 2) && !clients.is_refused("10.0.0.1", 3));
        assert!(clients.is_refused("fd00::3", 2) && !clients.is_refused("fd00:0:0:1::3", 1));
        assert!(!clients.is_refused("10.0.0.2", 1));
    }

    #[test]
    fn right_passwords_and_those_that_were_never_checked_do_not_count() {
        let clients = Clients::new();
        for _ in 0..10 {
            clients.send("10.0.0.1", 1).1.unwrap().ok().unwrap().right();
        }
        let checked = clients.send("10.0.0.1", 2).1.unwrap().ok().unwrap();
        // The client of `waits` leaves before its turn.
        let (waits, now) = clients.send("10.0.0.1", 2);
        assert!(now.is_none());
        drop(waits);
        checked.right();
        assert!(!clients.is_refused("10.0.0.1", 1));
    }

    #[test]
    fn what_is_pending_counts_as_wrong_until_it_is_right() {
        let clients = Clients::new();
        let sent: Vec<_> = (0..300).map(|_| clients.send("10.0.0.1", LIMIT)).collect();
        let refused = sent.iter().filter(|(_, now)| matches!(now, Some(Err(_)))).count();
        assert_eq!(refused, 300 - PENDING_OF_ONE_MAX);
        drop(sent);
        // With a limit of 2, one check in progress leaves one attempt.
        let (checked, waits) = (clients.send("10.0.0.2", 2), clients.send("10.0.0.2", 2));
        assert!(matches!(checked.1, Some(Ok(_))) && waits.1.is_none());
        assert!(clients.is_refused("10.0.0.2", 2));
    }

    #[test]
    fn another_address_never_waits_behind_one_and_the_fewest_failures_go_first() {
        let clients = Clients::new();
        clients.fail("10.0.0.1");
        let (first, mut second) = (clients.send("10.0.0.1", LIMIT), clients.send("10.0.0.1", LIMIT));
        let other = clients.send("10.0.0.2", LIMIT);
        assert!(matches!(other.1, Some(Ok(_))), "one check is left for others");
        assert!(second.1.is_none());
        let mut fresh = clients.send("10.0.0.3", LIMIT);
        assert!(fresh.1.is_none());
        drop(first);
        let begun = (&mut fresh.0).now_or_never();
        assert!(matches!(begun, Some(Ok(_))), "before who has failed");
        assert!((&mut second.0).now_or_never().is_none());
    }

    #[test]
    fn a_full_queue_lets_in_who_has_sent_less_than_others() {
        let clients = Clients::new();
        let mut waiting = Vec::new();
        while clients.0.queue.lock().waiting.len() < WAITING_MAX {
            let address = format!("10.0.1.{}", waiting.len() / PENDING_OF_ONE_MAX);
            waiting.push(clients.send(&address, LIMIT));
        }
        let (newcomer, now) = clients.send("10.0.0.9", LIMIT);
        assert!(now.is_none(), "it waits");
        assert_eq!(clients.0.queue.lock().waiting.len(), WAITING_MAX);
        let displaced = waiting.iter_mut().filter_map(|(begun, now)| match now {
            None => begun.now_or_never(),
            Some(_) => None,
        });
        assert_eq!(displaced.filter(Result::is_err).count(), 1);
        drop((newcomer, waiting));
        let queue = clients.0.queue.lock();
        let left: HashSet<_> = queue.waiting.iter().map(|(place, _)| place.number).collect();
        assert!(left.is_empty() && queue.checking.is_empty(), "all places are free again");
    }
}
