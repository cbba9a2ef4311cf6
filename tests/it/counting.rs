//! Objects that count what they are asked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use larder::objects::{ByteStream, Distance, Draft, Key, Meta, Objects, Read, Result, Version, When};

/// Counts the calls of each method. Not counted: the pages of a list, and what is written to a draft.
pub struct Counting<O> {
    objects: O,
    calls: Mutex<BTreeMap<&'static str, usize>>,
}

impl<O> Counting<O> {
    pub fn new(objects: O) -> Counting<O> {
        Counting { objects, calls: Mutex::default() }
    }

    /// What has been asked for since the last time, and how often.
    pub fn calls(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn count(&self, method: &'static str) -> &O {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
        &self.objects
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<O: Objects> Objects for Counting<O> {
    async fn head(&self, key: &Key) -> Result<Meta> {
        self.count("head").head(key).await
    }

    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read> {
        self.count("read").read(key, known).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)> {
        self.count("get").get(key, range).await
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        self.count("list").list(prefix, after)
    }

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta> {
        self.count("put").put(key, body, when).await
    }

    async fn begin(&self, key: &Key, size: Option<u64>) -> Result<Box<dyn Draft>> {
        self.count("begin").begin(key, size).await
    }

    async fn concat(&self, from: &[Key], to: &Key) -> Result<Meta> {
        self.count("concat").concat(from, to).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.count("delete").delete(keys).await
    }

    async fn probe(&self) -> Result<()> {
        self.count("probe").probe().await
    }

    fn distance(&self) -> Distance {
        self.objects.distance()
    }

    async fn sweep_drafts(&self, before: SystemTime) -> Result<usize> {
        self.count("sweep drafts").sweep_drafts(before).await
    }

    async fn direct(&self, meta: &Meta) -> Result<Option<String>> {
        self.objects.direct(meta).await
    }
}
