//! The walk over all keys, in their order: later objects can be checked against earlier ones.
//!
//! Of a tenant, `blobs/` come before `repos/`; of a repository, `manifests/` before `pushes/`, `referrers/`, `tags/`
//! and `views/`; of an upload, `parts/` before its `state`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::check::look::{BlobSizes, IN_FLIGHT, Look, WalkFacts};
use crate::check::problem::{Finding, Problem};
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::layout::{Place, RepoItem, UploadItem};
use crate::names::{RepoName, Tag, Tenant, UploadId};
use crate::objects::{Key, Meta};

/// A check that is still to be run.
pub(super) type CheckTask<'a> = BoxFuture<'a, Result<Vec<Finding>>>;

pub(super) struct Walk<'a> {
    look: Look<'a>,
    tenant: Option<Tenant>,
    known: WalkFacts,
    repo: Option<InRepo>,
    upload: Option<InUpload>,
    has_format: bool,
    blobs: u64,
}

/// The repository that the walk is in.
struct InRepo {
    name: RepoName,
    /// Tags with pushes whose pointer was not met yet.
    pushed: BTreeMap<Tag, Vec<Meta>>,
}

/// The upload that the walk is in.
struct InUpload {
    id: UploadId,
    parts: Vec<Meta>,
    state: Option<Meta>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(look: Look<'a>) -> Walk<'a> {
        Walk { look, tenant: None, known: WalkFacts::new(), repo: None, upload: None, has_format: false, blobs: 0 }
    }

    /// Number of blobs met so far.
    pub(super) fn blobs(&self) -> u64 {
        self.blobs
    }

    /// Returns the checks for the next object.
    pub(super) fn next(&mut self, place: Option<Place>, meta: Meta) -> Vec<CheckTask<'a>> {
        let mut jobs = Vec::new();
        match &place {
            Some(Place::Repo { tenant, repo, .. }) => {
                self.enter(tenant, &mut jobs);
                self.enter_repo(tenant, repo, &meta.key, &mut jobs);
            }
            Some(Place::Upload { tenant, id, .. }) => {
                self.enter(tenant, &mut jobs);
                self.enter_upload(id, &mut jobs);
            }
            Some(Place::Blob { tenant, .. }) => self.enter(tenant, &mut jobs),
            _ => {}
        }
        match place {
            Some(Place::Format) => self.has_format = true,
            Some(Place::Blob { digest, .. }) => {
                self.blobs += 1;
                self.known.add_blob(digest, meta.size);
                // Most objects are blobs: no task for each, unless its bytes are checked.
                if !self.look.reads_blobs() {
                    return jobs;
                }
            }
            Some(Place::Repo { item, .. }) => self.meet(item, &meta),
            Some(Place::Upload { item, .. }) => {
                if let Some(upload) = &mut self.upload {
                    match item {
                        UploadItem::Part { .. } => upload.parts.push(meta),
                        UploadItem::State => upload.state = Some(meta),
                    }
                }
                return jobs;
            }
            _ => {}
        }
        let (look, known) = (self.look, self.known.clone());
        jobs.push(async move { look.object(meta, known).await }.boxed());
        jobs
    }

    /// Returns the checks at the end of the walk.
    pub(super) fn end(&mut self) -> Vec<CheckTask<'a>> {
        let mut jobs = Vec::new();
        self.leave_repo(&mut jobs);
        self.leave_upload(&mut jobs);
        if !self.has_format {
            jobs.push(found(vec![Finding::new(&layout::format(), Problem::NoFormat)]));
        }
        let look = self.look;
        jobs.push(async move { look.unfinished().await }.boxed());
        jobs
    }

    fn enter(&mut self, tenant: &Tenant, jobs: &mut Vec<CheckTask<'a>>) {
        if self.tenant.as_ref() != Some(tenant) {
            self.leave_repo(jobs);
            self.leave_upload(jobs);
            self.tenant = Some(tenant.clone());
            self.known = WalkFacts::new();
        }
    }

    fn enter_repo(&mut self, tenant: &Tenant, repo: &RepoName, key: &Key, jobs: &mut Vec<CheckTask<'a>>) {
        if self.repo.as_ref().is_some_and(|known| known.name == *repo) {
            return;
        }
        self.leave_repo(jobs);
        self.known.enter_repo();
        self.repo = Some(InRepo { name: repo.clone(), pushed: BTreeMap::new() });
        if !self.look.config.may_be_of(repo, tenant) {
            jobs.push(found(vec![Finding::new(key, Problem::Unreachable(tenant.clone()))]));
        }
        if repo.is_reserved() {
            jobs.push(found(vec![Finding::new(key, Problem::Reserved)]));
        }
    }

    fn enter_upload(&mut self, id: &UploadId, jobs: &mut Vec<CheckTask<'a>>) {
        self.leave_repo(jobs);
        if self.upload.as_ref().is_none_or(|upload| upload.id != *id) {
            self.leave_upload(jobs);
            self.upload = Some(InUpload { id: id.clone(), parts: Vec::new(), state: None });
        }
    }

    fn meet(&mut self, item: RepoItem, meta: &Meta) {
        let Some(repo) = &mut self.repo else { return };
        match item {
            RepoItem::Manifest(digest) => self.known.add_manifest(digest, meta.size),
            RepoItem::Push(tag, _) => repo.pushed.entry(tag).or_default().push(meta.clone()),
            RepoItem::Tag(tag) => drop(repo.pushed.remove(&tag)),
            _ => {}
        }
    }

    fn leave_repo(&mut self, jobs: &mut Vec<CheckTask<'a>>) {
        if let Some(repo) = self.repo.take() {
            let old = |record: &Meta| self.look.is_older(record.modified, IN_FLIGHT);
            let orphans = repo.pushed.into_values().flatten().filter(old);
            let orphans: Vec<Finding> = orphans.map(|record| Finding::new(&record.key, Problem::Orphan)).collect();
            if !orphans.is_empty() {
                jobs.push(found(orphans));
            }
        }
    }

    fn leave_upload(&mut self, jobs: &mut Vec<CheckTask<'a>>) {
        if let (Some(upload), Some(tenant)) = (self.upload.take(), self.tenant.clone()) {
            let look = self.look;
            jobs.push(async move { look.upload(&tenant, &upload.id, upload.state, upload.parts).await }.boxed());
        }
    }
}

fn found<'a>(findings: Vec<Finding>) -> CheckTask<'a> {
    std::future::ready(Ok(findings)).boxed()
}

impl WalkFacts {
    fn new() -> WalkFacts {
        WalkFacts { blobs: Some(Arc::default()), manifests: None, facts: Arc::default() }
    }

    fn enter_repo(&mut self) {
        self.manifests = Some(Arc::new(HashMap::new()));
        self.facts = Arc::default();
    }

    /// Adds nothing while a running check shares the list: the backend is asked for blobs that it lacks.
    fn add_blob(&mut self, digest: Digest, size: u64) {
        if let Some(blobs) = self.blobs.as_mut().and_then(Arc::get_mut) {
            BlobSizes::add(blobs, digest, size);
        }
    }

    fn add_manifest(&mut self, digest: Digest, size: u64) {
        if let Some(manifests) = self.manifests.as_mut().map(Arc::make_mut) {
            manifests.insert(digest, size);
        }
    }
}
