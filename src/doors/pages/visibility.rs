//! Visibility of data on the pages.

use http::StatusCode;

use super::PageError;
use crate::access::{Permit, Pull, Tags};
use crate::auth::{AuthError, Caller};
use crate::config::Challenge;
use crate::doors::Doors;
use crate::doors::kit::audit::Note;
use crate::doors::kit::nearby;
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::Refusal;
use crate::names::{RepoName, Tag, Tenant};

/// Name of pages in the audit log and in metrics.
const ROUTE: &str = "page";

/// The view of one caller. All pages ask it: data that it does not grant is not gathered, so it cannot be shown.
///
/// Who may administer sees all that is listed. Everybody else sees the tags that they may pull, and of the numbers of
/// tenants and of the server nothing: they tell what others do.
pub struct Visibility<'a> {
    doors: &'a Doors,
    request: &'a http::Request<()>,
    caller: Caller,
    whole: bool,
    tenants: Vec<Tenant>,
}

impl Visibility<'_> {
    /// The caller, and the data that they may see: the one place where the pages decide.
    pub async fn of<'a>(doors: &'a Doors, request: &'a http::Request<()>) -> Result<Visibility<'a>, PageError> {
        let identified = doors.gate.identify(&RequestOrigin::new(doors, request).credentials()).await;
        let caller = identified.map_err(|error| turned_away(doors, request, None, &error))?;
        match doors.gate.visible_tenants(&caller) {
            Ok(tenants) => Ok(Visibility { doors, request, caller, whole: true, tenants }),
            Err(_) => {
                let admitted = doors.gate.admit_identified(&caller);
                admitted.map_err(|error| turned_away(doors, request, Some(&caller), &error))?;
                Ok(Visibility { doors, request, caller, whole: false, tenants: doors.config.all_tenants() })
            }
        }
    }

    /// Whether numbers of whole tenants and of the server may be seen.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Lets on only who may administer; `why` tells all others.
    pub fn expect_whole(&self, why: &str) -> Result<(), PageError> {
        let admitted = self.doors.gate.admit_admin(&self.caller);
        admitted.inspect_err(|error| self.tell_refusal(error)).map_err(|_| PageError::new(StatusCode::FORBIDDEN, why))
    }

    /// The address by which the caller reached the server: `https://host:port`. Absent if the request does not tell.
    pub fn base_url(&self) -> Option<String> {
        RequestOrigin::new(self.doors, self.request).base_url()
    }

    /// The tenants to look through. Their names are no secret to the caller only where [`Visibility::is_whole`], or where they
    /// see something of them.
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// The same, of one tenant alone where one is given: nothing where there is none of that name.
    pub fn narrowed(&self, only: Option<&str>) -> Visibility<'_> {
        let of = |tenant: &&Tenant| only.is_none_or(|only| only == &***tenant);
        let tenants = self.tenants.iter().filter(of).cloned().collect();
        Visibility { doors: self.doors, request: self.request, caller: self.caller.clone(), whole: self.whole, tenants }
    }

    /// Whether a repository may be seen in a list.
    pub fn can_see_repo(&self, tenant: &Tenant, repo: &RepoName) -> bool {
        // A reserved name has no owner.
        (self.whole && !repo.is_reserved()) || self.owns(tenant, repo, Tags::None)
    }

    /// Whether numbers of a whole repository may be seen: they tell of tags that the caller may not pull.
    pub fn can_see_all_of(&self, tenant: &Tenant, repo: &RepoName) -> bool {
        self.whole || self.owns(tenant, repo, Tags::All)
    }

    /// Whether a tag may be seen in a list.
    pub fn can_see_tag(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag) -> bool {
        self.whole || self.owns(tenant, repo, Tags::Named(vec![tag.clone()]))
    }

    /// Whether the page of a repository shows the caller this tenant's. It is another one's where the caller is in a scope, or
    /// looks at what a scope does.
    pub fn opens(&self, tenant: &Tenant, repo: &RepoName) -> bool {
        self.owns(tenant, repo, Tags::None)
    }

    /// The repository of a tag, to look into.
    pub fn permit(&self, repo: &RepoName, tag: &Tag) -> Result<Permit<Pull>, PageError> {
        self.admit(repo, Tags::Named(vec![tag.clone()]))
    }

    /// The tenant whose repository it is for the caller.
    pub fn tenant_of(&self, repo: &RepoName) -> Result<Tenant, PageError> {
        Ok(self.admit(repo, Tags::None)?.tenant().clone())
    }

    /// Text about a tag that does not exist.
    pub fn unknown_tag(&self, repo: &RepoName, tag: &Tag) -> String {
        nearby::unknown_tag(self.doors, &self.caller, repo, tag)
    }

    /// Text about a repository that does not exist.
    pub fn unknown_repo(&self, repo: &RepoName) -> String {
        nearby::unknown_repo(self.doors, &self.caller, repo)
    }

    fn admit(&self, repo: &RepoName, tags: Tags) -> Result<Permit<Pull>, PageError> {
        let admitted = self.doors.gate.admit(&self.caller, repo.clone(), tags);
        admitted.inspect_err(|error| self.tell_refusal(error)).map_err(|error| match error {
            AuthError::RepoUnknown(repo) => PageError::unknown(repo),
            error => PageError::new(StatusCode::FORBIDDEN, error),
        })
    }

    fn tell_refusal(&self, error: &AuthError) {
        tell_refusal(self.doors, self.request, Some(&self.caller), error);
    }

    fn owns(&self, tenant: &Tenant, repo: &RepoName, tags: Tags) -> bool {
        let admitted = self.doors.gate.admit::<Pull>(&self.caller, repo.clone(), tags);
        admitted.is_ok_and(|permit| permit.tenant() == tenant)
    }
}

/// A refusal for missing or wrong credentials, as of all doors, so that a browser asks for a password.
fn turned_away(doors: &Doors, request: &http::Request<()>, caller: Option<&Caller>, error: &AuthError) -> PageError {
    tell_refusal(doors, request, caller, error);
    let challenge = RequestOrigin::new(doors, request).challenge(Challenge::Basic, error, None);
    PageError { challenge, ..PageError::new(Refusal::from(error).status, error) }
}

fn tell_refusal(doors: &Doors, request: &http::Request<()>, caller: Option<&Caller>, error: &AuthError) {
    let (who, status) = (caller.map(|caller| caller.identity().to_string()), Refusal::from(error).status);
    Note::of(doors, request).turned_away(who.as_deref(), ROUTE, status, error);
}
