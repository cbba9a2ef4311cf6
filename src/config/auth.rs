//! Identities and rules.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::{Deserialize, Deserializer};

use super::forms::{many_each, one_or_many, some_of_many};
use super::{Config, Glob, ScopeTemplate, Secret, Span, Template};
use crate::access::Verb;
use crate::names::Tenant;

/// Login of callers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Users and their passwords (bcrypt), as `htpasswd -B` writes them. Read again when it changes.
    pub htpasswd: Option<PathBuf>,
    /// Keys that sign tokens: the first signs, all are accepted. At least 32 characters each. Without any, one key is
    /// made and kept in the store.
    #[serde(deserialize_with = "one_or_many")]
    pub signing_keys: Vec<Secret>,
    /// A file with the same, one a line.
    pub signing_keys_file: Option<PathBuf>,
    /// Life of what `/token` issues. It is looked at when a request begins, not when it ends.
    pub token_life: Span,
    /// Life of what `/token/exchange` issues at most: as long as the longest build.
    pub session_max: Span,
    /// The challenge for clients without credentials.
    pub challenge: Challenge,
    /// Wrong passwords a minute from one address; further ones are not looked at.
    pub failed_logins: u32,
    /// Patterns of the identities that may read `/metrics`, beside administrators. Without, no
    /// credentials are needed.
    #[serde(deserialize_with = "some_of_many")]
    pub metrics: Option<Vec<Glob>>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        AuthConfig {
            htpasswd: None,
            signing_keys: Vec::new(),
            signing_keys_file: None,
            token_life: Span::hours(1),
            session_max: Span::hours(6),
            challenge: Challenge::Bearer,
            failed_logins: 30,
            metrics: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Challenge {
    /// Fetch a token from `/token`.
    Bearer,
    /// Send name and password with each request: for where clients cannot reach `/token`.
    Basic,
}

/// A static token. `larder token new` makes one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The identity of who has it is `token:<name>`.
    pub name: Label,
    pub hash: TokenHash,
    /// After this it is not taken any more: `2027-01-01T00:00:00Z`. `never`, or no such key: it is always taken.
    #[serde(default, deserialize_with = "timestamp_or_never")]
    pub expires: Option<jiff::Timestamp>,
}

fn timestamp_or_never<'de, D: Deserializer<'de>>(from: D) -> Result<Option<jiff::Timestamp>, D::Error> {
    let text = String::deserialize(from)?;
    if text == "never" {
        return Ok(None);
    }
    // Without the text: what is in the wrong place may be the token.
    let expected = "expires is a time like 2027-01-01T00:00:00Z, or never";
    text.parse().map(Some).map_err(|_| serde::de::Error::custom(expected))
}

/// SHA-256 of a token, written `sha256:<hex>`. Tokens are random and long: nothing slower is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenHash(pub [u8; 32]);

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<TokenHash, Self::Error> {
        const WHAT: &str = "the hash of a token is sha256:<64 hexadecimal digits>, as `larder token new` prints it";
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.is_ascii()).ok_or(WHAT)?;
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| WHAT)?;
        }
        Ok(TokenHash(bytes))
    }
}

/// The short name of a token or an issuer, as it is in identities.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Label(String);

impl TryFrom<String> for Label {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Label, Self::Error> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(valid) {
            Ok(Label(text))
        } else {
            Err("a name is 1 to 64 letters, digits, dots, underscores and dashes")
        }
    }
}

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An issuer of JWTs (OpenID Connect): a CI system, a Kubernetes cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The identity of who has its JWT is `oidc:<name>`.
    pub name: Label,
    /// Exactly as in the `iss` of its JWTs; its keys are found from there.
    pub issuer: String,
    /// One of these must be in the `aud` of a JWT: a JWT for another audience is refused.
    #[serde(deserialize_with = "one_or_many")]
    pub audience: Vec<String>,
    /// URL of its keys, for issuers that do not tell (`/.well-known/openid-configuration`).
    pub jwks: Option<String>,
    /// Certificates (PEM) to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// By how much its clock may be ahead of ours.
    #[serde(default = "minute")]
    pub skew: Span,
    /// Its keys are not asked for more often than this, whatever key a JWT names.
    #[serde(default = "ten_seconds")]
    pub cool_down: Span,
}

fn minute() -> Span {
    Span::minutes(1)
}

fn ten_seconds() -> Span {
    Span::seconds(10)
}

/// A rule. Rules only allow: everything that none of them allows is denied.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Patterns of identities: `token:ci`, `user:*`, `oidc:github`, `cert:builder-*`, `*` for all callers that
    /// have logged in, `anonymous` for the others.
    #[serde(deserialize_with = "one_or_many")]
    pub identity: Vec<Glob>,
    /// Each of these claims must match one of its patterns.
    #[serde(default, deserialize_with = "many_each")]
    pub claims: BTreeMap<String, Vec<Glob>>,
    #[serde(deserialize_with = "one_or_many")]
    pub may: Vec<Verb>,
    /// Patterns of repositories; a claim may be part of one. All of them by default.
    #[serde(default = "everything", deserialize_with = "one_or_many")]
    pub repositories: Vec<Template>,
    /// Patterns of tags. All of them by default.
    #[serde(default, deserialize_with = "one_or_many")]
    pub tags: Vec<Glob>,
    /// The tenant of these repositories. Of the rules that fit a caller and a repository, the first that names a tenant
    /// decides.
    #[serde(default, deserialize_with = "tenant")]
    pub tenant: Option<Tenant>,
    /// The scope of that tenant to which these callers write, and which no other caller reads. Of the rules that fit a
    /// caller and a repository, the first that names a scope decides.
    pub scope: Option<ScopeTemplate>,
    /// Scopes that they read beside their own, the nearest first; the tenant itself comes last. One that a claim is
    /// missing for is left out.
    #[serde(default, deserialize_with = "one_or_many")]
    pub parents: Vec<ScopeTemplate>,
    /// The line of the file in which it begins, where that is known.
    #[serde(skip)]
    pub line: Option<usize>,
}

fn tenant<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Tenant>, D::Error> {
    super::tenants::tenant(from).map(Some)
}

fn everything() -> Vec<Template> {
    Template::try_from("**".to_string()).into_iter().collect()
}

/// Prefix of the identity of a group.
const GROUP: &str = "group:";
/// Shortest key that tokens are signed with, in bytes.
const SIGNING_KEY_BYTES_MIN: usize = 32;

impl Config {
    /// Whether anything at all is said about who may what. Otherwise everybody may everything.
    pub fn is_closed(&self) -> bool {
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let logins = self.auth.htpasswd.is_some() || !self.tokens.is_empty() || !self.issuers.is_empty();
        logins || certificates || !self.rules.is_empty()
    }

    /// Puts the identities of a group where a rule names it.
    pub(super) fn expand_groups(&mut self) -> anyhow::Result<()> {
        for (name, members) in &self.groups {
            Label::try_from(name.clone()).map_err(|error| anyhow::anyhow!("[groups] {name}: {error}"))?;
            if let Some(inner) = members.iter().find(|member| member.as_str().starts_with(GROUP)) {
                bail!("[groups] {name}: {} is a group: name its identities", inner.as_str());
            }
        }
        for (number, rule) in self.rules.iter_mut().enumerate() {
            let mut identities = Vec::with_capacity(rule.identity.len());
            for identity in rule.identity.drain(..) {
                let Some(name) = identity.as_str().strip_prefix(GROUP) else {
                    identities.push(identity);
                    continue;
                };
                let Some(members) = self.groups.get(name) else {
                    let known: Vec<&str> = self.groups.keys().map(String::as_str).collect();
                    bail!("[[rules]] number {}: [groups] has no {name}; it has: {}", number + 1, known.join(", "));
                };
                identities.extend(members.iter().cloned());
            }
            rule.identity = identities;
        }
        Ok(())
    }

    /// Files beside the configuration's own that it is made of, and that are read again when they change.
    pub fn files(&self) -> Vec<&Path> {
        let tls = self.tls.iter().flat_map(|tls| [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()]);
        let issuers = self.issuers.iter().map(|issuer| issuer.ca_file.as_ref());
        let auth = [self.auth.htpasswd.as_ref(), self.auth.signing_keys_file.as_ref()];
        tls.chain(issuers).chain(auth).flatten().map(PathBuf::as_path).collect()
    }

    /// The keys that tokens are signed with, where they are configured.
    pub fn signing_keys(&self) -> anyhow::Result<Vec<Secret>> {
        let mut keys = self.auth.signing_keys.clone();
        if let Some(path) = &self.auth.signing_keys_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
            keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new));
        }
        if keys.iter().any(|key| key.expose().len() < SIGNING_KEY_BYTES_MIN) {
            bail!("[auth] signing keys need at least {SIGNING_KEY_BYTES_MIN} characters: `openssl rand -hex 32`");
        }
        Ok(keys)
    }
}

/// Prefixes of identities, except `anonymous`.
pub(super) const IDENTITY_KINDS: [&str; 4] = ["token:", "user:", "oidc:", "cert:"];
/// Without the pattern: what is in the wrong place may be a token.
const NO_IDENTITY: &str = "an identity begins with its kind: token:ci, user:alice, oidc:github, cert:builder-*; or it is anonymous, \
                           or * for all that have logged in";

/// Whether a pattern can match any identity.
fn can_be_identity(pattern: &Glob) -> bool {
    pattern.as_str() == "anonymous" || IDENTITY_KINDS.iter().any(|kind| can_match_kind(pattern, kind))
}

/// Whether a pattern can match an identity of this kind.
pub(super) fn can_match_kind(pattern: &Glob, kind: &str) -> bool {
    let head = pattern.as_str().split('*').next().unwrap_or_default();
    let is_open = head.len() < pattern.as_str().len();
    (is_open && kind.starts_with(head)) || head.strip_prefix(kind).is_some_and(|name| is_open || !name.is_empty())
}

/// Checks the parts against each other.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let mut names = HashSet::new();
    for token in &config.tokens {
        if !names.insert(token.name.as_str()) {
            bail!("[[tokens]] has {} twice", token.name.as_str());
        }
    }
    let mut issuers = HashSet::new();
    for issuer in &config.issuers {
        if !issuers.insert(issuer.name.as_str()) || !issuers.insert(issuer.issuer.as_str()) {
            bail!("[[issuers]] has {} twice", issuer.name.as_str());
        }
        if issuer.audience.is_empty() || issuer.audience.iter().any(String::is_empty) {
            bail!("[[issuers]] {}: audience is missing", issuer.name.as_str());
        }
        for url in [Some(&issuer.issuer), issuer.jwks.as_ref()].into_iter().flatten() {
            if !is_safe(url) {
                bail!("[[issuers]] {}: issuer and jwks must begin with https://", issuer.name.as_str());
            }
        }
    }
    for (number, rule) in config.rules.iter().enumerate() {
        if rule.identity.is_empty() || rule.may.is_empty() || rule.repositories.is_empty() {
            bail!("[[rules]] number {}: identity, may and repositories must name something", number + 1);
        }
        if !rule.identity.iter().all(can_be_identity) {
            bail!("[[rules]] number {}: {NO_IDENTITY}", number + 1);
        }
        if rule.scope.is_none() && !rule.parents.is_empty() {
            bail!("[[rules]] number {}: parents need a scope", number + 1);
        }
        if rule.scope.is_some() && rule.may.contains(&Verb::Admin) {
            bail!("[[rules]] number {}: a rule with a scope must not allow admin", number + 1);
        }
    }
    if !config.auth.metrics.iter().flatten().all(can_be_identity) {
        bail!("[auth] metrics: {NO_IDENTITY}");
    }
    if config.auth.failed_logins == 0 {
        bail!("[auth] failed_logins must be at least 1");
    }
    if !config.server.listen_plain.is_empty() && config.tls.is_none() {
        bail!("[server] listen_plain goes with [tls]: without it, all addresses are plain");
    }
    // Not by the parser: from the environment, the two come one after the other.
    if config.tls.as_ref().is_some_and(|tls| tls.cert.as_os_str().is_empty() || tls.key.as_os_str().is_empty()) {
        bail!("[tls] needs cert and key");
    }
    config.signing_keys().map(drop)
}

/// Keys that come over an open line could be anybody's; on this machine there is no line.
fn is_safe(url: &str) -> bool {
    let local = ["http://127.0.0.1", "http://[::1]", "http://localhost"];
    let is_local = |prefix: &&str| {
        let rest = url.strip_prefix(*prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    };
    url.starts_with("https://") || local.iter().any(is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Config> {
        let mut config: Config = toml::from_str(text)?;
        config.expand_groups()?;
        check(&config).map(|()| config)
    }

    #[test]
    fn a_group_stands_for_its_identities() {
        const GROUPS: &str = "[groups]\nbackend = [\"user:alice\", \"token:ci\"]\nops = \"user:olga\"\n";
        let rule = |identity: &str| parse(&format!("{GROUPS}[[rules]]\nidentity = {identity}\nmay = [\"pull\"]\n"));
        let identities = |config: Config| -> Vec<String> {
            config.rules[0].identity.iter().map(|identity| identity.as_str().to_string()).collect()
        };
        assert_eq!(identities(rule("\"group:backend\"").unwrap()), ["user:alice", "token:ci"]);
        assert_eq!(identities(rule("[\"anonymous\", \"group:ops\"]").unwrap()), ["anonymous", "user:olga"]);
        let unknown = rule("\"group:backed\"").unwrap_err().to_string();
        assert_eq!(unknown, "[[rules]] number 1: [groups] has no backed; it has: backend, ops");
        let nested = parse("[groups]\na = \"user:b\"\nb = \"group:a\"\n").unwrap_err().to_string();
        assert!(nested.contains("group:a is a group"), "{nested}");
        assert!(parse("[groups]\n\"a b\" = \"user:b\"\n").is_err());
    }

    #[test]
    fn a_scope_whose_claim_may_be_missing_is_doubted() {
        let doubts = |more: &str| {
            let rule = "[[rules]]\nidentity = \"oidc:a\"\nmay = [\"push\"]\nscope = \"{repository}@{head_ref}\"\n";
            let issuer = "[[issuers]]\nname = \"a\"\nissuer = \"https://a\"\naudience = \"a\"\n";
            let text = format!("{issuer}[[rules]]\nidentity = \"*\"\nmay = [\"pull\"]\n{rule}{more}");
            parse(&text).unwrap().doubts().join("\n")
        };
        let both = doubts("");
        assert!(both.contains("number 2") && both.contains("repository") && both.contains("head_ref"), "{both}");
        let one = doubts("repositories = \"{repository}/**\"");
        assert!(!one.contains("claim repository") && one.contains("claim head_ref"), "{one}");
        // By the other pattern, who lacks the claim is let in to the rule as well.
        assert!(doubts("repositories = [\"{repository}/**\", \"shared\"]").contains("claim repository"));
        let none = doubts("repositories = \"{repository}/**\"\nclaims = { head_ref = \"*\" }\nparents = \"{base}\"");
        assert_eq!(none, "", "parents that cannot be told are left out");
    }

    #[test]
    fn nothing_is_open_and_anything_is_closed() {
        assert!(!parse("").unwrap().is_closed());
        for text in [
            "[auth]\nhtpasswd = \"x\"",
            &format!("[[tokens]]\nname = \"ci\"\nhash = \"sha256:{}\"", "0".repeat(64)),
            "[[issuers]]\nname = \"a\"\nissuer = \"https://a\"\naudience = \"larder\"",
            "[tls]\ncert = \"c\"\nkey = \"k\"\nclient_ca = \"ca\"",
            "[[rules]]\nidentity = \"anonymous\"\nmay = [\"pull\"]",
        ] {
            assert!(parse(text).unwrap().is_closed(), "{text}");
        }
        assert!(!parse("[tls]\ncert = \"c\"\nkey = \"k\"").unwrap().is_closed());
    }

    #[test]
    fn a_token_expires_at_a_time_or_never() {
        let token = |expires: &str| {
            let text = format!("[[tokens]]\nname = \"ci\"\nhash = \"sha256:{}\"\n{expires}", "0".repeat(64));
            parse(&text).map(|config| config.tokens[0].expires)
        };
        assert_eq!(token("").unwrap(), None);
        assert_eq!(token("expires = \"never\"").unwrap(), None);
        let time = token("expires = \"2027-01-01T00:00:00Z\"").unwrap().unwrap();
        assert_eq!(time.to_string(), "2027-01-01T00:00:00Z");
        for wrong in ["", "Never", "soon", "2027-01-01"] {
            let error = format!("{:#}", token(&format!("expires = \"{wrong}\"")).unwrap_err());
            assert!(error.contains("2027-01-01T00:00:00Z, or never"), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_would_let_in_too_many_is_refused() {
        let issuer = |rest: &str| format!("[[issuers]]\nname = \"a\"\n{rest}");
        for (text, expected) in [
            (issuer("issuer = \"http://example.com\"\naudience = \"x\""), "https://"),
            (issuer("issuer = \"http://127.0.0.1.example.com\"\naudience = \"x\""), "https://"),
            (issuer("issuer = \"https://a\"\naudience = []"), "audience"),
            (issuer("issuer = \"https://a\""), "audience"),
            ("[[tokens]]\nname = \"a\"\nhash = \"secret\"".into(), "larder token new"),
            ("[[rules]]\nidentity = \"*\"\nmay = [\"pul\"]".into(), "pul"),
            ("[[rules]]\nidentity = \"*\"\nmay = []".into(), "number 1"),
            ("[[rules]]\nidentity = \"*\"\nmay = [\"pull\"]\nrepositories = \"A\"".into(), "repository name"),
            ("[[rules]]\nidentity = \"*\"\nmay = [\"pull\"]\nrepository = \"a\"".into(), "repository"),
            ("[[rules]]\nidentity = \"*\"\nmay = [\"pull\"]\nparents = \"main\"".into(), "parents"),
            ("[[rules]]\nidentity = \"*\"\nmay = [\"admin\"]\nscope = \"prs\"".into(), "must not allow admin"),
            ("[[rules]]\nidentity = \"*\"\nmay = [\"pull\"]\nscope = \"pr-{a}-{b}\"".into(), "between two claims"),
            ("[auth]\nsigning_keys = [\"short\"]".into(), "32"),
            ("[server]\nlisten_plain = [\"127.0.0.1:1\"]".into(), "listen_plain"),
            ("[tls]\nkey = \"k\"".into(), "needs cert and key"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
        parse(&issuer("issuer = \"http://127.0.0.1:99\"\naudience = [\"x\", \"y\"]")).unwrap();
    }
}
