//! A server that dies between two writes, at every place where it can.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{Method, Request, StatusCode};
use larder::app::App;
use larder::buildkit::CONFIG_MEDIA_TYPE;
use larder::check::{Depth, check};
use larder::config::Config;
use larder::digest::Digest;
use larder::objects::fs::FsObjects;
use larder::objects::{
    ByteStream, Draft, Error, Fence, Key, Meta, Objects, Read, Result, Space, Traits, Unfinished, Version, Watcher,
    When,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{LAYER, descriptor, image, with_digest};

/// Objects that accept a number of writes and then none: the state that a reader then finds is that after a crash.
struct StopAfter {
    objects: FsObjects,
    left: Arc<AtomicI64>,
}

fn write(left: &AtomicI64) -> Result<()> {
    if left.fetch_sub(1, Ordering::SeqCst) > 0 { Ok(()) } else { Err(Error::Backend("stopped".into())) }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Objects for StopAfter {
    async fn head(&self, key: &Key) -> Result<Meta> {
        self.objects.head(key).await
    }

    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read> {
        self.objects.read(key, known).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)> {
        self.objects.get(key, range).await
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        self.objects.list(prefix, after)
    }

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta> {
        write(&self.left)?;
        self.objects.put(key, body, when).await
    }

    async fn begin(&self, key: &Key, size: Option<u64>) -> Result<Box<dyn Draft>> {
        Ok(Box::new(StopDraft { draft: self.objects.begin(key, size).await?, left: self.left.clone() }))
    }

    async fn concat(&self, from: &[Key], to: &Key, digest: &Digest) -> Result<Meta> {
        write(&self.left)?;
        self.objects.concat(from, to, digest).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        for key in keys {
            write(&self.left)?;
            self.objects.delete(std::slice::from_ref(key)).await?;
        }
        Ok(())
    }

    async fn delete_dated(&self, keys: &[Key], at: SystemTime) -> Result<()> {
        write(&self.left)?;
        self.objects.delete_dated(keys, at).await
    }

    fn fence(&self) -> Option<Fence> {
        self.objects.fence()
    }

    async fn probe(&self) -> Result<()> {
        self.objects.probe().await
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

struct StopDraft {
    draft: Box<dyn Draft>,
    left: Arc<AtomicI64>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Draft for StopDraft {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        self.draft.write(pieces).await
    }

    fn gathers(&self) -> bool {
        self.draft.gathers()
    }

    async fn commit(self: Box<Self>) -> Result<Meta> {
        write(&self.left)?;
        self.draft.commit().await
    }
}

/// The objects that exist or are deleted, as a client was told before the server stopped.
#[derive(Default)]
struct Told {
    /// Path and bytes.
    there: Vec<(String, Bytes)>,
    gone: Vec<String>,
    finished: bool,
}

struct Client {
    front: larder::doors::Front,
    told: Told,
}

impl Client {
    async fn send(&self, method: Method, uri: &str, body: &Bytes) -> Option<http::Response<Body>> {
        let request = Request::builder().method(method).uri(uri).header("content-length", body.len());
        let Ok(response) = self.front.clone().oneshot(request.body(Body::from(body.clone())).unwrap()).await;
        (response.status() != StatusCode::INTERNAL_SERVER_ERROR).then_some(response)
    }

    async fn begin(&self) -> Option<String> {
        let response = self.send(Method::POST, "/v2/a/blobs/uploads/", &Bytes::new()).await?;
        Some(response.headers()["location"].to_str().unwrap().to_string())
    }

    async fn blob(&mut self, bytes: impl Into<Bytes>) -> Option<Digest> {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        let location = self.begin().await?;
        let response = self.send(Method::PUT, &with_digest(&location, &digest), &bytes).await?;
        assert_eq!(response.status(), StatusCode::CREATED);
        self.told.there.push((format!("/v2/a/blobs/{digest}"), bytes));
        Some(digest)
    }

    async fn chunked(&mut self, chunks: &[Bytes]) -> Option<()> {
        let mut location = self.begin().await?;
        for chunk in chunks {
            let response = self.send(Method::PATCH, &location, chunk).await?;
            assert_eq!(response.status(), StatusCode::ACCEPTED);
            location = response.headers()["location"].to_str().unwrap().to_string();
        }
        let bytes: Bytes = chunks.concat().into();
        let digest = Digest::sha256(&bytes);
        let response = self.send(Method::PUT, &with_digest(&location, &digest), &Bytes::new()).await?;
        assert_eq!(response.status(), StatusCode::CREATED);
        self.told.there.push((format!("/v2/a/blobs/{digest}"), bytes));
        Some(())
    }

    async fn manifest(&mut self, tag: &str, manifest: &Value) -> Option<Digest> {
        let bytes: Bytes = manifest.to_string().into();
        let response = self.send(Method::PUT, &format!("/v2/a/manifests/{tag}"), &bytes).await?;
        assert_eq!(response.status(), StatusCode::CREATED);
        let digest = Digest::sha256(&bytes);
        self.told.there.push((format!("/v2/a/manifests/{digest}"), bytes));
        Some(digest)
    }

    async fn cache(&mut self, target: &str) -> Option<Digest> {
        let layer = format!("layer of {target}");
        self.blob(layer.clone()).await?;
        let mut layer = descriptor(LAYER, layer.as_bytes());
        layer["annotations"] = json!({ "containerd.io/uncompressed": layer["digest"] });
        let config = json!({ "layers": [{ "blob": layer["digest"], "parent": -1 }], "records": [
            { "digest": layer["digest"], "layers": [{ "layer": 0, "createdAt": "2026-01-02T03:04:05Z" }] } ] });
        let config = config.to_string();
        self.blob(config.clone()).await?;
        self.manifest("cache", &image(descriptor(CONFIG_MEDIA_TYPE, config.as_bytes()), vec![layer])).await
    }

    async fn delete(&mut self, path: String) -> Option<()> {
        let response = self.send(Method::DELETE, &path, &Bytes::new()).await?;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        self.told.there.retain(|(there, _)| *there != path);
        self.told.gone.push(path);
        Some(())
    }

    /// Makes every kind of write. Nothing if the server stopped in between.
    async fn everything(&mut self) -> Option<()> {
        self.blob("small").await?;
        self.blob(vec![7; 2 << 20]).await?;
        self.chunked(&["one".into(), vec![8; 1 << 20].into()]).await?;
        self.blob("{}").await?;
        let plain = image(descriptor("application/vnd.oci.image.config.v1+json", b"{}"), vec![]);
        let subject = self.manifest("plain", &plain).await?;
        let mut referrer = plain.clone();
        referrer["subject"] = descriptor("application/vnd.oci.image.manifest.v1+json", plain.to_string().as_bytes());
        referrer["annotations"] = json!({ "of": subject.to_string() });
        let referrer = self.manifest("referrer", &referrer).await?;
        let first = self.cache("api").await?;
        self.cache("web").await?;
        self.send(Method::GET, "/v2/a/manifests/cache", &Bytes::new()).await?;
        self.delete(format!("/v2/a/manifests/{referrer}")).await?;
        self.delete(format!("/v2/a/manifests/{first}")).await?;
        self.delete("/v2/a/manifests/cache".to_string()).await?;
        self.delete(format!("/v2/a/blobs/{}", Digest::sha256(b"small"))).await?;
        self.told.finished = true;
        Some(())
    }
}

/// A server over the folder that stops behind so many writes.
async fn stopping(folder: &Path, config: &Config, writes: i64) -> Client {
    let left = Arc::new(AtomicI64::new(writes));
    let objects = StopAfter { objects: FsObjects::open(folder).unwrap(), left };
    let app = App::over(Arc::new(objects), config.clone()).await.unwrap();
    Client { front: app.front(), told: Told::default() }
}

#[tokio::test]
async fn whatever_write_is_the_last_nothing_told_is_lost_and_nothing_names_what_is_not_there() {
    let mut finished = false;
    let mut writes = 1;
    while !finished {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default();
        let told = {
            let mut client = stopping(folder.path(), &config, writes).await;
            client.everything().await;
            client.told
        };
        let objects = FsObjects::open(folder.path()).unwrap();
        let findings = check(&objects, &config, Depth::Bytes).await.unwrap();
        assert!(findings.is_empty(), "after {writes} writes: {findings:?}");
        let app = App::over(Arc::new(objects), config).await.unwrap();
        let client = Client { front: app.front(), told: Told::default() };
        for (path, bytes) in &told.there {
            let response = client.send(Method::GET, path, &Bytes::new()).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{path} after {writes} writes");
            let found = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            assert!(found == *bytes, "{path} has other bytes after {writes} writes");
        }
        for path in &told.gone {
            let response = client.send(Method::GET, path, &Bytes::new()).await.unwrap();
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path} after {writes} writes");
        }
        finished = told.finished;
        writes += 1;
    }
    // Fewer writes would mean that the script misses its subject.
    assert!(writes > 40, "only {writes} writes");
}

#[tokio::test]
async fn a_cache_that_an_image_replaced_does_not_come_back_whatever_write_is_the_last() {
    let plain = image(descriptor("application/vnd.oci.image.config.v1+json", b"{}"), vec![]);
    let (mut finished, mut writes, mut replaced) = (false, 1, 0);
    while !finished {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default();
        {
            let mut client = stopping(folder.path(), &config, writes).await;
            let script = async {
                client.cache("api").await?;
                client.cache("web").await?;
                client.blob("{}").await?;
                client.manifest("cache", &plain).await
            };
            finished = script.await.is_some();
        }
        let mut client = stopping(folder.path(), &config, i64::MAX).await;
        let served = async |client: &Client| {
            let response = client.send(Method::GET, "/v2/a/manifests/cache", &Bytes::new()).await.unwrap();
            axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap()
        };
        if served(&client).await == plain.to_string() {
            client.cache("new").await.unwrap();
            let view: Value = serde_json::from_slice(&served(&client).await).unwrap();
            assert_eq!(view["layers"].as_array().unwrap().len(), 1, "after {writes} writes: {view}");
            replaced += 1;
        }
        writes += 1;
    }
    assert!(replaced > 0 && writes > 15, "{writes} writes");
}
