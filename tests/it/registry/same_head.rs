//! `HEAD` answers like `GET`, without the body.

use larder::digest::Digest;

use crate::call::Answer;
use crate::world::{World, noise};

#[tokio::test]
async fn a_head_is_a_get_without_the_body() {
    let world = World::new().await;
    let pushed = world.put_image("a", "v1", "seed").await;
    let large = world.put_blob("a", noise(3_000_000, 1)).await;
    let (unknown, digest) = (Digest::sha256(b"unknown"), pushed.digest);
    let server = world.serve().await;
    let client = reqwest::Client::new();
    for (path, range) in [
        ("/v2/".to_string(), None),
        ("/v2/_catalog".to_string(), None),
        ("/v2/a/tags/list".to_string(), None),
        ("/v2/a/tags/list?n=0".to_string(), None),
        ("/v2/unknown/tags/list".to_string(), None),
        (format!("/v2/a/referrers/{digest}"), None),
        (format!("/v2/a/blobs/{}", pushed.layer), None),
        (format!("/v2/a/blobs/{large}"), None),
        (format!("/v2/a/blobs/{unknown}"), None),
        ("/v2/a/manifests/v1".to_string(), None),
        (format!("/v2/a/manifests/{digest}"), None),
        ("/v2/a/manifests/unknown".to_string(), None),
        ("/v2/a/blobs/sha256:bad".to_string(), None),
        ("/v2/nothing/here".to_string(), None),
        ("/healthz".to_string(), None),
        // A HEAD has no ranges (RFC 9110, section 14.2): it tells the size of the whole.
        (format!("/v2/a/blobs/{large}"), Some("bytes=0-9")),
    ] {
        let ask = |method: reqwest::Method, range: Option<&str>| {
            let request = client.request(method, server.url(&path));
            range.map_or(request.try_clone().unwrap(), |range| request.header("range", range)).send()
        };
        let get = Answer::over_tcp(ask(reqwest::Method::GET, None).await.unwrap()).await.unwrap();
        let head = Answer::over_tcp(ask(reqwest::Method::HEAD, range).await.unwrap()).await.unwrap();
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        assert_eq!(told(&head), told(&get), "{path}");
    }
    server.stopped().await;
}

/// All headers but the time.
fn told(answer: &Answer) -> Vec<(String, String)> {
    let pairs = answer.headers.iter().filter(|(name, _)| *name != "date");
    let mut pairs: Vec<_> =
        pairs.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_string())).collect();
    pairs.sort();
    pairs
}
