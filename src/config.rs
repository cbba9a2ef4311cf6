//! The configuration: one TOML file, then `LARDER_<SECTION>_<KEY>` from the environment.
//!
//! Every key has a default, so no configuration at all works. Unknown keys are errors: a misspelt limit must not pass
//! for a set one. Others set variables that begin with `LARDER_`, too: one that names no section is ignored with a warning.
//! A parsed configuration is valid; the rest of the code checks nothing again.

mod auth;
mod collect;
mod complaint;
mod doubts;
mod environment;
mod forms;
mod ingredients;
mod live;
mod network;
mod paths;
mod pattern;
mod policies;
mod store;
mod tenants;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytesize::ByteSize;
use serde::Deserialize;
use serde::de::IgnoredAny;

use complaint::{complaint, complaint_of_value};
use environment::{Meant, meant_by, overlay};
use forms::one_or_many;

pub use auth::{AuthConfig, Challenge, IssuerConfig, Label, RuleConfig, TokenConfig, TokenHash};
pub use collect::{CollectConfig, GRAIN, RetainConfig};
pub use ingredients::Ingredients;
pub use network::{HostName, ListenAddress, Network, PublicUrl};
pub use pattern::{Glob, Pattern, ScopeTemplate, Template};
pub use policies::policies_of_file;
pub use store::{Checksum, Redirect, S3Config, Secret, StoreConfig};
pub use tenants::{DiskShare, Quota, ScopesConfig, TenantConfig};
pub use tls::{ClientAuth, TlsConfig};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub store: StoreConfig,
    pub hot: HotConfig,
    pub limits: LimitsConfig,
    pub log: LogConfig,
    pub auth: AuthConfig,
    pub tls: Option<TlsConfig>,
    /// Static tokens.
    pub tokens: Vec<TokenConfig>,
    /// Issuers whose JWTs are accepted.
    pub issuers: Vec<IssuerConfig>,
    /// Groups of identities, by name: a rule with the identity `group:<name>` is for all of them.
    #[serde(deserialize_with = "forms::many_each")]
    pub groups: BTreeMap<String, Vec<Glob>>,
    /// Rights of callers. Everything that no rule allows is denied.
    pub rules: Vec<RuleConfig>,
    pub collect: CollectConfig,
    /// Rules for repositories; of those that match a name, the first counts.
    pub repositories: Vec<RepositoryConfig>,
    /// Tenants; of those that have a pattern for a repository, it belongs to the first.
    pub tenants: Vec<TenantConfig>,
    pub scopes: ScopesConfig,
    /// Variables of the environment that begin with `LARDER_` and name no section.
    #[serde(skip)]
    pub unknown_variables: Vec<String>,
    #[serde(skip)]
    reloaded: live::ReloadedSettings,
}

/// Addresses and names of the server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Addresses to listen on, IPv4 or IPv6: with TLS where `[tls]` is configured.
    #[serde(deserialize_with = "network::listen")]
    pub listen: Vec<SocketAddr>,
    /// Addresses to listen on without TLS, beside those of `listen`.
    #[serde(deserialize_with = "network::listen")]
    pub listen_plain: Vec<SocketAddr>,
    /// The URL by which clients reach the server, if it is not the address that they ask: `https://cache.example.com`.
    pub public_url: Option<PublicUrl>,
    /// Names by which browsers may reach the server, beside that of `public_url`, `localhost` and addresses.
    #[serde(deserialize_with = "one_or_many")]
    pub hosts: Vec<HostName>,
    /// Proxies whose `X-Forwarded-…` headers are believed.
    #[serde(deserialize_with = "one_or_many")]
    pub trusted_proxies: Vec<Network>,
    /// Time after SIGTERM until requests in flight are cut.
    pub drain: Span,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 5000))],
            listen_plain: Vec::new(),
            public_url: None,
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            drain: Span::seconds(60),
        }
    }
}

/// The in-memory layer in front of the store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HotConfig {
    /// Memory for immutable bytes.
    pub size: ByteSize,
    /// Blobs up to this size are kept whole; larger ones in chunks where the store is far, and not at all where it is near.
    /// Never more than an eighth of `size`. A reader holds such a blob in memory until it has been sent.
    pub blob_max: ByteSize,
    #[doc(hidden)]
    pub chunk: Obsolete,
}

impl Default for HotConfig {
    fn default() -> Self {
        HotConfig { size: ByteSize::mib(256), blob_max: ByteSize::mib(16), chunk: None }
    }
}

/// The bounds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Open connections. Further ones wait in the kernel's queue.
    pub connections: usize,
    /// Blobs being received at once. Further ones wait with their bodies unread.
    pub uploads: usize,
    /// Largest blob.
    pub blob: ByteSize,
    /// Largest manifest. The distribution spec asks registries for at least 4 MiB.
    pub manifest: ByteSize,
    /// A request body may pause for so long: a builder opens the request first and only then fetches what it sends.
    pub body_idle: Span,
    /// A chunked upload is dropped when nothing has come for so long.
    pub upload_idle: Span,
    /// Idle connections are closed after this, and slow request heads. Builders keep connections for 120 s: closing
    /// first would race with their next request.
    pub keep_alive: Span,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            connections: 4096,
            uploads: 256,
            blob: ByteSize::gib(512),
            manifest: ByteSize::mib(4),
            body_idle: Span::minutes(15),
            upload_idle: Span::hours(24),
            keep_alive: Span::seconds(180),
        }
    }
}

/// Content and format of the log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A filter of the `tracing` kind, for example `info,larder=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { format: LogFormat::Text, filter: "info".into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// A rule for the repositories that match a pattern.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {
    /// `*` stands for any characters but `/`, `**` for any characters.
    pub pattern: Pattern,
    /// Manifests may name content that is not here. Cache manifests never may.
    #[serde(default)]
    pub sparse: bool,
    /// Cache tags serve the union of their pushes; `false` gives plain last-push-wins.
    #[serde(default = "yes")]
    pub views: bool,
    /// Which tags stay.
    #[serde(default, deserialize_with = "one_or_many")]
    pub retain: Vec<RetainConfig>,
}

/// A key that earlier versions had. It is ignored, so that a file of theirs does not stop this one.
pub type Obsolete = Option<IgnoredAny>;

fn yes() -> bool {
    true
}

impl Config {
    /// Reads the file, when one is given, and lays the environment over it. All paths become absolute: relative ones that
    /// are written in the file begin at its folder, all others at the working directory.
    pub fn load(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> anyhow::Result<Config> {
        let (mut table, mut rule_lines) = (toml::Table::new(), Vec::new());
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            // Checked by itself first: only here are line numbers known.
            let invalid = |error| anyhow!("{} is not valid: {}", path.display(), complaint(&error, &text));
            let _: Config = toml::from_str(&text).map_err(invalid)?;
            table = toml::from_str(&text).map_err(invalid)?;
            paths::from_folder_of(path, &mut table)?;
            rule_lines = complaint::lines_of(&text, "[[rules]]");
        }
        let mut unknown_variables = Vec::new();
        for (name, value) in environment {
            match meant_by(&name, &value) {
                Meant::Key { section, key } => overlay(&mut table, &name, (&section, &key), &value)?,
                Meant::NoSection => unknown_variables.push(name),
                Meant::Other => {}
            }
        }
        let config: Result<Config, _> = table.try_into();
        let mut config = config.map_err(|error| {
            anyhow!("the configuration with the environment is not valid: {}", complaint_of_value(&error))
        })?;
        unknown_variables.sort_unstable();
        config.unknown_variables = unknown_variables;
        // Where a rule is written in another way, none has a line.
        if rule_lines.len() == config.rules.len() {
            config.rules.iter_mut().zip(rule_lines).for_each(|(rule, line)| rule.line = Some(line));
        }
        config.expand_groups()?;
        config.check()?;
        paths::make_absolute(&mut config)?;
        Ok(config)
    }

    /// Warnings about keys and variables that are set and ignored.
    pub fn ignored(&self) -> Vec<String> {
        let prices = |s3: &S3Config| s3.price_of_writes.is_some() || s3.price_of_reads.is_some();
        let prices = self.store.s3.as_ref().is_some_and(prices);
        let prices = prices.then_some("[store.s3] price_of_writes and price_of_reads are ignored: see docs/metrics.md");
        let chunk = self.hot.chunk.is_some().then_some("[hot] chunk is ignored: chunks have 1 MiB");
        let unknown = |name: &String| {
            format!(
                "{name} is ignored: variables for the configuration are called LARDER_<SECTION>_<KEY>, and this names no section"
            )
        };
        let keys = prices.into_iter().chain(chunk).map(str::to_string);
        keys.chain(self.unknown_variables.iter().map(unknown)).collect()
    }

    fn check(&self) -> anyhow::Result<()> {
        let (listen, limits) = (&self.server.listen, &self.limits);
        if listen.is_empty() {
            bail!("[server] listen names no address");
        }
        // Each listener holds a place while it waits for a connection.
        if limits.connections < listen.len() + self.server.listen_plain.len() {
            bail!("[limits] connections must be at least one for each address of [server] listen");
        }
        if limits.uploads == 0 {
            bail!("[limits] uploads must be at least 1");
        }
        if limits.manifest.as_u64() > READ_BYTES_MAX {
            bail!("[limits] manifest must be at most {}", ByteSize(READ_BYTES_MAX));
        }
        self.collect.check()?;
        if let Some(s3) = &self.store.s3 {
            s3.check()?;
        }
        auth::check(self)?;
        self.check_tenants()
    }
}

/// Largest object that is read into memory as a whole: a manifest of the largest accepted size fits, with room.
pub const READ_BYTES_MAX: u64 = 16 << 20;

/// A time span, written like `90s`, `10m`, `24h` or `7d`. A day has 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "jiff::Span")]
pub struct Span(Duration);

impl Span {
    pub const fn seconds(seconds: u64) -> Span {
        Span(Duration::from_secs(seconds))
    }

    pub const fn minutes(minutes: u64) -> Span {
        Span::seconds(minutes * 60)
    }

    pub const fn hours(hours: u64) -> Span {
        Span::minutes(hours * 60)
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<jiff::Span> for Span {
    type Error = &'static str;

    fn try_from(span: jiff::Span) -> Result<Span, Self::Error> {
        let days = jiff::SpanRelativeTo::days_are_24_hours();
        let span = span.to_duration(days).map_err(|_| "months and years are not all equally long: use days")?;
        match Duration::try_from(span) {
            Ok(span) if !span.is_zero() => Ok(Span(span)),
            _ => Err("a time span must be greater than zero"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_people_write_them() {
        #[derive(Debug, Deserialize)]
        struct Of {
            span: Span,
        }
        let parse = |text: &str| toml::from_str::<Of>(&format!("span = \"{text}\"")).map(|of| of.span.get().as_secs());
        for (text, seconds) in
            [("90s", 90), ("10m", 600), ("1h30m", 5400), ("24h", 86400), ("7d", 604_800), ("2w", 1_209_600)]
        {
            assert_eq!(parse(text).unwrap(), seconds, "{text}");
        }
        for text in ["0s", "-5m", "1mo", "2y", "5", "soon"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    fn load(text: &str, environment: &[(&str, &str)]) -> anyhow::Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("larder.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), environment.iter().map(|(k, v)| (k.to_string(), v.to_string())))
    }

    #[test]
    fn nothing_at_all_is_a_valid_configuration() {
        let config = Config::load(None, std::iter::empty()).unwrap();
        assert_eq!(config.server.listen, ["127.0.0.1:5000".parse().unwrap()]);
        assert_eq!(config.store.path, std::env::current_dir().unwrap().join("larder-data"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = format!("{:#}", load("[server]\n\n[limits]\nconections = 3\n", &[]).unwrap_err());
        assert!(error.contains("conections") && error.contains("line 4"), "{error}");
    }

    /// What stands for a secret in the slips below.
    const SECRET: &str = "xQ7+HUSH/larder_abcdefghijklmnopqrstuvwxyz0123456789";

    #[test]
    fn no_error_shows_a_secret() {
        for (line, slip) in [
            (2, "[auth]\nsigning_keys = [\"S\", 5]"),
            (2, "[auth]\nsigning_keys = S"),
            (2, "[auth]\nsigning_keys = [\"S]"),
            (2, "[auth]\nsigning_key = [\"S\"]"),
            (3, "[[tokens]]\nname = \"ci\"\nhash = \"S\""),
            (3, "[[tokens]]\nname = \"ci\"\nhash = S"),
            (3, "[[tokens]]\nname = \"ci\"\nhash = { S = 1 }"),
            (2, "[[tokens]]\nname = \"S\""),
            (2, "[[tokens]]\nexpires = \"S\""),
            (2, "[store.s3]\nsecret_acces_key = \"S\""),
            (2, "[store.s3]\nsecret_access_key = [\"S\"]"),
            (2, "[store.s3]\nsecret_access_key = S"),
            (2, "[store.s3]\nsecret_access_key = \"S"),
            (2, "[store.s3]\n\"S\" = 1"),
            (2, "[store.s3]\nS"),
            (1, "store = \"S\""),
        ] {
            let error = load(&slip.replace('S', SECRET), &[]).unwrap_err();
            for told in [format!("{error:#}"), format!("{error:?}")] {
                assert!(!told.contains("HUSH") && !told.contains("abcdefg"), "{slip}: {told}");
                assert!(told.contains(&format!("line {line}, column")), "{slip}: {told}");
            }
        }
        for (name, value) in [
            ("LARDER_AUTH_SIGNING_KEYS", "[\"HUSH\", 5]"),
            ("LARDER_STORE_S3_SECRET_ACCES_KEY", SECRET),
            ("LARDER_TOKENS_HASH", SECRET),
        ] {
            let told = format!("{:?}", load("", &[(name, value)]).unwrap_err());
            assert!(told.contains(name) && !told.contains("HUSH"), "{told}");
        }
        // Too short to sign with, and not shown all the same.
        let told = format!("{:?}", load("", &[("LARDER_AUTH_SIGNING_KEYS", "[\"HUSH\"]")]).unwrap_err());
        assert!(told.contains("signing keys") && !told.contains("HUSH"), "{told}");
    }

    #[test]
    fn an_error_shows_what_is_no_secret() {
        for (slip, shown) in [
            ("[auth]\nchallenge = \"digest\"", "digest"),
            ("[auth]\ntoken_life = \"soon\"", "duration"),
            ("[limits]\nuploads = -1", "line 2"),
        ] {
            let told = format!("{:#}", load(slip, &[]).unwrap_err());
            assert!(told.contains(shown), "{slip}: {told}");
        }
    }

    #[test]
    fn keys_of_an_earlier_version_are_ignored_and_named() {
        let file = "[hot]\nchunk = \"4MiB\"\n[store.s3]\nbucket = \"b\"\nprice_of_writes = 0.01\n";
        let ignored = load(file, &[("LARDER_STORE_S3_PRICE_OF_READS", "0.1")]).unwrap().ignored().join("\n");
        assert!(ignored.contains("price_of_writes") && ignored.contains("[hot] chunk"), "{ignored}");
        assert!(load("[store.s3]\nbucket = \"b\"", &[]).unwrap().ignored().is_empty());
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = "[hot]\nsize = \"1GiB\"\n[limits]\nbody_idle = \"5m\"\n";
        let environment = [
            ("LARDER_HOT_SIZE", "64MiB"),
            ("LARDER_SERVER_LISTEN", r#"["[::1]:5001", "127.0.0.1:5001"]"#),
            ("LARDER_LIMITS_CONNECTIONS", "7"),
            ("OTHER", "x"),
        ];
        let config = load(file, &environment).unwrap();
        assert_eq!(config.hot.size, ByteSize::mib(64));
        assert_eq!(config.server.listen.len(), 2);
        assert_eq!(config.limits.connections, 7);
        assert_eq!(config.limits.body_idle.get(), Duration::from_secs(300));
    }

    #[test]
    fn one_value_is_taken_where_a_list_is_meant() {
        let file = r#"
            [server]
            listen = "127.0.0.1:5001"
            hosts = "larder.internal"
            trusted_proxies = "10.0.0.0/8"
            [auth]
            signing_keys = "0123456789012345678901234567890123456789"
            metrics = "token:ci"
            [[tenants]]
            name = "a"
            repositories = "a/**"
            [[repositories]]
            pattern = "a/**"
            retain = { tags = "pr-*", newest = 3 }
            [[rules]]
            identity = "anonymous"
            claims = { ref = "main" }
            may = "pull"
            tags = "v*"
        "#;
        let config = load(file, &[]).unwrap();
        assert_eq!(config.server.listen, ["127.0.0.1:5001".parse().unwrap()]);
        assert_eq!(
            (config.rules[0].may.len(), config.repositories[0].retain.len(), config.rules[0].line),
            (1, 1, Some(15))
        );
        let config = load(file, &[("LARDER_SERVER_LISTEN", "0.0.0.0:5000")]).unwrap();
        assert_eq!(config.server.listen, ["0.0.0.0:5000".parse().unwrap()]);
    }

    #[test]
    fn what_a_value_should_be_is_said_in_words() {
        for (text, said) in [
            ("[[tenants]]\nname = \"default\"\nquota = \"5GiB\"", "quota = { max = \"5GiB\" }"),
            (
                "[server]\nlisten = \"127.0.0.1\"",
                "line 2, column 10 (listen): write ADDRESS:PORT, for example 0.0.0.0:5000",
            ),
            ("[server]\nlisten = 5000", "expected one value or a list of them"),
            ("[limits]\nuploads = \"many\"", "expected a whole number"),
            ("hot = \"1GiB\"", "expected a section with keys"),
            ("[collect]\ngrace = \"1m\"", "[collect] grace and lease must be at least 1h"),
            ("[[rules]]\nidentity = \"ci\"\nmay = \"pull\"", "number 1: an identity begins with its kind: token:ci"),
        ] {
            let told = format!("{:#}", load(text, &[]).unwrap_err());
            assert!(told.contains(said), "{text}: {told}");
            assert!(!told.contains("Config") && !told.contains("short_spans"), "{told}");
        }
    }

    #[test]
    fn variables_of_others_do_not_stop_the_server() {
        let others = [
            // As Kubernetes sets them for services called larder, larder-server, larder-store and larder-hot.
            ("LARDER_SERVICE_HOST", "10.0.0.1"),
            ("LARDER_SERVICE_PORT", "5000"),
            ("LARDER_SERVICE_PORT_REGISTRY", "5000"),
            ("LARDER_PORT", "tcp://10.0.0.1:5000"),
            ("LARDER_PORT_5000_TCP", "tcp://10.0.0.1:5000"),
            ("LARDER_PORT_5000_TCP_ADDR", "10.0.0.1"),
            ("LARDER_SERVER_SERVICE_HOST", "10.0.0.1"),
            ("LARDER_SERVER_SERVICE_PORT_REGISTRY", "5000"),
            ("LARDER_SERVER_PORT", "tcp://10.0.0.1:5000"),
            ("LARDER_STORE_PORT", "udp://10.0.0.1:53"),
            ("LARDER_STORE_PORT_5000_TCP_PROTO", "tcp"),
            ("LARDER_HOT_PORT_53_UDP", "udp://10.0.0.1:53"),
            ("LARDER_HOT_PORT_53_UDP_PORT", "53"),
        ];
        assert_eq!(load("", &others).unwrap().ignored(), [] as [&str; 0]);
        let strange = [
            ("LARDER_BIN", "/usr/bin/larder"),
            ("LARDER_TOOLS_DIR", "/opt"),
            ("LARDER_LOG", "debug"),
            ("LARDER_PORT", "5000"),
            ("LARDER_", "x"),
        ];
        let ignored = load("", &strange).unwrap().ignored();
        assert_eq!(ignored.len(), strange.len(), "{ignored:?}");
        assert!(
            ignored.iter().zip(["", "BIN", "LOG", "PORT", "TOOLS_DIR"]).all(|(told, name)| {
                told.starts_with(&format!("LARDER_{name} is ignored")) && !told.contains("/opt")
            })
        );
        for (name, value) in [
            ("LARDER_SERVER_PORT", "5000"),
            ("LARDER_HOT_PORT_TCP", "x"),
            ("LARDER_STORE_S3_BUCKETT", "b"),
            ("LARDER_LOG_LEVEL", "debug"),
            ("LARDER_TOKENS_HASH", "x"),
        ] {
            let error = format!("{:#}", load("", &[(name, value)]).unwrap_err());
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn values_that_would_stall_the_server_are_refused() {
        for text in [
            "[limits]\nuploads = 0",
            "[limits]\nconnections = 0",
            "[limits]\nmanifest = \"1GiB\"",
            "[server]\nlisten = []",
        ] {
            assert!(load(text, &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bad_variable_is_named() {
        for (name, value) in [("LARDER_HOT_SIEZ", "1"), ("LARDER_HOT_SIZE", "many"), ("LARDER_TLS_X", "1")] {
            let error = format!("{:#}", load("", &[(name, value)]).unwrap_err());
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_store_is_in_a_folder_or_in_a_bucket() {
        let config = load("[store.s3]\nbucket = \"b\"\nprefix = \"a/b/\"\n", &[]).unwrap();
        assert_eq!(config.store.s3.unwrap().address(), "s3://b/a/b");
        for (file, expected) in [
            ("[store]\npath = \"x\"\ns3.bucket = \"b\"", "not in both"),
            ("[store.s3]\nbuckett = \"b\"", "buckett"),
            ("[store.s3]\nregion = \"r\"", "bucket is missing"),
            ("[store.s3]\nbucket = \"b\"\naccess_key_id = \"a\"", "or neither"),
            ("[store.s3]\nbucket = \"b\"\npart_size = \"1MiB\"", "part_size"),
            ("[store.s3]\nbucket = \"b\"\nprefix = \"/a\"", "prefix"),
            ("[store.s3]\nbucket = \"b\"\nupload_memory = \"7MiB\"", "upload_memory"),
        ] {
            let error = format!("{:#}", load(file, &[]).unwrap_err());
            assert!(error.contains(expected), "{file}: {error}");
        }
    }

    #[test]
    fn certificates_may_come_from_the_environment() {
        let environment = [("LARDER_TLS_KEY", "k"), ("LARDER_TLS_CERT", "c"), ("LARDER_TLS_CLIENT_AUTH", "required")];
        let tls = load("", &environment).unwrap().tls.unwrap();
        assert_eq!((tls.cert, tls.key), (std::path::absolute("c").unwrap(), std::path::absolute("k").unwrap()));
    }

    #[test]
    fn the_environment_reaches_a_section_within_a_section() {
        let environment = [
            // In this order: what is not complete yet is no error.
            ("LARDER_STORE_S3_SECRET_ACCESS_KEY", "12345"),
            ("LARDER_STORE_S3_ACCESS_KEY_ID", "id"),
            ("LARDER_STORE_S3_BUCKET", "2026"),
            ("LARDER_STORE_S3_PART_SIZE", "16MiB"),
            ("LARDER_STORE_S3_PATH_STYLE", "true"),
        ];
        let s3 = load("[store.s3]\nbucket = \"b\"", &environment).unwrap().store.s3.unwrap();
        assert_eq!((s3.bucket.as_str(), s3.part_size, s3.path_style), ("2026", ByteSize::mib(16), Some(true)));
        assert!(!format!("{s3:?}").contains("12345"));
        let error = format!("{:#}", load("", &[("LARDER_STORE_S3_BUCKETT", "b")]).unwrap_err());
        assert!(error.contains("LARDER_STORE_S3_BUCKETT"), "{error}");
    }
}
