//! Lists by page: the tags of a repository, the repositories of a tenant, the tenants of a store.

use std::future::ready;

use futures::{StreamExt, TryStreamExt};

use super::page::{Listed, Page, merged};
use super::repo::Repo;
use super::service::Refs;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::layout::{self, Place};
use crate::names::{RepoName, Tenant};

impl Repo {
    /// Lists the tags of which `is_seen` is true, in byte order, which for tags is also the order of the spec. Each
    /// tenant of the chain is listed once, however few of its tags are seen, within the caller's deadline.
    ///
    /// # Errors
    ///
    /// [`Error::RepoUnknown`] when the repository is empty, and [`Error::Busy`] when it is too large to be listed in
    /// time.
    pub async fn tags(&self, page: &Page, is_seen: impl Fn(&str) -> bool + Send + Sync) -> Result<Listed<String>> {
        let is_seen = &is_seen;
        let page_of = |repo: Repo| async move { own_tags(&repo, page, is_seen).await };
        let listed = self.deadline().bound(merged(self, page, page_of, String::clone)).await?;
        if listed.entries.is_empty() && !exists(self).await? {
            return Err(Error::RepoUnknown(self.name().clone()));
        }
        Ok(listed)
    }
}

async fn own_tags(repo: &Repo, page: &Page, is_seen: &(impl Fn(&str) -> bool + Sync)) -> Result<Listed<String>> {
    let prefix = layout::tags_prefix(repo.tenant(), repo.name());
    let after = page.after.as_ref().map(|after| format!("{prefix}{after}"));
    let listed = repo.content().objects().list(&prefix, after.as_deref());
    let names = listed.try_filter_map(|meta| {
        let name = &meta.key.as_str()[prefix.len()..];
        ready(Ok(is_seen(name).then(|| name.to_string())))
    });
    let mut entries: Vec<String> = names.take(page.limit + 1).try_collect().await?;
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
    /// Lists the repositories of a tenant, in the byte order of their keys. One backend call for each: it skips over
    /// their content.
    pub async fn repos(&self, tenant: &Tenant, page: &Page) -> Result<Listed<RepoName>> {
        self.some_repos(tenant, page, |_| true).await
    }

    /// Lists the repositories of the tenant of which `is_wanted` is true.
    async fn some_repos(
        &self,
        tenant: &Tenant,
        page: &Page,
        is_wanted: impl Fn(&RepoName) -> bool,
    ) -> Result<Listed<RepoName>> {
        let prefix = layout::repos_prefix(tenant);
        let after = page.after.as_deref().and_then(|after| after.parse().ok());
        let mut after = after.map(|repo: RepoName| layout::repo_end(tenant, &repo));
        let mut entries = Vec::new();
        while let Some(meta) = self.objects().list(&prefix, after.as_deref()).try_next().await? {
            match layout::parse(meta.key.as_str()) {
                Some(Place::Repo { repo, .. }) => {
                    after = Some(layout::repo_end(tenant, &repo));
                    if !is_wanted(&repo) {
                        continue;
                    }
                    if entries.len() == page.limit {
                        return Ok(Listed { entries, more: true });
                    }
                    entries.push(repo);
                }
                // Not a key of Larder: `check` reports it.
                _ => after = Some(meta.key.as_str().to_string()),
            }
        }
        Ok(Listed { entries, more: false })
    }

    /// Lists the tenants that have any object in the store, whatever the configuration says now. One backend call for
    /// each: it skips over their content.
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
                // Not a key of Larder: `check` reports it.
                None => after = Some(meta.key.as_str().to_string()),
            }
        }
    }

    /// Lists the repositories of these tenants, in the byte order of their keys. A repository that now belongs to
    /// another tenant is not listed for its old one: no caller can read it there. Each repository costs one backend
    /// call, also one that is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when the page is not found within `deadline`.
    pub async fn catalog(&self, tenants: &[Tenant], page: &Page, deadline: Deadline) -> Result<Listed<RepoName>> {
        let pages = async {
            let (mut all, mut more) = (Vec::new(), false);
            for tenant in tenants {
                let is_shown = |repo: &RepoName| self.config().tenant_of(repo) == *tenant && !repo.is_reserved();
                let listed = self.some_repos(tenant, page, is_shown).await?;
                more |= listed.more;
                all.extend(listed.entries);
            }
            Ok((all, more))
        };
        let (mut all, more) = deadline.bound(pages).await?;
        // In the order of keys: `a-b` comes before `a/b`.
        all.sort_by_cached_key(|repo: &RepoName| format!("{repo}/!"));
        let more = more || all.len() > page.limit;
        all.truncate(page.limit);
        Ok(Listed { entries: all, more })
    }
}
