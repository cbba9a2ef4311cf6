//! A bucket whose every call waits until the scheduler lets it happen.
//!
//! A call is sent, happens, and is answered: three moments, between which any other call may happen. A write may also
//! be answered with an error and happen later, until it is too old for the backend to accept it.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use larder::digest::Digest;
use larder::objects::{
    ByteStream, Change, Draft, Error, Fence, Key, Meta, Objects, Read, Result, Space, Traits, Unfinished, Version,
    Watcher, Watchers, When, fs, s3,
};
use tokio::time::Instant;

/// The longest delay of a request, and the longest of a dated one.
pub const FENCE: Duration = Duration::from_secs(15 * 60);
/// Entries of one page of a list: lists are not one moment.
const PAGE: usize = 6;

#[derive(Clone, Debug)]
pub struct Object {
    pub bytes: Bytes,
    pub modified: SystemTime,
    pub version: u64,
}

/// The moment for which a task waits.
#[derive(Default)]
struct Slot {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

pub enum Answer {
    Meta(Result<Meta>),
    Read(Result<Read>),
    Page(Result<Vec<Meta>>),
    Done(Result<()>),
}

pub enum Ask {
    Head(Key),
    Read(Key, Option<Version>),
    Page(String, Option<String>),
    Put(Key, Bytes, When),
    Delete(Vec<Key>),
    DeleteDated(Vec<Key>, SystemTime),
}

impl Ask {
    fn writes(&self) -> bool {
        !matches!(self, Ask::Head(_) | Ask::Read(..) | Ask::Page(..))
    }

    pub fn name(&self) -> String {
        match self {
            Ask::Head(key) => format!("HEAD {key}"),
            Ask::Read(key, _) => format!("GET {key}"),
            Ask::Page(prefix, after) => format!("LIST {prefix} after {after:?}"),
            Ask::Put(key, _, When::Absent) => format!("CREATE {key}"),
            Ask::Put(key, bytes, _) if key.as_str().ends_with("/list") => {
                format!("PUT {key} {}", String::from_utf8_lossy(bytes))
            }
            Ask::Put(key, ..) => format!("PUT {key}"),
            Ask::Delete(keys) => format!("DELETE {keys:?}"),
            Ask::DeleteDated(keys, _) => format!("DELETE DATED {keys:?}"),
        }
    }
}

pub struct Pending {
    pub ask: Ask,
    slot: Option<Arc<Mutex<Slot>>>,
    asked: SystemTime,
    pub by: usize,
}

/// A deletion, for the checks.
pub struct Deed {
    pub key: String,
    pub object: Object,
    /// Deleted by a dated request.
    pub by_collector: bool,
}

#[derive(Default)]
pub struct State {
    pub objects: BTreeMap<String, Object>,
    pub pending: Vec<Pending>,
    late: Vec<(Arc<Mutex<Slot>>, Answer)>,
    versions: u64,
    /// The task whose calls are being sent now.
    pub asking: usize,
    pub fenced: bool,
    pub far: bool,
    asked: u64,
    /// A tag was written, or something deleted, since this was last looked at.
    pub changed: bool,
    /// Offsets of the replicas' wall clocks: writes are answered with their time, not the backend's.
    pub skews: HashMap<usize, i64>,
}

/// The bucket. Clones are the same one.
#[derive(Clone)]
pub struct Sim {
    pub state: Arc<Mutex<State>>,
    watchers: Arc<Watchers>,
    start: Instant,
}

fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

impl Sim {
    pub fn new() -> Sim {
        let state = State { fenced: true, ..State::default() };
        Sim { state: Arc::new(Mutex::new(state)), watchers: Arc::default(), start: Instant::now() }
    }

    /// The backend's time, to the second, as a bucket tells it.
    pub fn now(&self) -> SystemTime {
        epoch() + Duration::from_secs(self.start.elapsed().as_secs())
    }

    /// Stores an object that has existed for `age`.
    pub fn plant(&self, key: &str, bytes: Bytes, age: Duration) {
        let mut state = self.state.lock().unwrap();
        state.versions += 1;
        let (modified, version) = (self.now() - age, state.versions);
        state.objects.insert(key.to_string(), Object { bytes, modified, version });
    }

    fn ask(&self, ask: Ask) -> Call {
        let slot = Arc::<Mutex<Slot>>::default();
        let mut state = self.state.lock().unwrap();
        let by = state.asking;
        state.asked += 1;
        state.pending.push(Pending { ask, slot: Some(slot.clone()), asked: self.now(), by });
        Call { slot }
    }

    /// Calls so far.
    pub fn asked(&self) -> u64 {
        self.state.lock().unwrap().asked
    }

    pub fn late(&self) -> usize {
        self.state.lock().unwrap().late.len()
    }

    /// Gives one of the answers that were held back.
    pub fn answer_late(&self, at: usize) {
        let (slot, answer) = self.state.lock().unwrap().late.swap_remove(at);
        give(&slot, answer);
    }

    /// Tells whether no task waits for the pending call `at` any more.
    pub fn was_given_up(&self, at: usize) -> bool {
        self.state.lock().unwrap().pending[at].slot.is_none()
    }

    /// Lets the pending call `at` happen. `fate` is how it is answered.
    pub fn happen(&self, at: usize, fate: Fate) -> Vec<Deed> {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        if let (Fate::GivenUp, true) = (fate, state.pending[at].ask.writes()) {
            // Answered now, done later or never.
            if let Some(slot) = state.pending[at].slot.take() {
                let busy = || Error::Busy("time-out".into());
                let answer = match state.pending[at].ask {
                    Ask::Put(..) => Answer::Meta(Err(busy())),
                    _ => Answer::Done(Err(busy())),
                };
                give(&slot, answer);
                return Vec::new();
            }
        }
        let pending = state.pending.swap_remove(at);
        let (answer, deeds) = state.perform(&pending, self.now());
        match pending.slot {
            Some(slot) if matches!(fate, Fate::AnswerHeld) => state.late.push((slot, answer)),
            Some(slot) => give(&slot, answer),
            None => {}
        }
        deeds
    }

    /// Gives up all pending calls.
    pub fn abandon(&self) {
        let mut state = self.state.lock().unwrap();
        state.late.clear();
        state.pending.retain_mut(|pending| {
            pending.slot = None;
            pending.ask.writes()
        });
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Answered,
    AnswerHeld,
    GivenUp,
}

fn give(slot: &Mutex<Slot>, answer: Answer) {
    let mut slot = slot.lock().unwrap();
    slot.answer = Some(answer);
    if let Some(waker) = slot.waker.take() {
        waker.wake();
    }
}

impl State {
    fn perform(&mut self, pending: &Pending, now: SystemTime) -> (Answer, Vec<Deed>) {
        let age = |from: SystemTime| now.duration_since(from).unwrap_or_default();
        let refused = || Error::Backend("request is too old".into());
        // Every request is signed when it is sent.
        let too_old = pending.ask.writes() && age(pending.asked) > FENCE;
        match &pending.ask {
            Ask::Head(key) => (Answer::Meta(self.meta(key)), vec![]),
            Ask::Read(key, known) => {
                let found = self.meta(key).map(|meta| {
                    let bytes = self.objects[key.as_str()].bytes.clone();
                    if known.as_ref() == Some(&meta.version) { Read::Same } else { Read::Fresh(meta, bytes) }
                });
                (Answer::Read(found), vec![])
            }
            Ask::Page(prefix, after) => {
                let behind = self.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(prefix));
                let behind = behind.filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after)).take(PAGE);
                let keys: Vec<Key> = behind.map(|(key, _)| Key::new(key.as_str())).collect();
                (Answer::Page(keys.iter().map(|key| self.meta(key)).collect()), vec![])
            }
            Ask::Put(..) if too_old => (Answer::Meta(Err(refused())), vec![]),
            Ask::Put(key, _, When::Absent) if self.objects.contains_key(key.as_str()) => {
                (Answer::Meta(Err(Error::Exists)), vec![])
            }
            Ask::Put(key, bytes, _) => {
                self.versions += 1;
                let object = Object { bytes: bytes.clone(), modified: now, version: self.versions };
                self.objects.insert(key.as_str().to_string(), object);
                self.changed |= key.as_str().contains("/!/tags/");
                let mut meta = self.meta(key);
                let skew = self.skews.get(&pending.by).copied().unwrap_or(0);
                if let Ok(meta) = &mut meta {
                    let off = Duration::from_secs(skew.unsigned_abs());
                    meta.modified = if skew < 0 { meta.modified - off } else { meta.modified + off };
                }
                (Answer::Meta(meta), vec![])
            }
            Ask::Delete(_) if too_old => (Answer::Done(Err(refused())), vec![]),
            Ask::Delete(keys) => (Answer::Done(Ok(())), self.delete(keys, false)),
            Ask::DeleteDated(_, at) if self.fenced && age(*at) > FENCE => (Answer::Done(Err(refused())), vec![]),
            Ask::DeleteDated(keys, _) => (Answer::Done(Ok(())), self.delete(keys, true)),
        }
    }

    fn delete(&mut self, keys: &[Key], by_collector: bool) -> Vec<Deed> {
        let gone = keys.iter().filter_map(|key| self.objects.remove_entry(key.as_str()));
        let deeds: Vec<Deed> = gone.map(|(key, object)| Deed { key, object, by_collector }).collect();
        self.changed |= deeds.iter().any(|deed| !deed.key.starts_with("condemned/"));
        deeds
    }

    fn meta(&self, key: &Key) -> Result<Meta> {
        let object = self.objects.get(key.as_str()).ok_or(Error::NotFound)?;
        let version = Version(object.version.to_string().into());
        Ok(Meta { key: key.clone(), size: object.bytes.len() as u64, modified: object.modified, version })
    }
}

struct Call {
    slot: Arc<Mutex<Slot>>,
}

impl Future for Call {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut slot = self.slot.lock().unwrap();
        match slot.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

macro_rules! answered {
    ($call:expr, $kind:ident) => {
        match $call.await {
            Answer::$kind(answer) => answer,
            _ => unreachable!("an answer of another kind"),
        }
    };
}

#[async_trait]
impl Objects for Sim {
    async fn head(&self, key: &Key) -> Result<Meta> {
        answered!(self.ask(Ask::Head(key.clone())), Meta)
    }

    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read> {
        answered!(self.ask(Ask::Read(key.clone(), known.cloned())), Read)
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)> {
        match answered!(self.ask(Ask::Read(key.clone(), None)), Read)? {
            Read::Fresh(meta, bytes) => {
                let part = bytes.slice(range.start as usize..range.end.min(meta.size) as usize);
                Ok((meta, stream::iter([Ok(part)]).boxed()))
            }
            Read::Same => unreachable!("nothing is known"),
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        let state = (self.clone(), prefix.to_string(), after.map(str::to_string), false);
        let pages = stream::try_unfold(state, |(sim, prefix, after, ended)| async move {
            if ended {
                return Ok(None);
            }
            let page = answered!(sim.ask(Ask::Page(prefix.clone(), after)), Page)?;
            let (last, ended) = (page.last().map(|meta| meta.key.as_str().to_string()), page.len() < PAGE);
            let page = stream::iter(page.into_iter().map(Ok));
            Ok::<_, Error>(Some((page, (sim, prefix, last, ended))))
        });
        futures::TryStreamExt::try_flatten(pages).boxed()
    }

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta> {
        let written: Meta = answered!(self.ask(Ask::Put(key.clone(), body, when)), Meta)?;
        self.watchers.tell(key, Change::written(written.size));
        Ok(written)
    }

    async fn begin(&self, key: &Key, _size: Option<u64>) -> Result<Box<dyn Draft>> {
        Ok(Box::new(SimDraft { sim: self.clone(), key: key.clone(), bytes: Vec::new() }))
    }

    async fn concat(&self, _from: &[Key], _to: &Key, _digest: &Digest) -> Result<Meta> {
        unreachable!("no chunks here")
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        // One by one, as a bucket handles calls that have an order.
        for key in keys {
            answered!(self.ask(Ask::Delete(vec![key.clone()])), Done)?;
        }
        Ok(())
    }

    async fn delete_dated(&self, keys: &[Key], at: SystemTime) -> Result<()> {
        answered!(self.ask(Ask::DeleteDated(keys.to_vec(), at)), Done)
    }

    fn traits(&self) -> Traits {
        if self.state.lock().unwrap().far { s3::TRAITS } else { fs::TRAITS }
    }

    async fn sweep_drafts(&self, _before: SystemTime) -> Result<usize> {
        Ok(0)
    }

    async fn direct(&self, _meta: &Meta) -> Result<Option<String>> {
        Ok(None)
    }

    fn fence(&self) -> Option<Fence> {
        Some(Fence { age_max: FENCE, dies_with_process: false })
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    fn space(&self) -> Option<Space> {
        None
    }

    fn watch(&self, watcher: Watcher) {
        self.watchers.add(watcher);
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }
}

struct SimDraft {
    sim: Sim,
    key: Key,
    bytes: Vec<u8>,
}

#[async_trait]
impl Draft for SimDraft {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        Ok(())
    }

    fn gathers(&self) -> bool {
        true
    }

    async fn commit(self: Box<Self>) -> Result<Meta> {
        self.sim.put(&self.key, self.bytes.into(), When::Always).await
    }
}
