//! The texts behind the names of scopes: a name has little more of its text than a hash.
//!
//! A server learns the text of a scope when a caller of the scope is admitted. Nothing is stored, so after a restart a
//! scope has its text again as soon as it is used.

use std::sync::Arc;

use moka::sync::Cache;

use crate::names::{ScopeName, Tenant};
use crate::sync::lru;

/// Scopes whose text is remembered, and bytes of one text: claims have no bound of their own.
const SCOPES_MAX: u64 = 10_000;
const TEXT_BYTES_MAX: usize = 256;

/// The texts that are remembered, by the scope.
pub struct ScopeTexts {
    known: Cache<Tenant, Arc<str>>,
}

impl Default for ScopeTexts {
    fn default() -> Self {
        ScopeTexts { known: lru(SCOPES_MAX) }
    }
}

impl ScopeTexts {
    /// A caller was admitted to the scope of that name, or reads it.
    pub fn learn(&self, scope: &Tenant, name: &ScopeName) {
        // A look costs less than the lock of an insert, and a build has many requests.
        if !self.known.contains_key(scope) {
            let text = name.text();
            self.known.insert(scope.clone(), text[..text.floor_char_boundary(TEXT_BYTES_MAX)].into());
        }
    }

    /// The text of a scope, cut where it is very long; nothing before a caller of the scope was admitted.
    pub fn of(&self, scope: &Tenant) -> Option<Arc<str>> {
        self.known.get(scope)
    }
}
