//! Whatever is sent, in whatever order: no 5xx and no panic.

use std::sync::OnceLock;

use axum::body::Body;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::world::World;

/// One server for all cases: each case meets the state that the others left.
fn server() -> &'static (Runtime, World) {
    static SERVER: OnceLock<(Runtime, World)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let world = runtime.block_on(async {
            let world = World::new().await;
            world.put_image("a", "v1", "seed").await;
            world.put_blob("a", "").await;
            world
        });
        (runtime, world)
    })
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        "[a-zA-Z0-9._~!$&'()*+,;=:@%-]{0,12}",
        "%[0-9A-F]{2}|%2[eEfF]|\\.\\.?",
        Just("a".to_string()),
        Just("v1".to_string()),
        Just("blobs".to_string()),
        Just("blobs/uploads".to_string()),
        Just("manifests".to_string()),
        Just("tags/list".to_string()),
        Just("referrers".to_string()),
        Just("_catalog".to_string()),
        Just("0123456789abcdef0123456789abcdef".to_string()),
        Just("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_string()),
        "sha(256|512):[0-9a-f]{0,70}",
    ];
    let segments = prop::collection::vec(segment, 0..6).prop_map(|segments| segments.join("/"));
    let anywhere = (prop::option::weighted(0.9, Just("/v2")), segments)
        .prop_map(|(root, path)| format!("{}/{path}", root.unwrap_or_default()));
    // Often enough, input that is nearly right.
    let endpoint = "/v2/a/(blobs/uploads/?|blobs/uploads/0123456789abcdef0123456789abcdef|manifests/v[12]|tags/list|referrers/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855|blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855)";
    prop_oneof![anywhere, endpoint]
}

fn query() -> impl Strategy<Value = String> {
    let pair = "(n|last|digest|mount|from|tag|staged|artifactType|digest-algorithm|ns|[a-z%]{0,3})=?(sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855|sha512|[a-z0-9%:+./-]{0,8})";
    prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = "range|content-range|content-type|content-length|if-none-match|if-range|accept|traceparent|x-[a-z]{1,5}";
    let value = prop_oneof![
        "bytes=[0-9]{0,21}-[0-9]{0,21}(,[0-9]{0,3}-[0-9]{0,3}){0,3}".prop_map(String::into_bytes),
        "[0-9]{0,21}-?[0-9]{0,21}".prop_map(String::into_bytes),
        "application/vnd\\.[a-z.+0-9]{1,20}|[ -~]{0,30}".prop_map(String::into_bytes),
        prop::collection::vec(0x80u8..=0xff, 0..8),
    ];
    prop::collection::vec((name, value), 0..4)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..64),
        r#"\{("(schemaVersion|mediaType|config|layers|manifests|subject)":([0-9]|\[\]|\{\}|"a/b"),?){0,4}\}"#
            .prop_map(String::into_bytes),
    ]
}

/// As many cases as `PROPTEST_CASES` says, or as many as take a few seconds.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").map_or(2_000, |cases| cases.parse().unwrap());
    // The requests before a failing one belong to it, so it cannot be replayed alone.
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_request_is_the_servers_fault(
        method in "GET|HEAD|PUT|POST|PATCH|DELETE|[A-Z]{1,9}",
        path in path(),
        query in prop::option::of(query()),
        headers in headers(),
        body in body(),
    ) {
        let uri = query.map_or(path.clone(), |query| format!("{path}?{query}"));
        let mut request = http::Request::builder().method(&*method).uri(&uri);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Not everything is a request at all.
        let Ok(request) = request.body(Body::from(body)) else { return Ok(()) };
        let (runtime, world) = server();
        let answer = runtime.block_on(world.send(request));
        prop_assert!(answer.status.as_u16() < 500, "{} {}: {} {}", method, uri, answer.status, answer.text());
        if answer.status.as_u16() >= 400 && path.starts_with("/v2/") && method != "HEAD" {
            prop_assert!(!answer.code().is_empty());
        }
    }
}
