//! Authentication and authorization.
//!
//! A request carries [`Credentials`]; [`Gate::identify`] finds their caller; [`Gate::admit`] decides by the rules and
//! issues the permit without which the store gives access to nothing.
//!
//! Invariant: all inputs of a decision (rules, users, tokens, keys, certificates) are one snapshot, replaced as one. An
//! invalid configuration replaces nothing.

mod attempts;
mod certificate;
mod identity;
mod login;
mod oidc;
mod policy;
mod revoked;
mod scopes;
mod seal;
mod tls;
mod users;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time;

use crate::access::{Access, Permit, Right, Tags, Verb};
use crate::config::{Challenge, Config, Secret};
use crate::names::{RepoName, SessionId, Tag, Tenant, reserved_patterns};
use crate::operator::Operator;
use login::{Lasting, LiveConfig, now};
use policy::{Grant, Policy};
use seal::{Payload, TOKEN_BYTES_MAX, TokenKind};

pub use certificate::Certificate;
pub use identity::{Claims, Identity, IdentitySource, parse_label};
pub use login::{Credentials, TOKEN_PREFIX};
pub use oidc::Rejected;
pub use policy::Mismatch;
pub use seal::Scope;

/// Decides which callers may do what.
pub struct Gate {
    live: ArcSwap<LiveConfig>,
    lasting: Arc<Lasting>,
    operator: Secret,
    /// The configuration at the start: the tenants of the store do not change by a reload.
    config: Arc<Config>,
}

/// An authenticated caller, with the grants of the rules. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    who: Arc<Who>,
}

struct Who {
    identity: Identity,
    grants: Vec<Grant>,
    /// The limits of a token: the caller may do no more than this.
    scope: Option<Vec<Scope>>,
    proof: Option<String>,
    /// End of the credentials, in seconds since 1970.
    expires: Option<u64>,
}

/// The reason why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credentials, where some may help.
    #[error("authentication required")]
    Unidentified,
    #[error("{0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Jwt(#[from] Rejected),
    /// The caller may do it, but the token is for something else: another token would do.
    #[error("these credentials do not allow it, others may")]
    Insufficient,
    #[error("{0}")]
    Denied(String),
    /// A push to a reserved name.
    #[error("repository name {0} is reserved, as are all of {all}: any other name is free", all = reserved_patterns())]
    Reserved(RepoName),
    /// A read of a reserved name: nothing is served under it.
    #[error("repository {0} is unknown")]
    RepoUnknown(RepoName),
    /// Too many wrong passwords, or too many at once.
    #[error("too many passwords from this address are wrong or still being checked: try again later")]
    TooMany(Duration),
    #[error("issuer of the token cannot be reached")]
    Unavailable,
}

/// A token that was issued to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Identity to which it was issued.
    pub who: Identity,
    pub token: String,
    /// Lifetime in seconds.
    pub life: u64,
}

impl Gate {
    /// `generated` signs tokens if the configuration has no key.
    pub fn open(config: Arc<Config>, generated: Option<Secret>) -> anyhow::Result<Gate> {
        let lasting = Arc::default();
        let live = ArcSwap::from_pointee(LiveConfig::load(&config, generated, Arc::clone(&lasting))?);
        Ok(Gate { live, lasting, operator: Operator::new_token(), config })
    }

    /// Replaces the configuration, or reads its files again. Requests in flight keep the old one. On an error nothing
    /// changes.
    pub fn reload(&self, config: &Config, generated: Option<Secret>) -> anyhow::Result<()> {
        self.live.store(Arc::new(LiveConfig::load(config, generated, self.lasting.clone())?));
        Ok(())
    }

    /// Tells whether all callers may do everything.
    pub fn is_open(&self) -> bool {
        self.live.load().policy.is_open()
    }

    /// The TLS configuration, if TLS is configured.
    pub fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.live.load().tls.clone()
    }

    pub fn challenge(&self) -> Challenge {
        self.live.load().settings.challenge
    }

    /// Authenticates a request. Wrong credentials are an error even if none are needed, so that their sender learns of
    /// it.
    pub async fn identify(&self, credentials: &Credentials<'_>) -> Result<Caller, AuthError> {
        self.live.load_full().identify(credentials).await
    }

    /// The caller of a request without credentials.
    pub fn anonymous(&self) -> Caller {
        self.live.load().anonymous.clone()
    }

    /// Authenticates by a name and a password from a form.
    pub async fn login(&self, name: &str, password: &str, credentials: &Credentials<'_>) -> Result<Caller, AuthError> {
        self.live.load_full().password(name, password, credentials.address).await
    }

    /// Authenticates by a password that can only be a token.
    pub async fn refresh(&self, token: &str) -> Result<Caller, AuthError> {
        self.live.load_full().token(token).await?.ok_or(AuthError::Invalid("token is not valid"))
    }

    /// Admits a caller to a repository.
    ///
    /// Invariant: there is no permit for a reserved name, so no door serves its content.
    pub fn admit<R: Right>(&self, caller: &Caller, repo: RepoName, tags: Tags) -> Result<Permit<R>, AuthError> {
        let access = Access { repo, verb: R::VERB, tags };
        caller.may(&access)?;
        if access.repo.is_reserved() {
            return Err(match access.verb {
                Verb::Push => AuthError::Reserved(access.repo),
                _ => AuthError::RepoUnknown(access.repo),
            });
        }
        let (tenant, parents) = self.place(caller, &access.repo)?;
        Ok(Permit::issue(tenant, parents, access.repo))
    }

    /// The tenant of a repository for this caller, and its parents, which the caller reads too.
    ///
    /// Invariant: it follows from the name of the repository and the rules for the caller alone. So no request reaches
    /// the content of another tenant, and none can tell whether that has it.
    fn place(&self, caller: &Caller, repo: &RepoName) -> Result<(Tenant, Vec<Tenant>), AuthError> {
        let grants = &caller.who.grants;
        let tenant = policy::tenant(grants, repo).cloned().unwrap_or_else(|| self.config.tenant_of(repo));
        let lineage = policy::lineage(grants, repo);
        let lineage = lineage.map_err(|untold| caller.denied(format!("may not use {repo}: {untold}")))?;
        let Some(lineage) = lineage else { return Ok((tenant, Vec::new())) };
        let scope = |name| {
            let scope = tenant.scope(name);
            self.lasting.scopes.learn(&scope, name);
            scope
        };
        let parents = lineage.parents.iter().map(scope);
        Ok((scope(&lineage.own), parents.chain([tenant.clone()]).collect()))
    }

    /// What the rules call a scope, with the claims filled in; nothing when no caller of it was admitted since the start.
    pub fn scope_text(&self, scope: &Tenant) -> Option<Arc<str>> {
        self.lasting.scopes.of(scope)
    }

    /// Admits a caller to the whole installation.
    pub fn admit_admin(&self, caller: &Caller) -> Result<(), AuthError> {
        if !policy::allows_admin(&caller.who.grants) {
            return Err(caller.denied("may not administer".into()));
        }
        let covers = |scope: &Scope| scope.may.contains(&Verb::Admin);
        if caller.who.scope.as_ref().is_some_and(|scopes| !scopes.iter().any(covers)) {
            return Err(AuthError::Insufficient);
        }
        Ok(())
    }

    /// Tells whether metrics need no credentials.
    pub fn has_open_metrics(&self) -> bool {
        self.live.load().settings.metrics.is_none()
    }

    /// Admits a caller to the metrics.
    pub fn admit_metrics(&self, caller: &Caller) -> Result<(), AuthError> {
        let live = self.live.load();
        let readers = live.settings.metrics.as_deref();
        // A token for some repositories is valid for nothing else.
        let is_reader = readers.is_none_or(|readers| policy::is_named(readers, &caller.who.identity));
        if is_reader && caller.who.scope.is_none() { Ok(()) } else { self.admit_admin(caller) }
    }

    /// Admits every caller with valid credentials: for requests that only check them.
    pub fn admit_identified(&self, caller: &Caller) -> Result<(), AuthError> {
        if caller.is_unidentified() && !self.is_open() { Err(AuthError::Unidentified) } else { Ok(()) }
    }

    /// The tenants whose repositories the caller may list.
    pub fn visible_tenants(&self, caller: &Caller) -> Result<Vec<Tenant>, AuthError> {
        self.admit_admin(caller).map(|()| self.config.all_tenants())
    }

    /// The token that proves an operator of this server: see [`Operator`].
    pub fn operator_token(&self) -> &Secret {
        &self.operator
    }

    /// Tells whether `token` is the operator token.
    pub fn is_operator(&self, token: Option<&str>) -> bool {
        let ours = self.operator.expose().as_bytes();
        token.is_some_and(|token| constant_time::verify_slices_are_equal(token.as_bytes(), ours).is_ok())
    }

    /// Issues a token for those of the requested rights that the caller has.
    pub fn issue(&self, caller: &Caller, asked: Vec<Scope>) -> Result<Issued, AuthError> {
        let live = self.live.load_full();
        if caller.who.scope.is_some() {
            return Err(AuthError::Invalid("a token issued by larder cannot be exchanged"));
        }
        let allowed = asked.into_iter().map(|scope| caller.narrowed(scope)).collect();
        let mut who = caller.who.identity.clone();
        who.claims.retain(|claim, _| live.policy.mentions(claim));
        // The end of a JWT does not limit the token: a JWT that ends in a minute gives a token for an hour. A session
        // or a static token gives none that outlives it.
        let own = caller.who.expires.filter(|_| !caller.has_jwt());
        let expires = own.unwrap_or(u64::MAX).min(now() + live.settings.token_life.get().as_secs());
        let payload = Payload { who, proof: caller.who.proof.clone(), scope: Some(allowed), expires };
        sealed(&live, TokenKind::Access, caller, &payload)
    }

    /// Issues a session, a token that lives as long as a build, for a JWT that does not. Only a valid JWT is exchanged,
    /// so no session can prolong itself.
    pub async fn exchange(&self, jwt: &str) -> Result<Issued, AuthError> {
        let live = self.live.load_full();
        if jwt.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Invalid("JWT is too long"));
        }
        let caller = live.jwt(jwt).await?;
        let expires = now() + live.settings.session_max.get().as_secs();
        let who = caller.who.identity.clone();
        let session = SessionId::new(expires, seal::number_of(who.to_string().as_bytes()));
        let payload = Payload { who, proof: Some(session.to_string()), scope: None, expires };
        let issued = sealed(&live, TokenKind::Session, &caller, &payload)?;
        // A longer token would be refused when it is used.
        if issued.token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Invalid("JWT has so many claims that a session with them would be too long"));
        }
        Ok(issued)
    }

    /// The session of a token from `/token/exchange`, and its identity, if it may be revoked: by any caller that has
    /// the token. It is revoked once it is written to the store and given to [`Gate::revoke`].
    pub fn revocable(&self, token: &str) -> Result<(Identity, SessionId), AuthError> {
        let (who, session) = self.live.load().session(token)?;
        if !self.lasting.revoked.has(&session) && !self.lasting.revoked.has_room_for(&session) {
            let why = "too many sessions are revoked and have not ended yet";
            return Err(AuthError::Denied(format!("{who} may not revoke another session: {why}")));
        }
        Ok((who, session))
    }

    /// Refuses these sessions from now on, and all tokens that were issued for them.
    pub fn revoke(&self, sessions: impl IntoIterator<Item = SessionId>) {
        self.lasting.revoked.learn(sessions);
    }

    /// Tells whether sessions can exist: they need JWTs of a configured issuer.
    pub fn has_issuers(&self) -> bool {
        self.live.load().has_issuers()
    }

    /// The tenant to which a caller writes, and its parents. An error if the caller's scope cannot be determined.
    pub fn lineage(&self, identity: &Identity, repo: &RepoName) -> Result<(Tenant, Vec<Tenant>), AuthError> {
        self.place(&Caller::new(&self.live.load().policy, identity.clone(), None), repo)
    }

    /// The result of each rule, for display.
    pub fn explain(&self, identity: &Identity, access: &Access) -> (bool, Vec<Result<(), Mismatch>>) {
        let policy = &self.live.load().policy;
        (policy::allows(&policy.grants(identity), access), policy.explain(identity, access))
    }
}

fn sealed(live: &LiveConfig, kind: TokenKind, to: &Caller, payload: &Payload) -> Result<Issued, AuthError> {
    let token = live.seal(kind, payload).ok_or(AuthError::Invalid("no credentials are needed here"))?;
    Ok(Issued { who: to.identity().clone(), token, life: payload.expires.saturating_sub(now()) })
}

impl Caller {
    fn new(policy: &Policy, identity: Identity, expires: Option<u64>) -> Caller {
        let grants = policy.grants(&identity);
        Caller { who: Arc::new(Who { identity, grants, scope: None, proof: None, expires }) }
    }

    fn of(policy: &Policy, payload: Payload) -> Caller {
        let grants = policy.grants(&payload.who);
        let expires = Some(payload.expires).filter(|at| *at < u64::MAX);
        let who = Who { identity: payload.who, grants, scope: payload.scope, proof: payload.proof, expires };
        Caller { who: Arc::new(who) }
    }

    pub fn identity(&self) -> &Identity {
        &self.who.identity
    }

    /// Tells whether the caller sent no credentials.
    fn is_unidentified(&self) -> bool {
        self.who.identity.is_anonymous() && self.who.scope.is_none()
    }

    /// Tells whether the caller may see the tag in a list.
    pub fn may_pull(&self, repo: &RepoName, tag: &Tag) -> bool {
        let access = Access { repo: repo.clone(), verb: Verb::Pull, tags: Tags::Named(vec![tag.clone()]) };
        self.may(&access).is_ok()
    }

    fn has_jwt(&self) -> bool {
        self.who.identity.source == IdentitySource::Oidc && self.who.proof.is_none()
    }

    fn may(&self, access: &Access) -> Result<(), AuthError> {
        if !policy::allows(&self.who.grants, access) {
            let tag = match &access.tags {
                Tags::Named(tags) => tags.iter().map(|tag| format!(":{tag}")).collect::<Vec<_>>().join(", "),
                _ => String::new(),
            };
            let verb = match access.verb {
                Verb::Pull => "pull from",
                Verb::Push => "push to",
                Verb::Delete => "delete from",
                Verb::Admin => "administer",
            };
            let why = policy::lineage(&self.who.grants, &access.repo).err();
            let why = why.map(|untold| format!(": {untold}")).unwrap_or_default();
            return Err(self.denied(format!("may not {verb} {}{tag}{why}", access.repo)));
        }
        let covers = |scope: &Scope| scope.name == *access.repo && scope.may.contains(&access.verb);
        match &self.who.scope {
            Some(scopes) if !scopes.iter().any(covers) => Err(AuthError::Insufficient),
            _ => Ok(()),
        }
    }

    fn denied(&self, what: String) -> AuthError {
        match &self.who.identity {
            // The caller has an anonymous token: asking for another one would not help.
            who if who.is_anonymous() && self.who.scope.is_some() => AuthError::Insufficient,
            who if who.is_anonymous() => AuthError::Unidentified,
            who => AuthError::Denied(format!("{who} {what}")),
        }
    }

    fn narrowed(&self, scope: Scope) -> Scope {
        let Scope { name, mut may } = scope;
        may.retain(|verb| match (verb, name.parse::<RepoName>()) {
            (Verb::Admin, _) => policy::allows_admin(&self.who.grants),
            (_, Ok(repo)) => policy::allows(&self.who.grants, &Access::to(repo, *verb)),
            (_, Err(_)) => false,
        });
        Scope { name, may }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("open", &self.is_open()).finish_non_exhaustive()
    }
}
