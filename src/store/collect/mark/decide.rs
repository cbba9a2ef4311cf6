//! Which tags and layers go: what a policy retires, and what has to make room.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use futures::TryStreamExt;

use super::super::policy::{self, Content, Decision, Reason, TagFacts};
use super::super::{Candidate, Collector, Report, passed};
use super::index::Index;
use super::{Mark, Root};
use crate::digest::Digest;
use crate::names::{RepoName, Tenant};
use crate::store::Result;
use crate::store::condemned::fingerprint;
use crate::store::layout;

impl Mark<'_> {
    /// Positions of the tags that go.
    pub(super) async fn decide(
        &mut self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, Index>,
        roots: &[(RepoName, Root)],
        report: &mut Report,
    ) -> Result<HashSet<usize>> {
        let config = self.collector.store.config.clone();
        let rules = |repo: &RepoName| config.rule(repo).map_or(&[][..], |rule| &rule.retain);
        let mut facts = Vec::new();
        for (repo, root) in roots {
            let index = &repos[repo];
            let pushed = index.tags.get(&root.tag).copied().unwrap_or(self.now);
            let used = index.used.get(&root.tag).copied().unwrap_or(pushed).max(pushed);
            let cache = index.pushes.contains_key(&root.tag);
            let (repo, tag) = (repo.clone(), root.tag.clone());
            facts.push(TagFacts { repo, tag, pushed, used, cache, content: Vec::new() });
        }
        let mut gone = HashSet::new();
        if let Some(seconds) = self.abandoned(tenant, repos) {
            for (at, facts) in facts.iter().enumerate() {
                gone.insert(at);
                report.decisions.push(self.decision(tenant, facts, Reason::Unused { seconds }));
            }
        }
        let mut first = 0;
        while first < facts.len() {
            let same = facts[first..].iter().take_while(|next| next.repo == facts[first].repo).count();
            let group: Vec<&TagFacts> = facts[first..first + same].iter().collect();
            for (at, reason) in policy::retired(&group, rules(&facts[first].repo), self.now) {
                if gone.insert(first + at) {
                    report.decisions.push(self.decision(tenant, &facts[first + at], reason));
                }
            }
            first += same;
        }
        if let Some(excess) = self.excess(tenant, repos, roots, &gone, report).await? {
            self.fill_content(tenant, repos, roots, &mut facts, report).await?;
            // Whoever writes to a scope chooses its tags.
            let protected =
                |facts: &TagFacts| !tenant.is_scope() && policy::is_protected(rules(&facts.repo), &facts.tag);
            let floor = config.collect.in_use();
            let room = policy::make_room(&facts, &protected, excess, floor, self.now);
            for (id, at, used) in room.layers {
                let seconds = self.now.duration_since(used).unwrap_or_default().as_secs();
                let decision = self.decision(tenant, &facts[at], Reason::Room { seconds });
                self.evicted_layers.insert(id, decision);
            }
            for at in room.tags {
                let seconds = self.now.duration_since(facts[at].used).unwrap_or_default().as_secs();
                if gone.insert(at) {
                    report.decisions.push(self.decision(tenant, &facts[at], Reason::Room { seconds }));
                }
            }
        }
        let mut in_order: Vec<usize> = gone.iter().copied().collect();
        in_order.sort_unstable();
        for at in &in_order {
            let (facts, index) = (&facts[*at], &repos[&facts[*at].repo]);
            let key = layout::tag(tenant, &facts.repo, &facts.tag);
            let mut tag = vec![Candidate { key, bytes: 0 }];
            for (id, _, bytes) in index.pushes.get(&facts.tag).into_iter().flatten() {
                let key = layout::push(tenant, &facts.repo, &facts.tag, id);
                tag.push(Candidate { key, bytes: *bytes });
            }
            self.evicted.push(tag);
        }
        Ok(gone)
    }

    fn decision(&self, tenant: &Tenant, facts: &TagFacts, reason: Reason) -> Decision {
        Decision {
            tenant: tenant.to_string(),
            repo: facts.repo.to_string(),
            tag: facts.tag.to_string(),
            layer: None,
            bytes: 0,
            why: reason.to_string(),
            reason,
            known: self.known.has(&layout::tag(tenant, &facts.repo, &facts.tag)),
        }
    }

    /// How long a scope has not been used, in seconds, when that is long enough for all of it to go.
    fn abandoned(&self, tenant: &Tenant, repos: &BTreeMap<RepoName, Index>) -> Option<u64> {
        let newest = repos.values().flat_map(Index::times).max().filter(|_| tenant.is_scope())?;
        let max_age = self.collector.store.config.scopes.max_age.get();
        passed(newest, self.now, max_age).then(|| self.now.duration_since(newest).unwrap_or_default().as_secs())
    }

    /// Blobs of a scope itself: what else it names is its parents', and no part of what it may hold.
    async fn own_blobs(&self, tenant: &Tenant) -> Result<Option<HashSet<u64>>> {
        if !tenant.is_scope() {
            return Ok(None);
        }
        let listed = self.collector.store.objects.list(&layout::blobs_prefix(tenant), None);
        Ok(Some(listed.map_ok(|meta| fingerprint(meta.key.as_str())).try_collect().await?))
    }

    /// Bytes that the tenant holds beyond what it may, when it does. What is condemned counts as gone.
    async fn excess(
        &self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, Index>,
        roots: &[(RepoName, Root)],
        gone: &HashSet<usize>,
        report: &mut Report,
    ) -> Result<Option<u64>> {
        let Some((high, low)) = self.collector.limits(tenant) else { return Ok(None) };
        let mut sizes = HashMap::<u64, u64>::new();
        for (_, (repo, root)) in roots.iter().enumerate().filter(|(at, _)| !gone.contains(at)) {
            self.collector
                .closure(tenant, repo, &repos[repo], &root.manifests, report, |_, names| {
                    sizes.extend(names.blobs.iter().copied());
                })
                .await?;
        }
        let own = self.own_blobs(tenant).await?;
        sizes.retain(|id, _| !self.known.has_fingerprint(*id) && own.as_ref().is_none_or(|own| own.contains(id)));
        let live: u64 = sizes.values().sum();
        Ok((live > high).then(|| live - low))
    }

    async fn fill_content(
        &self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, Index>,
        roots: &[(RepoName, Root)],
        facts: &mut [TagFacts],
        report: &mut Report,
    ) -> Result<()> {
        let own = self.own_blobs(tenant).await?;
        for ((repo, root), facts) in roots.iter().zip(facts) {
            let index = &repos[repo];
            // A push names what its build used.
            let times: HashMap<Digest, SystemTime> =
                index.pushes.get(&root.tag).into_iter().flatten().map(|(id, at, _)| (id.manifest, *at)).collect();
            let (cache, default) = (facts.cache, facts.used);
            let mut content = Vec::new();
            self.collector
                .closure(tenant, repo, index, &root.manifests, report, |digest, names| {
                    let used = match times.get(digest) {
                        Some(at) => *at,
                        None if cache => SystemTime::UNIX_EPOCH,
                        None => default,
                    };
                    for (depth, (id, bytes)) in names.blobs.iter().enumerate() {
                        if !self.known.has_fingerprint(*id) && own.as_ref().is_none_or(|own| own.contains(id)) {
                            let fixed = !names.cache || names.config == Some(*id);
                            content.push(Content { id: *id, bytes: *bytes, used, depth: depth as u32, fixed });
                        }
                    }
                })
                .await?;
            facts.content = content;
        }
        Ok(())
    }
}

impl Collector {
    /// The marks between which a tenant is held: over the first, it is brought below the second. Bytes.
    fn limits(&self, tenant: &Tenant) -> Option<(u64, u64)> {
        let quota = self.store.config.quota(tenant);
        let high = quota.high.unwrap_or(u64::MAX);
        let low = quota.low.unwrap_or(high);
        // What the disk is short of, each tenant gives its part of.
        let share = self.store.room().share(tenant).unwrap_or(u64::MAX);
        let (high, low) = (high.min(share), low.min(share));
        // For what is being uploaded there must be room as well.
        let coming = self.store.usage().account(tenant).arriving();
        (high < u64::MAX).then(|| (high.saturating_sub(coming), low.saturating_sub(coming)))
    }
}
