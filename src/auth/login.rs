//! Authentication: from the credentials of a request to its caller.
//!
//! A password may be that of a user, a static token, a session, or a JWT: `docker login` has only one field for all of
//! them. Its form tells which it is; the user name counts for users alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use moka::sync::Cache;

use super::attempts::Attempts;
use super::certificate::Certificate;
use super::identity::{Identity, IdentitySource};
use super::oidc::{Issuers, Rejected, looks_like_jwt};
use super::policy::Policy;
use super::revoked::Revoked;
use super::scopes::ScopeTexts;
use super::seal::{self, Payload, Sealer, TOKEN_BYTES_MAX, TokenKind, fingerprint};
use super::users::{CheckedPassword, SentPassword, Users};
use super::{AuthError, Caller, tls};
use crate::config::{AuthConfig, Config, Secret};
use crate::names::SessionId;

/// Prefix of static tokens, by which people and secret scanners recognise them.
pub const TOKEN_PREFIX: &str = "larder_";
/// Maximum number of remembered callers.
const KNOWN_MAX: u64 = 10_000;

/// Credentials of a request, not verified yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'r> {
    /// The `Authorization` header.
    pub authorization: Option<&'r str>,
    pub certificate: Option<&'r Certificate>,
    pub address: Option<IpAddr>,
}

impl<'r> Credentials<'r> {
    /// The token of `Authorization: Bearer`, as it was sent.
    pub fn bearer(&self) -> Option<&'r str> {
        self.authorization?.strip_prefix("Bearer ")
    }
}

/// State that survives a reload.
#[derive(Default)]
pub struct Lasting {
    attempts: Arc<Attempts>,
    pub revoked: Revoked,
    pub scopes: ScopeTexts,
}

/// Everything that a reload replaces, as one.
pub struct LiveConfig {
    lasting: Arc<Lasting>,
    pub policy: Policy,
    pub settings: AuthConfig,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    sealer: Sealer,
    tokens: HashMap<[u8; 32], Static>,
    users: Users,
    issuers: Issuers,
    pub anonymous: Caller,
    /// Callers by the HMAC of their credentials, under a random key: neither the time of a lookup nor a dump of the
    /// memory helps to find out a password.
    known: Cache<[u8; 32], Caller>,
    known_key: hmac::Key,
}

struct Static {
    name: String,
    /// Seconds since 1970.
    expires: Option<u64>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl LiveConfig {
    /// Reads all files again. `generated` signs tokens if no key is configured.
    pub fn load(config: &Config, generated: Option<Secret>, lasting: Arc<Lasting>) -> anyhow::Result<LiveConfig> {
        let policy = Policy::new(config.rules.clone(), !config.is_closed());
        let mut keys = config.signing_keys()?;
        if keys.is_empty() {
            keys.extend(generated);
        }
        let users = config.auth.htpasswd.as_deref().map_or_else(|| Ok(Users::none()), Users::load)?;
        let tokens = config.tokens.iter().map(|token| {
            let expires = token.expires.map(|at| u64::try_from(at.as_second()).unwrap_or(0));
            (token.hash.0, Static { name: token.name.as_str().into(), expires })
        });
        Ok(LiveConfig {
            lasting,
            anonymous: Caller::new(&policy, Identity::anonymous(), None),
            sealer: Sealer::new(&keys),
            tokens: tokens.collect(),
            users,
            issuers: Issuers::new(&config.issuers)?,
            tls: config.tls.as_ref().map(tls::load).transpose()?,
            settings: config.auth.clone(),
            known: Cache::new(KNOWN_MAX),
            known_key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
            policy,
        })
    }

    pub async fn identify(&self, credentials: &Credentials<'_>) -> Result<Caller, AuthError> {
        match (credentials.authorization, credentials.certificate) {
            _ if self.policy.is_open() => Ok(self.anonymous.clone()),
            // Boxed, like every large future that not all requests need: it would be copied with each of them.
            (Some(shown), _) => Box::pin(self.remembered(shown, credentials.address)).await,
            (None, Some(certificate)) => Ok(self.certified(certificate)),
            (None, None) => Ok(self.anonymous.clone()),
        }
    }

    fn certified(&self, certificate: &Certificate) -> Caller {
        let key = self.key(&certificate.fingerprint);
        self.known.get(&key).unwrap_or_else(|| {
            let caller = Caller::new(&self.policy, certificate.identity.clone(), None);
            self.known.insert(key, caller.clone());
            caller
        })
    }

    async fn remembered(&self, shown: &str, address: Option<IpAddr>) -> Result<Caller, AuthError> {
        let key = self.key(shown.as_bytes());
        if let Some(caller) = self.recall(&key) {
            return Ok(caller);
        }
        let caller = match Credential::parse(shown).ok_or(AuthError::Invalid("Authorization cannot be read"))? {
            Credential::Bearer(token) => self.bearer(&token).await?,
            Credential::Basic(name, password) => self.password(&name, &password, address).await?,
        };
        self.known.insert(key, caller.clone());
        Ok(caller)
    }

    fn recall(&self, key: &[u8; 32]) -> Option<Caller> {
        let caller = self.known.get(key)?;
        let stands = caller.who.expires.is_none_or(|at| now() < at) && !self.is_revoked(caller.who.proof.as_deref());
        stands.then_some(caller)
    }

    /// Tells whether a token was issued for a revoked session. The proof in such a token is the session's name.
    fn is_revoked(&self, proof: Option<&str>) -> bool {
        proof.is_some_and(|proof| self.lasting.revoked.has(proof))
    }

    fn key(&self, shown: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(hmac::sign(&self.known_key, shown).as_ref());
        key
    }

    async fn bearer(&self, token: &str) -> Result<Caller, AuthError> {
        match self.sealer.open(TokenKind::Access, token) {
            Some(payload) => self.sealed(payload),
            None => self.token(token).await?.ok_or(AuthError::Invalid("token is not valid")),
        }
    }

    /// Authenticates by name and password, as in `Authorization: Basic` and in the form of `/token`.
    pub async fn password(&self, name: &str, password: &str, address: Option<IpAddr>) -> Result<Caller, AuthError> {
        if let Some(caller) = self.token(password).await? {
            return Ok(caller);
        }
        let key = self.key(&[name.as_bytes(), b"\0", password.as_bytes()].concat());
        if let Some(caller) = self.recall(&key) {
            return Ok(caller);
        }
        let sent = SentPassword { name, password, address, key };
        match self.users.check(&sent, &self.lasting.attempts, self.settings.failed_logins).await {
            CheckedPassword::Right => {
                let who = Payload {
                    who: Identity::new(IdentitySource::User, name),
                    proof: self.users.proof(name),
                    scope: None,
                    expires: u64::MAX,
                };
                let caller = Caller::of(&self.policy, who);
                self.known.insert(key, caller.clone());
                Ok(caller)
            }
            CheckedPassword::Wrong => Err(AuthError::Invalid("user name or password is wrong")),
            CheckedPassword::TurnedAway(wait) => Err(AuthError::TooMany(wait)),
        }
    }

    /// Authenticates by a static token, a session or a JWT; nothing if the text looks like none of them.
    pub async fn token(&self, token: &str) -> Result<Option<Caller>, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Invalid("token is too long"));
        }
        if token.starts_with(TOKEN_PREFIX) {
            return self.static_token(token).map(Some);
        }
        if seal::is_ours(token) {
            let payload =
                self.sealer.open(TokenKind::Session, token).ok_or(AuthError::Invalid("token is not valid"))?;
            return self.sealed(payload).map(Some);
        }
        if looks_like_jwt(token) {
            return self.jwt(token).await.map(Some);
        }
        Ok(None)
    }

    fn static_token(&self, token: &str) -> Result<Caller, AuthError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        // The time of this lookup depends on the hash, from which no token follows.
        let found = self.tokens.get(&hash).ok_or(AuthError::Invalid("token is not valid"))?;
        let expires = found.expires.unwrap_or(u64::MAX);
        if expires <= now() {
            return Err(AuthError::Invalid("token has expired"));
        }
        let who = Identity::new(IdentitySource::Token, &*found.name);
        Ok(Caller::of(&self.policy, Payload { who, proof: Some(fingerprint(&hash)), scope: None, expires }))
    }

    pub async fn jwt(&self, jwt: &str) -> Result<Caller, AuthError> {
        match self.issuers.verify(jwt).await {
            Ok(verified) => Ok(Caller::of(
                &self.policy,
                Payload { who: verified.identity, proof: None, scope: None, expires: verified.expires },
            )),
            Err(Rejected::Unreachable) => Err(AuthError::Unavailable),
            Err(rejected) => Err(AuthError::Jwt(rejected)),
        }
    }

    /// Accepts a token of this server for as long as the credentials are valid for which it was issued.
    fn sealed(&self, payload: Payload) -> Result<Caller, AuthError> {
        if payload.expires <= now() {
            return Err(AuthError::Invalid("token has expired"));
        }
        let stands = match payload.who.source {
            IdentitySource::Anonymous | IdentitySource::Cert => true,
            IdentitySource::Oidc => self.issuers.has(&payload.who.name) && !self.is_revoked(payload.proof.as_deref()),
            IdentitySource::User => payload.proof.is_some() && self.users.proof(&payload.who.name) == payload.proof,
            IdentitySource::Token => self
                .tokens
                .iter()
                .any(|(hash, token)| token.name == payload.who.name && Some(fingerprint(hash)) == payload.proof),
        };
        if stands { Ok(Caller::of(&self.policy, payload)) } else { Err(AuthError::Invalid("token was withdrawn")) }
    }

    /// The session of a token, revoked or not, and its identity.
    pub fn session(&self, token: &str) -> Result<(Identity, SessionId), AuthError> {
        let opened = if token.len() > TOKEN_BYTES_MAX { None } else { self.sealer.open(TokenKind::Session, token) };
        let payload = opened.ok_or(AuthError::Invalid("token was not issued by /token/exchange"))?;
        if payload.expires <= now() {
            return Err(AuthError::Invalid("token has expired"));
        }
        let id = payload.proof.and_then(|proof| proof.parse().ok());
        Ok((payload.who, id.ok_or(AuthError::Invalid("token of an earlier version cannot be revoked"))?))
    }

    pub fn has_issuers(&self) -> bool {
        !self.issuers.is_empty()
    }

    pub fn seal(&self, kind: TokenKind, payload: &Payload) -> Option<String> {
        self.sealer.seal(kind, payload)
    }
}

/// An `Authorization` header (RFC 9110, section 11.6.2; RFC 7617; RFC 6750).
#[derive(Debug, PartialEq, Eq)]
enum Credential {
    Basic(String, String),
    Bearer(String),
}

impl Credential {
    fn parse(header: &str) -> Option<Credential> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Credential::Bearer(rest.to_string()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        Some(Credential::Basic(name.to_string(), password.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authorization_header_is_read_in_any_case() {
        let basic = |header: &str| Credential::parse(header);
        assert_eq!(basic("Basic YTpiOmM="), Some(Credential::Basic("a".into(), "b:c".into())));
        assert_eq!(basic("bearer  x.y "), Some(Credential::Bearer("x.y".into())));
        for bad in ["", "Basic", "Basic !", "Basic YWJj", "Digest a", "Basic gICA"] {
            assert_eq!(basic(bad), None, "{bad}");
        }
    }
}
