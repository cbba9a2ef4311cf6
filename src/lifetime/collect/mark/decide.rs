//! The choice of roots to condemn: those that a policy expires, and those that are evicted.

use std::collections::{BTreeMap, HashMap};

use crate::error::Result;
use crate::lifetime::collect::mark::{EvictedLayer, Mark};
use crate::lifetime::collect::policy;
use crate::lifetime::collect::policy::{Decision, EvictionPlan, Reason};
use crate::lifetime::collect::{Candidate, DecisionId, Report, passed};
use crate::names::{RepoName, Tenant};
use crate::refs::listing::RepoListing;
use crate::refs::root::Root;

/// Positions of the condemned roots, each with its decision if the report has it.
pub(super) type GoneRoots = BTreeMap<usize, Option<DecisionId>>;

impl Mark<'_> {
    /// Positions of the condemned roots. `bytes` is the part of the tenant's usage that its repositories take.
    pub(super) async fn decide(
        &mut self,
        tenant: &Tenant,
        (repos, bytes): (&BTreeMap<RepoName, RepoListing>, u64),
        roots: &mut [Root],
        report: &mut Report,
    ) -> Result<GoneRoots> {
        let mut gone = GoneRoots::new();
        if let Some(seconds) = self.abandoned(tenant, repos) {
            for (at, root) in roots.iter().enumerate() {
                gone.insert(at, self.let_go(tenant, root, Reason::Unused { seconds }, report));
            }
        }
        self.retire(tenant, roots, &mut gone, report);
        if let Some(limits) = self.collector.limits(tenant, self.policies) {
            let held = self.list_held(tenant, bytes, report).await?;
            let mut plan = self.plan(tenant, repos, roots, &gone, held, limits).await?;
            report.tenants.entry(tenant.to_string()).or_default().shortfall = plan.shortfall.take();
            self.evict(tenant, roots, plan, &mut gone, report);
        }
        let keys =
            |at: &usize| Root::keys(&roots[*at]).map(|(key, bytes)| Candidate { key: key.clone(), bytes }).collect();
        self.evicted.extend(gone.keys().map(keys).collect::<Vec<Vec<_>>>());
        Ok(gone)
    }

    /// Condemns roots that are past the age or the number that their policy keeps.
    fn retire(&self, tenant: &Tenant, roots: &[Root], gone: &mut GoneRoots, report: &mut Report) {
        let mut first = 0;
        while first < roots.len() {
            let repo = &roots[first].id.repo;
            let same = roots[first..].iter().take_while(|next| next.id.repo == *repo).count();
            let group: Vec<&Root> = roots[first..first + same].iter().collect();
            let retired = self
                .policies
                .with_rule(repo, |rule| policy::retired(&group, rule.map_or(&[][..], |rule| &rule.retain), self.now));
            for (at, reason) in retired {
                let at = first + at;
                gone.entry(at).or_insert_with(|| self.let_go(tenant, &roots[at], reason, report));
            }
            first += same;
        }
    }

    /// Condemns the roots and layers of an eviction plan.
    fn evict(
        &mut self,
        tenant: &Tenant,
        roots: &[Root],
        plan: EvictionPlan,
        gone: &mut GoneRoots,
        report: &mut Report,
    ) {
        for at in plan.roots {
            let seconds = self.now.duration_since(roots[at].used).unwrap_or_default().as_secs();
            gone.entry(at).or_insert_with(|| self.let_go(tenant, &roots[at], Reason::Room { seconds }, report));
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

    pub(super) fn let_go(
        &self,
        tenant: &Tenant,
        root: &Root,
        reason: Reason,
        report: &mut Report,
    ) -> Option<DecisionId> {
        let known = self.known.has(&root.id.key);
        let why = || Decision::of(tenant, &root.id, reason.clone(), known);
        report.decide(tenant, reason.rule(), 0, known, why)
    }

    /// Time since a scope was last used, in seconds, if that is long enough to condemn all of it.
    fn abandoned(&self, tenant: &Tenant, repos: &BTreeMap<RepoName, RepoListing>) -> Option<u64> {
        let newest = repos.values().flat_map(RepoListing::times).max().filter(|_| tenant.is_scope())?;
        let max_age = self.policies.scope_limits().max_age.get();
        passed(newest, self.now, max_age).then(|| self.now.duration_since(newest).unwrap_or_default().as_secs())
    }
}
