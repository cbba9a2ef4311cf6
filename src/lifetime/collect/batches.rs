//! Batches: publishing, claiming, deleting, clearing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::calls::Calls;
use crate::config::{CollectConfig, GRAIN};
use crate::content::condemned::{CondemnedKind, CondemnedList, ENTRIES_MAX, ListedBatch, Snapshot, read_list};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::{Place, RepoItem};
use crate::lifetime::collect::mark::Mark;
use crate::lifetime::collect::{Candidate, Collector, Report, passed};
use crate::names::{BatchId, Tenant};
use crate::objects;
use crate::objects::{Key, When};
use crate::refs::roots;

/// Time in which the owner of a claim has to use it. After that another collector may already wait for the claim to
/// expire.
const CLAIM_USE: Duration = Duration::from_secs(60);

/// A batch that is due.
pub(super) struct Batch {
    pub id: BatchId,
    /// Time of publication.
    pub at: SystemTime,
    pub list: CondemnedList,
}

impl Batch {
    /// Tells whether the keys are those of roots, which are judged before the mark.
    pub fn is_of_roots(&self) -> bool {
        self.list.kind == CondemnedKind::Evict && self.list.keys.iter().any(|key| root_of(key).is_some())
    }

    /// Positions of the keys that stay.
    pub fn kept_by(&self, mark: &Mark, config: &CollectConfig) -> HashSet<u32> {
        if !config.ingredients.re_mark() {
            return HashSet::new();
        }
        let since = self.since(config);
        let stays = |key: &str| match self.list.kind {
            CondemnedKind::Garbage => mark.names(key),
            CondemnedKind::Evict => mark.named_since(key, since),
        };
        self.positions(stays)
    }

    /// The time since which a write may be by a server that did not know of the batch, or of the choice that made it.
    fn since(&self, config: &CollectConfig) -> SystemTime {
        self.at.min(self.list.marked.into()).checked_sub(config.in_use()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn positions(&self, wanted: impl Fn(&str) -> bool) -> HashSet<u32> {
        let numbered = self.list.keys.iter().enumerate();
        numbered.filter(|(_, key)| wanted(key)).map(|(number, _)| number as u32).collect()
    }
}

/// The root that a key belongs to, as the root's own key.
fn root_of(key: &str) -> Option<Key> {
    Some(roots::id_of_key(key)?.key)
}

impl Collector {
    /// Batches that may be deleted now. Also removes the remains of dead collectors.
    pub(super) async fn due(&self, now: SystemTime, low: bool, report: &mut Report) -> Result<Vec<Batch>> {
        let config = &self.refs.config().collect;
        let (least, most) = (config.wait(true), config.wait(false));
        let (life, mut due) = (self.refs.condemned().claim_life(), Vec::new());
        for (id, listed) in self.list().await? {
            match (&listed.claim, &listed.list) {
                (Some(claim), _) if passed(claim.modified, now, life + GRAIN) => self.clear_left(&id, &listed).await?,
                (Some(_), _) => report.batches_left += 1,
                (None, Some(published)) => {
                    let mut at = published.modified;
                    if !config.ingredients.grace_from_list()
                        && let Some(list) = read_list(Calls::of(&**self.refs.objects()), &id).await?
                    {
                        at = list.marked.into();
                    }
                    if !passed(at, now, least) {
                        report.batches_left += 1;
                    } else if let Some(list) = read_list(Calls::of(&**self.refs.objects()), &id).await? {
                        if passed(at, now, self.wait_of(&list, low)) {
                            due.push(Batch { id, at: published.modified, list });
                        } else {
                            report.batches_left += 1;
                        }
                    }
                }
                // Spares of a batch that was cleared before they were written.
                (None, None) if listed.newest().is_some_and(|at| passed(at, now, most)) => {
                    self.clear_left(&id, &listed).await?;
                }
                (None, None) => {}
            }
        }
        Ok(due)
    }

    /// Wait of a batch: the longest of the tenants that have keys in it.
    fn wait_of(&self, list: &CondemnedList, low: bool) -> Duration {
        let tenants: BTreeSet<&str> = list.keys.iter().filter_map(|key| layout::tenant_name(key)).collect();
        let tenants = tenants.into_iter().filter_map(|tenant| tenant.parse::<Tenant>().ok());
        tenants.map(|tenant| self.wait(&tenant, low)).max().unwrap_or_else(|| self.refs.config().collect.wait(false))
    }

    /// Removes the remains of another collector's batch.
    async fn clear_left(&self, id: &BatchId, listed: &ListedBatch) -> Result<()> {
        self.refs.content().format().confirm().await?;
        self.clear(id, listed).await
    }

    /// Removes the remains of a batch: the list, the spares, then the claim.
    pub(super) async fn clear(&self, id: &BatchId, listed: &ListedBatch) -> Result<()> {
        let claim = [layout::batch_claim(id)];
        let mut keys = vec![layout::batch_list(id)];
        keys.extend(listed.spared.keys().map(|number| layout::batch_spared(id, *number)));
        if self.refs.config().collect.ingredients.list_before_claim() {
            self.refs.content().delete(&keys, Deadline::of_each_call()).await?;
            self.refs.content().delete(&claim, Deadline::of_each_call()).await
        } else {
            self.refs.content().delete(&claim, Deadline::of_each_call()).await?;
            self.refs.content().delete(&keys, Deadline::of_each_call()).await
        }
    }

    /// Claims a batch, deletes the objects that are neither in `keep` nor spared, and clears it.
    pub(super) async fn settle(&self, batch: Batch, keep: HashSet<u32>, report: &mut Report) -> Result<()> {
        let ingredients = self.refs.config().collect.ingredients;
        let (objects, id) = (self.refs.objects(), &batch.id);
        self.refs.content().format().confirm().await?;
        let began = tokio::time::Instant::now();
        let when = if ingredients.exclusive_claim() { When::Absent } else { When::Always };
        let owner = Bytes::from(format!("{:016x}", self.refs.condemned().replica()));
        // Not retried: if the answer was lost, the claim exists, is never used, and expires.
        match objects.put(&layout::batch_claim(id), owner, when).await {
            Ok(_) => {}
            Err(objects::Error::Exists) => {
                report.batches_left += 1;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let prefix = layout::batch_prefix(id);
        let listed = self.list_below(&prefix).await?;
        let listed = listed.into_iter().next().map(|(_, listed)| listed).unwrap_or_default();
        let Some(claim) = &listed.claim else {
            return Err(Error::Internal("a claim is missing".into()));
        };
        if listed.list.is_none() && ingredients.list_after_claim() {
            return self.refs.content().delete(&[layout::batch_claim(id)], Deadline::of_each_call()).await;
        }
        // A root stays or is deleted with all its keys.
        let stays = |number: u32| ingredients.list_after_claim() && listed.spared.contains_key(&number);
        let together = |number: usize| root_of(&batch.list.keys[number]);
        let spared_roots: HashSet<Key> =
            (0..batch.list.keys.len()).filter(|number| stays(*number as u32)).filter_map(together).collect();
        let spared =
            |number: u32| stays(number) || together(number as usize).is_some_and(|root| spared_roots.contains(&root));
        let (mut gone, mut sizes, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (number, key) in batch.list.keys.iter().enumerate() {
            let number = number as u32;
            if keep.contains(&number) {
                report.kept += 1;
            } else if spared(number) {
                report.spared += 1;
            } else {
                let size = batch.list.sizes.get(number as usize).copied().unwrap_or(0);
                bytes += size;
                sizes.push(size);
                gone.push(Key::new(key.as_str()));
            }
        }
        if !gone.is_empty() {
            if began.elapsed() > CLAIM_USE {
                report.batches_left += 1;
                return Ok(());
            }
            // Pointers before records: a crash leaves records without a pointer.
            let (first, rest): (Vec<Key>, Vec<Key>) =
                gone.iter().cloned().partition(|key| root_of(key.as_str()).as_ref() == Some(key));
            let mut done = Ok(());
            for keys in [&first, &rest] {
                if done.is_ok() && !keys.is_empty() {
                    done = objects.delete_dated(keys, claim.modified).await;
                }
            }
            if let Err(error) = done {
                tracing::warn!(batch = %id, %error, "delete not confirmed: retrying after the claim expires");
                report.batches_left += 1;
                if ingredients.keep_unanswered() {
                    return Ok(());
                }
            }
            gone.iter().for_each(|key| self.refs.content().forget(key));
            for key in &gone {
                if let Some(Place::Repo { tenant, repo, item: RepoItem::Tag(tag) }) = layout::parse(key.as_str()) {
                    self.refs.stock().removed(&tenant, &repo, &tag);
                }
            }
            self.refs.room().deleted(gone.iter().zip(sizes));
            report.deleted.objects += gone.len() as u64;
            report.deleted.bytes += bytes;
        }
        self.clear(id, &listed).await
    }

    /// Positions of the keys that stay in a batch of roots: those of roots that were pushed or used since it was
    /// published.
    pub(super) async fn roots_in_use(&self, batch: &Batch) -> Result<HashSet<u32>> {
        let config = &self.refs.config().collect;
        if !config.ingredients.re_mark() {
            return Ok(HashSet::new());
        }
        let since = batch.since(config);
        let (mut used, mut idle) = (HashSet::<Key>::new(), HashSet::<Key>::new());
        for key in &batch.list.keys {
            let Some(root) = roots::id_of_key(key) else { continue };
            if !used.contains(&root.key) && !idle.contains(&root.key) {
                // A push that changed nothing leaves no trace but the note of last use, and that not every time.
                let since = since.checked_sub(config.used_every()).unwrap_or(SystemTime::UNIX_EPOCH);
                let mut newer = false;
                for at in [&root.key, &root.used] {
                    newer |= self
                        .refs
                        .content()
                        .calls(Deadline::of_each_call())
                        .head(at)
                        .await?
                        .is_some_and(|found| found.modified >= since);
                }
                if newer { &mut used } else { &mut idle }.insert(root.key.clone());
            }
            // Each record may have been written again by itself.
            if root.key.as_str() != key
                && self
                    .refs
                    .content()
                    .calls(Deadline::of_each_call())
                    .head(&Key::new(key.as_str()))
                    .await?
                    .is_some_and(|found| found.modified >= since)
            {
                used.insert(root.key);
            }
        }
        Ok(batch.positions(|key| root_of(key).is_some_and(|root| used.contains(&root))))
    }
}

/// Collects newly condemned objects into batches, and publishes them.
pub(super) struct Publisher<'a> {
    collector: &'a Collector,
    marked: jiff::Timestamp,
    dry: bool,
    /// The objects that are condemned already; they are not condemned again.
    known: Arc<Snapshot>,
    /// Garbage, evicted objects, and evicted keys of roots: those are deleted before the next mark, so they have own
    /// batches.
    filling: [(CondemnedKind, Vec<Candidate>); 3],
}

impl<'a> Publisher<'a> {
    pub fn new(collector: &'a Collector, now: SystemTime, dry: bool, known: Arc<Snapshot>) -> Publisher<'a> {
        let marked = jiff::Timestamp::try_from(now).unwrap_or_default();
        Publisher {
            collector,
            marked,
            dry,
            known,
            filling: [CondemnedKind::Garbage, CondemnedKind::Evict, CondemnedKind::Evict]
                .map(|kind| (kind, Vec::new())),
        }
    }

    pub async fn add(&mut self, kind: CondemnedKind, candidate: Candidate, report: &mut Report) -> Result<()> {
        if self.known.has(&candidate.key) {
            return Ok(());
        }
        report.condemned.add(candidate.bytes);
        let at = match kind {
            CondemnedKind::Garbage => 0,
            CondemnedKind::Evict if root_of(candidate.key.as_str()).is_none() => 1,
            CondemnedKind::Evict => 2,
        };
        // A batch has objects of one tenant: the pressure on one does not shorten the wait of another.
        let tenant = layout::tenant_name(candidate.key.as_str());
        if self.filling[at].1.last().is_some_and(|last| layout::tenant_name(last.key.as_str()) != tenant) {
            self.publish(at).await?;
        }
        self.filling[at].1.push(candidate);
        if self.filling[at].1.len() >= ENTRIES_MAX { self.publish(at).await } else { Ok(()) }
    }

    /// Condemns a root, with all keys in one batch.
    pub async fn add_root(&mut self, keys: Vec<Candidate>, report: &mut Report) -> Result<()> {
        if self.filling[2].1.len() + keys.len() > ENTRIES_MAX {
            self.publish(2).await?;
        }
        for candidate in keys {
            self.add(CondemnedKind::Evict, candidate, report).await?;
        }
        Ok(())
    }

    /// Publishes the batches that are not full.
    pub async fn flush(&mut self) -> Result<()> {
        for at in 0..self.filling.len() {
            self.publish(at).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, at: usize) -> Result<()> {
        let (kind, filling) = &mut self.filling[at];
        let (kind, filled) = (*kind, std::mem::take(filling));
        if filled.is_empty() || self.dry {
            return Ok(());
        }
        let (keys, sizes) = filled.into_iter().map(|one| (one.key.to_string(), one.bytes)).unzip();
        let list = CondemnedList { kind, marked: self.marked, keys, sizes };
        self.collector.refs.content().format().may_change()?;
        self.collector.refs.condemned().publish(&list).await
    }
}
