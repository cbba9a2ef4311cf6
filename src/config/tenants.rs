//! Tenants: which repositories belong to whom, and how much each may store.

use anyhow::bail;
use bytesize::ByteSize;
use serde::Deserialize;

use super::forms::one_or_many;
use super::{Config, Pattern, Span};
use crate::names::{InvalidName, RepoName, Tenant};

/// A tenant, and the repositories that are its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    #[serde(deserialize_with = "tenant")]
    pub name: Tenant,
    /// Repositories that match any of these, and none of a tenant before, are the tenant's. What matches nowhere is of
    /// the tenant `default`, which needs no patterns.
    #[serde(default, deserialize_with = "one_or_many")]
    pub repositories: Vec<Pattern>,
    #[serde(default)]
    pub quota: Quota,
}

/// Scopes are made by rules, not named here.
pub(super) fn tenant<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Tenant, D::Error> {
    let parsed = String::deserialize(deserializer)?.parse::<Tenant>();
    let parsed = parsed.and_then(|tenant| if tenant.is_scope() { Err(InvalidName::Tenant) } else { Ok(tenant) });
    parsed.map_err(serde::de::Error::custom)
}

/// Limits of scopes. Rules make scopes, one for each branch or pull request.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScopesConfig {
    /// Time after its last push or pull at which a whole scope is deleted.
    pub max_age: Span,
    /// Quota of each.
    pub quota: Quota,
    /// Part of the disk that all of them together may use.
    pub share: DiskShare,
}

/// A part of a disk: more than nothing, and at most all of it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct DiskShare(f64);

impl DiskShare {
    /// The part of so many bytes.
    pub fn of(self, total: u64) -> u64 {
        (total as f64 * self.0) as u64
    }
}

impl TryFrom<f64> for DiskShare {
    type Error = &'static str;

    fn try_from(part: f64) -> Result<DiskShare, Self::Error> {
        if part > 0.0 && part <= 1.0 { Ok(DiskShare(part)) } else { Err("a share is above 0 and at most 1") }
    }
}

/// Default part of the disk for all scopes together.
const SCOPES_SHARE: f64 = 0.5;

impl Default for ScopesConfig {
    fn default() -> Self {
        let written = QuotaSection { max: Some(ByteSize::gib(10)), high: None, low: None };
        ScopesConfig {
            max_age: Span::hours(14 * 24),
            quota: Quota::try_from(written).unwrap_or_default(),
            share: DiskShare(SCOPES_SHARE),
        }
    }
}

/// Quota of a tenant, in bytes of content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "QuotaSection")]
pub struct Quota {
    /// Uploads that would go beyond are refused.
    pub max: Option<u64>,
    /// Above this, what was used least recently goes.
    pub high: Option<u64>,
    /// Down to this.
    pub low: Option<u64>,
}

/// High watermark in percent of `max`, and low watermark in percent of the high one.
const HIGH_PERCENT: u64 = 90;
const LOW_PERCENT: u64 = 90;

/// `quota` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as in quota = { max = \"5GiB\" }")]
struct QuotaSection {
    max: Option<ByteSize>,
    high: Option<ByteSize>,
    low: Option<ByteSize>,
}

impl TryFrom<QuotaSection> for Quota {
    type Error = &'static str;

    fn try_from(written: QuotaSection) -> Result<Quota, Self::Error> {
        let percent = |of: u64, percent: u64| u64::try_from(u128::from(of) * u128::from(percent) / 100).unwrap_or(of);
        let max = written.max.map(|max| max.as_u64());
        let high = written.high.map(|high| high.as_u64()).or(max.map(|max| percent(max, HIGH_PERCENT)));
        let low = written.low.map(|low| low.as_u64());
        let low = low.or(high.map(|high| percent(high, LOW_PERCENT)));
        if max.is_some_and(|max| high.is_some_and(|high| high > max)) {
            return Err("a quota's high must not be above its max");
        }
        if low.is_some_and(|low| high.is_none_or(|high| low > high)) {
            return Err("a quota's low must not be above its high");
        }
        Ok(Quota { max, high, low })
    }
}

impl Config {
    /// The tenant of a repository.
    pub fn tenant_of(&self, repo: &RepoName) -> Tenant {
        let matches = |tenant: &&TenantConfig| tenant.repositories.iter().any(|pattern| pattern.matches(repo));
        self.tenants.iter().find(matches).map_or_else(Tenant::default_tenant, |tenant| tenant.name.clone())
    }

    /// Whether any caller may find the repository in this tenant: by its name, or by a rule.
    pub fn may_be_of(&self, repo: &RepoName, tenant: &Tenant) -> bool {
        let root = tenant.root();
        let ruled = self.rules.iter().any(|rule| rule.tenant.as_ref().is_some_and(|named| **named == *root));
        ruled || *self.tenant_of(repo) == *root
    }

    /// Every tenant that a request may belong to.
    pub fn all_tenants(&self) -> Vec<Tenant> {
        let mut names: Vec<Tenant> = self.tenants.iter().map(|tenant| tenant.name.clone()).collect();
        let default = Tenant::default_tenant();
        if !names.contains(&default) {
            names.push(default);
        }
        names
    }

    pub(super) fn check_tenants(&self) -> anyhow::Result<()> {
        let mut seen = std::collections::HashSet::new();
        for tenant in &self.tenants {
            if !seen.insert(&tenant.name) {
                bail!("[[tenants]] has {} twice", tenant.name);
            }
            let ruled = self.rules.iter().any(|rule| rule.tenant.as_ref() == Some(&tenant.name));
            if tenant.repositories.is_empty() && !ruled && tenant.name != Tenant::default_tenant() {
                bail!("[[tenants]] {} has no repositories: give it patterns", tenant.name);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Config> {
        let config: Config = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn the_first_tenant_that_matches_owns_a_repository() {
        let config = parse(
            "[[tenants]]\nname = \"a\"\nrepositories = [\"a/**\", \"shared\"]\n\
             [[tenants]]\nname = \"b\"\nrepositories = [\"**/b\", \"a/x\"]\n",
        )
        .unwrap();
        for (repo, tenant) in [("a/x", "a"), ("shared", "a"), ("c/b", "b"), ("a/b", "a"), ("c", "default")] {
            assert_eq!(&*config.tenant_of(&repo.parse().unwrap()), tenant, "{repo}");
        }
        let names: Vec<String> = config.all_tenants().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b", "default"]);
    }

    #[test]
    fn eviction_begins_before_a_quota_is_full() {
        let quota = |text: &str| parse(&format!("[[tenants]]\nname = \"default\"\nquota = {{ {text} }}\n"));
        let of = |text: &str| quota(text).unwrap().quota(&Tenant::default_tenant());
        assert_eq!(of("max = 1000"), Quota { max: Some(1000), high: Some(900), low: Some(810) });
        assert_eq!(of("max = 1000, high = 1000, low = 1"), Quota { max: Some(1000), high: Some(1000), low: Some(1) });
        assert_eq!(of("high = 100"), Quota { max: None, high: Some(100), low: Some(90) });
        assert_eq!(of(""), Quota::default());
        for (text, half) in [("", 500), ("share = 0.25", 250), ("share = 1.0", 1000), ("share = 1", 1000)] {
            assert_eq!(parse(&format!("[scopes]\n{text}\n")).unwrap().scopes.share.of(1000), half, "{text}");
        }
        for bad in ["0.0", "-0.5", "1.01", "nan"] {
            assert!(parse(&format!("[scopes]\nshare = {bad}\n")).is_err(), "{bad}");
        }
        for bad in ["max = 1, high = 2", "high = 1, low = 2", "low = 2", "soft = 1"] {
            assert!(quota(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tenants_that_cannot_be_meant_are_refused() {
        for (text, said) in [
            ("[[tenants]]\nname = \"a\"\n", "no repositories"),
            ("[[tenants]]\nname = \"default\"\n[[tenants]]\nname = \"default\"\n", "twice"),
            ("[[tenants]]\nname = \"a/b\"\nrepositories = [\"a\"]\n", "tenant"),
            ("[[tenants]]\nname = \"a~b\"\nrepositories = [\"a\"]\n", "tenant"),
            ("[[tenants]]\nrepositories = [\"a\"]\n", "name"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
