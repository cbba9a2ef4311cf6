//! Serving tags. A cache tag serves the view of its pushes, made at a request and kept until something that it depends
//! on changes.
//!
//! A view depends on two things: the pushes, which the tag's pointer proves unchanged, and the layers that are in the
//! store, which are looked up for every answer. So a lost layer costs the next build a step, and does not fail it; a
//! layer that came back is served again.
//!
//! Manifest and config of a view are stored like any other content, before the view is announced: every server can
//! serve a view that another announced.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::service::Caches;
use super::views::CachedView;
use crate::buildkit::Push;
use crate::calls::FAN_OUT;
use crate::content::Pin;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::names::Tag;
use crate::objects::Key;
use crate::refs::Repo;
use crate::refs::chain::{TagSources, VersionedPointer};
use crate::refs::manifests::Manifest;
use crate::refs::pushes::LivePush;
use crate::refs::stored_view::{Served, StoredView};
use crate::trace;

/// The kind of caller that asks for the manifest of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A client that will read the manifest's content.
    Client,
    /// A caller that only displays the tag. That is no use of the tag, and keeps nothing: otherwise a crawler of the
    /// pages would keep everything.
    Onlooker,
}

impl Caches {
    /// Returns the manifest that a tag serves now.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] when the tag does not exist, or its content is gone.
    pub async fn serve(&self, repo: &Repo, tag: &Tag) -> Result<Manifest> {
        let look = |pin: Pin| async move { self.manifest_now(&pin, repo, tag).await };
        let found = repo.content().pinned(repo.deadline(), look).await;
        let (tenant, events) = (repo.tenant(), self.refs().events());
        match &found {
            Ok(manifest) => {
                events.emit(Event::Served { tenant, repo: repo.name(), tag, bytes: manifest.bytes.len() as u64 });
            }
            Err(Error::ManifestUnknown(_)) => events.emit(Event::Missed { tenant, repo: repo.name(), tag }),
            Err(_) => {}
        }
        found
    }

    async fn manifest_now(&self, pin: &Pin, repo: &Repo, tag: &Tag) -> Result<Manifest> {
        let unknown = || Error::ManifestUnknown(tag.to_string());
        let served = self.served_to(Asker::Client, pin, repo, tag).await?.ok_or_else(unknown)?;
        let bytes = repo.manifest_bytes(&served.digest).await?.ok_or_else(unknown)?;
        if repo.names_wrong(&bytes).await? {
            return Err(unknown());
        }
        Ok(Manifest { digest: served.digest, media_type: served.media_type, bytes })
    }

    /// The manifest that a tag serves now, for display.
    pub async fn shown(&self, repo: &Repo, tag: &Tag) -> Result<Option<Served>> {
        let serve = |pin: Pin| async move { self.served_to(Asker::Onlooker, &pin, repo, tag).await };
        repo.content().pinned(repo.deadline(), serve).await
    }

    async fn served_to(&self, asker: Asker, pin: &Pin, repo: &Repo, tag: &Tag) -> Result<Option<Served>> {
        let key = repo.tag_key(tag);
        if asker == Asker::Client {
            // Spared before it is read: the pointer then stays as it was read.
            pin.spare(&key).await?;
        }
        let Some(sources) = repo.tag_sources(tag).await? else {
            let Some(parent) = repo.parent() else { return Ok(None) };
            let served = Box::pin(self.served_to(asker, pin, &parent, tag)).await?;
            if let (Asker::Client, Some(served)) = (asker, &served) {
                self.views().note_served(repo.manifest_key(&served.digest));
            }
            return Ok(served);
        };
        let pointer = &sources.at.pointer;
        if pointer.push.is_none() || !repo.has_views() {
            let served = Served::pushed(pointer);
            let is_whole = self.is_whole(pin, repo, &served.digest).await?;
            if asker == Asker::Client {
                repo.note_use(tag).await;
            }
            return Ok(is_whole.then_some(served));
        }
        if asker == Asker::Client {
            sources.note_use(repo, tag).await;
        }
        let known = match self.views().of_version(&key, &sources.at.version) {
            Some(known) if holds(pin, repo, &known.stored).await? => Some(known),
            _ => self.make_in_turn(pin, repo, tag, sources).await?,
        };
        let Some(known) = known else { return Ok(None) };
        let served = known.served();
        if !stays(pin, repo, &served, known.stored.config).await? {
            return Ok(None);
        }
        if asker == Asker::Client {
            self.views().note_served(repo.manifest_key(&served.digest));
        }
        Ok(Some(served))
    }

    /// Waits for other requests that make views of this tag, and makes the view if none of them has. Nothing if the tag
    /// was deleted meanwhile.
    ///
    /// A view that was begun is finished, even if the request's deadline has passed: the next request finds it.
    async fn make_in_turn(
        &self,
        pin: &Pin,
        repo: &Repo,
        tag: &Tag,
        mut sources: TagSources,
    ) -> Result<Option<Arc<CachedView>>> {
        let key = repo.tag_key(tag);
        let turn = self.views().turn(&key).clone();
        let turn = match turn.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let turn = pin.deadline().bound(turn.lock_owned().map(Ok)).await?;
                // While tags are pushed faster than views are made, the newest pointer never has its view. A view that
                // is as new as this request suffices.
                if let Some(known) = self.views().made_since(&key, sources.at.asked)
                    && !repo.blobs().is_scope()
                    && holds(pin, repo, &known.stored).await?
                {
                    return Ok(Some(known));
                }
                match repo.tag_sources(tag).await? {
                    Some(newer) => sources = newer,
                    None => return Ok(None),
                }
                turn
            }
        };
        let (caches, repo, pin, tag) = (self.clone(), repo.clone(), pin.clone(), tag.clone());
        let deadline = pin.deadline();
        let making = tokio::spawn(trace::carried(async move {
            let (repo, pin) = (repo.until_each_call(), pin.until_each_call());
            let known = caches.make_known(&pin, &repo, &tag, sources).await;
            drop(turn);
            known
        }));
        deadline.bound(async { making.await? }).await.map(Some)
    }

    /// Has the view of a tag made that was just pushed to, if another server may be asked for it next: that one finds
    /// the view stored, and need not read all pushes. A failure here is repaired by the next request for the tag.
    pub(super) fn make_ahead(&self, repo: &Repo, tag: &Tag) {
        let (key, asked) = (repo.tag_key(tag), Instant::now());
        // A task that still waits for its turn will read the pointer later, and so sees this push.
        if !repo.content().objects().traits().shared || !self.views().begin_ahead(&key) {
            return;
        }
        let (caches, repo, tag) = (self.clone(), repo.until_each_call(), tag.clone());
        tokio::spawn(async move {
            let views = caches.views();
            let _turn = views.turn(&key).lock().await;
            views.end_ahead(&key);
            if views.made_since(&key, asked).is_none()
                && let Err(error) = caches.make_newest(&repo, &tag).await
            {
                tracing::info!(repo = %repo.name(), %tag, %error, "cannot make the view now");
            }
        });
    }

    async fn make_newest(&self, repo: &Repo, tag: &Tag) -> Result<()> {
        let pin = repo.content().pin(repo.deadline()).await?;
        match repo.tag_sources(tag).await? {
            Some(sources) if sources.at.pointer.push.is_some() => {
                self.make_known(&pin, repo, tag, sources).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Makes the view, unless another request has just made it or the stored one still holds. The pointer was read
    /// before the pushes are listed: a push that the list misses has a newer pointer.
    async fn make_known(&self, pin: &Pin, repo: &Repo, tag: &Tag, sources: TagSources) -> Result<Arc<CachedView>> {
        let (key, at) = (repo.tag_key(tag), &sources.at);
        if let Some(known) = self.views().of_version(&key, &at.version)
            && holds(pin, repo, &known.stored).await?
        {
            return Ok(known);
        }
        let (live, stored) = tokio::try_join!(sources.pushes(repo, tag), repo.stored_view(tag))?;
        let stored = match stored {
            Some(stored) if stored.is_of(&live) && holds(pin, repo, &stored).await? => stored,
            _ => self.make(pin, repo, tag, &at.pointer, &live, None).await?,
        };
        let known = Arc::new(CachedView { at: sources.at, live, stored });
        self.views().insert(key, known.clone());
        Ok(known)
    }

    /// Makes the view of a tag that has just been pushed for the first time, of the push at hand. A failure here is
    /// repaired by the next request for the tag.
    pub(super) async fn make_first(
        &self,
        pin: &Pin,
        repo: &Repo,
        tag: &Tag,
        at: VersionedPointer,
        (live, push): (LivePush, Arc<Push>),
    ) {
        let id = live.id;
        let live = vec![live];
        match self.make(pin, repo, tag, &at.pointer, &live, Some((id, push))).await {
            // Only a list gives the time of the push for certain.
            Ok(stored) if !stored.evicted.is_empty() => {}
            Ok(stored) => self.views().insert(repo.tag_key(tag), Arc::new(CachedView { at, live, stored })),
            Err(error) => tracing::info!(repo = %repo.name(), %tag, %error, "cannot make the view now"),
        }
    }
}

/// Whether the manifest and config that a client reads next stay. The layers have been looked up; manifest and config
/// may be those of a push, condemned with its tag, and the tag may be deleted within the lease.
async fn stays(pin: &Pin, repo: &Repo, served: &Served, config: Option<Digest>) -> Result<bool> {
    let config = config.map(|digest| repo.blobs().blob_keys(&digest).collect());
    for keys in std::iter::once(repo.manifest_keys(&served.digest).collect()).chain(config) {
        if pin.is_gone(keys, false).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the store has the content that a view needs, and still lacks the content that it left out.
async fn holds(pin: &Pin, repo: &Repo, stored: &StoredView) -> Result<bool> {
    let blobs = |digest: &Digest| repo.blobs().blob_keys(digest).collect::<Vec<_>>();
    // A client reads these two next.
    let own = stored.view.iter().map(|view| (repo.manifest_keys(&view.digest).collect(), view.digest));
    let config = stored.config.iter().map(|digest| (blobs(digest), *digest));
    let read = own.chain(config).map(|(keys, digest): (Vec<Key>, Digest)| {
        async move { pin.may_read_any(keys.into_iter(), &digest).await }.boxed()
    });
    let needed = stored.needed.iter().filter(|digest| stored.config.as_ref() != Some(digest));
    let needed = needed.map(|digest| (blobs(digest), stored.pushed(digest), true));
    let manifests = stored.missing_manifests.iter().map(|digest| (repo.manifest_keys(digest).collect(), None, false));
    let missing = stored.missing.iter().map(|digest| (blobs(digest), stored.pushed(digest), false));
    let looks = needed.chain(missing).chain(manifests).map(|(keys, pushed, expected)| {
        async move { Ok::<_, Error>(pin.may_name_any(keys.into_iter(), pushed).await? == expected) }.boxed()
    });
    let mut looks = stream::iter(read.chain(looks).collect::<Vec<_>>()).buffered(FAN_OUT);
    while let Some(as_expected) = looks.try_next().await? {
        if !as_expected {
            return Ok(false);
        }
    }
    Ok(true)
}
