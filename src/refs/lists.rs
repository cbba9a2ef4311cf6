//! Lists by page: the tags of a repository, the repositories of a tenant, the tenants of a store.

use futures::TryStreamExt;

use super::page::{Listed, Page, merged};
use super::repo::Repo;
use super::service::Refs;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::layout::{self, Place};
use crate::names::{RepoName, Tenant};

impl Repo {
    /// Tags in byte order, which for tags is also the order of the spec.
    pub async fn tags(&self, page: &Page) -> Result<Listed<String>> {
        let page_of = |repo: Repo| async move { own_tags(&repo, page).await };
        let listed = merged(self, page, page_of, String::clone).await?;
        if listed.entries.is_empty() && !exists(self).await? {
            return Err(Error::RepoUnknown(self.name().clone()));
        }
        Ok(listed)
    }
}

async fn own_tags(repo: &Repo, page: &Page) -> Result<Listed<String>> {
    let prefix = layout::tags_prefix(repo.tenant(), repo.name());
    let after = page.after.as_ref().map(|after| format!("{prefix}{after}"));
    let listed = repo.content().objects().list(&prefix, after.as_deref());
    let names = listed.map_ok(|meta| meta.key.as_str()[prefix.len()..].to_string());
    let mut entries: Vec<String> = futures::StreamExt::take(names, page.limit + 1).try_collect().await?;
    let more = entries.len() > page.limit;
    entries.truncate(page.limit);
    Ok(Listed { entries, more })
}

async fn exists(repo: &Repo) -> Result<bool> {
    for part in repo.each() {
        let prefix = layout::repo_prefix(part.tenant(), part.name());
        if repo.content().objects().list(&prefix, None).try_next().await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Refs {
    /// Repositories of a tenant, in the byte order of their keys. One look at the backend for each: it skips over what
    /// is in them.
    pub async fn repos(&self, tenant: &Tenant, page: &Page) -> Result<Listed<RepoName>> {
        let prefix = layout::repos_prefix(tenant);
        let after = page.after.as_deref().and_then(|after| after.parse().ok());
        let mut after = after.map(|repo: RepoName| layout::repo_end(tenant, &repo));
        let mut entries = Vec::new();
        while let Some(meta) = self.objects().list(&prefix, after.as_deref()).try_next().await? {
            match layout::parse(meta.key.as_str()) {
                Some(Place::Repo { repo, .. }) => {
                    if entries.len() == page.limit {
                        return Ok(Listed { entries, more: true });
                    }
                    after = Some(layout::repo_end(tenant, &repo));
                    entries.push(repo);
                }
                // Not ours: `check` reports it.
                _ => after = Some(meta.key.as_str().to_string()),
            }
        }
        Ok(Listed { entries, more: false })
    }

    /// The tenants that have anything in the store, whatever the configuration says now. One look at the backend for
    /// each: it skips over what is in them.
    pub async fn tenants(&self) -> Result<Vec<Tenant>> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let next = || async { self.objects().list(layout::TENANTS, after.as_deref()).try_next().await };
            let Some(meta) = Deadline::of_each_call().retry(next).await? else { return Ok(found) };
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
        let is_shown = |repo: &RepoName| self.config().tenant_of(repo) == *tenant && !repo.is_reserved();
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
