//! Servers of two versions over one store: content unknown to the older one is not lost, over files and a bucket.

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use larder::app::App;
use larder::buildkit::CONFIG_MEDIA_TYPE;
use larder::config::{Config, Span};
use larder::digest::Digest;
use larder::error::Error;
use larder::layout;
use larder::lifetime::collect::Wish;
use larder::meta::format::{FORMAT, RootKind, StoreFormat};
use larder::names::Tenant;
use larder::objects::fs::FsObjects;
use larder::objects::{Key, Objects, Read, Version, When};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::call::Answer;
use crate::tap::Tap;
use crate::world::{CONFIG, LAYER, descriptor, image};

/// The version that brings entries.
const NEXT: u32 = FORMAT + 1;
/// A cache tag. Its name is short: the bucket of the tests makes file names of keys.
const CACHE: &str = "/v2/c/manifests/m";

/// A store and its backend.
struct Shared {
    objects: Arc<dyn Objects>,
    _place: Box<dyn Any>,
}

async fn stores() -> Vec<Shared> {
    let folder = tempfile::tempdir().unwrap();
    let files = FsObjects::open(folder.path()).unwrap();
    let mut stores = vec![Shared { objects: Arc::new(files), _place: Box::new(folder) }];
    for tap in Tap::all().await {
        stores.push(Shared { objects: Arc::new(tap.objects().await), _place: Box::new(tap) });
    }
    stores
}

impl Shared {
    /// A server of this version, whose collector does not wait.
    async fn server(&self) -> App {
        let mut config = Config::default();
        (config.collect.grace, config.collect.lease) = (Span::seconds(1), Span::seconds(1));
        config.collect.without_fence = true;
        App::over(self.objects.clone(), config).await.unwrap()
    }

    /// A server of this version as it is configured by default.
    async fn patient_server(&self) -> App {
        App::over(self.objects.clone(), Config::default()).await.unwrap()
    }

    /// The format as a server of the next version sees it.
    async fn next_version(&self) -> StoreFormat {
        let format = StoreFormat::for_version(self.objects.clone(), NEXT);
        format.open().await.unwrap();
        format
    }

    async fn stored(&self) -> Value {
        let Read::Fresh(_, bytes) = self.objects.read(&layout::format(), None).await.unwrap() else { panic!() };
        serde_json::from_slice(&bytes).unwrap()
    }

    async fn put(&self, key: &Key, body: impl Into<Bytes>) {
        self.objects.put(key, body.into(), When::Always).await.unwrap();
    }

    /// A blob that only an entry references: a root of the next version.
    async fn put_entry(&self) -> Key {
        let content = "what an entry names";
        let digest = Digest::sha256(content.as_bytes());
        let blob = layout::blob(&Tenant::default_tenant(), &digest);
        self.put(&blob, content).await;
        let entry = json!({ "content": [{ "digest": digest.to_string(), "size": content.len() }] });
        self.put(&Key::new("t/default/repos/app/!/entries/gha/v1/key"), entry.to_string()).await;
        blob
    }

    async fn has(&self, key: &Key) -> bool {
        self.objects.head(key).await.is_ok()
    }

    /// All objects with their versions.
    async fn content(&self) -> Vec<(Key, Version)> {
        self.objects.list("", None).map_ok(|meta| (meta.key, meta.version)).try_collect().await.unwrap()
    }

    /// Deletes the stored view of a cache tag, and returns the digest that was served.
    async fn lose_view(&self, app: &App) -> String {
        let served = send(app, "GET", CACHE, "").await.expect(200);
        let view: Digest = served.header("docker-content-digest").parse().unwrap();
        let config: Digest = served.json()["config"]["digest"].as_str().unwrap().parse().unwrap();
        let (tenant, repo) = (Tenant::default_tenant(), "c".parse().unwrap());
        let keys = [
            layout::view(&tenant, &repo, &"m".parse().unwrap()),
            layout::manifest(&tenant, &repo, &view),
            layout::blob(&tenant, &config),
        ];
        for key in keys {
            assert!(self.has(&key).await, "{key}");
            self.objects.delete(&[key]).await.unwrap();
        }
        view.to_string()
    }
}

/// Waits until earlier writes and lists are old enough for the collector.
async fn older() {
    tokio::time::sleep(Duration::from_millis(2_100)).await;
}

async fn send(app: &App, method: &str, uri: &str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let request = Request::builder().method(method).uri(uri).header("content-length", body.len());
    let Ok(response) = app.front().oneshot(request.body(Body::from(body)).unwrap()).await;
    Answer::of(response).await
}

async fn push_blob(app: &App, content: &str) -> Digest {
    let digest = Digest::sha256(content.as_bytes());
    send(app, "POST", &format!("/v2/app/blobs/uploads/?digest={digest}"), content.to_string()).await.expect(201);
    digest
}

/// Pushes the cache of a build of one step, and returns the digest of its manifest.
async fn push_cache(app: &App, step: &str) -> String {
    let layer_content = format!("layer of {step}");
    let blob = push_blob(app, &layer_content).await.to_string();
    let record = json!({ "digest": Digest::sha256(step.as_bytes()).to_string(), "inputs": [],
        "layers": [{ "layer": 0, "createdAt": "2026-01-02T03:04:05Z" }] });
    let config = json!({ "layers": [{ "blob": blob, "parent": -1 }], "records": [record] }).to_string();
    push_blob(app, &config).await;
    let mut layer = descriptor(LAYER, layer_content.as_bytes());
    layer["annotations"] =
        json!({ "containerd.io/uncompressed": Digest::sha256(format!("diff of {step}").as_bytes()).to_string() });
    let manifest = image(descriptor(CONFIG_MEDIA_TYPE, config.as_bytes()), vec![layer]).to_string();
    send(app, "PUT", CACHE, manifest.clone()).await.expect(201);
    Digest::sha256(manifest.as_bytes()).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_kind_of_root_is_not_written_while_servers_that_would_sweep_it_are_admitted() {
    for store in stores().await {
        let server = store.server().await;
        let next = store.next_version().await;
        next.may_write(RootKind::TAGS).unwrap();
        let refused = next.may_write(RootKind::ENTRIES).unwrap_err();
        assert!(matches!(refused, Error::FormatTooOld { needs: NEXT, found: FORMAT, .. }), "{refused}");
        // The reason: this server would delete the content of entries.
        let blob = store.put_entry().await;
        older().await;
        server.collector.run(Wish::default()).await.unwrap();
        older().await;
        server.collector.run(Wish::default()).await.unwrap();
        assert!(!store.has(&blob).await, "a collector that does not know entries keeps what they name");

        next.raise(NEXT).await.unwrap();
        next.may_write(RootKind::ENTRIES).unwrap();
        assert_eq!((store.stored().await["format"].as_u64(), next.may_change().is_ok()), (Some(NEXT.into()), true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_format_was_left_behind_deletes_nothing_stops_writing_and_says_so() {
    for store in stores().await {
        let server = store.server().await;
        let pushed = Digest::sha256(b"pushed before");
        let push = format!("/v2/app/blobs/uploads/?digest={pushed}");
        send(&server, "POST", &push, "pushed before").await.expect(201);
        send(&server, "POST", "/v2/app/blobs/uploads/", "").await.expect(202);
        let blob = store.put_entry().await;
        older().await;
        let report = server.collector.run(Wish::default()).await.unwrap();
        assert_eq!(report.condemned.objects, 2, "{report:?}");
        older().await;

        store.next_version().await.raise(NEXT).await.unwrap();
        // The first that the server hears of it: just before it would delete.
        send(&server, "GET", "/readyz", "").await.expect(200);
        let error = server.collector.run(Wish::default()).await.unwrap_err();
        assert!(matches!(error, Error::LeftBehind { found: NEXT, ours: FORMAT }), "{error}");
        let report = server.collector.run(Wish::default()).await.unwrap();
        assert!(report.skipped.as_ref().is_some_and(|why| why.contains("run a newer version")), "{report:?}");
        let later = SystemTime::now() + Duration::from_secs(7 * 24 * 3600);
        assert!(server.store.content().sweep_drafts(Duration::ZERO, later).await.is_err());
        assert!(store.has(&blob).await && store.has(&layout::blob(&Tenant::default_tenant(), &pushed)).await);

        for (method, uri) in [
            ("POST", &*push),
            ("POST", "/v2/app/blobs/uploads/"),
            ("PUT", "/v2/app/manifests/v1"),
            ("DELETE", &format!("/v2/app/blobs/{pushed}")),
        ] {
            let refused = send(&server, method, uri, "pushed before").await.expect(503);
            assert!(refused.text().contains("has stopped writing: a newer larder"), "{}", refused.text());
            assert_eq!(refused.header("retry-after"), "60");
        }
        let ready = send(&server, "GET", "/readyz", "").await.expect(503);
        assert!(ready.text().contains("has stopped writing"), "{}", ready.text());
        let read = send(&server, "GET", &format!("/v2/app/blobs/{pushed}"), "").await.expect(200);
        assert_eq!(read.body, "pushed before");
        // It is not started again over this store.
        let refused = App::over(store.objects.clone(), Config::default()).await.err().unwrap();
        assert!(format!("{refused:#}").contains("newer version"), "{refused:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_format_was_left_behind_reads_without_leaving_a_trace_in_the_store() {
    for store in stores().await {
        let before = store.patient_server().await;
        let blob = push_blob(&before, "{}").await;
        let manifest = image(descriptor(CONFIG, b"{}"), vec![]).to_string();
        send(&before, "PUT", "/v2/app/manifests/v1", manifest).await.expect(201);
        push_cache(&before, "one").await;
        let newest = push_cache(&before, "two").await;
        assert_ne!(store.lose_view(&before).await, newest);
        let damaged = push_blob(&before, "soon damaged").await;
        store.put(&layout::blob(&Tenant::default_tenant(), &damaged), "what a disk made").await;

        let server = store.patient_server().await;
        // A blob whose upload began before, and ends after.
        let late = Digest::sha256(b"first and last");
        let ((asked, is_asked), (end, ended)) = (oneshot::channel(), oneshot::channel());
        let pieces = stream::once(async { Ok::<_, Infallible>("first and ") }).chain(stream::once(async move {
            asked.send(()).unwrap();
            ended.await.unwrap();
            Ok("last")
        }));
        let uri = format!("/v2/app/blobs/uploads/?digest={late}");
        let request = Request::post(uri).body(Body::from_stream(pieces)).unwrap();
        let upload = tokio::spawn(server.front().oneshot(request));
        is_asked.await.unwrap();

        store.next_version().await.raise(NEXT).await.unwrap();
        assert!(matches!(server.store.format().confirm().await, Err(Error::LeftBehind { .. })));
        let found = store.content().await;
        end.send(()).unwrap();
        let Ok(refused) = upload.await.unwrap();
        let refused = Answer::of(refused).await.expect(503);
        assert!(refused.text().contains("has stopped writing"), "{}", refused.text());

        send(&server, "GET", &format!("/v2/app/blobs/{blob}"), "").await.expect(200);
        send(&server, "GET", &format!("/v2/app/blobs/{damaged}"), "").await.expect(404);
        send(&server, "GET", "/v2/app/manifests/v1", "").await.expect(200);
        // The server could not store a view, so it serves one that any server can read by its digest.
        let served = send(&server, "HEAD", CACHE, "").await.expect(200);
        assert_eq!(served.header("docker-content-digest"), newest);
        let read = send(&server, "GET", &format!("/v2/c/manifests/{newest}"), "").await.expect(200).json();
        let config = read["config"]["digest"].as_str().unwrap();
        send(&server, "GET", &format!("/v2/app/blobs/{config}"), "").await.expect(200);
        assert_eq!(store.content().await, found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_in_a_round_in_which_the_format_cannot_be_read() {
    for store in stores().await {
        let server = store.server().await;
        let blob = store.put_entry().await;
        older().await;
        server.collector.run(Wish::default()).await.unwrap();
        older().await;
        let format = store.stored().await.to_string();
        store.put(&layout::format(), "{").await;
        assert!(server.collector.run(Wish::default()).await.is_err());
        store.objects.delete(&[layout::format()]).await.unwrap();
        assert!(server.collector.run(Wish::default()).await.is_err());
        assert!(store.has(&blob).await);
        // A push does not depend on it, and the next round makes good for it.
        send(&server, "POST", "/v2/app/blobs/uploads/", "").await.expect(202);
        store.put(&layout::format(), format).await;
        server.collector.run(Wish::default()).await.unwrap();
        assert!(!store.has(&blob).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raise_keeps_what_others_noted_and_one_that_was_overwritten_is_made_again() {
    for store in stores().await {
        let noted = json!({ "format": 1, "oldest_reader": 1, "created": "2026-01-01T00:00:00Z", "chunks": "8MiB" });
        store.put(&layout::format(), noted.to_string()).await;
        let (next, last) = (store.next_version().await, StoreFormat::for_version(store.objects.clone(), NEXT + 1));
        last.open().await.unwrap();
        next.raise(NEXT).await.unwrap();
        let raised = store.stored().await;
        assert_eq!((&raised["chunks"], &raised["created"]), (&noted["chunks"], &noted["created"]));
        last.raise(NEXT + 1).await.unwrap();
        last.raise(NEXT).await.unwrap();
        assert_eq!(store.stored().await["oldest_reader"], NEXT + 1);
        // A slower write of the other version lands after it.
        store.put(&layout::format(), raised.to_string()).await;
        last.confirm().await.unwrap();
        assert_eq!(store.stored().await["oldest_reader"], NEXT + 1);
        assert!(next.confirm().await.is_err() && next.raise(NEXT).await.is_err());
        assert_eq!(store.stored().await["oldest_reader"], NEXT + 1);
    }
}
