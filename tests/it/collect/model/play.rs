//! One play: replicas, collectors and clients over one bucket, in an order that the seed decides.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use larder::config::{Config, Ingredients};
use larder::deadline::Deadline;
use larder::events::Events;
use larder::lifetime::collect::{Collector, Wish};
use larder::store::Store;
use tokio::time::Instant;

use super::clients::{self, Client, Deed, Replica};
use super::ghost::Ghost;
use super::quiet::Quiet;
use super::sim::{Fate, Sim};

/// Steps of one play, at most.
const STEPS_MAX: usize = 6_000;

/// Numbers that follow from a seed.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, chance: usize) -> bool {
        self.below(1000) < chance
    }
}

/// How the play is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub grace: Duration,
    pub lease: Duration,
    pub age: Duration,
    pub collectors: usize,
    pub clients: usize,
    /// Out of a thousand steps: time passes, a replica stops, an answer is held back, a write is given up.
    pub ticks: usize,
    pub pauses: usize,
    pub held: usize,
    pub given_up: usize,
    pub ingredients: Ingredients,
    pub fenced: bool,
    /// Limits in bytes: usage above the first is reduced to the second.
    pub room: Option<(u64, u64)>,
    /// Servers remember what the bucket told them.
    pub far: bool,
    /// Out of a thousand plays: some garbage has been condemned long enough when it begins.
    pub due: usize,
    /// Out of a thousand deeds of clients: those with the cache tag.
    pub caches: usize,
    /// The deeds of clients, how often at most, and after how many seconds: otherwise some clients come much later.
    pub deeds: &'static [Deed],
    pub deeds_max: usize,
    pub waits: Option<&'static [usize]>,
    /// Steps of the time, in seconds; also used when no task can continue.
    pub spans: &'static [u64],
    pub idle: u64,
    /// The longest pause of a task, in seconds: otherwise some pauses are longer than a batch waits.
    pub pause_max: Option<usize>,
    /// Time between two snapshots of a server, if they are less frequent than the age of an answer requires.
    pub poll: Option<Duration>,
    /// Seconds between two collections by one server, at most.
    pub again: usize,
    /// Out of a thousand times that a write could be done which was given up: it is not done yet.
    pub lingers: usize,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Default for Setting {
    fn default() -> Self {
        Setting {
            grace: 60 * MINUTE,
            lease: 40 * MINUTE,
            age: 10 * MINUTE,
            collectors: 3,
            clients: 4,
            ticks: 25,
            pauses: 15,
            held: 20,
            given_up: 5,
            ingredients: Ingredients::default(),
            fenced: true,
            room: None,
            far: true,
            due: 500,
            caches: 500,
            deeds: &[Deed::Ask, Deed::Ask, Deed::Push, Deed::Pull, Deed::Delete],
            deeds_max: 3,
            waits: None,
            spans: &[1, 20, 60, 240, 500, 601, 960, 1300, 2100, 3600, 4300],
            idle: 240,
            pause_max: None,
            poll: None,
            again: 40 * 60,
            lingers: 0,
        }
    }
}

impl Setting {
    /// More faults, and a lease that is longer than the grace period.
    pub fn for_faults() -> Setting {
        Setting { lease: 90 * MINUTE, pauses: 30, held: 30, given_up: 20, ..Setting::default() }
    }

    /// The one that a seed plays.
    pub fn of(seed: u64) -> Setting {
        let base = match seed % 8 {
            0..3 => Setting::default(),
            3..6 => Setting::for_faults(),
            6 => Setting::of_pauses(),
            _ => Setting::of_deletes(),
        };
        let room = seed.is_multiple_of(3).then_some((3 * clients::BLOB_BYTES, 2 * clients::BLOB_BYTES));
        Setting { room, far: !seed.is_multiple_of(5), ..base }
    }

    /// Pauses are long and frequent.
    pub fn of_pauses() -> Setting {
        Setting { pauses: 60, held: 10, given_up: 0, due: 0, ..Setting::default() }
    }

    /// Clients use objects that are just being deleted.
    pub fn of_deletes() -> Setting {
        Setting { due: 1000, pauses: 40, held: 40, given_up: 40, ticks: 15, ..Setting::default() }
    }

    /// The last seconds before a batch is due: clients send objects that have just been deleted.
    pub fn of_seconds() -> Setting {
        Setting {
            due: 1000,
            caches: 0,
            collectors: 2,
            clients: 3,
            ticks: 100,
            pauses: 100,
            held: 100,
            given_up: 0,
            deeds: &[Deed::Upload],
            waits: Some(&[30, 60]),
            spans: &[1],
            idle: 1,
            pause_max: Some(30),
            poll: Some(Duration::from_secs(3)),
            again: 20,
            ..Setting::default()
        }
    }

    /// Collectors meet at one claim: all find the batch due at once, and each claims it at a moment of its own.
    pub fn of_claims() -> Setting {
        Setting { collectors: 3, ..Setting::of_seconds() }
    }

    /// Writes that were given up happen when no task waits for them any more.
    pub fn of_late_writes() -> Setting {
        Setting { given_up: 100, lingers: 950, ..Setting::of_seconds() }
    }

    /// Or when the claim has died under which it was asked.
    pub fn of_dead_claims() -> Setting {
        let waits: &[usize] = &[1300, 2000, 3000];
        Setting { lingers: 990, again: 1500, waits: Some(waits), spans: &[1, 20, 60], ..Setting::of_late_writes() }
    }

    /// Pushes to one cache tag that meet, with reads between. One server: a push that one reader has seen, all see.
    pub fn of_pushes() -> Setting {
        Setting {
            due: 0,
            caches: 1000,
            collectors: 1,
            clients: 5,
            ticks: 10,
            pauses: 40,
            given_up: 0,
            deeds: &[Deed::Push, Deed::Pull],
            waits: Some(&[0, 10]),
            spans: &[1],
            idle: 1,
            pause_max: Some(20),
            again: 1000,
            ..Setting::default()
        }
    }

    pub fn wait(&self) -> Duration {
        self.grace.max(self.lease + self.age)
    }

    pub fn config(&self) -> Config {
        let mut config = Config::default();
        let collect = &mut config.collect;
        collect.grace = span(self.grace);
        collect.lease = span(self.lease);
        collect.snapshot_age = Some(span(self.age));
        collect.objects_per_second = u32::MAX;
        collect.ingredients = self.ingredients;
        clients::rules(&mut config, self.room);
        config
    }
}

fn span(span: Duration) -> larder::config::Span {
    larder::config::Span::seconds(span.as_secs())
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Task {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    woken: Arc<Woken>,
    asleep_until: Option<Instant>,
    replica: usize,
    client: bool,
}

/// Result of a play.
#[derive(Debug, Default)]
pub struct Outcome {
    pub violation: Option<String>,
    pub steps: usize,
    pub deleted: usize,
    pub spared: usize,
    pub trace: Vec<String>,
}

/// Read again before each batch of deletes.
const FORMAT: &[u8] = br#"{"format":1,"oldest_reader":1,"created":"2026-01-01T00:00:00Z"}"#;

/// Plays to the end, and returns the violations.
pub async fn play(seed: u64, setting: Setting, traced: bool) -> Outcome {
    let sim = Sim::new();
    {
        let mut state = sim.state.lock().unwrap();
        (state.fenced, state.far) = (setting.fenced, setting.far);
    }
    let quiet = Quiet::new(&sim);
    let dice = Rc::new(RefCell::new(Dice::new(seed)));
    let ghost = Rc::new(RefCell::new(Ghost::new(sim.clone(), setting)));
    let config = Arc::new(setting.config());
    let store = |replica: usize| {
        Store::named(Arc::new(sim.clone()), config.clone(), Arc::default(), Events::default(), replica as u64)
    };
    sim.plant("meta/format", FORMAT.into(), Duration::ZERO);
    clients::plant(&sim, &mut dice.borrow_mut(), setting);
    let mut tasks = Vec::<Task>::new();
    let mut add = |replica: usize, client: bool, future: Pin<Box<dyn Future<Output = ()>>>| {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        // A budget of the runtime's own would stop them where no seed decides.
        let future = Box::pin(tokio::task::unconstrained(future));
        tasks.push(Task { future: Some(future), woken, asleep_until: None, replica, client });
    };
    let stores: Vec<Store> = (0..setting.collectors).map(store).collect();
    for (number, store) in stores.iter().enumerate() {
        let skew = dice.borrow_mut().below(3) as i64 * 40_000 - 40_000;
        sim.state.lock().unwrap().skews.insert(number, skew);
        let collector = Collector::new(store.refs().clone());
        let (times, counts) = (2 + dice.borrow_mut().below(3), ghost.clone());
        let wait = Duration::from_secs(1 + dice.borrow_mut().below(setting.again) as u64);
        let collecting = async move {
            for _ in 0..times {
                if let Ok(report) = collector.run(Wish::default()).await {
                    counts.borrow_mut().count(&report);
                }
                tokio::time::sleep(wait).await;
            }
        };
        add(number, false, Box::pin(collecting));
        let polled = store.clone();
        let every = setting.poll.unwrap_or(setting.age / 3);
        let polling = async move {
            loop {
                tokio::time::sleep(every).await;
                let _ = polled.condemned().refresh(Deadline::of_each_call()).await;
            }
        };
        add(number, false, Box::pin(polling));
    }
    for number in 0..setting.clients {
        let at = dice.borrow_mut().below(stores.len());
        let other = dice.borrow_mut().below(stores.len());
        let replicas = [Replica::new(stores[at].clone()), Replica::new(stores[other].clone())];
        let client = Client { replicas, ghost: ghost.clone(), dice: dice.clone(), setting };
        add(at, true, Box::pin(client.script(number)));
    }
    let mut outcome = Outcome::default();
    schedule((&sim, &quiet), &mut tasks, &dice, &ghost, setting, &mut outcome, traced).await;
    if ghost.borrow().violation.is_none() {
        // All tasks have crashed. Their last calls may still happen.
        tasks.clear();
        sim.abandon();
        reclaim((&sim, &quiet), store(99), &dice, &ghost, setting).await;
    }
    let ghost = ghost.borrow();
    outcome.violation = ghost.violation.clone();
    outcome.deleted = ghost.deleted;
    outcome.spared = ghost.spared;
    outcome
}

async fn schedule(
    (sim, quiet): (&Sim, &Quiet),
    tasks: &mut [Task],
    dice: &Rc<RefCell<Dice>>,
    ghost: &Rc<RefCell<Ghost>>,
    setting: Setting,
    outcome: &mut Outcome,
    traced: bool,
) {
    let roll = |bound: usize| dice.borrow_mut().below(bound);
    let chance = |permille: usize| dice.borrow_mut().permille(permille);
    while outcome.steps < STEPS_MAX {
        outcome.steps += 1;
        if ghost.borrow().violation.is_some() || tasks.iter().all(|task| !task.client || task.future.is_none()) {
            return;
        }
        let now = Instant::now();
        let ready: Vec<usize> = (0..tasks.len())
            .filter(|at| {
                let task = &tasks[*at];
                let awake = task.asleep_until.is_none_or(|until| until <= now);
                awake && task.future.is_some() && task.woken.0.load(Ordering::SeqCst)
            })
            .collect();
        let pending = sim.state.lock().unwrap().pending.len();
        let late = sim.late();
        if ready.is_empty() && pending == 0 && late == 0 || chance(setting.ticks) {
            let spans = setting.spans;
            let tick = if ready.is_empty() && pending == 0 { setting.idle } else { spans[roll(spans.len())] };
            if traced {
                outcome.trace.push(format!("{tick} s pass"));
            }
            // Timers are rounded to milliseconds from a start that no seed decides.
            tokio::time::advance(Duration::from_secs(tick) + Duration::from_millis(5)).await;
            quiet.settle().await;
            continue;
        }
        let choice = roll(ready.len() + pending + late);
        if choice < ready.len() {
            let at = ready[choice];
            if chance(setting.pauses) {
                // Long enough for something to be condemned and deleted, or for something to get between two calls.
                let longest = match setting.pause_max {
                    Some(longest) => longest,
                    None => [2 * setting.wait().as_secs() as usize, 600][roll(2)],
                };
                let pause = Duration::from_secs(roll(longest) as u64);
                tasks[at].asleep_until = Some(now + pause);
                if traced {
                    outcome.trace.push(format!("task {at} stops for {pause:?}"));
                }
                continue;
            }
            if traced {
                outcome.trace.push(format!("task {at} of {ready:?} goes on"));
            }
            poll(sim, &mut tasks[at]);
            quiet.settle().await;
        } else if choice < ready.len() + pending {
            let at = choice - ready.len();
            if setting.lingers > 0 && sim.was_given_up(at) && chance(setting.lingers) {
                continue;
            }
            let fate = match () {
                () if chance(setting.held) => Fate::AnswerHeld,
                () if chance(setting.given_up) => Fate::GivenUp,
                () => Fate::Answered,
            };
            if traced {
                let state = sim.state.lock().unwrap();
                let line = format!("[{}] {} {fate:?}", state.pending[at].by, state.pending[at].ask.name());
                outcome.trace.push(line);
            }
            let deeds = sim.happen(at, fate);
            ghost.borrow_mut().look(deeds);
            quiet.settle().await;
        } else {
            sim.answer_late(choice - ready.len() - pending);
            quiet.settle().await;
        }
        if traced {
            outcome.trace.append(&mut ghost.borrow_mut().said);
        }
    }
}

fn poll(sim: &Sim, task: &mut Task) {
    let Some(future) = &mut task.future else { return };
    task.woken.0.store(false, Ordering::SeqCst);
    sim.state.lock().unwrap().asking = task.replica;
    let waker = Waker::from(task.woken.clone());
    if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
        task.future = None;
    }
}

/// With no other task and no tags left, one collector leaves nothing.
async fn reclaim(
    (sim, quiet): (&Sim, &Quiet),
    store: Store,
    dice: &Rc<RefCell<Dice>>,
    ghost: &Rc<RefCell<Ghost>>,
    setting: Setting,
) {
    // Some of the pending calls happen, some do not.
    loop {
        let pending = sim.state.lock().unwrap().pending.len();
        if pending == 0 {
            break;
        }
        if dice.borrow_mut().permille(300) {
            tokio::time::advance(Duration::from_secs(300)).await;
        }
        let deeds = sim.happen(dice.borrow_mut().below(pending), Fate::Answered);
        ghost.borrow_mut().look(deeds);
    }
    sim.state.lock().unwrap().objects.retain(|key, _| !key.contains("/!/tags/"));
    let collector = Collector::new(store.refs().clone());
    for _ in 0..12 {
        let mut collecting = Box::pin(collector.run(Wish::default()));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        while collecting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            quiet.settle().await;
            let pending = sim.state.lock().unwrap().pending.len();
            if pending > 0 {
                let deeds = sim.happen(pending - 1, Fate::Answered);
                ghost.borrow_mut().look(deeds);
            } else if !woken.0.swap(false, Ordering::SeqCst) {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
        }
        tokio::time::advance(setting.wait() + Duration::from_secs(1300)).await;
    }
    let state = sim.state.lock().unwrap();
    let left: Vec<&String> = state.objects.keys().filter(|key| !key.starts_with("meta/")).collect();
    if !left.is_empty() && ghost.borrow().violation.is_none() {
        ghost.borrow_mut().violation = Some(format!("left behind: {left:?}"));
    }
}
