//! The tenants that a store has, and a catalog over several of them.

use futures::TryStreamExt;

use crate::deadline::patiently;
use crate::error::Result;
use crate::layout;
use crate::names::{RepoName, Tenant};
use crate::refs::tags::{Listed, Page};
use crate::store::Store;

impl Store {
    /// The tenants that have anything in the store, whatever the configuration says now. One look at the backend for
    /// each: it skips over what is in them.
    pub async fn tenants(&self) -> Result<Vec<Tenant>> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let next = || async { self.objects.list(layout::TENANTS, after.as_deref()).try_next().await };
            let Some(meta) = patiently(next).await? else { return Ok(found) };
            match layout::tenant_of(meta.key.as_str()) {
                Some(tenant) => {
                    after = Some(layout::tenant_end(&tenant));
                    found.push(tenant);
                }
                // Not ours: `check` reports it.
                None => after = Some(meta.key.as_str().to_string()),
            }
        }
    }

    /// Repositories of these tenants, in the byte order of their keys. What a tenant has in a repository that is not its
    /// own any more is not shown: nobody can read it.
    pub async fn catalog(&self, tenants: &[Tenant], page: &Page) -> Result<Listed<RepoName>> {
        let mut all: Vec<RepoName> = Vec::new();
        for tenant in tenants {
            all.extend(self.catalog_of(tenant, page).await?);
        }
        // As their keys are sorted: `a-b` comes before `a/b`.
        all.sort_by_cached_key(|repo| format!("{repo}/!"));
        let more = all.len() > page.limit;
        all.truncate(page.limit);
        Ok(Listed { entries: all, more })
    }

    /// One more than the page has, where there are as many.
    async fn catalog_of(&self, tenant: &Tenant, page: &Page) -> Result<Vec<RepoName>> {
        let is_shown = |repo: &RepoName| self.config.tenant_of(repo) == *tenant && !repo.is_reserved();
        let (mut found, mut next) = (Vec::new(), Page { limit: page.limit + 1, after: page.after.clone() });
        loop {
            let listed = self.repos(tenant, &next).await?;
            next.after = listed.entries.last().map(ToString::to_string);
            found.extend(listed.entries.into_iter().filter(is_shown));
            if !listed.more || found.len() > page.limit {
                found.truncate(page.limit + 1);
                return Ok(found);
            }
        }
    }
}
