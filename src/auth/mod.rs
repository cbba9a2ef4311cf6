//! Who asks, and may they.

use std::sync::Arc;

use crate::access::{Access, Permit};
use crate::config::{Config, Secret};
use crate::names::Tenant;
use crate::operator::Operator;

/// Decides on requests, and to which tenant they belong. So far everybody may do everything that a client of a registry
/// does: whoever can reach the listener is trusted.
#[derive(Debug)]
pub struct Gate {
    config: Arc<Config>,
    operator: Secret,
}

/// The caller may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access denied")]
pub struct Denied;

impl Gate {
    pub fn new(config: Arc<Config>) -> Gate {
        Gate { config, operator: Operator::new_token() }
    }

    /// Invariant: the tenant of a permit follows from the name of the repository alone. So no request reaches what
    /// another tenant has, and none can tell whether it has it.
    pub fn admit(&self, access: Access) -> Result<Permit, Denied> {
        Ok(Permit::issue(self.config.tenant_of(&access.repo), access))
    }

    /// The tenants whose repositories the caller may list.
    pub fn visible_tenants(&self) -> Result<Vec<Tenant>, Denied> {
        Ok(self.config.all_tenants())
    }

    /// What proves that somebody may operate this server: see [`Operator`].
    pub fn operator_token(&self) -> &Secret {
        &self.operator
    }

    /// Whether the caller has proved that.
    pub fn admit_operator(&self, token: Option<&str>) -> Result<(), Denied> {
        let (token, ours) = (token.unwrap_or_default().as_bytes(), self.operator.expose().as_bytes());
        // In the same time wherever they differ.
        let differ = token.iter().zip(ours).fold(token.len() ^ ours.len(), |sum, (a, b)| sum | usize::from(a ^ b));
        if differ == 0 { Ok(()) } else { Err(Denied) }
    }
}
