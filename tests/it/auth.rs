//! The rights of callers, as clients use them: the rules, the tokens, and the form of each refusal.

mod forged;
mod matrix;
pub mod oidc;
mod pages;
mod passwords;
mod scopes;
mod secrets;
mod sessions;
pub mod tls;
mod tokens;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use larder::config::Config;

/// A static token. Any text with the prefix is one, so `larder token new` is not needed.
pub fn static_token(name: &str) -> String {
    format!("larder_{name}-{}", "x".repeat(32))
}

pub fn hash(text: &str) -> String {
    larder::digest::Digest::sha256(text.as_bytes()).to_string()
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// Lays a piece of a configuration file over the configuration of a test world.
pub fn configure(config: &mut Config, text: &str) {
    let written: Config = toml::from_str(text).unwrap();
    config.auth = written.auth;
    config.tokens = written.tokens;
    config.issuers = written.issuers;
    config.rules = written.rules;
    config.tls = written.tls;
    config.tenants = written.tenants;
    config.scopes = written.scopes;
    config.server.public_url = written.server.public_url;
    config.server.hosts = written.server.hosts;
}

/// `[[tokens]]` of that name.
pub fn token_entry(name: &str) -> String {
    format!("[[tokens]]\nname = \"{name}\"\nhash = \"{}\"\n", hash(&static_token(name)))
}
