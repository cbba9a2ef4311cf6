//! A check of a bucket makes few calls: a list, and reads of pointers and manifests.

use std::sync::Arc;

use axum::body::Body;
use larder::app::App;
use larder::check::{Depth, all};
use larder::config::Config;
use tower::ServiceExt;

use super::*;
use crate::bucket::Bucket;
use crate::call::Answer;
use crate::world::CONFIG;

const IMAGES: usize = 50;
/// Looks under way at the same time.
const AT_ONCE: usize = 16;

#[tokio::test]
async fn a_bucket_is_not_asked_for_each_blob() {
    let mut bucket = Bucket::in_process().await;
    bucket.config.prefix.clear();
    let objects = Arc::new(bucket.open().await);
    let router = App::over(objects.clone(), Config::default()).await.unwrap().front();
    let send = async |method: &str, uri: String, body: String| {
        let request = http::Request::builder().method(method).uri(uri).header("content-length", body.len());
        let Ok(response) = router.clone().oneshot(request.body(Body::from(body)).unwrap()).await;
        Answer::of(response).await.expect(201)
    };
    for number in 0..IMAGES {
        let blobs: Vec<String> = (0..10).map(|layer| format!("layer {layer} of {number}")).collect();
        for blob in &blobs {
            let digest = Digest::sha256(blob.as_bytes());
            send("POST", format!("/v2/a/blobs/uploads/?digest={digest}"), blob.clone()).await;
        }
        let layers = blobs[1..].iter().map(|blob| descriptor(LAYER, blob.as_bytes())).collect();
        let manifest = image(descriptor(CONFIG, blobs[0].as_bytes()), layers).to_string();
        send("PUT", format!("/v2/a/manifests/v{number}"), manifest).await;
    }
    bucket.calls();
    let found = all(&*objects, &Config::default(), Depth::Names).await.unwrap();
    assert_eq!(found, []);
    let calls = bucket.calls();
    let of = |name: &str| calls.get(name).copied().unwrap_or(0);
    // The notes of a quarantine, and everything.
    assert_eq!((of("list"), of("head")), (2, 0), "{calls:?}");
    // The format, the unfinished uploads, each pointer and each manifest; a manifest may be read twice when its tag is
    // looked at in the same moment.
    assert!((2 + 2 * IMAGES..=2 + 2 * IMAGES + AT_ONCE).contains(&of("get")), "{calls:?}");
}
