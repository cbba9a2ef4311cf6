//! The registry over a bucket, and what its calls are.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use larder::app::App;
use larder::config::Config;
use larder::digest::Digest;
use larder::doors::Front;
use larder::objects::s3::S3Objects;
use larder::store::check::{Depth, check};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::bucket::Bucket;
use crate::call::Answer;
use crate::counting::Counting;
use crate::world::{LAYER, descriptor, image, noise, with_digest};

const CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// A bucket for the longest key there is, that of a push record: see [`Bucket`].
async fn bucket() -> Bucket {
    let mut bucket = Bucket::in_process().await;
    bucket.config.prefix.clear();
    bucket
}

/// One replica.
struct Replica {
    objects: Arc<Counting<S3Objects>>,
    front: Front,
}

impl Replica {
    async fn over(bucket: &Bucket) -> Replica {
        let objects = Arc::new(Counting::new(bucket.open().await));
        let front = App::over(objects.clone(), Config::default()).await.unwrap().front();
        bucket.calls();
        objects.calls();
        Replica { objects, front }
    }

    async fn send(&self, method: &str, uri: &str, bytes: impl Into<Bytes>) -> Answer {
        let bytes = bytes.into();
        let request = http::Request::builder().method(method).uri(uri).header("content-length", bytes.len());
        let Ok(response) = self.front.clone().oneshot(request.body(Body::from(bytes)).unwrap()).await;
        Answer::of(response).await
    }

    /// As a builder does: it asks, and sends what is not there.
    async fn export(&self, export: &Export) {
        for blob in &export.blobs {
            let digest = Digest::sha256(blob);
            if self.send("HEAD", &format!("/v2/c/blobs/{digest}"), "").await.status == 404 {
                let begun = self.send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
                self.send("PUT", &with_digest(begun.header("location"), &digest), blob.clone()).await.expect(201);
            }
        }
        self.send("PUT", "/v2/c/manifests/m", export.manifest.to_string()).await.expect(201);
    }
}

struct Export {
    blobs: Vec<Bytes>,
    manifest: Value,
}

/// Ten layers of a mebibyte, one behind the other.
fn export() -> Export {
    let mut blobs: Vec<Bytes> = (0..10).map(|i| noise(1 << 20, 100 + i)).collect();
    let layers: Vec<Value> = blobs.iter().map(|blob| descriptor(LAYER, blob)).collect();
    let chain = layers.iter().enumerate().map(|(i, layer)| json!({ "blob": layer["digest"], "parent": i as i64 - 1 }));
    let step = |text: &str| Digest::sha256(text.as_bytes()).to_string();
    let config = json!({
        "layers": chain.collect::<Vec<_>>(),
        "records": [
            { "digest": step("FROM") },
            { "digest": step("RUN"), "inputs": [[{ "link": 0 }]],
              "layers": [{ "layer": 9, "createdAt": "2026-01-02T03:04:05Z" }] },
        ],
    });
    let config = Bytes::from(config.to_string());
    let manifest = image(descriptor(CONFIG, &config), layers);
    blobs.push(config);
    Export { blobs, manifest }
}

/// What is asked of the bucket: a bound on it, once for all, keeps a change from adding to it unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_an_export_and_an_import() {
    let bucket = bucket().await;
    let replica = Replica::over(&bucket).await;
    let export = export();
    let count = |what: &str| {
        let (calls, methods) = (bucket.calls(), replica.objects.calls());
        let sum: usize = calls.values().sum();
        println!("{what}: {sum} calls to the bucket {calls:?}; by the store: {methods:?}");
        (sum, calls)
    };
    replica.export(&export).await;
    let (sum, calls) = count("export of 10 new layers, config and manifest");
    // Each blob is looked for by the builder and then by the manifest that names it.
    assert_eq!((calls["head"], calls["put"]), (22, 14));
    assert!(sum <= 37, "{calls:?}");
    replica.export(&export).await;
    let (sum, calls) = count("export again");
    assert!(sum <= 26 && !calls.contains_key("begin upload"), "{calls:?}");
    let import = async |replica: &Replica| {
        let head = replica.send("HEAD", "/v2/c/manifests/m", "").await.expect(200);
        let digest = head.header("docker-content-digest").to_string();
        let manifest = replica.send("GET", &format!("/v2/c/manifests/{digest}"), "").await.expect(200).json();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 10);
        for blob in &export.blobs {
            let uri = format!("/v2/c/blobs/{}", Digest::sha256(blob));
            assert!(replica.send("GET", &uri, "").await.expect(200).body == *blob);
        }
    };
    import(&replica).await;
    count("import, hot");
    let cold = Replica::over(&bucket).await;
    import(&cold).await;
    let calls = bucket.calls();
    println!("import by another replica, cold: {} calls to the bucket {calls:?}", calls.values().sum::<usize>());
    let objects = bucket.open().await;
    let findings = check(&objects, &Config::default(), Depth::Bytes).await.unwrap();
    assert!(findings.is_empty(), "{:?}", findings.iter().map(ToString::to_string).collect::<Vec<_>>());
}

/// A chunked upload is continued by a replica that knows nothing but the bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_at_another_replica() {
    let bucket = bucket().await;
    let replicas = [Replica::over(&bucket).await, Replica::over(&bucket).await, Replica::over(&bucket).await];
    let bytes = noise((11 << 20) + 12_345, 7);
    let digest = Digest::sha256(&bytes);
    let begun = replicas[0].send("POST", "/v2/c/blobs/uploads/", "").await.expect(202);
    let mut location = begun.header("location").to_string();
    for (i, range) in [0..6 << 20, 6 << 20..11 << 20].into_iter().enumerate() {
        let sent = replicas[i].send("PATCH", &location, bytes.slice(range)).await.expect(202);
        location = sent.header("location").to_string();
    }
    bucket.calls();
    replicas[2].send("PUT", &with_digest(&location, &digest), bytes.slice(11 << 20..)).await.expect(201);
    // The parts are joined inside the bucket.
    assert_eq!(bucket.calls().get("copy part"), Some(&3));
    let back = replicas[0].send("GET", &format!("/v2/c/blobs/{digest}"), "").await.expect(200);
    assert!(back.body == bytes);
    let staged = bucket.open().await;
    assert_eq!(crate::objects::list(&staged, "t/default/uploads/", None).await, [""; 0]);
}
