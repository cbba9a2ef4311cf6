//! Repositories whose names are reserved now, but were free before.

use futures::TryStreamExt;

use super::service::Refs;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::layout::{self, Place};
use crate::names::{RESERVED_NAMES, RepoName, Tenant};

/// Maximum number of repositories listed for each tenant and reserved name: `larder check` lists them all.
const FOUND_MAX: usize = 32;

impl Refs {
    /// Lists the repositories with reserved names, of the tenants of the configuration. One list for each tenant and
    /// reserved name, and one for each repository found.
    pub async fn reserved_repos(&self) -> Result<Vec<(Tenant, RepoName)>> {
        let mut found = Vec::new();
        for tenant in self.config().all_tenants() {
            for reserved in RESERVED_NAMES {
                let prefix = layout::repos_below(&tenant, reserved.name);
                let mut after = None::<String>;
                for _ in 0..FOUND_MAX {
                    let next = || async { self.objects().list(&prefix, after.as_deref()).try_next().await };
                    let Some(meta) = Deadline::of_each_call().retry(next).await? else { break };
                    let Some(Place::Repo { repo, .. }) = layout::parse(meta.key.as_str()) else {
                        // Not a key of Larder: `check` reports it.
                        after = Some(meta.key.as_str().to_string());
                        continue;
                    };
                    after = Some(layout::repo_end(&tenant, &repo));
                    found.extend(repo.is_reserved().then(|| (tenant.clone(), repo)));
                }
            }
        }
        Ok(found)
    }
}
