//! Memory for parsing. A config of some megabytes takes many times as much once it is parsed, and every caller that may
//! push can cause that. So all parsing takes its memory from one budget, by turns, and a caller that waits for memory
//! holds none.
//!
//! Invariant: no caller waits for this memory while it holds some of it, or an upload slot that another caller needs to
//! give some back.

use crate::names::Tenant;
use crate::turns::{Class, Turn, Turns};

/// Memory in bytes of all parsing at a time: two views and some pushes, or the largest config alone. Scopes and
/// inspections have half of it.
const PARSED_BYTES: u64 = 128 << 20;
/// Memory in bytes of one view: of the pushes in it. Of more pushes, the newest are united.
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
    /// Takes `bytes` of memory when it is the tenant's turn.
    pub async fn take(&self, class: Class, tenant: &Tenant, bytes: u64) -> Turn<Tenant> {
        self.turns.take(class, tenant.clone(), bytes).await
    }
}
