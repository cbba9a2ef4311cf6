//! JWTs of CI systems (OpenID Connect): signed by a configured issuer, made for us, and not expired.
//!
//! The keys of an issuer are fetched when a JWT names one that is not known, and once an hour. They are not fetched more
//! often than its cool-down says, so JWTs that name random keys cannot make us hammer the issuer. When it cannot be
//! reached, the keys that are known stay good.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::identity::{Identity, IdentitySource, claims_of};
use super::tls;
use crate::config::IssuerConfig;

/// Keys are looked at anew after this: one that was withdrawn is not taken for longer.
const KEYS_FRESH: Duration = Duration::from_secs(3600);
/// For each of the requests to an issuer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer of an issuer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Only what needs a private key to sign. A secret that both sides know is none when the "secret" is a public key.
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

/// Why a JWT is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("JWT cannot be read")]
    Malformed,
    #[error("JWT is of an issuer that is not configured")]
    UnknownIssuer,
    #[error("JWT is signed with a key that its issuer does not have")]
    UnknownKey,
    #[error("JWT has a wrong signature, or one of a kind that is not taken")]
    Signature,
    #[error("JWT has expired: exchange it for a token of larder's before the build (`larder login`)")]
    Expired,
    #[error("JWT is not valid yet")]
    Early,
    #[error("JWT was made for another audience")]
    Audience,
    #[error("keys of the issuer cannot be fetched")]
    Unreachable,
}

/// A JWT that was taken.
#[derive(Clone, Debug)]
pub struct Verified {
    pub identity: Identity,
    /// Seconds since 1970.
    pub expires: u64,
}

/// All issuers.
#[derive(Default)]
pub struct Issuers {
    issuers: Vec<Issuer>,
}

struct Issuer {
    config: IssuerConfig,
    client: reqwest::Client,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    set: Option<Arc<JwkSet>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

/// Whether a password is meant to be a JWT.
pub fn looks_like_jwt(text: &str) -> bool {
    text.starts_with("ey") && text.bytes().filter(|b| *b == b'.').count() == 2
}

impl Issuers {
    pub fn new(configs: &[IssuerConfig]) -> anyhow::Result<Issuers> {
        let issuers = configs.iter().map(Issuer::new).collect::<anyhow::Result<_>>()?;
        Ok(Issuers { issuers })
    }

    pub fn has(&self, name: &str) -> bool {
        self.issuers.iter().any(|issuer| issuer.config.name.as_str() == name)
    }

    pub async fn verify(&self, jwt: &str) -> Result<Verified, Rejected> {
        // Whose it claims to be decides whose keys are asked; nothing else is believed before the signature is.
        let claimed: Claimed = jsonwebtoken::dangerous::insecure_decode_claims(jwt).map_err(|_| Rejected::Malformed)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.config.issuer == claimed.iss);
        issuer.ok_or(Rejected::UnknownIssuer)?.verify(jwt).await
    }
}

#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

/// What an issuer says of itself (OpenID Connect Discovery, section 3).
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
        Ok(Issuer { config: config.clone(), client: client.build()?, keys: Mutex::default() })
    }

    async fn verify(&self, jwt: &str) -> Result<Verified, Rejected> {
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
        // An expired JWT is not taken, be it for a second: it may have been found in a log.
        validation.leeway = 0;
        let payload = jsonwebtoken::decode::<Map<String, Value>>(jwt, &key, &validation).map_err(rejected)?.claims;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let ahead = now + self.config.skew.get().as_secs();
        let time = |claim: &str| payload.get(claim).and_then(Value::as_f64).map(|seconds| seconds as u64);
        if ["nbf", "iat"].iter().any(|claim| time(claim).is_some_and(|time| time > ahead)) {
            return Err(Rejected::Early);
        }
        let mut identity = Identity::new(IdentitySource::Oidc, self.config.name.as_str());
        identity.claims = claims_of(&payload);
        Ok(Verified { identity, expires: time("exp").unwrap_or(0) })
    }

    /// The key of that name; without a name, the only key there is.
    async fn key(&self, id: Option<&str>) -> Result<Jwk, Rejected> {
        // Held while keys are fetched: all who need them wait for one request.
        let mut keys = self.keys.lock().await;
        let stale = keys.fetched.is_none_or(|at| at.elapsed() > KEYS_FRESH);
        let known = keys.set.as_ref().and_then(|set| pick(set, id));
        let may_try = keys.tried.is_none_or(|at| at.elapsed() >= self.config.cool_down.get());
        if let Some(key) = known.filter(|_| !stale || !may_try) {
            return Ok(key);
        }
        if may_try {
            keys.tried = Some(Instant::now());
            match self.fetch().await {
                Ok(set) => {
                    keys.set = Some(Arc::new(set));
                    keys.fetched = keys.tried;
                }
                Err(error) => {
                    let issuer = self.config.name.as_str();
                    tracing::warn!(issuer, error = format!("{error:#}"), "keys of an issuer cannot be fetched");
                }
            }
        }
        let set = keys.set.as_ref().ok_or(Rejected::Unreachable)?;
        pick(set, id).ok_or(Rejected::UnknownKey)
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
