//! The part of a configuration that changes while a server runs: settings of repositories, quotas, limits of scopes.
//!
//! All rooms share one `Arc<Config>`, so that is where the newer settings are: readers ask [`Config`] for a rule, a quota
//! or the limits of scopes, and get those of the last reload. Which repositories belong to a tenant is not among them:
//! keys of the store begin with the tenant.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use super::{Config, Quota, RepositoryConfig, ScopesConfig, TenantConfig};
use crate::names::{RepoName, Tenant};

/// The settings of the last reload; nothing before the first.
#[derive(Debug, Default)]
pub struct ReloadedSettings(ArcSwapOption<Settings>);

/// All at once: a quota is never read beside the retention of another file.
#[derive(Debug)]
struct Settings {
    repositories: Vec<RepositoryConfig>,
    tenants: Vec<TenantConfig>,
    scopes: ScopesConfig,
}

impl Clone for ReloadedSettings {
    /// A copy of a configuration has the settings of now, and does not follow later reloads.
    fn clone(&self) -> Self {
        ReloadedSettings(ArcSwapOption::new(self.0.load_full()))
    }
}

impl Config {
    /// Takes over from a newer configuration what may change while the server runs. All who share this one see it.
    pub fn adopt(&self, newer: &Config) {
        let (repositories, tenants) = (newer.repositories.clone(), newer.tenants.clone());
        self.reloaded.0.store(Some(Arc::new(Settings { repositories, tenants, scopes: newer.scopes })));
    }

    fn settings(&self) -> Guard<Option<Arc<Settings>>> {
        self.reloaded.0.load()
    }

    /// Hands the rule for a repository, where there is one, to `look`.
    pub fn with_rule<T>(&self, repo: &RepoName, look: impl FnOnce(Option<&RepositoryConfig>) -> T) -> T {
        let settings = self.settings();
        let rules = settings.as_ref().map_or(&self.repositories, |settings| &settings.repositories);
        look(rules.iter().find(|rule| rule.pattern.matches(repo)))
    }

    /// The quota of a tenant.
    pub fn quota(&self, tenant: &Tenant) -> Quota {
        let settings = self.settings();
        let settings = settings.as_ref();
        if tenant.is_scope() {
            return settings.map_or(self.scopes, |settings| settings.scopes).quota;
        }
        let tenants = settings.map_or(&self.tenants, |settings| &settings.tenants);
        tenants.iter().find(|known| known.name == *tenant).map_or(Quota::default(), |tenant| tenant.quota)
    }

    /// The limits of scopes.
    pub fn scope_limits(&self) -> ScopesConfig {
        self.settings().as_ref().map_or(self.scopes, |settings| settings.scopes)
    }

    /// What a newer configuration has changed that takes effect only at a restart: sections, and the tenants whose
    /// repositories would be others.
    pub fn needs_restart(&self, newer: &Config) -> Vec<String> {
        let sections = [
            ("[server]", self.server != newer.server),
            ("[store]", self.store != newer.store),
            ("[hot]", self.hot != newer.hot),
            ("[limits]", self.limits != newer.limits),
            ("[log]", self.log != newer.log),
            ("[collect]", self.collect != newer.collect),
            ("[tls] as a whole", self.tls.is_some() != newer.tls.is_some()),
        ];
        let changed = sections.into_iter().filter(|(_, is_changed)| *is_changed).map(|(name, _)| name.to_string());
        changed.chain(self.moved_repositories(newer)).collect()
    }

    fn moved_repositories(&self, newer: &Config) -> Option<String> {
        let owners = |config: &Config| {
            let owners = config.tenants.iter().filter(|tenant| !tenant.repositories.is_empty());
            owners.map(|tenant| (tenant.name.clone(), tenant.repositories.clone())).collect::<Vec<_>>()
        };
        let (before, after) = (owners(self), owners(newer));
        if before == after {
            return None;
        }
        let lacking = before.iter().filter(|owner| !after.contains(owner));
        let added = after.iter().filter(|owner| !before.contains(owner));
        let mut names: Vec<&str> = lacking.chain(added).map(|(name, _)| &**name).collect();
        names.sort();
        names.dedup();
        let of = if names.is_empty() { "in another order".to_string() } else { format!("of {}", names.join(", ")) };
        Some(format!("repositories of [[tenants]] ({of}; content that is stored stays with its tenant)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn settings_are_those_of_the_last_reload_for_all_who_share_them() {
        let running = Arc::new(config("[scopes]\nquota = { max = \"1MiB\" }"));
        let (shared, repo) = (running.clone(), "app".parse::<RepoName>().unwrap());
        let default = Tenant::default_tenant();
        assert!(running.with_rule(&repo, |rule| rule.is_none()) && running.quota(&default).max.is_none());
        let newer = "[[tenants]]\nname = \"default\"\nquota = { max = \"2MiB\" }\n[[repositories]]\npattern = \"*\"\n\
                     views = false\n[scopes]\nmax_age = \"1d\"\nquota = { max = \"3MiB\" }";
        shared.adopt(&config(newer));
        assert!(!running.with_rule(&repo, |rule| rule.unwrap().views));
        assert_eq!(running.quota(&default).max, Some(2 << 20));
        assert_eq!(running.scope_limits().quota.max, Some(3 << 20));
        shared.adopt(&config(""));
        assert!(running.quota(&default).max.is_none());
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let running = config("[[tenants]]\nname = \"a\"\nrepositories = \"a/**\"");
        let told = |text: &str| running.needs_restart(&config(text)).join("; ");
        assert_eq!(told("[[tenants]]\nname = \"a\"\nrepositories = \"a/**\"\nquota = { max = \"1GiB\" }"), "");
        assert!(told("[[tenants]]\nname = \"b\"\nrepositories = \"a/**\"").contains("(of a, b; "));
        let told = told("[hot]\nsize = \"1GiB\"\n[[tenants]]\nname = \"a\"\nrepositories = \"**\"");
        assert!(told.starts_with("[hot]; repositories of [[tenants]] (of a; "), "{told}");
    }
}
