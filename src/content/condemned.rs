//! Objects that the collector is about to delete, and the protocol for all other requests.
//!
//! A batch is a write-once list of keys. Its grace period begins when it is published; then a collector claims the
//! batch and deletes the objects that were not spared. The whole argument is at the head of
//! [`crate::lifetime::collect`]; here are the two rules for the code that answers clients:
//!
//! Invariant: every answer uses one snapshot of the lists, and is given only while that is at most `snapshot_age` old.
//! Invariant: a server that relies on a condemned object first writes a spare to the bucket, then looks whether the
//! batch is claimed, and then looks for the object itself. Its memory of the object does not count.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::calls::{Calls, FAN_OUT, json};
use crate::capacity::usage::weight_of;
use crate::config::{CollectConfig, Ingredients};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::layout::{self, BatchItem, Place};
use crate::names::{BatchId, Tenant};
use crate::objects::{self, Key, Meta, Objects};

/// Maximum number of entries of one list: as many as S3 deletes at once.
pub const ENTRIES_MAX: usize = 1000;
/// Time after the age at which late requests are refused until a claim counts as dead: a margin for clocks that differ.
pub const CLAIM_SLACK: Duration = Duration::from_secs(5 * 60);
/// Pause between two looks at a batch that is being deleted, and the number of looks. Deleting takes seconds.
const CLAIM_STEP: Duration = Duration::from_millis(250);
const CLAIM_LOOKS: usize = 80;

/// The reason why an object is condemned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CondemnedKind {
    /// Garbage: no root references it.
    Garbage,
    /// Referenced content that is selected for eviction. Views leave it out.
    Evict,
}

/// Content of a list of condemned objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CondemnedList {
    pub kind: CondemnedKind,
    /// Beginning of the mark that made the list.
    pub marked: jiff::Timestamp,
    pub keys: Vec<String>,
    /// Sizes of the objects in bytes, in the order of `keys`.
    pub sizes: Vec<u64>,
}

impl CondemnedList {
    /// Bytes that leave each tenant's account.
    fn weights(&self) -> BTreeMap<Tenant, u64> {
        let mut bytes = BTreeMap::new();
        for (key, size) in self.keys.iter().zip(&self.sizes) {
            if let Some((tenant, weight)) = weight_of(key, *size) {
                *bytes.entry(tenant).or_default() += weight;
            }
        }
        bytes
    }
}

/// The condemned objects, as they were at one moment or later.
pub struct Snapshot {
    /// Beginning of the lookup. Every batch that is missing was published after that.
    began: Instant,
    /// Sorted by fingerprint. A collision of fingerprints costs a spare, nothing else.
    entries: Vec<CondemnedEntry>,
    /// Each batch with its publication time, by the backend's clock.
    batches: Vec<(BatchId, SystemTime)>,
    age_max: Duration,
    checked: bool,
}

#[derive(Clone, Copy)]
struct CondemnedEntry {
    fingerprint: u64,
    batch: u32,
    number: u32,
    evict: bool,
}

impl Snapshot {
    /// Whether an answer may still use this snapshot.
    pub fn is_young(&self) -> bool {
        !self.checked || self.began.elapsed() <= self.age_max
    }

    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Number of condemned objects.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Like [`Snapshot::has`], by the [`fingerprint`] of the key.
    pub(crate) fn has_fingerprint(&self, fingerprint: u64) -> bool {
        self.entries.binary_search_by_key(&fingerprint, |entry| entry.fingerprint).is_ok()
    }

    pub fn has(&self, key: &Key) -> bool {
        !self.of(key).is_empty()
    }

    /// Time since which the object is selected for eviction, by the backend's clock; nothing if it is not.
    pub fn evicted(&self, key: &Key) -> Option<SystemTime> {
        let evicts = self.of(key).iter().filter(|entry| entry.evict);
        evicts.map(|entry| self.batches[entry.batch as usize].1).max()
    }

    fn of(&self, key: &Key) -> &[CondemnedEntry] {
        if self.entries.is_empty() {
            return &[];
        }
        let fingerprint = fingerprint(key.as_str());
        let start = self.entries.partition_point(|entry| entry.fingerprint < fingerprint);
        let length = self.entries[start..].partition_point(|entry| entry.fingerprint == fingerprint);
        &self.entries[start..start + length]
    }
}

/// The hash that represents a key in memory.
pub(crate) fn fingerprint(key: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

/// The part of a list that is kept in memory.
struct KnownBatch {
    kind: CondemnedKind,
    fingerprints: Vec<u64>,
    /// Bytes that the list takes from each account.
    bytes: BTreeMap<Tenant, u64>,
}

/// The condemned objects of one store, for the code that answers clients. Cheap when there are none.
pub struct Condemned {
    objects: Arc<dyn Objects>,
    age_max: Duration,
    claim_life: Duration,
    ingredients: Ingredients,
    current: RwLock<Option<Arc<Snapshot>>>,
    /// Lists that were read: they are write-once.
    known: Mutex<HashMap<BatchId, Arc<KnownBatch>>>,
    /// Entries that this process has spared without seeing a claim afterwards: no collector will delete them.
    spared: Mutex<HashSet<(BatchId, u32)>>,
    /// Allows one lookup at a time.
    looking: tokio::sync::Mutex<()>,
    listeners: Mutex<Vec<BatchLister>>,
    looks: AtomicU64,
    /// A random number, drawn at the start, so that no two batches have the same name.
    replica: u64,
    published: AtomicU64,
}

/// A function called with the changes in each new snapshot.
type BatchLister = Box<dyn Fn(&News) + Send + Sync>;

/// Changes between two snapshots.
pub struct News<'a> {
    /// Keys that were condemned since the last snapshot.
    pub keys: &'a [Key],
    /// Bytes that all condemned objects take from each account.
    pub bytes: &'a BTreeMap<Tenant, u64>,
    /// The last lookup was so long ago that all memory of the store's objects is void.
    pub gap: bool,
    /// A batch of the last snapshot is gone.
    pub ended: bool,
}

/// One batch, as a list of its objects shows it.
#[derive(Clone, Debug, Default)]
pub struct ListedBatch {
    pub list: Option<Meta>,
    pub claim: Option<Meta>,
    pub spared: BTreeMap<u32, SystemTime>,
}

impl ListedBatch {
    pub(crate) fn add(&mut self, item: BatchItem, meta: Meta) {
        match item {
            BatchItem::List => self.list = Some(meta),
            BatchItem::Claim => self.claim = Some(meta),
            BatchItem::Spared(number) => drop(self.spared.insert(number, meta.modified)),
        }
    }

    /// The newest time of its objects: a clock that every server which can write can read.
    pub(crate) fn newest(&self) -> Option<SystemTime> {
        let metas = [&self.list, &self.claim].into_iter().flatten().map(|meta| meta.modified);
        metas.chain(self.spared.values().copied()).max()
    }

    /// Whether the batch has a claim whose owner may still delete.
    fn is_claimed(&self, life: Duration) -> bool {
        let Some(claim) = &self.claim else { return false };
        let now = self.newest().unwrap_or(claim.modified);
        now.duration_since(claim.modified).is_ok_and(|age| age <= life)
    }
}

/// Groups a listing below `condemned/` by batch.
pub(crate) async fn list_batches(
    objects: &dyn Objects,
    prefix: &str,
) -> objects::Result<BTreeMap<BatchId, ListedBatch>> {
    let mut batches = BTreeMap::<BatchId, ListedBatch>::new();
    let mut listed = objects.list(prefix, None);
    while let Some(meta) = listed.try_next().await? {
        if let Some(Place::Condemned { batch, item }) = layout::parse(meta.key.as_str()) {
            batches.entry(batch).or_default().add(item, meta);
        }
    }
    Ok(batches)
}

impl Condemned {
    pub fn new(objects: Arc<dyn Objects>, config: &CollectConfig, replica: u64) -> Condemned {
        let fence = objects.fence().map_or(Duration::ZERO, |fence| fence.age_max);
        Condemned {
            objects,
            age_max: config.snapshot_age(),
            claim_life: fence + CLAIM_SLACK,
            ingredients: config.ingredients,
            current: RwLock::new(None),
            known: Mutex::default(),
            spared: Mutex::default(),
            looking: tokio::sync::Mutex::new(()),
            listeners: Mutex::default(),
            looks: AtomicU64::new(0),
            replica,
            published: AtomicU64::new(0),
        }
    }

    /// Has `listener` called with every new snapshot, before any request can pin it.
    pub fn listen(&self, listener: impl Fn(&News) + Send + Sync + 'static) {
        self.listeners.lock().push(Box::new(listener));
    }

    /// The time since which an object is condemned, by the backend's clock and the current snapshot; `None` if it is not, or
    /// if this process has spared it. For display: no answer may rest on it.
    pub fn since(&self, key: &Key) -> Option<SystemTime> {
        let snapshot = self.current()?;
        let spared = self.spared.lock();
        let stands = snapshot.of(key).iter().filter_map(|entry| {
            let (batch, at) = &snapshot.batches[entry.batch as usize];
            (!spared.contains(&(batch.clone(), entry.number))).then_some(*at)
        });
        stands.min()
    }

    /// The number of this process among those that share the store.
    pub(crate) fn replica(&self) -> u64 {
        self.replica
    }

    /// Publishes a batch: its grace period begins.
    pub(crate) async fn publish(&self, list: &CondemnedList) -> Result<()> {
        let (number, body) = (self.published.fetch_add(1, Ordering::Relaxed), json(list)?);
        let key = layout::batch_list(&BatchId::new(self.replica, number));
        Calls::of(&*self.objects).put(&key, body).await.map(drop)
    }

    /// Age after which no server acts on a claim any more.
    pub(crate) fn claim_life(&self) -> Duration {
        self.claim_life
    }

    /// Number of lookups so far. An answer of the store that was requested under an older number may be older than a
    /// pin.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Acquire)
    }

    fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.read().clone()
    }

    /// Returns a snapshot that an answer may use.
    pub async fn snapshot(&self, deadline: Deadline) -> Result<Arc<Snapshot>> {
        match self.current() {
            Some(snapshot) if snapshot.is_young() => Ok(snapshot),
            _ => Box::pin(self.refreshed(Some(self.age_max / 2), deadline)).await,
        }
    }

    /// Takes a new snapshot.
    pub async fn refresh(&self, deadline: Deadline) -> Result<Arc<Snapshot>> {
        self.refreshed(None, deadline).await
    }

    /// Returns a snapshot that is at most `young_enough` old, or takes a new one. One is taken at a time.
    async fn refreshed(&self, young_enough: Option<Duration>, deadline: Deadline) -> Result<Arc<Snapshot>> {
        let _turn = deadline.bound(self.looking.lock().map(Ok)).await?;
        if let (Some(limit), Some(current)) = (young_enough, self.current())
            && current.age() <= limit
        {
            return Ok(current);
        }
        let began = Instant::now();
        let listed = deadline.retry(|| list_batches(&*self.objects, layout::CONDEMNED)).await?;
        let published = listed.into_iter().filter_map(|(id, batch)| Some((id, batch.list?.modified)));
        let loads = published
            .map(|(id, at)| async move { Ok::<_, Error>((self.load(id, deadline).await?, at)) })
            .collect::<Vec<_>>();
        let loaded: Vec<_> = stream::iter(loads).buffered(FAN_OUT).try_collect().await?;
        let (mut entries, mut batches, mut news) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = BTreeMap::new();
        for (loaded, at) in loaded {
            let Some((id, known, fresh)) = loaded else { continue };
            let batch = batches.len() as u32;
            entries.extend(known.fingerprints.iter().enumerate().map(|(number, fingerprint)| CondemnedEntry {
                fingerprint: *fingerprint,
                batch,
                number: number as u32,
                evict: known.kind == CondemnedKind::Evict,
            }));
            for (tenant, of_batch) in &known.bytes {
                *bytes.entry(tenant.clone()).or_default() += of_batch;
            }
            batches.push((id, at));
            news.extend(fresh);
        }
        entries.sort_unstable_by_key(|entry| (entry.fingerprint, entry.batch, entry.number));
        let gap = self.current().is_none_or(|last| began.duration_since(last.began) > self.age_max);
        let ended = self.forget_others(&batches);
        let drop = self.ingredients.drop_memory();
        let news = News { keys: &news, bytes: &bytes, gap: gap && drop, ended: ended && drop };
        self.listeners.lock().iter().for_each(|listener| listener(&news));
        self.looks.fetch_add(1, Ordering::AcqRel);
        let checked = self.ingredients.age_at_answer();
        let snapshot = Arc::new(Snapshot { began, entries, batches, age_max: self.age_max, checked });
        *self.current.write() = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Reads a list, and its keys if the list was not known before. Returns nothing if the batch has just been cleared.
    async fn load(&self, id: BatchId, deadline: Deadline) -> Result<Option<(BatchId, Arc<KnownBatch>, Vec<Key>)>> {
        if let Some(known) = self.known.lock().get(&id) {
            return Ok(Some((id, known.clone(), Vec::new())));
        }
        let Some(list) = read_list(Calls::until(&*self.objects, deadline), &id).await? else { return Ok(None) };
        let fingerprints = list.keys.iter().map(|key| fingerprint(key)).collect();
        let known = Arc::new(KnownBatch { kind: list.kind, fingerprints, bytes: list.weights() });
        self.known.lock().insert(id.clone(), known.clone());
        let keys = list.keys.into_iter().map(Key::new).collect();
        Ok(Some((id, known, keys)))
    }

    /// Forgets all batches except `batches`. Returns whether there were any.
    fn forget_others(&self, batches: &[(BatchId, SystemTime)]) -> bool {
        let left: HashSet<&BatchId> = batches.iter().map(|(id, _)| id).collect();
        let mut known = self.known.lock();
        let before = known.len();
        known.retain(|id, _| left.contains(id));
        let ended = known.len() < before;
        drop(known);
        self.spared.lock().retain(|(id, _)| left.contains(id));
        ended
    }

    /// Spares `key` if it is condemned, before an answer relies on the object, whether it exists or is about to be
    /// written. Returns whether it is condemned: then only the backend can say whether the object exists.
    pub(super) async fn spare(&self, snapshot: &Snapshot, key: &Key, deadline: Deadline) -> Result<bool> {
        let entries = snapshot.of(key);
        if entries.is_empty() {
            return Ok(false);
        }
        Box::pin(self.spare_all(snapshot, entries, deadline)).await?;
        Ok(true)
    }

    async fn spare_all(&self, snapshot: &Snapshot, entries: &[CondemnedEntry], deadline: Deadline) -> Result<()> {
        for entry in entries {
            let (batch, _) = &snapshot.batches[entry.batch as usize];
            let name = (batch.clone(), entry.number);
            if self.spared.lock().contains(&name) {
                continue;
            }
            self.spare_entry(batch, entry.number, deadline).await?;
            self.spared.lock().insert(name);
        }
        Ok(())
    }

    /// Writes a spare, and waits until the batch is not claimed. Either the collector that claims the batch sees the
    /// spare, or this server sees its claim; or the batch ended in between, which the lookup of the object shows.
    async fn spare_entry(&self, batch: &BatchId, number: u32, deadline: Deadline) -> Result<()> {
        let prefix = layout::batch_prefix(batch);
        for look in 0..CLAIM_LOOKS {
            if look > 0 {
                tokio::time::sleep(CLAIM_STEP).await;
            }
            if self.ingredients.spare() {
                let key = layout::batch_spared(batch, number);
                // Written anew at each look: its time is the clock that tells the age of the claim.
                Calls::until(&*self.objects, deadline).put(&key, Bytes::new()).await?;
            }
            if !self.ingredients.look_for_claim() {
                return Ok(());
            }
            let listed = deadline.retry(|| list_batches(&*self.objects, &prefix)).await?;
            if !listed.get(batch).is_some_and(|listed| listed.is_claimed(self.claim_life)) {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }
}

/// Reads the list of a batch; nothing if the batch has none any more.
pub(crate) async fn read_list(calls: Calls<'_>, id: &BatchId) -> Result<Option<CondemnedList>> {
    let Some((_, bytes)) = calls.read(&layout::batch_list(id)).await? else { return Ok(None) };
    let list = serde_json::from_slice(&bytes);
    Ok(Some(list.map_err(|error| Error::Internal(format!("list of batch {id}: {error}").into()))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadline::SHORT;
    use crate::objects::fs::FsObjects;

    #[tokio::test(start_paused = true)]
    async fn a_look_that_another_makes_is_not_waited_for_any_longer_than_the_request_may() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Arc::new(FsObjects::open(folder.path()).unwrap());
        let condemned = Condemned::new(objects, &CollectConfig::default(), 0);
        let began = Instant::now();
        // Another caller is looking at a store that does not answer.
        let _other = condemned.looking.lock().await;
        assert!(matches!(condemned.snapshot(Deadline::within(SHORT)).await, Err(Error::Busy)));
        assert_eq!(began.elapsed(), SHORT);
    }
}
