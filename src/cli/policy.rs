//! `larder policy test`.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use larder::access::{Access, Tags, Verb};
use larder::auth::{Gate, Identity, IdentitySource, parse_label};
use larder::config::Config;

/// Asks the rules.
#[derive(Args)]
pub struct PolicyTest {
    /// The caller: `token:ci`, `user:alice`, `oidc:github`, `cert:builder`, `anonymous`.
    #[arg(long = "as", value_name = "IDENTITY")]
    who: String,
    /// A claim of the caller, as NAME=VALUE. May be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    /// The action.
    verb: VerbArg,
    /// Where: a repository, or one of its tags: REPOSITORY:TAG.
    reference: String,
}

/// The part that the configuration lacks for any caller to be this one.
fn lacking(config: &Config, identity: &Identity) -> Option<String> {
    let name = &identity.name;
    let is_token = || config.tokens.iter().any(|token| token.name.as_str() == name);
    let is_issuer = || config.issuers.iter().any(|issuer| issuer.name.as_str() == name);
    match identity.source {
        IdentitySource::Token if !is_token() => Some(format!("token {name}")),
        IdentitySource::Oidc if !is_issuer() => Some(format!("issuer {name}")),
        IdentitySource::User if config.auth.htpasswd.is_none() => Some("htpasswd".to_string()),
        IdentitySource::Cert if config.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) => {
            Some("client_ca".to_string())
        }
        _ => None,
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum VerbArg {
    Pull,
    Push,
    Delete,
}

impl PolicyTest {
    /// Prints what each rule says; returns whether the caller may.
    pub fn run(self, config: Config) -> anyhow::Result<bool> {
        let identity = self.identity()?;
        let access = self.access()?;
        config.doubts().iter().for_each(|doubt| eprintln!("larder: {doubt}"));
        let lacking = lacking(&config, &identity);
        let lines: Vec<Option<usize>> = config.rules.iter().map(|rule| rule.line).collect();
        let gate = Gate::open(Arc::new(config), None)?;
        let (allowed, rules) = gate.explain(&identity, &access);
        if let Some(what) = lacking {
            println!("there is no {what} in the configuration");
        }
        if gate.is_open() {
            println!("nothing is configured: everybody may do everything");
        }
        for (at, rule) in rules.iter().enumerate() {
            let line = lines.get(at).copied().flatten().map(|line| format!(", line {line}")).unwrap_or_default();
            let name = format!("rule {}{line}:", at + 1);
            match rule {
                Ok(()) => println!("{name:<20} allows it"),
                Err(mismatch) => println!("{name:<20} {mismatch}"),
            }
        }
        println!(
            "{}: {identity}, {} {}",
            if allowed { "allowed" } else { "denied" },
            access.verb.as_str(),
            self.reference
        );
        if !allowed {
            return Ok(false);
        }
        let Ok((tenant, parents)) = gate.lineage(&identity, &access.repo) else { return Ok(true) };
        println!("writes to {tenant}{}", if tenant.is_scope() { ", a scope" } else { "" });
        if !parents.is_empty() {
            let names: Vec<String> = parents.iter().map(ToString::to_string).collect();
            println!("reads also {}", names.join(", then "));
        }
        Ok(allowed)
    }

    fn identity(&self) -> anyhow::Result<Identity> {
        let parsed = parse_label(&self.who);
        let mut identity = parsed.with_context(|| format!("{} is no identity; one is token:ci", self.who))?;
        for claim in &self.claim {
            let Some((name, value)) = claim.split_once('=') else { bail!("{claim} is not NAME=VALUE") };
            identity.claims.entry(name.to_string()).or_default().push(value.to_string());
        }
        Ok(identity)
    }

    fn access(&self) -> anyhow::Result<Access> {
        let verb = match self.verb {
            VerbArg::Pull => Verb::Pull,
            VerbArg::Push => Verb::Push,
            VerbArg::Delete => Verb::Delete,
        };
        let (repo, tags) = match self.reference.rsplit_once(':') {
            Some((repo, tag)) => (repo, Tags::Named(vec![tag.parse()?])),
            None => (&*self.reference, Tags::None),
        };
        Ok(Access { repo: repo.parse()?, verb, tags })
    }
}
