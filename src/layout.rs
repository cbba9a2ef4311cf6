//! The keys of all objects. They are built and parsed in this file only.
//!
//! ```text
//! meta/format                                          written first; see `meta::format`
//! meta/signing-key                                     the key that signs tokens, if none is configured
//! meta/revoked/<session>                               a session that was revoked before its end; see `meta::revoked`
//! meta/clock                                           rewritten by a server that asks for the backend's time
//! condemned/<batch>/list                               keys that are going to be deleted; see `content::condemned`
//! condemned/<batch>/spared/<number>                    a server relies on this entry of the list
//! condemned/<batch>/claim                              the right to delete the batch
//! t/<tenant>/
//!   blobs/<algorithm>/ab/<hex>                         the bytes, write-once
//!   repos/<name>/!/manifests/<algorithm>/<hex>         manifest bytes exactly as pushed, write-once
//!   repos/<name>/!/tags/<tag>                          the pointer
//!   repos/<name>/!/pushes/<tag>/<identity>-<algorithm>-<hex of manifest>      push records of a cache tag, write-once
//!   repos/<name>/!/views/<tag>                         stored view: the last view and its pushes
//!   repos/<name>/!/referrers/<algorithm>/<hex of subject>/<algorithm>-<hex>   descriptor of one referrer
//!   repos/<name>/!/used/<tag>                          time of the tag's last use
//!   repos/<name>/!/entries/<space>/<version>/<escaped key>.entry   list of blobs, write-once; see `layout/entry.rs`
//!   repos/<name>/!/entries/<space>/<version>/<escaped key>.used    time of its last use
//!   uploads/<id>/state                                 a chunked upload: its valid parts, and the hash state
//!   uploads/<id>/parts/<offset>-<nonce>                its bytes so far, one object for each request
//! quarantine/<key>                                     note: this version of the object under the key is wrong
//! ```
//!
//! `!` is outside the grammar of names: so repository `a` may have a repository `a/b` beside it on a filesystem, and no
//! name can be mistaken for one of Larder's folders.
//!
//! Invariant: two different things never share a key, and [`parse`] undoes every builder (a property test holds it).

use std::fmt::Write;

use crate::digest::{Algorithm, Digest};
use crate::names::{BatchId, RepoName, SessionId, Tag, Tenant, UploadId};
use crate::objects::Key;

mod entry;
#[cfg(test)]
mod tests;

pub use entry::{EntryItem, EntryName};

/// The key of the store's format.
pub fn format() -> Key {
    Key::new("meta/format")
}

/// The key of the secret that signs tokens, if none is configured.
pub fn signing_key() -> Key {
    Key::new("meta/signing-key")
}

/// Prefix of the notes of revoked sessions.
pub const REVOKED: &str = "meta/revoked/";

/// The key of the note that a session was revoked.
pub fn revoked(session: &SessionId) -> Key {
    Key::new(format!("{REVOKED}{session}"))
}

/// Prefix of all quarantine notes.
pub const QUARANTINE: &str = "quarantine/";

/// The key of the note that the object under `key` is wrong.
pub fn quarantine(key: &Key) -> Key {
    Key::new(format!("{QUARANTINE}{key}"))
}

/// The key of an object whose modification time is the backend's time.
pub fn clock() -> Key {
    Key::new("meta/clock")
}

/// Prefix of all batches: one list shows them.
pub const CONDEMNED: &str = "condemned/";

/// Prefix of one batch.
pub fn batch_prefix(batch: &BatchId) -> String {
    format!("condemned/{batch}/")
}

pub fn batch_list(batch: &BatchId) -> Key {
    Key::new(format!("condemned/{batch}/list"))
}

pub fn batch_claim(batch: &BatchId) -> Key {
    Key::new(format!("condemned/{batch}/claim"))
}

/// The key of a spare. `entry` is a position in the batch's list.
pub fn batch_spared(batch: &BatchId, entry: u32) -> Key {
    Key::new(format!("condemned/{batch}/spared/{entry:04}"))
}

/// Prefix of all tenants.
pub const TENANTS: &str = "t/";

/// A text that sorts after every key of one tenant and before every key of the next: for skipping over it.
pub fn tenant_end(tenant: &Tenant) -> String {
    format!("t/{tenant}/~")
}

/// The tenant of a key.
pub fn tenant_of(key: &str) -> Option<Tenant> {
    tenant_name(key)?.parse().ok()
}

/// The tenant of a key, as it is written there.
pub fn tenant_name(key: &str) -> Option<&str> {
    Some(key.strip_prefix(TENANTS)?.split_once('/')?.0)
}

/// Prefix of a tenant's blobs.
pub fn blobs_prefix(tenant: &Tenant) -> String {
    format!("t/{tenant}/blobs/")
}

/// Prefix of a tenant.
pub fn tenant_prefix(tenant: &Tenant) -> String {
    format!("t/{tenant}/")
}

pub fn blob(tenant: &Tenant, digest: &Digest) -> Key {
    let hex = digest.hex();
    // In one allocation: every request for a blob makes one or two of these.
    Key::new(["t/", tenant, "/blobs/", digest.algorithm().as_str(), "/", &hex[..2], "/", &hex].concat())
}

/// Prefix of a tenant's repositories.
pub fn repos_prefix(tenant: &Tenant) -> String {
    format!("t/{tenant}/repos/")
}

/// Prefix of the repository `name` and all repositories below it.
pub fn repos_below(tenant: &Tenant, name: &str) -> String {
    format!("t/{tenant}/repos/{name}/")
}

/// Prefix of one repository.
pub fn repo_prefix(tenant: &Tenant, repo: &RepoName) -> String {
    format!("t/{tenant}/repos/{repo}/!/")
}

/// A text that sorts after every key of one repository and before every key of the next: for skipping over it.
pub fn repo_end(tenant: &Tenant, repo: &RepoName) -> String {
    format!("t/{tenant}/repos/{repo}/!~")
}

pub fn manifest(tenant: &Tenant, repo: &RepoName, digest: &Digest) -> Key {
    Key::new(format!("t/{tenant}/repos/{repo}/!/manifests/{}/{}", digest.algorithm().as_str(), digest.hex()))
}

pub fn tags_prefix(tenant: &Tenant, repo: &RepoName) -> String {
    format!("t/{tenant}/repos/{repo}/!/tags/")
}

pub fn tag(tenant: &Tenant, repo: &RepoName, tag: &Tag) -> Key {
    Key::new(format!("t/{tenant}/repos/{repo}/!/tags/{tag}"))
}

pub fn pushes_prefix(tenant: &Tenant, repo: &RepoName, tag: &Tag) -> String {
    format!("t/{tenant}/repos/{repo}/!/pushes/{tag}/")
}

/// The identity of a push record. It is the record's key, so a list of keys suffices to know the pushes of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct PushId {
    /// SHA-256 of the content of the push, whatever the form of its manifest.
    pub identity: Digest,
    pub manifest: Digest,
}

impl PushId {
    /// A short name that tells it from the other pushes of a tag: 64 bits, in hexadecimal digits.
    pub fn short(&self) -> String {
        format!("{:.8}{:.8}", self.identity.hex(), self.manifest.hex())
    }
}

/// The key of a push record. The same push writes the same key again.
pub fn push(tenant: &Tenant, repo: &RepoName, tag: &Tag, id: &PushId) -> Key {
    Key::new(format!("t/{tenant}/repos/{repo}/!/pushes/{tag}/{}-{}", id.identity.hex(), flat(&id.manifest)))
}

pub fn view(tenant: &Tenant, repo: &RepoName, tag: &Tag) -> Key {
    Key::new(format!("t/{tenant}/repos/{repo}/!/views/{tag}"))
}

pub fn used(tenant: &Tenant, repo: &RepoName, tag: &Tag) -> Key {
    Key::new(format!("t/{tenant}/repos/{repo}/!/used/{tag}"))
}

pub fn referrers_prefix(tenant: &Tenant, repo: &RepoName, subject: &Digest) -> String {
    format!("t/{tenant}/repos/{repo}/!/referrers/{}/{}/", subject.algorithm().as_str(), subject.hex())
}

pub fn referrer(tenant: &Tenant, repo: &RepoName, subject: &Digest, manifest: &Digest) -> Key {
    let mut text = referrers_prefix(tenant, repo, subject);
    text.push_str(&flat(manifest));
    Key::new(text)
}

/// The key of an object of an entry.
pub fn entry(tenant: &Tenant, repo: &RepoName, name: &EntryName, item: EntryItem) -> Key {
    Key::new(format!("t/{tenant}/repos/{repo}/!/entries/{}", name.path(item)))
}

/// Prefix of all entries whose key begins with `start`, and of some others if `start` is long.
pub fn entries_prefix(tenant: &Tenant, repo: &RepoName, space: &str, version: &str, start: &str) -> String {
    format!("t/{tenant}/repos/{repo}/!/entries/{}", EntryName::prefix(space, version, start))
}

/// Prefix of a tenant's uploads.
pub fn uploads_prefix(tenant: &Tenant) -> String {
    format!("t/{tenant}/uploads/")
}

/// Prefix of one upload.
pub fn upload_prefix(tenant: &Tenant, id: &UploadId) -> String {
    format!("t/{tenant}/uploads/{id}/")
}

pub fn upload_state(tenant: &Tenant, id: &UploadId) -> Key {
    Key::new(format!("t/{tenant}/uploads/{id}/state"))
}

/// The key of a part. `nonce` keeps two requests that race for the same offset apart: the state lists the valid one.
pub fn upload_part(tenant: &Tenant, id: &UploadId, offset: u64, nonce: u64) -> Key {
    Key::new(format!("t/{tenant}/uploads/{id}/parts/{offset:020}-{nonce:016x}"))
}

/// A digest as one path component.
fn flat(digest: &Digest) -> String {
    let mut text = String::with_capacity(136);
    let _ = write!(text, "{}-{}", digest.algorithm().as_str(), digest.hex());
    text
}

fn unflat(text: &str) -> Option<Digest> {
    let (algorithm, hex) = text.split_once('-')?;
    digest(algorithm, hex)
}

fn digest(algorithm: &str, hex: &str) -> Option<Digest> {
    Digest::from_hex(algorithm.parse::<Algorithm>().ok()?, hex).ok()
}

/// The parsed form of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Format,
    SigningKey,
    Revoked(SessionId),
    Clock,
    Condemned {
        batch: BatchId,
        item: BatchItem,
    },
    Blob {
        tenant: Tenant,
        digest: Digest,
    },
    Repo {
        tenant: Tenant,
        repo: RepoName,
        item: RepoItem,
    },
    Upload {
        tenant: Tenant,
        id: UploadId,
        item: UploadItem,
    },
    /// The quarantine note of the object under this key.
    Quarantine(Key),
}

/// An object of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchItem {
    List,
    Spared(u32),
    Claim,
}

/// An object of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepoItem {
    Manifest(Digest),
    Tag(Tag),
    Push(Tag, PushId),
    View(Tag),
    Used(Tag),
    Referrer { subject: Digest, manifest: Digest },
    Entry(EntryName, EntryItem),
}

/// An object of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadItem {
    State,
    Part { offset: u64, nonce: u64 },
}

/// Parses `key`; nothing if no builder here makes such a key.
pub fn parse(key: &str) -> Option<Place> {
    match key {
        "meta/format" => return Some(Place::Format),
        "meta/signing-key" => return Some(Place::SigningKey),
        "meta/clock" => return Some(Place::Clock),
        _ => {}
    }
    if let Some(session) = key.strip_prefix(REVOKED) {
        return Some(Place::Revoked(session.parse().ok()?));
    }
    if let Some(rest) = key.strip_prefix(CONDEMNED) {
        let (batch, rest) = rest.split_once('/')?;
        return Some(Place::Condemned { batch: batch.parse().ok()?, item: parse_batch_item(rest)? });
    }
    if let Some(of) = key.strip_prefix(QUARANTINE) {
        let noted = parse(of).is_some_and(|place| matches!(place, Place::Blob { .. } | Place::Repo { .. }));
        return noted.then(|| Place::Quarantine(Key::new(of)));
    }
    let (tenant, rest) = key.strip_prefix(TENANTS)?.split_once('/')?;
    let tenant: Tenant = tenant.parse().ok()?;
    let (kind, rest) = rest.split_once('/')?;
    match kind {
        "blobs" => {
            let [algorithm, shard, hex] = split(rest)?;
            let digest = digest(algorithm, hex)?;
            hex.starts_with(shard).then_some(())?;
            (shard.len() == 2).then_some(Place::Blob { tenant, digest })
        }
        "repos" => {
            let (repo, rest) = rest.split_once("/!/")?;
            Some(Place::Repo { tenant, repo: repo.parse().ok()?, item: parse_repo_item(rest)? })
        }
        "uploads" => {
            let (id, rest) = rest.split_once('/')?;
            Some(Place::Upload { tenant, id: id.parse().ok()?, item: parse_upload_item(rest)? })
        }
        _ => None,
    }
}

fn parse_repo_item(text: &str) -> Option<RepoItem> {
    let (kind, rest) = text.split_once('/')?;
    Some(match kind {
        "manifests" => {
            let [algorithm, hex] = split(rest)?;
            RepoItem::Manifest(digest(algorithm, hex)?)
        }
        "tags" => RepoItem::Tag(rest.parse().ok()?),
        "pushes" => {
            let [tag, id] = split(rest)?;
            let (identity, manifest) = id.split_once('-')?;
            let identity = digest("sha256", identity)?;
            RepoItem::Push(tag.parse().ok()?, PushId { identity, manifest: unflat(manifest)? })
        }
        "views" => RepoItem::View(rest.parse().ok()?),
        "used" => RepoItem::Used(rest.parse().ok()?),
        "referrers" => {
            let [algorithm, hex, manifest] = split(rest)?;
            RepoItem::Referrer { subject: digest(algorithm, hex)?, manifest: unflat(manifest)? }
        }
        "entries" => {
            let (name, item) = EntryName::parse(rest)?;
            RepoItem::Entry(name, item)
        }
        _ => return None,
    })
}

fn parse_batch_item(text: &str) -> Option<BatchItem> {
    match text {
        "list" => Some(BatchItem::List),
        "claim" => Some(BatchItem::Claim),
        _ => {
            let entry = text.strip_prefix("spared/")?;
            (entry.len() == 4 && entry.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
            Some(BatchItem::Spared(entry.parse().ok()?))
        }
    }
}

fn parse_upload_item(text: &str) -> Option<UploadItem> {
    if text == "state" {
        return Some(UploadItem::State);
    }
    let (offset, nonce) = text.strip_prefix("parts/")?.split_once('-')?;
    (offset.len() == 20 && nonce.len() == 16).then_some(())?;
    Some(UploadItem::Part { offset: offset.parse().ok()?, nonce: u64::from_str_radix(nonce, 16).ok()? })
}

fn split<const N: usize>(text: &str) -> Option<[&str; N]> {
    text.split('/').collect::<Vec<_>>().try_into().ok()
}
