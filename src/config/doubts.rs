//! Warnings about configurations that are valid and probably not intended.

use super::auth::{IDENTITY_KINDS, can_match_kind};
use super::{Config, Glob, RuleConfig, ScopeTemplate};

/// A size below this, in bytes, was probably meant in a larger unit.
const SIZE_MIN: u64 = 64 << 10;

impl Config {
    /// What an operator may not have meant, a sentence each: rules that deny or allow nobody, sizes without a unit.
    pub fn doubts(&self) -> Vec<String> {
        let numbered = || self.rules.iter().enumerate().map(|(at, rule)| (at + 1, rule));
        let untold = numbered().flat_map(|(number, rule)| untold_scopes(number, rule));
        let nobody = numbered().flat_map(|(number, rule)| self.nobodies(number, rule));
        untold.chain(nobody).chain(self.tiny_sizes()).collect()
    }

    /// Identities of a rule that no caller can have.
    fn nobodies(&self, number: usize, rule: &RuleConfig) -> Vec<String> {
        let lacking = |pattern: &Glob| match IDENTITY_KINDS.iter().find(|kind| pattern.as_str().starts_with(**kind)) {
            Some(&"token:") => {
                let named = |name: &str| pattern.matches(&format!("token:{name}"));
                let known = self.tokens.iter().any(|token| named(token.name.as_str()));
                (!known).then_some("a token, and [[tokens]] has none of that name")
            }
            Some(&"oidc:") => {
                let named = |name: &str| pattern.matches(&format!("oidc:{name}"));
                let known = self.issuers.iter().any(|issuer| named(issuer.name.as_str()));
                (!known).then_some("an issuer, and [[issuers]] has none of that name")
            }
            Some(&"user:") => self.auth.htpasswd.is_none().then_some("a user, and [auth] htpasswd is not set"),
            Some(kind) if can_match_kind(pattern, kind) => {
                let known = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
                (!known).then_some("a client certificate, and [tls] client_ca is not set")
            }
            _ => None,
        };
        // Without the name: an operator may have pasted the token there.
        let lacking = rule.identity.iter().filter_map(lacking);
        lacking.map(|what| format!("[[rules]] number {number}: its identity is that of {what}")).collect()
    }

    /// Numbers without a unit are bytes, which few mean.
    fn tiny_sizes(&self) -> Vec<String> {
        let quotas = self.tenants.iter().filter_map(|tenant| Some(("[[tenants]] quota.max", tenant.quota.max?)));
        let scopes = self.scopes.quota.max.map(|max| ("[scopes] quota.max", max));
        let (hot, limits) = (&self.hot, &self.limits);
        let sizes = [
            ("[hot] size", hot.size.as_u64()),
            ("[limits] blob", limits.blob.as_u64()),
            ("[limits] manifest", limits.manifest.as_u64()),
        ];
        let tiny = sizes.into_iter().chain(quotas).chain(scopes).filter(|(_, size)| (1..SIZE_MIN).contains(size));
        let doubt = |(key, size)| format!("{key} is {size} bytes: write the unit, as in \"{size}MiB\"");
        tiny.map(doubt).collect()
    }
}

/// Claims of a rule's scope that a caller of the rule may lack: the rule denies these.
fn untold_scopes(number: usize, rule: &RuleConfig) -> Vec<String> {
    let claims = rule.scope.iter().flat_map(ScopeTemplate::claims);
    let named = |claim: &&str| {
        let by_repositories = rule.repositories.iter().all(|template| template.claims().any(|name| name == *claim));
        rule.claims.contains_key(*claim) || by_repositories
    };
    let doubt = |claim| {
        format!(
            "[[rules]] number {number}: its scope needs the claim {claim}, which neither its claims nor its repositories \
             require: the rule denies callers without it"
        )
    };
    claims.filter(|claim| !named(claim)).map(doubt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubts(text: &str) -> String {
        toml::from_str::<Config>(text).unwrap().doubts().join("\n")
    }

    #[test]
    fn identities_that_nobody_can_have_are_doubted() {
        let token = format!("[[tokens]]\nname = \"ci\"\nhash = \"sha256:{}\"\n", "0".repeat(64));
        let rule = |identity: &str| format!("{token}[[rules]]\nidentity = \"{identity}\"\nmay = \"pull\"\n");
        for (identity, doubted) in [
            ("token:nobody", "number 1: its identity is that of a token"),
            ("token:x*", "a token"),
            ("oidc:github", "an issuer"),
            ("user:*", "htpasswd is not set"),
            ("cert:a", "client_ca is not set"),
        ] {
            let told = doubts(&rule(identity));
            assert!(told.contains(doubted) && !told.contains("nobody"), "{identity}: {told}");
        }
        for identity in ["token:ci", "token:*", "t*", "*", "anonymous"] {
            assert_eq!(doubts(&rule(identity)), "", "{identity}");
        }
        let users = format!("[auth]\nhtpasswd = \"users\"\n{}", rule("user:alice"));
        assert_eq!(doubts(&users), "");
    }

    #[test]
    fn sizes_that_miss_their_unit_are_doubted() {
        assert_eq!(doubts("[hot]\nsize = 256"), "[hot] size is 256 bytes: write the unit, as in \"256MiB\"");
        let quota = doubts("[[tenants]]\nname = \"default\"\nquota = { max = 200 }");
        assert!(quota.contains("[[tenants]] quota.max is 200 bytes"), "{quota}");
        assert_eq!(doubts("[hot]\nsize = \"256MiB\"\nblob_max = 0"), "");
    }
}
