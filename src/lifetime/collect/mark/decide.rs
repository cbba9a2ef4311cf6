//! Which tags go: what a policy retires, and what has to make room.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::Result;
use crate::layout;
use crate::lifetime::collect::mark::index::Index;
use crate::lifetime::collect::mark::room::Scene;
use crate::lifetime::collect::mark::{EvictedLayer, Mark, Root};
use crate::lifetime::collect::policy;
use crate::lifetime::collect::policy::{Decision, Reason, TagFacts};
use crate::lifetime::collect::{Candidate, Report, passed};
use crate::names::{RepoName, Tenant};

impl Mark<'_> {
    /// Positions of the tags that go.
    pub(super) async fn decide(
        &mut self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, Index>,
        roots: &[(RepoName, Root)],
        report: &mut Report,
    ) -> Result<HashSet<usize>> {
        let config = self.collector.refs.config().clone();
        let rules = |repo: &RepoName| config.rule(repo).map_or(&[][..], |rule| &rule.retain);
        let mut facts = Vec::new();
        for (repo, root) in roots {
            let index = &repos[repo];
            let pushed = index.tags.get(&root.tag).map_or(self.now, |listed| listed.at);
            let used = index.used.get(&root.tag).copied().unwrap_or(pushed).max(pushed);
            let cache = index.pushes.contains_key(&root.tag);
            let (repo, tag) = (repo.clone(), root.tag.clone());
            facts.push(TagFacts { repo, tag, pushed, used, cache, content: Vec::new() });
        }
        let mut gone = HashSet::new();
        if let Some(seconds) = self.abandoned(tenant, repos) {
            for (at, facts) in facts.iter().enumerate() {
                gone.insert(at);
                self.let_go(tenant, facts, Reason::Unused { seconds }, report);
            }
        }
        let mut first = 0;
        while first < facts.len() {
            let same = facts[first..].iter().take_while(|next| next.repo == facts[first].repo).count();
            let group: Vec<&TagFacts> = facts[first..first + same].iter().collect();
            for (at, reason) in policy::retired(&group, rules(&facts[first].repo), self.now) {
                if gone.insert(first + at) {
                    self.let_go(tenant, &facts[first + at], reason, report);
                }
            }
            first += same;
        }
        if let Some(limits) = self.collector.limits(tenant) {
            let held = self.list_held(tenant, report).await?;
            let scene = Scene { tenant, repos, roots, gone: &gone };
            let room = self.room(&scene, &mut facts, held, limits, report).await?;
            for at in room.tags {
                let seconds = self.now.duration_since(facts[at].used).unwrap_or_default().as_secs();
                if gone.insert(at) {
                    self.let_go(tenant, &facts[at], Reason::Room { seconds }, report);
                }
            }
            let mut losers = HashMap::new();
            for (id, at, used) in room.layers {
                let seconds = self.now.duration_since(used).unwrap_or_default().as_secs();
                let loser = *losers.entry(at).or_insert_with(|| {
                    self.losers.push((facts[at].repo.clone(), facts[at].tag.clone()));
                    self.losers.len() as u32 - 1
                });
                self.evicted_layers.insert(id, EvictedLayer { loser, seconds });
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

    fn let_go(&self, tenant: &Tenant, facts: &TagFacts, reason: Reason, report: &mut Report) {
        let known = self.known.has(&layout::tag(tenant, &facts.repo, &facts.tag));
        let why = || Decision::of_tag(tenant, &facts.repo, &facts.tag, reason.clone(), known);
        report.decide(tenant, reason.rule(), 0, known, why);
    }

    /// How long a scope has not been used, in seconds, when that is long enough for all of it to go.
    fn abandoned(&self, tenant: &Tenant, repos: &BTreeMap<RepoName, Index>) -> Option<u64> {
        let newest = repos.values().flat_map(Index::times).max().filter(|_| tenant.is_scope())?;
        let max_age = self.collector.refs.config().scopes.max_age.get();
        passed(newest, self.now, max_age).then(|| self.now.duration_since(newest).unwrap_or_default().as_secs())
    }
}
