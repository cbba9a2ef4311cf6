//! Memory for what is parsed. A config of some megabytes takes many times as much once it is parsed, and whoever may push
//! may have one parsed: so all that parses takes its memory out of one budget, by turns, and waits for it holding nothing.
//!
//! Invariant: nobody waits for this memory while holding some of it, or a place that another needs to give some back.

use crate::names::Tenant;
use crate::turns::{Class, Turn, Turns};

/// All that is parsed at once, in bytes: two views and some pushes, or the largest config alone. Scopes and onlookers have
/// half of it.
const PARSED_BYTES: u64 = 128 << 20;
/// What one view takes: the pushes that it is made of. Of pushes that come to more, the newest are united. Bytes.
pub(super) const VIEW_BYTES: u64 = 48 << 20;
/// The budget of one server.
pub(super) struct ParseMemory {
    turns: Turns<Tenant>,
}

impl Default for ParseMemory {
    fn default() -> Self {
        ParseMemory { turns: Turns::new(PARSED_BYTES, PARSED_BYTES / 2) }
    }
}

impl ParseMemory {
    /// So many bytes, when it is the tenant's turn.
    pub async fn take(&self, class: Class, tenant: &Tenant, bytes: u64) -> Turn<Tenant> {
        self.turns.take(class, tenant.clone(), bytes).await
    }
}
