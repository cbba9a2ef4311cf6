//! The registry over a bucket: its calls, and what several servers over one bucket see of each other.

mod budgets;
mod copy;
mod damage;
mod lock;
mod outage;
mod reads;
mod replicas;
mod writes;

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use larder::app::App;
use larder::check::{Depth, check};
use larder::config::Config;
use larder::digest::Digest;
use larder::doors::Front;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::call::Answer;
use crate::tap::Tap;
use crate::world::{LAYER, descriptor, image, with_digest};

const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// One server.
pub struct Replica {
    pub app: App,
    front: Front,
}

impl Replica {
    async fn over(tap: &Tap) -> Replica {
        Replica::with(tap, |_| {}).await
    }

    pub async fn with(tap: &Tap, change: impl FnOnce(&mut Config)) -> Replica {
        let mut config = Config::default();
        config.store.s3 = Some(tap.config.clone());
        change(&mut config);
        let app = App::open(config).await.unwrap();
        let front = app.front();
        // The calls of the start do not matter here, nor those of the jobs of a running server.
        app.store.condemned().refresh(larder::deadline::Deadline::of_each_call()).await.unwrap();
        tap.calls();
        Replica { app, front }
    }

    pub async fn respond(&self, method: &str, uri: &str, header: (&str, &str), bytes: Bytes) -> http::Response<Body> {
        let request = http::Request::builder().method(method).uri(uri).header("content-length", bytes.len());
        let request = request.header(header.0, header.1).body(Body::from(bytes)).unwrap();
        let Ok(response) = self.front.clone().oneshot(request).await;
        response
    }

    pub async fn send(&self, method: &str, uri: &str, bytes: impl Into<Bytes>) -> Answer {
        Answer::of(self.respond(method, uri, ("accept", "*/*"), bytes.into()).await).await
    }

    async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri, "").await
    }

    /// As builders ask for manifests: again, once and at once, when the server has trouble.
    async fn ask(&self, method: &str, uri: &str) -> Answer {
        let answer = self.send(method, uri, "").await;
        if answer.status == 503 { self.send(method, uri, "").await } else { answer }
    }

    async fn get_blob(&self, blob: &[u8]) -> Answer {
        self.get(&blob_uri(&Digest::sha256(blob))).await
    }

    async fn get_range(&self, blob: &[u8], range: std::ops::Range<usize>) -> Answer {
        self.get_range_header(blob, &format!("bytes={}-{}", range.start, range.end - 1)).await
    }

    async fn get_range_header(&self, blob: &[u8], header: &str) -> Answer {
        let uri = blob_uri(&Digest::sha256(blob));
        Answer::of(self.respond("GET", &uri, ("range", header), Bytes::new()).await).await
    }

    /// Uploads a blob as a builder does: it asks, and sends only a missing one.
    async fn push_blob(&self, blob: &Bytes) {
        let digest = Digest::sha256(blob);
        if self.send("HEAD", &blob_uri(&digest), "").await.status == 404 {
            let begun = self.send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
            self.send("PUT", &with_digest(begun.header("location"), &digest), blob.clone()).await.expect(201);
        }
    }

    /// As BuildKit does: all blobs, then the manifest, unless the tag has it already. Returns whether it was sent.
    async fn export(&self, export: &Export) -> bool {
        stream::iter(&export.blobs).for_each_concurrent(4, |blob| self.push_blob(blob)).await;
        let manifest = export.manifest.to_string();
        let head = self.ask("HEAD", "/v2/c/manifests/m").await;
        let is_there = head.status == 200
            && head.header("docker-content-digest") == Digest::sha256(manifest.as_bytes()).to_string();
        if !is_there {
            self.send("PUT", "/v2/c/manifests/m", manifest).await.expect(201);
        }
        !is_there
    }

    /// As BuildKit does: three requests. Returns the manifest.
    async fn import(&self) -> Value {
        let head = self.ask("HEAD", "/v2/c/manifests/m").await.expect(200);
        let digest = head.header("docker-content-digest").to_string();
        let manifest = self.ask("GET", &format!("/v2/c/manifests/{digest}")).await.expect(200).json();
        let config = manifest["config"]["digest"].as_str().unwrap();
        self.ask("GET", &format!("/v2/c/blobs/{config}")).await.expect(200);
        manifest
    }
}

fn blob_uri(digest: &Digest) -> String {
    format!("/v2/c/blobs/{digest}")
}

/// A layer as BuildKit describes it: without its annotations, it cannot be told from another compression of the same.
fn layer(blob: &[u8]) -> Value {
    let mut layer = descriptor(LAYER, blob);
    let uncompressed = Digest::sha256(&[blob, b"uncompressed"].concat()).to_string();
    layer["annotations"] = json!({ "containerd.io/uncompressed": uncompressed });
    layer
}

struct Export {
    /// Layers, then the config.
    blobs: Vec<Bytes>,
    manifest: Value,
}

impl Export {
    /// A build of one step that has these layers, one behind the other.
    fn of(step: &str, mut blobs: Vec<Bytes>) -> Export {
        let layers: Vec<Value> = blobs.iter().map(|blob| layer(blob)).collect();
        let chain = layers.iter().enumerate();
        let chain = chain.map(|(i, layer)| json!({ "blob": layer["digest"], "parent": i as i64 - 1 }));
        let digest = |text: &str| Digest::sha256(text.as_bytes()).to_string();
        let config = json!({
            "layers": chain.collect::<Vec<_>>(),
            "records": [
                { "digest": digest("FROM") },
                { "digest": digest(step), "inputs": [[{ "link": 0 }]],
                  "layers": [{ "layer": blobs.len() - 1, "createdAt": "2026-01-02T03:04:05Z" }] },
            ],
        });
        let config = Bytes::from(config.to_string());
        let manifest = image(descriptor(CACHE_CONFIG, &config), layers);
        blobs.push(config);
        Export { blobs, manifest }
    }
}

/// Checks that nothing in the bucket references missing content, and that all bytes fit.
async fn assert_sound(tap: &Tap) {
    let findings = check(&tap.objects().await, &Config::default(), Depth::Bytes).await.unwrap();
    assert!(findings.is_empty(), "{:?}", findings.iter().map(ToString::to_string).collect::<Vec<_>>());
}

/// Waits for the result of work in the background.
async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking).await.expect("it does not happen")
}
