//! Which roots go: what a policy retires, and what has to make room.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::Result;
use crate::lifetime::collect::mark::{EvictedLayer, Mark};
use crate::lifetime::collect::policy;
use crate::lifetime::collect::policy::{Decision, EvictionPlan, Reason};
use crate::lifetime::collect::{Candidate, Report, passed};
use crate::names::{RepoName, Tenant};
use crate::refs::listing::RepoListing;
use crate::refs::root::Root;

impl Mark<'_> {
    /// Positions of the roots that go. With the repositories, what their objects take of the tenant's account.
    pub(super) async fn decide(
        &mut self,
        tenant: &Tenant,
        (repos, bytes): (&BTreeMap<RepoName, RepoListing>, u64),
        roots: &mut [Root],
        report: &mut Report,
    ) -> Result<HashSet<usize>> {
        let mut gone = HashSet::new();
        if let Some(seconds) = self.abandoned(tenant, repos) {
            for (at, root) in roots.iter().enumerate() {
                gone.insert(at);
                self.let_go(tenant, root, Reason::Unused { seconds }, report);
            }
        }
        self.retire(tenant, roots, &mut gone, report);
        if let Some(limits) = self.collector.limits(tenant) {
            let held = self.list_held(tenant, bytes, report).await?;
            let plan = self.plan(tenant, repos, roots, &gone, held, limits).await?;
            self.evict(tenant, roots, plan, &mut gone, report);
        }
        let mut in_order: Vec<usize> = gone.iter().copied().collect();
        in_order.sort_unstable();
        let keys = |at| Root::keys(&roots[at]).map(|(key, bytes)| Candidate { key: key.clone(), bytes }).collect();
        self.evicted.extend(in_order.into_iter().map(keys).collect::<Vec<Vec<_>>>());
        Ok(gone)
    }

    /// What rules of age and number let go.
    fn retire(&self, tenant: &Tenant, roots: &[Root], gone: &mut HashSet<usize>, report: &mut Report) {
        let mut first = 0;
        while first < roots.len() {
            let repo = &roots[first].id.repo;
            let same = roots[first..].iter().take_while(|next| next.id.repo == *repo).count();
            let group: Vec<&Root> = roots[first..first + same].iter().collect();
            let retired = self.collector.refs.config().with_rule(repo, |rule| {
                let policies = rule.map_or(&[][..], |rule| &rule.retain);
                policy::retired(&group, policies, self.now)
            });
            for (at, reason) in retired {
                if gone.insert(first + at) {
                    self.let_go(tenant, &roots[first + at], reason, report);
                }
            }
            first += same;
        }
    }

    /// What makes room.
    fn evict(
        &mut self,
        tenant: &Tenant,
        roots: &[Root],
        plan: EvictionPlan,
        gone: &mut HashSet<usize>,
        report: &mut Report,
    ) {
        for at in plan.roots {
            let seconds = self.now.duration_since(roots[at].used).unwrap_or_default().as_secs();
            if gone.insert(at) {
                self.let_go(tenant, &roots[at], Reason::Room { seconds }, report);
            }
        }
        let mut places = HashMap::new();
        for (id, at, used) in plan.layers {
            let seconds = self.now.duration_since(used).unwrap_or_default().as_secs();
            let root = *places.entry(at).or_insert_with(|| {
                self.evicted_from.push(roots[at].id.clone());
                self.evicted_from.len() as u32 - 1
            });
            self.evicted_layers.insert(id, EvictedLayer { root, seconds });
        }
    }

    pub(super) fn let_go(&self, tenant: &Tenant, root: &Root, reason: Reason, report: &mut Report) {
        let known = self.known.has(&root.id.key);
        let why = || Decision::of(tenant, &root.id, reason.clone(), known);
        report.decide(tenant, reason.rule(), 0, known, why);
    }

    /// How long a scope has not been used, in seconds, when that is long enough for all of it to go.
    fn abandoned(&self, tenant: &Tenant, repos: &BTreeMap<RepoName, RepoListing>) -> Option<u64> {
        let newest = repos.values().flat_map(RepoListing::times).max().filter(|_| tenant.is_scope())?;
        let max_age = self.collector.refs.config().scope_limits().max_age.get();
        passed(newest, self.now, max_age).then(|| self.now.duration_since(newest).unwrap_or_default().as_secs())
    }
}
