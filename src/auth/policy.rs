//! From an identity and the rules to what it may do. Pure.
//!
//! Rules only allow, but for one case: whom a rule sends into a scope that cannot be told, it denies. What fits a
//! caller is found once, when the caller logs in; a request then looks at those rules alone.
//!
//! Invariant: who is meant for a scope is in one or nowhere. A claim that is missing never leads to what lies around
//! the scope.

use std::collections::BTreeSet;
use std::fmt;

use super::identity::Identity;
use crate::access::{Access, Tags, Verb};
use crate::config::{Glob, Pattern, RuleConfig, ScopeTemplate};
use crate::names::{RepoName, ScopeName, Tag, Tenant};

/// The rules, in the order in which they are written.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<RuleConfig>,
    /// Nothing is configured: everybody may everything.
    open: bool,
    /// The claims that rules look at.
    mentioned: BTreeSet<String>,
}

/// The grant of a rule to one caller: its patterns with the claims filled in.
#[derive(Clone, Debug)]
pub struct Grant {
    may: Vec<Verb>,
    repositories: Vec<Pattern>,
    /// None stands for all.
    tags: Vec<Glob>,
    tenant: Option<Tenant>,
    lineage: Option<Result<Lineage, Untold>>,
}

/// A scope that cannot be told, for want of one value of this claim: it is missing or empty, or has several.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its scope is unknown: the claim {0} is missing or empty, or has several values")]
pub struct Untold(String);

/// A scope, and those that are read beside it, the nearest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    pub own: ScopeName,
    pub parents: Vec<ScopeName>,
}

/// The reason why a rule does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    Identity,
    Claim(String),
    Verb,
    Repository,
    Tag(Tag),
    /// The request concerns every tag, the rule only some.
    AllTags,
    /// The rule is for the caller and the repository, and denies.
    Scope(Untold),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Identity => f.write_str("is for other identities"),
            Mismatch::Claim(name) => write!(f, "requires another value of the claim {name}"),
            Mismatch::Verb => f.write_str("allows other things"),
            Mismatch::Repository => f.write_str("is for other repositories"),
            Mismatch::Tag(tag) => write!(f, "does not allow the tag {tag}"),
            Mismatch::AllTags => f.write_str("allows some tags only, but the request concerns all tags"),
            Mismatch::Scope(untold) => write!(f, "has a scope and denies: {untold}"),
        }
    }
}

impl Policy {
    pub fn new(rules: Vec<RuleConfig>, open: bool) -> Policy {
        let asked = rules.iter().flat_map(|rule| rule.claims.keys().cloned());
        let filled = rules.iter().flat_map(|rule| &rule.repositories).flat_map(|template| template.claims());
        let scopes = rules.iter().flat_map(|rule| rule.scope.iter().chain(&rule.parents));
        let filled = filled.chain(scopes.flat_map(|scope| scope.claims()));
        let mentioned = asked.chain(filled.map(str::to_string)).chain(["sub".to_string()]).collect();
        Policy { rules, open, mentioned }
    }

    /// Tells whether callers need no credentials.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether any rule, or a log line, looks at the claim.
    pub fn mentions(&self, claim: &str) -> bool {
        self.mentioned.contains(claim)
    }

    /// The grants of a caller, in the order of the rules.
    pub fn grants(&self, identity: &Identity) -> Vec<Grant> {
        if self.open {
            return vec![Grant::everything()];
        }
        self.rules.iter().filter_map(|rule| grant(rule, identity).ok()).collect()
    }

    /// The outcome of each rule, for display.
    pub fn explain(&self, identity: &Identity, access: &Access) -> Vec<Result<(), Mismatch>> {
        self.rules.iter().map(|rule| grant(rule, identity)?.covers(access)).collect()
    }
}

/// Whether one of the grants, or for several tags each by one of them, allows it.
pub fn allows(grants: &[Grant], access: &Access) -> bool {
    if lineage(grants, &access.repo).is_err() {
        return false;
    }
    let covered = |access: &Access| grants.iter().any(|grant| grant.covers(access).is_ok());
    match &access.tags {
        Tags::Named(tags) if tags.len() > 1 => tags.iter().all(|tag| {
            covered(&Access { repo: access.repo.clone(), verb: access.verb, tags: Tags::Named(vec![tag.clone()]) })
        }),
        _ => covered(access),
    }
}

/// Whether any of the grants allows what concerns the whole installation.
pub fn allows_admin(grants: &[Grant]) -> bool {
    grants.iter().any(|grant| grant.may.contains(&Verb::Admin))
}

/// The tenant that the first rule for the repository names.
pub fn tenant<'g>(grants: &'g [Grant], repo: &RepoName) -> Option<&'g Tenant> {
    grants.iter().filter(|grant| grant.is_for(repo)).find_map(|grant| grant.tenant.as_ref())
}

/// The scope and parents by the first rule for the repository that names a scope. A rule without one keeps no caller in the
/// tenant: a further rule must not let a pull request out of its scope. A caller with a missing claim may do nothing there.
pub fn lineage<'g>(grants: &'g [Grant], repo: &RepoName) -> Result<Option<&'g Lineage>, &'g Untold> {
    let mut scoped = grants.iter().filter_map(|grant| Some((grant, grant.lineage.as_ref()?)));
    let first = scoped.find(|(grant, _)| grant.is_for(repo));
    first.map(|(_, lineage)| lineage.as_ref()).transpose()
}

/// Whether one of the patterns is for the caller.
pub fn is_named(patterns: &[Glob], identity: &Identity) -> bool {
    let label = identity.label();
    // A star means all callers that have logged in. `anonymous` matches only by name.
    let named = |glob: &Glob| {
        if identity.is_anonymous() { glob.as_str() == label } else { glob.matches(&label) }
    };
    patterns.iter().any(named)
}

fn grant(rule: &RuleConfig, identity: &Identity) -> Result<Grant, Mismatch> {
    if !is_named(&rule.identity, identity) {
        return Err(Mismatch::Identity);
    }
    for (claim, patterns) in &rule.claims {
        let values = identity.claims.get(claim).map_or(&[][..], Vec::as_slice);
        if !values.iter().any(|value| patterns.iter().any(|pattern| pattern.matches(value))) {
            return Err(Mismatch::Claim(claim.clone()));
        }
    }
    let filled = rule.repositories.iter().filter_map(|template| template.expand(|name| identity.claim(name)));
    Ok(Grant {
        may: rule.may.clone(),
        repositories: filled.collect(),
        tags: rule.tags.clone(),
        tenant: rule.tenant.clone(),
        lineage: rule.scope.as_ref().map(|scope| descend(scope, &rule.parents, identity)),
    })
}

fn descend(scope: &ScopeTemplate, parents: &[ScopeTemplate], identity: &Identity) -> Result<Lineage, Untold> {
    let fill = |template: &'_ ScopeTemplate| {
        template.fill(|name| identity.claim(name)).map_err(|missing| Untold(missing.to_string()))
    };
    let mut lineage = Lineage { own: fill(scope)?, parents: Vec::new() };
    for parent in parents.iter().filter_map(|parent| fill(parent).ok()) {
        if parent != lineage.own && !lineage.parents.contains(&parent) {
            lineage.parents.push(parent);
        }
    }
    Ok(lineage)
}

impl Grant {
    fn everything() -> Grant {
        let repositories = Pattern::try_from("**".to_string()).into_iter().collect();
        let may = vec![Verb::Pull, Verb::Push, Verb::Delete, Verb::Admin];
        Grant { may, repositories, tags: Vec::new(), tenant: None, lineage: None }
    }

    fn is_for(&self, repo: &RepoName) -> bool {
        self.repositories.iter().any(|pattern| pattern.matches(repo))
    }

    fn covers(&self, access: &Access) -> Result<(), Mismatch> {
        // Before the verb: it denies whatever is asked.
        if let Some(Err(untold)) = &self.lineage
            && self.is_for(&access.repo)
        {
            return Err(Mismatch::Scope(untold.clone()));
        }
        if !self.may.contains(&access.verb) {
            return Err(Mismatch::Verb);
        }
        if !self.is_for(&access.repo) {
            return Err(Mismatch::Repository);
        }
        let allowed = |tag: &&Tag| self.tags.is_empty() || self.tags.iter().any(|glob| glob.matches(tag));
        match &access.tags {
            Tags::None => Ok(()),
            Tags::Named(tags) => match tags.iter().find(|tag| !allowed(tag)) {
                None => Ok(()),
                Some(tag) => Err(Mismatch::Tag(tag.clone())),
            },
            Tags::All if self.tags.is_empty() => Ok(()),
            Tags::All => Err(Mismatch::AllTags),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::{IdentitySource, parse_label};
    use crate::config::Config;

    fn policy(text: &str) -> Policy {
        let config: Config = toml::from_str(text).unwrap();
        let closed = config.is_closed();
        Policy::new(config.rules, !closed)
    }

    fn access(verb: Verb, repo: &str, tags: &[&str]) -> Access {
        let tags = match tags {
            [] => Tags::None,
            ["**"] => Tags::All,
            named => Tags::Named(named.iter().map(|tag| tag.parse().unwrap()).collect()),
        };
        Access { repo: repo.parse().unwrap(), verb, tags }
    }

    fn may(policy: &Policy, who: &Identity, verb: Verb, repo: &str, tags: &[&str]) -> bool {
        allows(&policy.grants(who), &access(verb, repo, tags))
    }

    const RULES: &str = r#"
        [[rules]]
        identity = "anonymous"
        may = ["pull"]
        repositories = "public/**"

        [[rules]]
        identity = ["token:ci", "user:*"]
        may = ["pull", "push"]
        repositories = ["team/*", "shared"]

        [[rules]]
        identity = "oidc:github"
        claims = { ref = ["refs/heads/main", "refs/tags/*"], repository_owner = "org" }
        may = ["pull", "push", "delete"]
        repositories = ["{repository}", "{repository}/**"]
        tags = ["main", "v*"]
        tenant = "github"

        [[rules]]
        identity = "*"
        may = ["pull"]
        repositories = "library/**"
    "#;

    #[test]
    fn rules_allow_what_they_say_and_nothing_else() {
        use Verb::{Admin, Delete, Pull, Push};
        let policy = policy(RULES);
        let who = |label: &str| parse_label(label).unwrap();
        for (label, verb, repo, allowed) in [
            ("anonymous", Pull, "public/a/b", true),
            ("anonymous", Push, "public/a", false),
            ("anonymous", Pull, "team/a", false),
            // A star does not stand for who has not logged in.
            ("anonymous", Pull, "library/base", false),
            ("token:ci", Pull, "library/base", true),
            ("token:ci", Push, "library/base", false),
            ("token:ci", Push, "team/a", true),
            ("token:ci", Push, "team/a/b", false),
            ("token:ci", Delete, "team/a", false),
            ("token:ci", Admin, "team/a", false),
            ("token:ci", Pull, "public/a", false),
            ("token:other", Push, "team/a", false),
            ("user:alice", Push, "shared", true),
            // The name of one kind is not that of another.
            ("cert:ci", Push, "team/a", false),
        ] {
            assert_eq!(may(&policy, &who(label), verb, repo, &[]), allowed, "{label} {verb:?} {repo}");
        }
    }

    fn github(claims: &[(&str, &str)]) -> Identity {
        let mut who = Identity::new(IdentitySource::Oidc, "github");
        who.claims = claims.iter().map(|(name, value)| (name.to_string(), vec![value.to_string()])).collect();
        who
    }

    #[test]
    fn claims_decide_and_are_filled_in() {
        use Verb::{Delete, Push};
        let policy = policy(RULES);
        let main = [("ref", "refs/heads/main"), ("repository", "Org/App"), ("repository_owner", "org")];
        let who = github(&main);
        for (verb, repo, tags, allowed) in [
            (Push, "org/app", &["main"][..], true),
            (Push, "org/app/cache", &["v1", "main"], true),
            (Push, "org/app/cache", &["v1", "dev"], false),
            (Push, "org/app/cache", &[], true),
            (Push, "org/other", &["main"], false),
            (Push, "org/app2", &["main"], false),
            (Delete, "org/app", &["main"], true),
            (Delete, "org/app", &["**"], false),
        ] {
            assert_eq!(may(&policy, &who, verb, repo, tags), allowed, "{verb:?} {repo} {tags:?}");
        }
        assert_eq!(tenant(&policy.grants(&who), &"org/app".parse().unwrap()).map(|tenant| &**tenant), Some("github"));
        assert_eq!(tenant(&policy.grants(&who), &"library/a".parse().unwrap()), None);
        for (claim, value) in [
            ("ref", "refs/pull/1/merge"),
            ("ref", "refs/heads/main/x"),
            ("repository_owner", "evil"),
            ("repository", "*"),
        ] {
            let changed: Vec<_> = main.iter().map(|(n, v)| (*n, if *n == claim { value } else { *v })).collect();
            assert!(!may(&policy, &github(&changed), Push, "org/app", &["main"]), "{claim} = {value}");
        }
        assert!(!may(&policy, &github(&main[1..]), Push, "org/app", &["main"]));
    }

    #[test]
    fn a_scope_follows_from_the_claims_and_no_other_rule_lets_out_of_it() {
        let policy = policy(
            r#"
            [[rules]]
            identity = "oidc:github"
            may = ["pull", "push"]
            repositories = "{repository}/**"
            [[rules]]
            identity = "oidc:github"
            claims = { ref = "refs/pull/**" }
            may = ["pull", "push"]
            repositories = "{repository}/**"
            scope = "{repository}@{ref}"
            parents = ["{repository}@refs/heads/{base_ref}", "{repository}@{ref}"]
            "#,
        );
        let of = |claims: &[(&str, &str)]| {
            lineage(&policy.grants(&github(claims)), &"org/app/cache".parse().unwrap()).unwrap().cloned()
        };
        let (app, pull) = (("repository", "org/app"), ("ref", "refs/pull/1/merge"));
        assert_eq!(of(&[app, ("ref", "refs/heads/main")]), None);
        let own = ScopeName::of("org/app@refs/pull/1/merge");
        assert_eq!(of(&[app, pull]), Some(Lineage { own: own.clone(), parents: vec![] }));
        assert_eq!(of(&[app, pull, ("base_ref", "")]), Some(Lineage { own: own.clone(), parents: vec![] }));
        let parents = vec![ScopeName::of("org/app@refs/heads/next")];
        assert_eq!(of(&[app, pull, ("base_ref", "next")]), Some(Lineage { own, parents }));
    }

    #[test]
    fn whose_scope_cannot_be_told_is_denied_by_the_rule_and_let_in_by_no_other() {
        let general = "[[rules]]\nidentity = \"*\"\nmay = [\"pull\", \"push\"]\n";
        let scoped = r#"
            [[rules]]
            identity = "oidc:github"
            claims = { ref = "refs/pull/**" }
            may = ["pull", "push"]
            repositories = "{repository}/**"
            scope = "{repository}@{head_ref}"
            "#;
        let pull = [("repository", "org/app"), ("ref", "refs/pull/1/merge")];
        let with = |head: &'static str| github(&[pull[0], pull[1], ("head_ref", head)]);
        let mut several = with("x");
        several.claims.insert("head_ref".into(), vec!["x".into(), "y".into()]);
        for policy in [policy(&format!("{general}{scoped}")), policy(&format!("{scoped}{general}"))] {
            for who in [&github(&pull), &with(""), &several] {
                for verb in [Verb::Pull, Verb::Push] {
                    assert!(!may(&policy, who, verb, "org/app/cache", &["main"]), "{verb:?} {who:?}");
                }
                assert!(lineage(&policy.grants(who), &"org/app/cache".parse().unwrap()).is_err());
                // The rule is not for other repositories, and so denies nothing there.
                assert!(may(&policy, who, Verb::Pull, "other/app", &[]));
                let told = policy.explain(who, &access(Verb::Push, "org/app/cache", &["main"]));
                let told: Vec<String> = told.into_iter().filter_map(Result::err).map(|why| why.to_string()).collect();
                assert!(told.concat().contains("denies") && told.concat().contains("head_ref"), "{told:?}");
            }
            assert!(may(&policy, &with("x"), Verb::Push, "org/app/cache", &["main"]));
            // For whom the rule is not meant, it says nothing.
            let main = github(&[pull[0], ("ref", "refs/heads/main")]);
            assert!(may(&policy, &main, Verb::Push, "org/app/cache", &["main"]));
        }
    }

    #[test]
    fn each_of_several_tags_may_be_allowed_by_another_rule() {
        let rule = |tags: &str| format!("[[rules]]\nidentity = \"*\"\nmay = [\"push\"]\ntags = \"{tags}\"\n");
        let policy = policy(&(rule("a*") + &rule("b*")));
        let who = parse_label("token:x").unwrap();
        assert!(may(&policy, &who, Verb::Push, "r", &["a1", "b1"]));
        assert!(!may(&policy, &who, Verb::Push, "r", &["a1", "c1"]));
    }

    #[test]
    fn nothing_configured_is_open_and_an_identity_without_a_rule_may_nothing() {
        let open = policy("");
        assert!(open.is_open() && may(&open, &Identity::anonymous(), Verb::Delete, "a", &["**"]));
        assert!(allows_admin(&open.grants(&Identity::anonymous())));
        let closed = policy("[auth]\nhtpasswd = \"x\"");
        let who = parse_label("user:a").unwrap();
        assert!(!closed.is_open() && !may(&closed, &who, Verb::Pull, "a", &[]));
        assert!(!allows_admin(&closed.grants(&who)));
    }

    #[test]
    fn a_decision_is_explained_rule_by_rule() {
        let policy = policy(RULES);
        let who = github(&[("ref", "refs/pull/1/merge"), ("repository", "org/app"), ("repository_owner", "org")]);
        let found = policy.explain(&who, &access(Verb::Push, "org/app", &["main"]));
        let expected =
            [Err(Mismatch::Identity), Err(Mismatch::Identity), Err(Mismatch::Claim("ref".into())), Err(Mismatch::Verb)];
        assert_eq!(found, expected);
    }
}
