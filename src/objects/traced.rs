//! Objects whose calls are spans: the children of the request that waits for them.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{
    ByteStream, Draft, Error, Fence, Key, Meta, Objects, Read, Result, Space, Traits, Unfinished, Version, Watcher,
    When,
};
use crate::digest::Digest;
use crate::trace::{self, CallSpan, SpanFailed};

/// Wraps `objects`, so that each call has a span if spans are recorded.
pub fn traced(objects: Arc<dyn Objects>) -> Arc<dyn Objects> {
    if trace::is_on() { Arc::new(Traced { objects }) } else { objects }
}

struct Traced {
    objects: Arc<dyn Objects>,
}

impl Traced {
    fn call(&self, name: &'static str, key: &str) -> CallSpan {
        CallSpan::begin(name, self.objects.traits().remote, key)
    }
}

/// Runs `work` within `span`, and records its error there.
async fn seen<T>(mut span: CallSpan, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = work.await;
    note(&mut span, &done);
    done
}

fn note<T>(span: &mut CallSpan, done: &Result<T>) {
    let Err(error) = done else { return };
    let (kind, fault) = match error {
        Error::NotFound => ("not_found", false),
        Error::Exists => ("exists", false),
        Error::Busy(_) => ("busy", true),
        Error::Full => ("full", true),
        Error::Backend(_) => ("backend", true),
    };
    span.fail(SpanFailed { kind, fault });
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Objects for Traced {
    async fn head(&self, key: &Key) -> Result<Meta> {
        seen(self.call("objects head", key.as_str()), self.objects.head(key)).await
    }

    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read> {
        seen(self.call("objects read", key.as_str()), self.objects.read(key, known)).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)> {
        let mut span = self.call("objects get", key.as_str());
        let got = self.objects.get(key, range).await;
        note(&mut span, &got);
        let (meta, bytes) = got?;
        Ok((meta, held(span, bytes)))
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        held(self.call("objects list", prefix), self.objects.list(prefix, after))
    }

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta> {
        seen(self.call("objects put", key.as_str()), self.objects.put(key, body, when)).await
    }

    async fn begin(&self, key: &Key, size: Option<u64>) -> Result<Box<dyn Draft>> {
        let mut span = self.call("objects write", key.as_str());
        let begun = self.objects.begin(key, size).await;
        note(&mut span, &begun);
        Ok(Box::new(TracedDraft { draft: begun?, span }))
    }

    async fn concat(&self, from: &[Key], to: &Key, digest: &Digest) -> Result<Meta> {
        seen(self.call("objects concat", to.as_str()), self.objects.concat(from, to, digest)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let first = keys.first().map_or("", Key::as_str);
        seen(self.call("objects delete", first), self.objects.delete(keys)).await
    }

    async fn delete_dated(&self, keys: &[Key], at: SystemTime) -> Result<()> {
        let first = keys.first().map_or("", Key::as_str);
        seen(self.call("objects delete", first), self.objects.delete_dated(keys, at)).await
    }

    fn fence(&self) -> Option<Fence> {
        self.objects.fence()
    }

    async fn probe(&self) -> Result<()> {
        seen(self.call("objects probe", ""), self.objects.probe()).await
    }

    fn space(&self) -> Option<Space> {
        self.objects.space()
    }

    fn watch(&self, watcher: Watcher) {
        self.objects.watch(watcher);
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>> {
        self.objects.unfinished().await
    }

    fn traits(&self) -> Traits {
        self.objects.traits()
    }

    async fn sweep_drafts(&self, before: SystemTime) -> Result<usize> {
        self.objects.sweep_drafts(before).await
    }

    async fn direct(&self, meta: &Meta) -> Result<Option<String>> {
        self.objects.direct(meta).await
    }
}

/// A stream whose span ends with it.
fn held<T: 'static>(mut span: CallSpan, stream: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
    stream.inspect(move |item| note(&mut span, item)).boxed()
}

/// A draft whose span lasts until it is committed or given up.
struct TracedDraft {
    draft: Box<dyn Draft>,
    span: CallSpan,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Draft for TracedDraft {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let done = self.draft.write(pieces).await;
        note(&mut self.span, &done);
        done
    }

    fn gathers(&self) -> bool {
        self.draft.gathers()
    }

    async fn commit(self: Box<Self>) -> Result<Meta> {
        seen(self.span, self.draft.commit()).await
    }
}
