//! Referrers: the manifests that have another one as their subject.
//!
//! One small object for each, written when the referring manifest is pushed: two concurrent pushes lose nothing, and
//! the subject need not exist.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::page::{Listed, Page, merged};
use super::repo::{Repo, RepoWriter};
use crate::calls::{FAN_OUT, json};
use crate::content::Pin;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::oci::ManifestContent;

/// Largest page of a list in bytes, whatever its number of entries: clients read it as a manifest.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Largest annotations, in bytes, that a descriptor repeats. Larger ones are in the manifest only.
const ANNOTATIONS_BYTES_MAX: usize = 64 << 10;
/// Longest artifact type, in bytes, that a descriptor repeats: a media type has 255 at most (RFC 6838, 4.2).
const ARTIFACT_TYPE_BYTES_MAX: usize = 255;

/// Descriptor of a manifest in a list of referrers (distribution spec, "Listing Referrers").
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<HashMap<String, String>>,
}

impl Referrer {
    pub fn of(digest: &Digest, size: u64, parsed: &ManifestContent) -> Referrer {
        let is_short = |annotations: &&HashMap<String, String>| {
            let bytes: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
            bytes <= ANNOTATIONS_BYTES_MAX
        };
        Referrer {
            media_type: parsed.media_type.to_string(),
            digest: *digest,
            size,
            artifact_type: parsed.artifact_type.clone().filter(|kind| kind.len() <= ARTIFACT_TYPE_BYTES_MAX),
            annotations: parsed.annotations.as_ref().filter(is_short).cloned(),
        }
    }
}

impl RepoWriter {
    /// Writes the entry of a manifest of `size` bytes with the subject `subject`.
    pub(super) async fn put_referrer(
        &self,
        pin: &Pin,
        subject: &Digest,
        digest: &Digest,
        size: u64,
        parsed: &ManifestContent,
    ) -> Result<()> {
        let (repo, referrer) = (self.repo(), Referrer::of(digest, size, parsed));
        let key = layout::referrer(repo.tenant(), repo.name(), subject, digest);
        pin.spare(&key).await?;
        repo.content().put(&key, json(&referrer)?, pin.deadline()).await?;
        Ok(())
    }
}

impl Repo {
    /// Lists the manifests with the subject `subject`, in key order, of the artifact type `kind` if given. The page is
    /// counted after the filter. The list of a subject that does not exist is empty, not an error.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when so many are left out that the page is not found by the caller's deadline.
    pub async fn referrers(&self, subject: &Digest, kind: Option<&str>, page: &Page) -> Result<Listed<Referrer>> {
        let page_of = |repo: Repo| async move { own_referrers(&repo, subject, kind, page).await };
        self.deadline().bound(merged(self, page, page_of, |referrer| referrer.digest.to_string())).await
    }
}

async fn own_referrers(repo: &Repo, subject: &Digest, kind: Option<&str>, page: &Page) -> Result<Listed<Referrer>> {
    let prefix = layout::referrers_prefix(repo.tenant(), repo.name(), subject);
    let after = page.after.as_ref().map(|after| format!("{prefix}{}", after.replacen(':', "-", 1)));
    let keys = repo.content().objects().list(&prefix, after.as_deref()).err_into::<Error>();
    let calls = repo.content().calls(repo.deadline());
    let mut found = keys
        .map_ok(|meta| async move {
            let read = calls.read(&meta.key).await?;
            Ok(read.and_then(|(_, bytes)| Some((serde_json::from_slice::<Referrer>(&bytes).ok()?, bytes.len()))))
        })
        .try_buffered(FAN_OUT)
        .try_filter_map(|found| async move { Ok(found) })
        .try_filter(|(found, _)| {
            let wanted = kind.is_none() || found.artifact_type.as_deref() == kind;
            async move { wanted }
        })
        .boxed();
    let (mut entries, mut page_bytes) = (Vec::new(), 0);
    while let Some((referrer, bytes)) = found.try_next().await? {
        page_bytes += bytes;
        if entries.len() == page.limit || page_bytes > PAGE_BYTES_MAX && !entries.is_empty() {
            return Ok(Listed { entries, more: true });
        }
        entries.push(referrer);
    }
    Ok(Listed { entries, more: false })
}
