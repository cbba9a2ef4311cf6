//! Turns at scarce resources: memory, upload slots, workers. A party that wants more units than are free waits, and
//! waiting parties are served so that none can keep the others from their share.
//!
//! Invariant: the units that are held never exceed the units there are, and of two parties that wait, the one that
//! holds less is served first. Units reserved for the first class are never held by the second, with one exception: a
//! request larger than all that the second class may hold is granted when that class holds nothing else.
//!
//! A request that is next and does not fit yet holds back all requests after it: otherwise a large one would wait for
//! as long as small ones come.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::names::Tenant;

/// Priority of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Requests for which a build waits.
    First,
    /// Scopes, and inspections: together they never hold all units.
    Second,
}

impl Class {
    /// The class of requests of a tenant.
    pub fn of(tenant: &Tenant) -> Class {
        if tenant.is_scope() { Class::Second } else { Class::First }
    }
}

/// Units of a scarce resource, shared by parties of type `P`. Cheap to clone.
pub struct Turns<P: Clone + Eq + Hash> {
    shared: Arc<TurnsShared<P>>,
}

impl<P: Clone + Eq + Hash> Clone for Turns<P> {
    fn clone(&self) -> Self {
        Turns { shared: self.shared.clone() }
    }
}

struct TurnsShared<P: Clone + Eq + Hash> {
    units: u64,
    /// Maximum number of units that the second class holds, all parties together.
    second: u64,
    state: Mutex<TurnsState<P>>,
    /// Number of waiting requests: read without the lock by holders.
    waiting: AtomicUsize,
}

struct TurnsState<P: Clone + Eq + Hash> {
    free: u64,
    held_by_second: u64,
    parties: HashMap<(Class, P), Party<P>>,
    /// Counts requests and turns: for the order of arrival, and of the last grants.
    count: u64,
}

/// Units that one party holds, and its waiting requests. Removed when it has neither.
struct Party<P: Clone + Eq + Hash> {
    held: u64,
    last_served: u64,
    waiting: VecDeque<Waiter<P>>,
}

struct Waiter<P: Clone + Eq + Hash> {
    units: u64,
    /// The value of `count` when the request came.
    order: u64,
    tell: oneshot::Sender<Turn<P>>,
}

/// Units that a party holds. When dropped, they are granted to the next request.
pub struct Turn<P: Clone + Eq + Hash> {
    shared: Arc<TurnsShared<P>>,
    party: (Class, P),
    units: u64,
}

impl<P: Clone + Eq + Hash> Turns<P> {
    /// `units` units, of which the second class holds at most `second` together.
    pub fn new(units: u64, second: u64) -> Turns<P> {
        let state = TurnsState { free: units, held_by_second: 0, parties: HashMap::new(), count: 0 };
        Turns {
            shared: Arc::new(TurnsShared { units, second, state: Mutex::new(state), waiting: AtomicUsize::new(0) }),
        }
    }

    /// Takes `units` units for this party, when it is its turn. A request for more than there are takes all. A caller
    /// that stops waiting leaves the queue.
    pub async fn take(&self, class: Class, party: P, units: u64) -> Turn<P> {
        let units = units.min(self.shared.units);
        loop {
            let mut asking = match self.try_take(class, party.clone(), units) {
                Some(turn) => return turn,
                None => self.ask((class, party.clone()), units),
            };
            // The sender is dropped only when no caller listens.
            if let Ok(turn) = (&mut asking.told).await {
                return turn;
            }
        }
    }

    /// Takes `units` units, if no other request goes first.
    pub fn try_take(&self, class: Class, party: P, units: u64) -> Option<Turn<P>> {
        let units = units.min(self.shared.units);
        let mut state = self.shared.state.lock();
        // Without a look at the queues while they are empty, which is the usual case.
        let is_next = self.shared.waiting.load(Relaxed) == 0
            || state.next(&self.shared).is_none_or(|((waits, _), _)| waits > class);
        let fits = is_next && state.fits(&self.shared, class, units);
        fits.then(|| state.grant(&self.shared, (class, party), units))
    }

    /// Number of free units.
    pub fn free(&self) -> u64 {
        self.shared.state.lock().free
    }

    fn ask(&self, party: (Class, P), units: u64) -> Asking<P> {
        let (tell, told) = oneshot::channel();
        let granted = {
            let mut state = self.shared.state.lock();
            state.count += 1;
            let order = state.count;
            state.party(&party).waiting.push_back(Waiter { units, order, tell });
            self.shared.waiting.fetch_add(1, Relaxed);
            // The new request may go before those that wait already.
            state.grant_next(&self.shared)
        };
        tell_all(granted);
        Asking { shared: self.shared.clone(), party, told }
    }
}

/// A waiting request. When dropped, it leaves the queue, and requests that only it held back are granted.
struct Asking<P: Clone + Eq + Hash> {
    shared: Arc<TurnsShared<P>>,
    party: (Class, P),
    told: oneshot::Receiver<Turn<P>>,
}

impl<P: Clone + Eq + Hash> Drop for Asking<P> {
    fn drop(&mut self) {
        self.told.close();
        let granted = {
            let mut state = self.shared.state.lock();
            let granted = state.grant_next(&self.shared);
            state.forget_idle(&self.party);
            granted
        };
        tell_all(granted);
    }
}

type GrantedUnits<P> = Vec<(oneshot::Sender<Turn<P>>, Turn<P>)>;

/// Hands turns over, without the lock: a turn whose request was given up is dropped here, and its units are granted to
/// the next.
fn tell_all<P: Clone + Eq + Hash>(granted: GrantedUnits<P>) {
    for (tell, turn) in granted {
        drop(tell.send(turn));
    }
}

impl<P: Clone + Eq + Hash> TurnsState<P> {
    fn party(&mut self, name: &(Class, P)) -> &mut Party<P> {
        let fresh = || Party { held: 0, last_served: 0, waiting: VecDeque::new() };
        self.parties.entry(name.clone()).or_insert_with(fresh)
    }

    fn forget_idle(&mut self, name: &(Class, P)) {
        if self.parties.get(name).is_some_and(|party| party.held == 0 && party.waiting.is_empty()) {
            self.parties.remove(name);
        }
    }

    fn fits(&self, shared: &TurnsShared<P>, class: Class, units: u64) -> bool {
        let allowed = match class {
            Class::First => true,
            Class::Second => self.held_by_second == 0 || self.held_by_second + units <= shared.second,
        };
        allowed && units <= self.free
    }

    /// The party whose request is to be granted next, and the units that it asks for. Requests that were given up are
    /// dropped from the heads of the queues.
    fn next(&mut self, shared: &TurnsShared<P>) -> Option<((Class, P), u64)> {
        for party in self.parties.values_mut() {
            while party.waiting.front().is_some_and(|waiter| waiter.tell.is_closed()) {
                party.waiting.pop_front();
                shared.waiting.fetch_sub(1, Relaxed);
            }
        }
        let waiting = self.parties.iter().filter_map(|(name, party)| Some((name, party, party.waiting.front()?)));
        let next =
            waiting.min_by_key(|((class, _), party, waiter)| (*class, party.held, party.last_served, waiter.order));
        next.map(|(name, _, waiter)| (name.clone(), waiter.units))
    }

    fn grant(&mut self, shared: &Arc<TurnsShared<P>>, name: (Class, P), units: u64) -> Turn<P> {
        self.free -= units;
        if name.0 == Class::Second {
            self.held_by_second += units;
        }
        self.count += 1;
        let count = self.count;
        let party = self.party(&name);
        party.held += units;
        party.last_served = count;
        Turn { shared: shared.clone(), party: name, units }
    }

    fn grant_next(&mut self, shared: &Arc<TurnsShared<P>>) -> GrantedUnits<P> {
        let mut granted = Vec::new();
        while shared.waiting.load(Relaxed) > 0
            && let Some((name, units)) = self.next(shared)
            && self.fits(shared, name.0, units)
            && let Some(waiter) = self.party(&name).waiting.pop_front()
        {
            shared.waiting.fetch_sub(1, Relaxed);
            granted.push((waiter.tell, self.grant(shared, name, units)));
        }
        granted
    }
}

impl<P: Clone + Eq + Hash> Turn<P> {
    /// Whether a party waits that goes before this one: a holder that works for long, and can pause, should.
    pub fn is_wanted(&self) -> bool {
        if self.shared.waiting.load(Relaxed) == 0 {
            return false;
        }
        let mut state = self.shared.state.lock();
        let Some((next, _)) = state.next(&self.shared) else { return false };
        let held = |name| state.parties.get(name).map_or(0, |party| party.held);
        next.0 < self.party.0 || next.0 == self.party.0 && held(&next) < held(&self.party)
    }

    /// Whether a party of this class or of one before it waits.
    pub fn is_awaited(&self) -> bool {
        self.shared.waiting.load(Relaxed) > 0
            && self.shared.state.lock().next(&self.shared).is_some_and(|((class, _), _)| class <= self.party.0)
    }

    /// Number of units held.
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Lets waiting parties go first that should, and continues when it is this party's turn again.
    pub async fn give_way(self) -> Turn<P> {
        if !self.is_wanted() {
            return self;
        }
        let (turns, (class, party), units) = (Turns { shared: self.shared.clone() }, self.party.clone(), self.units);
        drop(self);
        turns.take(class, party, units).await
    }
}

impl<P: Clone + Eq + Hash> Drop for Turn<P> {
    fn drop(&mut self) {
        let granted = {
            let mut state = self.shared.state.lock();
            state.free += self.units;
            if self.party.0 == Class::Second {
                state.held_by_second -= self.units;
            }
            state.party(&self.party).held -= self.units;
            let granted = state.grant_next(&self.shared);
            state.forget_idle(&self.party);
            granted
        };
        tell_all(granted);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn now<F: Future>(future: F) -> Option<F::Output> {
        future.now_or_never()
    }

    /// Declares a request that has begun to wait.
    macro_rules! waiting {
        ($future:expr) => {{
            let mut waiting = Box::pin($future);
            assert!((&mut waiting).now_or_never().is_none(), "it has to wait");
            waiting
        }};
    }

    #[test]
    fn whoever_holds_least_goes_first_and_the_second_class_last() {
        let turns = Turns::new(4, 2);
        let take = |class, party: &'static str| turns.take(class, party, 1);
        let mut held: Vec<_> = (0..4).map(|_| now(take(Class::First, "greedy")).unwrap()).collect();
        let pull_request = waiting!(take(Class::Second, "pull request"));
        let more = waiting!(take(Class::First, "greedy"));
        let modest = waiting!(take(Class::First, "modest"));
        assert!(held[0].is_wanted());
        held.pop();
        let modest = now(modest).expect("it held nothing");
        assert!(!modest.is_wanted(), "the greedy one holds more, and the other is of the second class");
        held.pop();
        let more = now(more).expect("clients go before the second class");
        held.pop();
        assert!(now(pull_request).is_some());
        drop((held, more, modest));
        assert_eq!(turns.shared.state.lock().free, 4);
        assert!(turns.shared.state.lock().parties.is_empty());
    }

    #[test]
    fn the_second_class_leaves_room_but_for_what_is_larger_than_its_share() {
        let turns = Turns::new(10, 5);
        let scope = now(turns.take(Class::Second, "a scope", 3)).unwrap();
        assert!(turns.try_take(Class::Second, "another", 3).is_none());
        let large = waiting!(turns.take(Class::Second, "another", 20));
        let main = now(turns.take(Class::First, "main", 5)).expect("main goes first");
        drop(scope);
        let large = waiting!(large);
        drop(main);
        let large = now(large).expect("it is alone");
        assert_eq!(turns.shared.state.lock().free, 0);
        drop(large);
        assert_eq!(turns.shared.state.lock().free, 10);
    }

    #[test]
    fn whoever_stops_waiting_holds_nobody_back() {
        let turns = Turns::new(4, 4);
        let held = now(turns.take(Class::First, "a", 2)).unwrap();
        let large = waiting!(turns.take(Class::First, "b", 4));
        let small = waiting!(turns.take(Class::First, "c", 1));
        drop(large);
        assert!(now(small).is_some());
        drop(held);
        assert!(turns.shared.state.lock().parties.is_empty());
        assert_eq!(turns.shared.waiting.load(Relaxed), 0);
    }

    #[test]
    fn whoever_gives_way_comes_back() {
        let turns = Turns::new(1, 1);
        let first = now(turns.take(Class::First, "a", 1)).unwrap();
        let first = now(first.give_way()).expect("nobody waits");
        let other = waiting!(turns.take(Class::First, "b", 1));
        let mut back = waiting!(first.give_way());
        let other = now(other).expect("it was let through");
        assert!((&mut back).now_or_never().is_none());
        drop(other);
        assert!(now(back).is_some());
    }

    proptest! {
        /// In any order of requests, give-ups and returns: no unit is lost, none is held twice, and in the end no
        /// request waits for free units.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec((0..4u8, 0..3u8, 0..2u8, 1..8u64), 1..200)) {
            let turns = Turns::new(10, 5);
            let (mut held, mut waiting) = (Vec::new(), Vec::new());
            for (step, party, class, units) in steps {
                let class = if class == 0 { Class::First } else { Class::Second };
                match step {
                    0 | 1 => {
                        let turns = turns.clone();
                        let mut asked = Box::pin(async move { turns.take(class, party, units).await });
                        match (&mut asked).now_or_never() {
                            Some(turn) => held.push(turn),
                            None => waiting.push(asked),
                        }
                    }
                    2 if !held.is_empty() => drop(held.swap_remove(units as usize % held.len())),
                    3 if !waiting.is_empty() => drop(waiting.swap_remove(units as usize % waiting.len())),
                    _ => {}
                }
                let mut still = Vec::new();
                for mut asked in waiting.drain(..) {
                    match (&mut asked).now_or_never() {
                        Some(turn) => held.push(turn),
                        None => still.push(asked),
                    }
                }
                waiting = still;
                let held_units: u64 = held.iter().map(|turn: &Turn<u8>| turn.units).sum();
                prop_assert_eq!(held_units + turns.shared.state.lock().free, 10);
            }
            while let Some(turn) = held.pop() {
                drop(turn);
                let mut still = Vec::new();
                for mut asked in waiting.drain(..) {
                    match (&mut asked).now_or_never() {
                        Some(turn) => held.push(turn),
                        None => still.push(asked),
                    }
                }
                waiting = still;
            }
            prop_assert!(waiting.is_empty());
            prop_assert_eq!(turns.shared.state.lock().free, 10);
            prop_assert!(turns.shared.state.lock().parties.is_empty());
        }
    }
}
