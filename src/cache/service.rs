//! The caches of one store.

use std::sync::Arc;

use super::memory::ParseMemory;
use super::views::Views;
use crate::refs::Refs;

/// The caches of one store. Cheap to clone.
#[derive(Clone)]
pub struct Caches {
    refs: Refs,
    views: Arc<Views>,
    parsing: Arc<ParseMemory>,
}

impl Caches {
    /// The caches of the tags in `refs`.
    pub fn new(refs: Refs) -> Caches {
        Caches { refs, views: Arc::default(), parsing: Arc::default() }
    }

    /// The references of the store.
    pub fn refs(&self) -> &Refs {
        &self.refs
    }

    pub(super) fn views(&self) -> &Arc<Views> {
        &self.views
    }

    pub(super) fn parsing(&self) -> &ParseMemory {
        &self.parsing
    }
}
