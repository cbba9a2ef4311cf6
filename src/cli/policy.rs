//! `larder policy test`.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use larder::access::{Access, Tags, Verb};
use larder::auth::{Gate, Identity, parse_label};
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

#[derive(Clone, Copy, ValueEnum)]
enum VerbArg {
    Pull,
    Push,
    Delete,
}

impl PolicyTest {
    /// Prints what each rule says; returns whether he may.
    pub fn run(self, config: Config) -> anyhow::Result<bool> {
        let identity = self.identity()?;
        let access = self.access()?;
        config.doubts().iter().for_each(|doubt| eprintln!("larder: {doubt}"));
        let gate = Gate::open(Arc::new(config), None)?;
        let (allowed, rules) = gate.explain(&identity, &access);
        if gate.is_open() {
            println!("nothing is configured: everybody may do everything");
        }
        for (number, rule) in rules.iter().enumerate() {
            match rule {
                Ok(()) => println!("rule {:<3} allows it", number + 1),
                Err(mismatch) => println!("rule {:<3} {mismatch}", number + 1),
            }
        }
        println!(
            "{}: {identity}, {} {}",
            if allowed { "allowed" } else { "denied" },
            access.verb.as_str(),
            self.reference
        );
        // Nobody writes where he is denied for want of a scope, and the rule has said so.
        let Ok((tenant, parents)) = gate.lineage(&identity, &access.repo) else { return Ok(allowed) };
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
