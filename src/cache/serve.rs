//! What a tag serves. A cache tag serves the view of its pushes, made when it is asked for and kept until something it rests
//! on changes.
//!
//! A view rests on two things: the pushes, which the tag's pointer proves unchanged, and which of their layers are in
//! the store, which is looked at for every answer. So a layer that was lost costs the next build a step, not its life,
//! and one that came back is served again.
//!
//! Manifest and config of a view are stored like any other content, before the view is announced: every server can serve
//! what another announced.

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

/// Who asks what a tag serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A client that goes on to read it.
    Client,
    /// Somebody who looks at it. That is no use of the tag, and keeps nothing: or whatever crawls the pages would keep all.
    Onlooker,
}

impl Caches {
    /// The manifest that a tag serves now.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] when there is no such tag, or what it names is gone.
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

    /// What a tag serves now, for people to look at.
    pub async fn shown(&self, repo: &Repo, tag: &Tag) -> Result<Option<Served>> {
        let serve = |pin: Pin| async move { self.served_to(Asker::Onlooker, &pin, repo, tag).await };
        repo.content().pinned(repo.deadline(), serve).await
    }

    async fn served_to(&self, asker: Asker, pin: &Pin, repo: &Repo, tag: &Tag) -> Result<Option<Served>> {
        let key = repo.tag_key(tag);
        if asker == Asker::Client {
            // Before it is read: what it says then, it goes on to say.
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

    /// Waits for the other makers of this tag, and makes what they have not made. Nothing when the tag has gone meanwhile.
    ///
    /// Once begun it goes on, though the deadline of the request has passed: whoever asks again finds it made.
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
                // While tags are pushed faster than views are made, the newest pointer never has its view. One that is as
                // new as this request will do.
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

    /// Has the view of a tag made that was just pushed to, where another server may be asked for it next: that one finds it
    /// stored, and need not read all pushes. Whatever fails here is done when somebody asks.
    pub(super) fn make_ahead(&self, repo: &Repo, tag: &Tag) {
        let (key, asked) = (repo.tag_key(tag), Instant::now());
        // Whoever waits for the turn already reads the pointer when it has come.
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

    /// Makes the view, unless another request has just done so or the stored one still holds. The pointer was read before
    /// the pushes are listed: a push that the list misses comes with a newer pointer.
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

    /// Makes the view of a tag that has just been pushed for the first time, of the push at hand. Whatever fails here is
    /// done when somebody asks.
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
            // When the push was written only a list tells for certain.
            Ok(stored) if !stored.evicted.is_empty() => {}
            Ok(stored) => self.views().insert(repo.tag_key(tag), Arc::new(CachedView { at, live, stored })),
            Err(error) => tracing::info!(repo = %repo.name(), %tag, %error, "cannot make the view now"),
        }
    }
}

/// Whether what whoever asks for a tag reads next is there to stay. The layers have been looked at; manifest and config may
/// be those of a push, and condemned with its tag, which may be deleted within the lease.
async fn stays(pin: &Pin, repo: &Repo, served: &Served, config: Option<Digest>) -> Result<bool> {
    let config = config.map(|digest| repo.blobs().blob_keys(&digest).collect());
    for keys in std::iter::once(repo.manifest_keys(&served.digest).collect()).chain(config) {
        if pin.is_gone(keys, false).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the store has what a view needs, and still lacks what it was made without.
async fn holds(pin: &Pin, repo: &Repo, stored: &StoredView) -> Result<bool> {
    let blobs = |digest: &Digest| repo.blobs().blob_keys(digest).collect::<Vec<_>>();
    // Whoever asks for the tag reads these two next.
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
