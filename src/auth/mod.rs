//! Who asks, and may they.
//!
//! A request shows [`Credentials`]; [`Gate::identify`] says whose they are; [`Gate::admit`] decides by the rules and
//! issues the permit without which the store hands out nothing.
//!
//! Invariant: what a decision rests on (rules, users, tokens, keys, certificates) is one snapshot, replaced as one. A
//! configuration that cannot be used replaces nothing.

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

/// Decides on requests.
pub struct Gate {
    live: ArcSwap<LiveConfig>,
    lasting: Arc<Lasting>,
    operator: Secret,
    /// As it was at the start: the store that goes by its tenants does not change.
    config: Arc<Config>,
}

/// Somebody whose credentials were checked, and what the rules allow him. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    who: Arc<Who>,
}

struct Who {
    identity: Identity,
    grants: Vec<Grant>,
    /// What he showed is good for no more than this.
    scope: Option<Vec<Scope>>,
    proof: Option<String>,
    /// Until when what he showed is good, in seconds since 1970.
    expires: Option<u64>,
}

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credentials, where some may help.
    #[error("authentication required")]
    Unidentified,
    #[error("{0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Jwt(#[from] Rejected),
    /// The caller may, but the token is for something else: another one would do.
    #[error("token is not for this")]
    Insufficient,
    #[error("{0}")]
    Denied(String),
    /// A push to a name that the server keeps for itself.
    #[error("repository name {0} is reserved, as are all of {all}: any other name is free", all = reserved_patterns())]
    Reserved(RepoName),
    /// Nothing is served under a reserved name.
    #[error("repository {0} is unknown")]
    RepoUnknown(RepoName),
    /// Wrong passwords, or more at once than are looked at.
    #[error("too many passwords from this address are wrong or still being checked: try again later")]
    TooMany(Duration),
    #[error("issuer of the token cannot be reached")]
    Unavailable,
}

/// A token for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// To whom it was issued.
    pub who: Identity,
    pub token: String,
    /// Seconds.
    pub life: u64,
}

impl Gate {
    /// `generated` signs tokens where the configuration has no key.
    pub fn open(config: Arc<Config>, generated: Option<Secret>) -> anyhow::Result<Gate> {
        let lasting = Arc::default();
        let live = ArcSwap::from_pointee(LiveConfig::load(&config, generated, Arc::clone(&lasting))?);
        Ok(Gate { live, lasting, operator: Operator::new_token(), config })
    }

    /// Goes on with another configuration, or with the files that it names read anew. Requests under way go on with what
    /// they began with. On an error nothing changes.
    pub fn reload(&self, config: &Config, generated: Option<Secret>) -> anyhow::Result<()> {
        self.live.store(Arc::new(LiveConfig::load(config, generated, self.lasting.clone())?));
        Ok(())
    }

    /// Whether everybody may everything.
    pub fn is_open(&self) -> bool {
        self.live.load().policy.is_open()
    }

    /// How to answer a handshake, where there is TLS.
    pub fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.live.load().tls.clone()
    }

    pub fn challenge(&self) -> Challenge {
        self.live.load().settings.challenge
    }

    /// Who it is. Wrong credentials are an error also where none are needed: whoever sends them should know.
    pub async fn identify(&self, credentials: &Credentials<'_>) -> Result<Caller, AuthError> {
        self.live.load_full().identify(credentials).await
    }

    /// Somebody who has shown nothing.
    pub fn anonymous(&self) -> Caller {
        self.live.load().anonymous.clone()
    }

    /// A name and a password that came in a form.
    pub async fn login(&self, name: &str, password: &str, credentials: &Credentials<'_>) -> Result<Caller, AuthError> {
        self.live.load_full().password(name, password, credentials.address).await
    }

    /// A password that can only be a token.
    pub async fn refresh(&self, token: &str) -> Result<Caller, AuthError> {
        self.live.load_full().token(token).await?.ok_or(AuthError::Invalid("token is not valid"))
    }

    /// Admits a caller to a repository.
    ///
    /// Invariant: there is no permit for a reserved name, so no door serves what is there.
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

    /// Whose repository it is for this caller, and what he reads beside it.
    ///
    /// Invariant: it follows from the name of the repository and the rules for the caller alone. So no request reaches
    /// what another tenant has, and none can tell whether it has it.
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

    /// For what concerns the whole installation.
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

    /// Whether metrics are for everybody, unasked.
    pub fn has_open_metrics(&self) -> bool {
        self.live.load().settings.metrics.is_none()
    }

    /// For metrics.
    pub fn admit_metrics(&self, caller: &Caller) -> Result<(), AuthError> {
        let live = self.live.load();
        let readers = live.settings.metrics.as_deref();
        // A token for some repositories is for nothing else.
        let is_reader = readers.is_none_or(|readers| policy::is_named(readers, &caller.who.identity));
        if is_reader && caller.who.scope.is_none() { Ok(()) } else { self.admit_admin(caller) }
    }

    /// For who wants to know only whether his credentials are good.
    pub fn admit_identified(&self, caller: &Caller) -> Result<(), AuthError> {
        if caller.is_unidentified() && !self.is_open() { Err(AuthError::Unidentified) } else { Ok(()) }
    }

    /// The tenants whose repositories the caller may list.
    pub fn visible_tenants(&self, caller: &Caller) -> Result<Vec<Tenant>, AuthError> {
        self.admit_admin(caller).map(|()| self.config.all_tenants())
    }

    /// What proves that somebody may operate this server: see [`Operator`].
    pub fn operator_token(&self) -> &Secret {
        &self.operator
    }

    /// Whether the caller has shown that.
    pub fn is_operator(&self, token: Option<&str>) -> bool {
        let ours = self.operator.expose().as_bytes();
        token.is_some_and(|token| constant_time::verify_slices_are_equal(token.as_bytes(), ours).is_ok())
    }

    /// A token for what the caller may of all that was asked.
    pub fn issue(&self, caller: &Caller, asked: Vec<Scope>) -> Result<Issued, AuthError> {
        let live = self.live.load_full();
        if caller.who.scope.is_some() {
            return Err(AuthError::Invalid("a token issued by larder cannot be exchanged"));
        }
        let allowed = asked.into_iter().map(|scope| caller.narrowed(scope)).collect();
        let mut who = caller.who.identity.clone();
        who.claims.retain(|claim, _| live.policy.mentions(claim));
        // What was checked stays checked: a JWT that ends in a minute gives a token for an hour. A session or a static
        // token gives none that outlives it.
        let own = caller.who.expires.filter(|_| !caller.has_jwt());
        let expires = own.unwrap_or(u64::MAX).min(now() + live.settings.token_life.get().as_secs());
        let payload = Payload { who, proof: caller.who.proof.clone(), scope: Some(allowed), expires };
        sealed(&live, TokenKind::Access, caller, &payload)
    }

    /// A token that lives as long as a build, for a JWT that does not. Only a JWT is exchanged, and only while it is
    /// good: so nothing is made to live for ever.
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
        // It would be refused when it is shown.
        if issued.token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Invalid("JWT has so many claims that a session with them would be too long"));
        }
        Ok(issued)
    }

    /// The session of a token that `/token/exchange` has issued, and whose it is, where it may be revoked: by whoever
    /// holds it. It is revoked when the store says so and [`Gate::revoke`] has been told.
    pub fn revocable(&self, token: &str) -> Result<(Identity, SessionId), AuthError> {
        let (who, session) = self.live.load().session(token)?;
        if !self.lasting.revoked.has(&session) && !self.lasting.revoked.has_room_for(&session) {
            let why = "too many sessions are revoked and have not ended yet";
            return Err(AuthError::Denied(format!("{who} may not revoke another session: {why}")));
        }
        Ok((who, session))
    }

    /// From now on these sessions are not taken, nor is any token that was issued for one.
    pub fn revoke(&self, sessions: impl IntoIterator<Item = SessionId>) {
        self.lasting.revoked.learn(sessions);
    }

    /// Whether there can be sessions: those of JWTs of a configured issuer.
    pub fn has_issuers(&self) -> bool {
        self.live.load().has_issuers()
    }

    /// Where a caller writes, and what he reads beside it. An error when he is meant for a scope that cannot be told.
    pub fn lineage(&self, identity: &Identity, repo: &RepoName) -> Result<(Tenant, Vec<Tenant>), AuthError> {
        self.place(&Caller::new(&self.live.load().policy, identity.clone(), None), repo)
    }

    /// What the rules say, one by one, for people.
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

    /// Whether nothing was shown.
    fn is_unidentified(&self) -> bool {
        self.who.identity.is_anonymous() && self.who.scope.is_none()
    }

    /// Whether the caller may see the tag in a list.
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
            // With a token for nobody in particular, asking for one again would lead nowhere.
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
