//! Tags that belong to a manifest, their subject: signatures, attestations, referrers. They stay and go with it.
//!
//! Such a tag is judged like content: it stays while something leads to its subject that stays, also through other such
//! tags. Otherwise it is condemned together with the subject, and judged again by the same mark. What it names stays until
//! the tag is gone.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::config::RepositoryConfig;
use crate::content::condemned::fingerprint;
use crate::digest::Digest;
use crate::error::Result;
use crate::lifetime::collect::mark::{Mark, NamedBy};
use crate::lifetime::collect::policy::{self, Reason};
use crate::lifetime::collect::{Candidate, Report, passed};
use crate::names::{RepoName, Tenant};
use crate::refs::listing::RepoListing;
use crate::refs::root::Root;

impl Mark<'_> {
    /// The manifest with which a root stays and goes: the one in the name of its tag, if the repository has it, or had it
    /// when the tag was condemned. A tag that leads to that manifest is an ordinary tag, which is there to keep it.
    pub(super) async fn subject(&self, repo: &RepoListing, root: &Root) -> Result<Option<Digest>> {
        let Some(subject) = root.subject else { return Ok(None) };
        let went_with_it = self.known.has(&root.id.key) && self.known.evicted(&root.id.key).is_none();
        if !repo.manifests.contains_key(&subject) && !went_with_it {
            return Ok(None);
        }
        let mut leads_there = false;
        let visit = |digest: Option<&Digest>, _: &_| leads_there |= digest == Some(&subject);
        root.visit(&self.collector.graph, repo, visit).await?;
        Ok((!leads_there).then_some(subject))
    }

    /// Marks the tags whose subjects stay, and lets the others go. What stays without them has been marked.
    pub(super) async fn mark_with_subjects(
        &mut self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, RepoListing>,
        roots: &[Root],
        gone: &HashSet<usize>,
        report: &mut Report,
    ) -> Result<()> {
        let wait = self.collector.wait(tenant, self.low);
        let mut staying = Vec::new();
        let mut waiting = HashMap::<(&RepoName, Digest), Vec<&Root>>::new();
        for (at, root) in roots.iter().enumerate() {
            let Some(subject) = root.subject.filter(|_| !gone.contains(&at)) else { continue };
            let key = repos[&root.id.repo].manifest_key(&subject);
            let subject_stays = self.live.get(&fingerprint(key.as_str())).is_some_and(|live| live.stays);
            let is_young = !passed(root.pushed, self.now, wait);
            if subject_stays || is_young || self.is_protected(tenant, root) {
                staying.push(root);
            } else {
                waiting.entry((&root.id.repo, subject)).or_default().push(root);
            }
        }
        while let Some(root) = staying.pop() {
            for manifest in self.mark_root(&repos[&root.id.repo], root, true).await? {
                staying.extend(waiting.remove(&(&root.id.repo, manifest)).unwrap_or_default());
            }
        }
        let mut going: Vec<&Root> = waiting.into_values().flatten().collect();
        going.sort_unstable_by(|a, b| a.id.key.cmp(&b.id.key));
        for root in going {
            self.let_go(tenant, root, Reason::Subject, report);
            self.mark_closure(&repos[&root.id.repo], &root.manifests, NamedBy::Root(root, false)).await?;
            self.garbage.push(Candidate { key: root.id.key.clone(), bytes: 0 });
        }
        Ok(())
    }

    /// Whether a rule lets a root never go. Whoever writes to a scope chooses its tags, so scopes have none.
    pub(super) fn is_protected(&self, tenant: &Tenant, root: &Root) -> bool {
        let is_protected =
            |rule: Option<&RepositoryConfig>| policy::is_protected(rule.map_or(&[][..], |rule| &rule.retain), root);
        !tenant.is_scope() && self.collector.refs.config().with_rule(&root.id.repo, is_protected)
    }
}
