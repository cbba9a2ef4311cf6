//! Usage of a store, counted.

mod scan;

use std::time::Instant;

use crate::error::Result;
use crate::refs::Refs;

/// Counts the content of all tenants, and corrects their accounts and the inventory: lists everything, and reads every
/// manifest.
pub async fn count(refs: &Refs) -> Result<()> {
    let (at, known) = (Instant::now(), refs.usage().begin_scan());
    let tenants = refs.tenants().await?;
    refs.stock().keep(&tenants, at);
    refs.usage().keep(&tenants, known);
    for tenant in tenants {
        let account = refs.usage().account(&tenant);
        let began = account.begin_scan();
        let at = Instant::now();
        let (found, tags) = scan::scan(refs, &tenant).await?;
        tracing::debug!(%tenant, bytes = found.bytes, blobs = found.blobs, "usage counted");
        refs.stock().replace(&tenant, tags, at);
        account.set_scanned(began, found);
    }
    Ok(())
}
