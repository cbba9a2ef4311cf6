//! JWTs of CI systems (OpenID Connect): signed by a configured issuer, made for this server, and not expired.
//!
//! The keys of an issuer are fetched when a JWT names an unknown one, and once an hour, but not more often than its
//! cool-down allows: so JWTs that name random keys cause no flood of requests to the issuer. While the issuer is
//! unreachable, the known keys stay valid.
//!
//! Invariant: a JWT whose key is known waits for no fetch that another JWT has caused. Known keys are read without a
//! lock, and one fetch at a time runs beside them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use super::identity::{Identity, IdentitySource, claims_of};
use super::tls;
use crate::config::IssuerConfig;

/// Age at which keys in use are fetched again, while requests use the old ones.
const KEYS_RENEW: Duration = Duration::from_secs(1800);
/// Age at which keys are fetched again before they are used: a withdrawn key is accepted for no longer.
const KEYS_FRESH: Duration = Duration::from_secs(3600);
/// Time limit of a whole fetch, and so of the wait for keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer of an issuer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Asymmetric algorithms only: an HMAC secret that an issuer publishes as a key is no secret.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// The reason why a JWT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("JWT cannot be read")]
    Malformed,
    #[error("JWT has an issuer that is not configured")]
    UnknownIssuer,
    #[error("JWT is signed with a key that its issuer does not list")]
    UnknownKey,
    #[error("JWT has a wrong signature, or an unsupported algorithm")]
    Signature,
    #[error("JWT has expired: exchange it for a token of larder before the build (`larder login`)")]
    Expired,
    #[error("JWT is not valid yet")]
    Early,
    #[error("JWT has a time (nbf or iat) that is not a number")]
    Time,
    #[error("JWT was made for another audience")]
    Audience,
    #[error("keys of the issuer cannot be fetched")]
    Unreachable,
}

/// A JWT that was verified.
#[derive(Clone, Debug)]
pub struct Verified {
    pub identity: Identity,
    /// Seconds since 1970.
    pub expires: u64,
}

/// All configured issuers.
#[derive(Default)]
pub struct Issuers {
    issuers: Vec<Arc<Issuer>>,
}

struct Issuer {
    config: IssuerConfig,
    client: reqwest::Client,
    /// Nothing before the first fetch.
    keys: ArcSwapOption<IssuerKeys>,
    fetching: Mutex<Fetching>,
}

struct IssuerKeys {
    set: JwkSet,
    fetched: Instant,
}

/// The last fetch. Its lock is never held over an await.
#[derive(Default)]
struct Fetching {
    began: Option<Instant>,
    has_failed: bool,
    /// Closed at the end of the fetch.
    end: Option<watch::Receiver<()>>,
}

/// Tells whether a password has the form of a JWT.
pub fn looks_like_jwt(text: &str) -> bool {
    text.starts_with("ey") && text.bytes().filter(|b| *b == b'.').count() == 2
}

impl Issuers {
    pub fn new(configs: &[IssuerConfig]) -> anyhow::Result<Issuers> {
        let issuers = configs.iter().map(|config| Issuer::new(config).map(Arc::new)).collect::<anyhow::Result<_>>()?;
        Ok(Issuers { issuers })
    }

    pub fn has(&self, name: &str) -> bool {
        self.issuers.iter().any(|issuer| issuer.config.name.as_str() == name)
    }

    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    pub async fn verify(&self, jwt: &str) -> Result<Verified, Rejected> {
        // The claimed issuer selects the keys; no other claim is used before the signature is verified.
        let claimed: Claimed = jsonwebtoken::dangerous::insecure_decode_claims(jwt).map_err(|_| Rejected::Malformed)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.config.issuer == claimed.iss);
        issuer.ok_or(Rejected::UnknownIssuer)?.verify(jwt).await
    }
}

#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

/// An issuer's metadata (OpenID Connect Discovery, section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    fn new(config: &IssuerConfig) -> anyhow::Result<Issuer> {
        let mut client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca_file {
            for certificate in tls::certificates(path)? {
                client = client.add_root_certificate(reqwest::Certificate::from_der(&certificate)?);
            }
        }
        Ok(Issuer {
            config: config.clone(),
            client: client.build()?,
            keys: ArcSwapOption::empty(),
            fetching: Mutex::default(),
        })
    }

    async fn verify(self: &Arc<Self>, jwt: &str) -> Result<Verified, Rejected> {
        let header = jsonwebtoken::decode_header(jwt).map_err(|_| Rejected::Malformed)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Rejected::Signature);
        }
        let key = self.key(header.kid.as_deref()).await?;
        let key = DecodingKey::from_jwk(&key).map_err(|_| Rejected::Signature)?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&self.config.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // No leeway: even a JWT that expired a second ago may come from a log.
        validation.leeway = 0;
        let payload = jsonwebtoken::decode::<Map<String, Value>>(jwt, &key, &validation).map_err(rejected)?.claims;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let ahead = now + self.config.skew.get().as_secs();
        let seconds = |time: &Value| time.as_f64().map(|seconds| seconds as u64);
        for time in ["nbf", "iat"].iter().filter_map(|claim| payload.get(*claim)) {
            if seconds(time).ok_or(Rejected::Time)? > ahead {
                return Err(Rejected::Early);
            }
        }
        let mut identity = Identity::new(IdentitySource::Oidc, self.config.name.as_str());
        identity.claims = claims_of(&payload);
        Ok(Verified { identity, expires: payload.get("exp").and_then(seconds).unwrap_or(0) })
    }

    /// The key with the id; without an id, the only key.
    async fn key(self: &Arc<Self>, id: Option<&str>) -> Result<Jwk, Rejected> {
        let known = self.keys.load().as_ref().and_then(|keys| Some((pick(&keys.set, id)?, keys.fetched.elapsed())));
        let known = match known {
            Some((key, age)) if age < KEYS_RENEW => return Ok(key),
            stale_or_none => stale_or_none,
        };
        let fetch = self.renew();
        match known {
            // The issuer cannot be reached, so waiting would not help.
            Some((key, age)) if age < KEYS_FRESH || self.fetching.lock().has_failed => return Ok(key),
            _ => {}
        }
        if let Some(mut end) = fetch {
            // Nothing is ever sent: the call returns when the fetch has ended.
            let _ = end.changed().await;
        }
        let keys = self.keys.load_full().ok_or(Rejected::Unreachable)?;
        pick(&keys.set, id).ok_or(Rejected::UnknownKey)
    }

    /// Begins to fetch the keys, unless the last fetch still runs or began within the cool-down. Returns a receiver
    /// that is closed when the running fetch ends.
    fn renew(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut fetching = self.fetching.lock();
        if let Some(end) = fetching.end.as_ref().filter(|end| end.has_changed().is_ok()) {
            return Some(end.clone());
        }
        if fetching.began.is_some_and(|at| at.elapsed() < self.config.cool_down.get()) {
            return None;
        }
        let (running, end) = watch::channel(());
        (fetching.began, fetching.end) = (Some(Instant::now()), Some(end.clone()));
        let issuer = self.clone();
        // A task of its own: the request that caused it may be cancelled, and others wait for it.
        tokio::spawn(async move {
            issuer.refetch().await;
            drop(running);
        });
        Some(end)
    }

    async fn refetch(&self) {
        let fetched = Instant::now();
        let found = timeout(FETCH_TIMEOUT, self.fetch())
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} seconds", FETCH_TIMEOUT.as_secs())));
        self.fetching.lock().has_failed = found.is_err();
        match found {
            Ok(set) => self.keys.store(Some(Arc::new(IssuerKeys { set, fetched }))),
            Err(error) => {
                let issuer = self.config.name.as_str();
                tracing::warn!(issuer, error = format!("{error:#}"), "cannot fetch the keys of an issuer");
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<JwkSet> {
        let jwks = match &self.config.jwks {
            Some(jwks) => jwks.clone(),
            None => {
                let base = self.config.issuer.trim_end_matches('/');
                let found: Discovery = self.get(&format!("{base}/.well-known/openid-configuration")).await?;
                ensure!(found.issuer == self.config.issuer, "it calls itself {}", found.issuer);
                ensure!(
                    found.jwks_uri.starts_with("https://") || base.starts_with("http://"),
                    "its keys are at {}, which is not https",
                    found.jwks_uri
                );
                found.jwks_uri
            }
        };
        self.get(&jwks).await
    }

    async fn get<T: for<'de> Deserialize<'de>>(&self, url: &str) -> anyhow::Result<T> {
        let mut answer = self.client.get(url).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                bail!("{url} answers with more than {ANSWER_BYTES_MAX} bytes");
            }
            bytes.extend_from_slice(&piece);
        }
        serde_json::from_slice(&bytes).with_context(|| format!("{url} does not answer as an issuer does"))
    }
}

fn pick(set: &JwkSet, id: Option<&str>) -> Option<Jwk> {
    let signs = |key: &&Jwk| !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
    let mut signing = set.keys.iter().filter(signs);
    match id {
        Some(id) => signing.find(|key| key.common.key_id.as_deref() == Some(id)).cloned(),
        None => signing.next().filter(|_| signing.next().is_none()).cloned(),
    }
}

fn rejected(error: jsonwebtoken::errors::Error) -> Rejected {
    use jsonwebtoken::errors::ErrorKind as Kind;
    match error.kind() {
        Kind::ExpiredSignature => Rejected::Expired,
        Kind::ImmatureSignature => Rejected::Early,
        Kind::InvalidAudience => Rejected::Audience,
        Kind::InvalidIssuer => Rejected::UnknownIssuer,
        Kind::MissingRequiredClaim(claim) if claim == "aud" => Rejected::Audience,
        Kind::InvalidSignature | Kind::InvalidAlgorithm => Rejected::Signature,
        _ => Rejected::Malformed,
    }
}
