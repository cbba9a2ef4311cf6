//! What the paths that every request takes cost by themselves, without a socket: hashing, routes, hits of the hot layer,
//! and whole requests over files.

use std::hint::black_box;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{Method, Request, StatusCode};
use larder::app::App;
use larder::config::Config;
use larder::digest::{Algorithm, Digest};
use larder::doors::Front;
use larder::doors::registry::route::Route;
use larder::error::Error;
use larder::hot::{Hot, Slot};
use larder::metrics::Metrics;
use larder::objects::Key;

/// What the server hashes at once.
const PORTION_BYTES: usize = 512 << 10;
const PATH: &str = "/v2/team/app/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn hashing(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash");
    let portion = vec![7; PORTION_BYTES];
    group.throughput(Throughput::Bytes(PORTION_BYTES as u64));
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        group.bench_function(algorithm.as_str(), |b| b.iter(|| Digest::of(algorithm, black_box(&portion))));
    }
    group.finish();
}

fn routing(c: &mut Criterion) {
    let tag = "/v2/team/app/manifests/latest";
    c.bench_function("route/blob", |b| b.iter(|| Route::parse(&Method::HEAD, black_box(PATH), None)));
    c.bench_function("route/manifest", |b| b.iter(|| Route::parse(&Method::GET, black_box(tag), None)));
}

fn hot_hits(c: &mut Criterion) {
    let hot: Arc<Hot<Error>> = Arc::new(Hot::new(64 << 20, 1 << 20, Arc::new(Metrics::default())));
    let slot = |number: u32| Slot::Whole(Key::new(format!("t/default/blobs/{number}")));
    (0..64).for_each(|number| hot.keep_pushed(slot(number), &vec![0; 1 << 20]));
    let mut number = 0;
    c.bench_function("hot/hit", |b| {
        b.iter(|| {
            number = (number + 1) % 16;
            hot.peek(black_box(&slot(48 + number)))
        });
    });
}

async fn send(front: &Front, method: &str, uri: &str, body: impl Into<Bytes>) -> StatusCode {
    ask(front, method, uri, body, None).await.0
}

/// Sends a request that shows this `Authorization`.
async fn ask(
    front: &Front,
    method: &str,
    uri: &str,
    body: impl Into<Bytes>,
    shown: Option<&str>,
) -> (StatusCode, Bytes) {
    let request = Request::builder().method(method).uri(uri);
    let request = shown.into_iter().fold(request, |request, shown| request.header("authorization", shown));
    let response = front.answer(request.body(Body::from(body.into())).expect("a request")).await;
    let status = response.status();
    let read = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    (status, read.unwrap_or_else(|error| panic!("{method} {uri}: {error}")))
}

/// The same HEAD of a blob: where nobody is asked who he is, by nobody in particular where somebody might be, with the
/// token that clients fetch, with name and password in each request, and in a scope.
fn callers(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let token = format!("larder_{}", "x".repeat(43));
    let rules = format!(
        "[[tokens]]\nname = \"ci\"\nhash = \"{0}\"\n[[tokens]]\nname = \"pr\"\nhash = \"{1}\"\n\
         [[rules]]\nidentity = [\"token:ci\", \"anonymous\"]\nmay = [\"pull\", \"push\"]\n\
         [[rules]]\nidentity = \"token:pr\"\nmay = [\"pull\"]\nscope = \"pr:1\"\n",
        Digest::sha256(token.as_bytes()),
        Digest::sha256(format!("{token}pr").as_bytes())
    );
    let blob = format!("/v2/app/blobs/{}", Digest::sha256(b"{}"));
    let open = |config: Config| {
        let folder = tempfile::tempdir().expect("a folder");
        let front = runtime.block_on(async {
            let objects = larder::objects::fs::FsObjects::open(folder.path()).expect("a store");
            let front = App::over(Arc::new(objects), config).await.expect("a server").front();
            let upload = format!("/v2/app/blobs/uploads/?digest={}", Digest::sha256(b"{}"));
            assert_eq!(send(&front, "POST", &upload, "{}").await, StatusCode::CREATED);
            front
        });
        (folder, front)
    };
    let (_folder, everybody) = open(Config::default());
    let (_other, asked) = open(toml::from_str(&rules).expect("a configuration"));
    let basic = |password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("x:{password}")));
    let basic_ci = basic(&token);
    let uri = "/token?scope=repository:app:pull";
    let (_, issued) = runtime.block_on(ask(&asked, "GET", uri, "", Some(&basic_ci)));
    let issued: serde_json::Value = serde_json::from_slice(&issued).expect("a token");
    let bearer = format!("Bearer {}", issued["token"].as_str().expect("a token"));
    let basic_pr = basic(&format!("{token}pr"));
    for (name, front, shown) in [
        ("caller/nobody is asked", &everybody, None),
        ("caller/anonymous", &asked, None),
        ("caller/bearer", &asked, Some(&*bearer)),
        ("caller/basic", &asked, Some(&*basic_ci)),
        ("caller/in a scope", &asked, Some(&*basic_pr)),
    ] {
        assert_eq!(runtime.block_on(ask(front, "HEAD", &blob, "", shown)).0, StatusCode::OK, "{name}");
        c.bench_function(name, |b| b.to_async(&runtime).iter(|| ask(front, "HEAD", &blob, Bytes::new(), shown)));
    }
}

fn requests(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let (config, digest) = (Config::default(), Digest::sha256(b"{}"));
    let front = runtime.block_on(async {
        let objects = larder::objects::fs::FsObjects::open(folder.path()).expect("a store");
        let front = App::over(Arc::new(objects), config).await.expect("a server").front();
        let upload = format!("/v2/app/blobs/uploads/?digest={digest}");
        assert_eq!(send(&front, "POST", &upload, "{}").await, StatusCode::CREATED);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}},"layers":[]}}"#
        );
        assert_eq!(send(&front, "PUT", "/v2/app/manifests/latest", manifest).await, StatusCode::CREATED);
        front
    });
    let blob = format!("/v2/app/blobs/{digest}");
    for (name, method, uri) in [
        ("request/head blob", "HEAD", blob.as_str()),
        ("request/get blob, hot", "GET", blob.as_str()),
        ("request/manifest by tag", "GET", "/v2/app/manifests/latest"),
    ] {
        c.bench_function(name, |b| b.to_async(&runtime).iter(|| send(&front, method, uri, Bytes::new())));
    }
}

criterion_group!(benches, hashing, routing, hot_hits, requests, callers);
criterion_main!(benches);
