//! Who asks, and may they.

use crate::access::{Access, Permit};
use crate::names::Tenant;

/// Decides on requests. So far everybody may do everything that a client of a registry does, in one tenant: whoever can
/// reach the listener is trusted.
#[derive(Debug, Default)]
pub struct Gate {}

/// The caller may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access denied")]
pub struct Denied;

impl Gate {
    pub fn admit(&self, access: Access) -> Result<Permit, Denied> {
        Ok(Permit::issue(Tenant::default_tenant(), access))
    }

    /// The tenants whose repositories the caller may list.
    pub fn visible_tenant(&self) -> Result<Tenant, Denied> {
        Ok(Tenant::default_tenant())
    }
}
