//! Who may see what on the pages.

use http::StatusCode;

use super::super::Doors;
use super::Refusal;
use crate::access::{Access, Permit, Verb};
use crate::names::{RepoName, Tag, Tenant};

/// What a caller may see. All pages ask here: what it does not grant is not gathered, so it cannot be shown.
pub struct Sight<'a> {
    doors: &'a Doors,
    tenants: Vec<Tenant>,
}

impl Sight<'_> {
    /// Who asks, and what is his to see: the one place where the pages decide.
    pub async fn of<'a>(doors: &'a Doors, _request: &http::Request<()>) -> Result<Sight<'a>, Refusal> {
        match doors.gate.visible_tenants() {
            Ok(tenants) => Ok(Sight { doors, tenants }),
            Err(denied) => Err(Refusal::new(StatusCode::FORBIDDEN, denied)),
        }
    }

    /// The tenants of which something may be seen.
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// The same, of one tenant alone where one is given.
    pub fn narrowed(&self, only: Option<&Tenant>) -> Sight<'_> {
        let of = |tenant: &&Tenant| only.is_none_or(|only| only == *tenant);
        Sight { doors: self.doors, tenants: self.tenants.iter().filter(of).cloned().collect() }
    }

    pub fn sees_tenant(&self, tenant: &Tenant) -> bool {
        self.tenants.contains(tenant)
    }

    /// Whether a repository may be seen in a list.
    pub fn sees(&self, tenant: &Tenant, _repo: &RepoName) -> bool {
        self.sees_tenant(tenant)
    }

    /// Whether a tag may be seen in a list.
    pub fn sees_tag(&self, tenant: &Tenant, repo: &RepoName, _tag: &Tag) -> bool {
        self.sees(tenant, repo)
    }

    /// A repository to look into.
    pub fn permit(&self, repo: RepoName) -> Result<Permit, Refusal> {
        let admitted = self.doors.gate.admit(Access { repo, verb: Verb::Pull });
        admitted.map_err(|denied| Refusal::new(StatusCode::FORBIDDEN, denied))
    }
}
