//! Who may see what on the pages.

use http::StatusCode;
use http::header::WWW_AUTHENTICATE;

use super::super::who::Sender;
use super::super::{Doors, admin};
use super::Refusal;
use crate::access::{Permit, Pull, Tags};
use crate::auth::{self, Caller};
use crate::names::{RepoName, Tag, Tenant};

/// What a caller may see. All pages ask here: what it does not grant is not gathered, so it cannot be shown.
///
/// Who may administer sees all that is listed. Everybody else sees the tags that he may pull, and of the numbers of
/// tenants and of the server nothing: they tell what others do.
pub struct Sight<'a> {
    doors: &'a Doors,
    caller: Caller,
    whole: bool,
    tenants: Vec<Tenant>,
}

impl Sight<'_> {
    /// Who asks, and what is his to see: the one place where the pages decide.
    pub async fn of<'a>(doors: &'a Doors, request: &http::Request<()>) -> Result<Sight<'a>, Refusal> {
        let turned_away = |refusal: auth::Refusal| turned_away(doors, request, &refusal);
        let caller = doors.gate.identify(&Sender::new(doors, request).knock()).await.map_err(turned_away)?;
        match doors.gate.visible_tenants(&caller) {
            Ok(tenants) => Ok(Sight { doors, caller, whole: true, tenants }),
            Err(_) => {
                doors.gate.admit_identified(&caller).map_err(turned_away)?;
                Ok(Sight { doors, caller, whole: false, tenants: doors.config.all_tenants() })
            }
        }
    }

    /// Whether numbers of whole tenants and of the server may be seen.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The tenants to look through. Their names are no secret to the caller only where [`Sight::is_whole`], or where he
    /// sees something of them.
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// The same, of one tenant alone where one is given.
    pub fn narrowed(&self, only: Option<&Tenant>) -> Sight<'_> {
        let of = |tenant: &&Tenant| only.is_none_or(|only| only == *tenant);
        let tenants = self.tenants.iter().filter(of).cloned().collect();
        Sight { doors: self.doors, caller: self.caller.clone(), whole: self.whole, tenants }
    }

    /// Whether a repository may be seen in a list.
    pub fn sees(&self, tenant: &Tenant, repo: &RepoName) -> bool {
        self.whole || self.is_his(tenant, repo, Tags::None)
    }

    /// Whether numbers of a whole repository may be seen: they tell of tags that the caller may not pull.
    pub fn sees_all_of(&self, tenant: &Tenant, repo: &RepoName) -> bool {
        self.whole || self.is_his(tenant, repo, Tags::All)
    }

    /// Whether a tag may be seen in a list.
    pub fn sees_tag(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag) -> bool {
        self.whole || self.is_his(tenant, repo, Tags::Named(vec![tag.clone()]))
    }

    /// The repository of a tag, to look into.
    pub fn permit(&self, repo: &RepoName, tag: &Tag) -> Result<Permit<Pull>, Refusal> {
        self.admit(repo, Tags::Named(vec![tag.clone()]))
    }

    /// The tenant whose repository it is for the caller.
    pub fn tenant_of(&self, repo: &RepoName) -> Result<Tenant, Refusal> {
        Ok(self.admit(repo, Tags::None)?.tenant().clone())
    }

    fn admit(&self, repo: &RepoName, tags: Tags) -> Result<Permit<Pull>, Refusal> {
        let admitted = self.doors.gate.admit(&self.caller, repo.clone(), tags);
        admitted.map_err(|refusal| Refusal::new(StatusCode::FORBIDDEN, refusal))
    }

    fn is_his(&self, tenant: &Tenant, repo: &RepoName, tags: Tags) -> bool {
        let admitted = self.doors.gate.admit::<Pull>(&self.caller, repo.clone(), tags);
        admitted.is_ok_and(|permit| permit.tenant() == tenant)
    }
}

/// A caller who is nobody, or not who he says: told as everywhere else, so that a browser asks for a password.
fn turned_away(doors: &Doors, request: &http::Request<()>, refusal: &auth::Refusal) -> Refusal {
    let told = admin::refused(doors, request, refusal);
    let challenge = told.headers().get(WWW_AUTHENTICATE).cloned();
    Refusal { challenge, ..Refusal::new(told.status(), refusal) }
}
