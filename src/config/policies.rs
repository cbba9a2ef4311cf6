//! The policies of a configuration: the part of it that a running server replaces.
//!
//! A [`Config`] is shared by all rooms and stays as it was read, but for these. Each question is answered by the policies of
//! that moment; nothing remembers an answer.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwapOption;

use crate::config::complaint::complaint;
use crate::config::{Config, Quota, RepositoryConfig, ScopesConfig, TenantConfig};
use crate::names::{RepoName, Tenant};

/// Rules for repositories, quotas of tenants, and limits of scopes.
#[derive(Clone, Debug, Default)]
struct Policies {
    repositories: Vec<RepositoryConfig>,
    quotas: Vec<(Tenant, Quota)>,
    scopes: ScopesConfig,
}

/// The policies that a reload has put in the place of those in the configuration's own fields.
#[derive(Debug, Default)]
pub struct ReplacedPolicies(ArcSwapOption<Policies>);

impl Clone for ReplacedPolicies {
    fn clone(&self) -> ReplacedPolicies {
        ReplacedPolicies(ArcSwapOption::new(self.0.load_full()))
    }
}

/// The sections of a file that are policies.
const SECTIONS: [&str; 3] = ["repositories", "scopes", "tenants"];

/// The policies of a configuration file, as TOML that [`Config::of_policies`] reads: nothing else of the file, so that no
/// secret is in it.
pub fn policies_of_file(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut table: toml::Table = toml::from_str(&text).with_context(|| format!("{} is not valid", file.display()))?;
    table.retain(|section, _| SECTIONS.contains(&section));
    Ok(toml::to_string(&table)?)
}

impl Config {
    /// A configuration that has nothing but these policies.
    pub fn of_policies(toml: &str) -> anyhow::Result<Config> {
        toml::from_str(toml).map_err(|error| anyhow::anyhow!("the policies are not valid: {}", complaint(&error, toml)))
    }

    /// Answers by the rule for a repository: the first whose pattern matches.
    pub fn with_rule<T>(&self, repo: &RepoName, ask: impl FnOnce(Option<&RepositoryConfig>) -> T) -> T {
        let replaced = self.replaced.0.load();
        let repositories = replaced.as_ref().map_or(&self.repositories, |policies| &policies.repositories);
        ask(repositories.iter().find(|rule| rule.pattern.matches(repo)))
    }

    /// How much a tenant may store.
    pub fn quota(&self, tenant: &Tenant) -> Quota {
        let replaced = self.replaced.0.load();
        if tenant.is_scope() {
            return replaced.as_ref().map_or(self.scopes.quota, |policies| policies.scopes.quota);
        }
        let quota = match &*replaced {
            Some(policies) => policies.quotas.iter().find(|(name, _)| name == tenant).map(|(_, quota)| *quota),
            None => self.tenants.iter().find(|known| known.name == *tenant).map(|tenant| tenant.quota),
        };
        quota.unwrap_or_default()
    }

    /// The limits of scopes.
    pub fn scope_limits(&self) -> ScopesConfig {
        self.replaced.0.load().as_ref().map_or(self.scopes, |policies| policies.scopes)
    }

    /// Takes the policies of another configuration from now on.
    pub fn replace_policies(&self, by: &Config) {
        let quotas = by.tenants.iter().map(|tenant| (tenant.name.clone(), tenant.quota)).collect();
        let policies = Policies { repositories: by.repositories.clone(), quotas, scopes: by.scopes };
        self.replaced.0.store(Some(Arc::new(policies)));
    }

    /// The configuration with the policies of another: for a look at what they would do.
    #[must_use]
    pub fn with_policies(&self, by: &Config) -> Config {
        let tried = self.clone();
        tried.replace_policies(by);
        tried
    }

    /// What of another configuration a reload does not take up, in sentences for an operator.
    pub fn needs_restart(&self, new: &Config) -> Vec<String> {
        let patterns = |tenants: &[TenantConfig], name: &Tenant| -> Option<Vec<String>> {
            let tenant = tenants.iter().find(|tenant| tenant.name == *name)?;
            Some(tenant.repositories.iter().map(|pattern| pattern.as_str().to_string()).collect())
        };
        let mut names: Vec<&Tenant> = self.tenants.iter().chain(&new.tenants).map(|tenant| &tenant.name).collect();
        names.sort_unstable();
        names.dedup();
        let moved = names.into_iter().filter_map(|name| {
            let (before, after) = (patterns(&self.tenants, name), patterns(&new.tenants, name));
            let shown = |patterns: &Option<Vec<String>>| patterns.as_ref().map_or("none".into(), |all| all.join(", "));
            (before.as_deref().unwrap_or_default() != after.as_deref().unwrap_or_default()).then(|| {
                format!(
                    "[[tenants]] {name}: its repositories are {} until a restart, then {}: content that was pushed before \
                     stays where it is",
                    shown(&before),
                    shown(&after)
                )
            })
        });
        let order = |tenants: &[TenantConfig]| -> Vec<Tenant> { tenants.iter().map(|one| one.name.clone()).collect() };
        let same = |tenants: &[TenantConfig], with: &[TenantConfig]| -> Vec<Tenant> {
            order(tenants).into_iter().filter(|name| order(with).contains(name)).collect()
        };
        let reordered = same(&self.tenants, &new.tenants) != same(&new.tenants, &self.tenants);
        let reordered = reordered.then(|| "[[tenants]]: their order counts from a restart on".to_string());
        let sections = [
            ("server", format!("{:?}", self.server) != format!("{:?}", new.server)),
            ("store", format!("{:?}", self.store) != format!("{:?}", new.store)),
            ("hot", format!("{:?}", self.hot) != format!("{:?}", new.hot)),
            ("limits", format!("{:?}", self.limits) != format!("{:?}", new.limits)),
            ("log", format!("{:?}", self.log) != format!("{:?}", new.log)),
            ("collect", format!("{:?}", self.collect) != format!("{:?}", new.collect)),
        ];
        let changed: Vec<&str> = sections.iter().filter(|(_, is_changed)| *is_changed).map(|(name, _)| *name).collect();
        let changed =
            (!changed.is_empty()).then(|| format!("[{}]: changed, and needs a restart", changed.join("], [")));
        moved.chain(reordered).chain(changed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn policies_are_replaced_and_nothing_else() {
        let old = config(
            "[[tenants]]\nname = \"red\"\nrepositories = [\"red/**\"]\nquota = { max = 1000 }\n\
             [[repositories]]\npattern = \"red/**\"\nviews = false\n[scopes]\nmax_age = \"1h\"\n",
        );
        let new = config(
            "[[tenants]]\nname = \"red\"\nrepositories = [\"**\"]\nquota = { max = 2000 }\n[scopes]\nmax_age = \"2h\"\n",
        );
        let (tenant, repo) = ("red".parse::<Tenant>().unwrap(), "red/a".parse::<RepoName>().unwrap());
        let has_views = |config: &Config| config.with_rule(&repo, |rule| rule.is_none_or(|rule| rule.views));
        assert_eq!((old.quota(&tenant).max, has_views(&old)), (Some(1000), false));
        let tried = old.with_policies(&new);
        old.replace_policies(&config(""));
        assert_eq!((old.quota(&tenant).max, has_views(&old)), (None, true));
        assert_eq!((tried.quota(&tenant).max, has_views(&tried)), (Some(2000), true), "a copy has its own");
        assert_eq!(tried.scope_limits().max_age.get().as_secs(), 7200);
        assert_eq!(tried.tenant_of(&"blue/a".parse().unwrap()), Tenant::default_tenant(), "repositories stay");
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = config("[[tenants]]\nname = \"red\"\nrepositories = [\"red/**\"]\n");
        assert_eq!(old.needs_restart(&old), Vec::<String>::new());
        let quota = config("[[tenants]]\nname = \"red\"\nrepositories = [\"red/**\"]\nquota = { max = 1 }\n");
        assert_eq!(old.needs_restart(&quota), Vec::<String>::new());
        let new = config(
            "[hot]\nsize = \"1GiB\"\n[collect]\nenabled = false\n[[tenants]]\nname = \"red\"\nrepositories = [\"red/**\", \"ruby\"]\n\
             [[tenants]]\nname = \"blue\"\nrepositories = [\"blue\"]\n",
        );
        let named = old.needs_restart(&new);
        assert_eq!(named.len(), 3, "{named:?}");
        assert!(
            named[0].starts_with("[[tenants]] blue: its repositories are none until a restart, then blue:"),
            "{named:?}"
        );
        assert!(named[1].contains("red/** until a restart, then red/**, ruby"), "{named:?}");
        assert_eq!(named[2], "[hot], [collect]: changed, and needs a restart");
    }
}
