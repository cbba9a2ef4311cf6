//! What pages and scrapes cost where there are 10,000 tags: whole requests, without a socket.
//!
//! `cargo bench --bench pages`

use std::sync::Arc;

use axum::body::Body;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, StatusCode};
use larder::app::App;
use larder::config::Config;
use larder::doors::Front;
use larder::objects::fs::FsObjects;

#[expect(dead_code, reason = "shared with the bench of collections")]
#[path = "collect/generate.rs"]
mod generate;

const BLOBS: usize = 50_000;
const TAGS: usize = 10_000;

/// A page, and how many bytes it has.
async fn get(front: &Front, uri: &str) -> usize {
    let request = Request::get(uri).body(Body::empty()).expect("a request");
    let response = front.answer(request).await;
    assert_eq!(response.status(), StatusCode::OK, "{uri}");
    axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body").len()
}

fn pages(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    generate::store(folder.path(), BLOBS, TAGS).expect("a store");
    let (front, tag) = runtime.block_on(async {
        let objects = FsObjects::open(folder.path()).expect("a store");
        let app = App::over(Arc::new(objects), Config::default()).await.expect("a server");
        let began = std::time::Instant::now();
        app.store.scan_usage().await.expect("a scan");
        println!("counted {TAGS} tags and {BLOBS} blobs in {:.1?}", began.elapsed());
        let front = app.front();
        let request = Request::get("/api/overview").body(Body::empty()).expect("a request");
        let body = axum::body::to_bytes(front.answer(request).await.into_body(), usize::MAX).await.expect("a body");
        let overview: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(overview["tags_in_all"], TAGS);
        let tag = &overview["tags"].as_array().expect("tags")[0];
        let name = |name: &str| tag[name].as_str().expect("a name").to_string();
        (front, format!("/repo/{}:{}", name("repo"), name("tag")))
    });
    for (name, uri) in [
        ("page/metrics", "/metrics"),
        ("page/overview", "/"),
        ("page/repositories", "/repositories"),
        ("page/search", "/repositories?q=1"),
        ("page/tag", &tag),
    ] {
        println!("{uri}: {} bytes", runtime.block_on(get(&front, uri)));
        c.bench_function(name, |b| b.to_async(&runtime).iter(|| get(&front, uri)));
    }
}

criterion_group!(benches, pages);
criterion_main!(benches);
