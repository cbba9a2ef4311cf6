//! Browsers: no page of another site makes one change anything here, and none reads a server by a name of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use larder::config::Config;
use larder::digest::Digest;
use larder::doors::kit::origin::Peer;

use crate::audit::{CHANGES, asked};
use crate::call::Answer;
use crate::world::World;

type Headers<'a> = &'a [(&'a str, &'a str)];

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";

async fn world(server: &str) -> World {
    let configured: Config = toml::from_str(&format!("[server]\n{server}")).unwrap();
    World::with(|config| config.server = configured.server).await
}

async fn ask(world: &World, method: &str, uri: &str, headers: Headers<'_>) -> Answer {
    let call = headers.iter().fold(world.call(method, uri), |call, (name, value)| call.header(name, value));
    call.await
}

fn is_foreign(answer: &Answer) -> bool {
    answer.status == 403 && answer.text().contains("another site")
}

#[tokio::test]
async fn what_changes_something_is_refused_to_pages_of_other_sites() {
    let world = world("").await;
    let operator = format!("Bearer {}", world.app().gate.operator_token().expose());
    world.show(operator);
    let same: [Headers; 7] = [
        &[("host", "localhost:5000"), ("origin", "http://localhost:5000"), ("sec-fetch-site", "same-origin")],
        &[("host", "127.0.0.1:5000"), ("origin", "http://127.0.0.1:5000")],
        &[("host", "[::1]:5000"), ("origin", "http://[0::1]:5000")],
        &[("host", "LOCALHOST."), ("origin", "https://localhost")],
        &[("host", "localhost"), ("sec-fetch-site", "none")],
        // A page that sends no referrer tells no origin; the browser does.
        &[("host", "localhost"), ("origin", "null"), ("sec-fetch-site", "same-origin")],
        // A program.
        &[("host", "cache.internal:5000")],
    ];
    let cross: [Headers; 8] = [
        &[("host", "localhost:5000"), ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")],
        &[("host", "localhost:5000"), ("sec-fetch-site", "cross-site")],
        &[("host", "localhost:5000"), ("sec-fetch-site", "same-site")],
        &[("host", "localhost:5000"), ("origin", "https://evil.example")],
        &[("host", "localhost:5000"), ("origin", "http://localhost:8080")],
        &[("host", "localhost:5000"), ("origin", "http://localhost:5000"), ("origin", "https://evil.example")],
        &[("host", "localhost:5000"), ("origin", "null")],
        &[("host", "localhost:5000"), ("origin", "http://localhost:5000.evil.example")],
    ];
    for (_, row) in CHANGES {
        let (method, uri) = asked(row);
        for headers in same {
            let answer = ask(&world, &method, &uri, headers).await;
            assert!(!is_foreign(&answer), "{row} {headers:?}: {}", answer.text());
        }
        for headers in cross {
            let answer = ask(&world, &method, &uri, headers).await;
            // To be led to ask for a token by GET changes nothing, and no other site reads the answer.
            assert_eq!(is_foreign(&answer), method != "GET", "{row} {headers:?}: {}", answer.text());
        }
    }
    // No refused request has changed anything, and links of other sites lead here.
    world.get("/v2/a/tags/list").await.expect(404);
    ask(&world, "GET", "/", &[("host", "localhost"), ("sec-fetch-site", "cross-site")]).await.expect(200);
}

#[tokio::test]
async fn an_order_of_another_site_is_not_carried_out() {
    let world = world("").await;
    let operator = format!("Bearer {}", world.app().gate.operator_token().expose());
    world.show(operator);
    let foreign: Headers = &[("host", "127.0.0.1"), ("origin", "https://evil.example")];
    let blob = Digest::sha256(b"evil");
    let push = format!("/v2/a/blobs/uploads/?digest={blob}");
    let pushed = world.post(&push).header("origin", "https://evil.example").header("host", "127.0.0.1").body("evil");
    assert!(is_foreign(&pushed.await));
    world.head(format!("/v2/a/blobs/{blob}")).await.expect(404);
    assert!(is_foreign(&ask(&world, "POST", "/api/gc", foreign).await));
    assert_eq!(world.get("/api/gc").await.expect(200).text(), "null");
    world.post("/api/gc").await.expect(200);
    assert_ne!(world.get("/api/gc").await.expect(200).text(), "null");
}

#[tokio::test]
async fn browsers_reach_a_server_by_its_names_and_programs_by_any() {
    let named = "public_url = \"https://Cache.Example.com:8443\"\nhosts = [\"larder.internal\", \"Other.\"]";
    for (server, host, allowed) in [
        ("", "localhost:5000", true),
        ("", "LocalHost.", true),
        ("", "cache.localhost", true),
        ("", "127.0.0.1:5000", true),
        ("", "192.168.1.7", true),
        ("", "[fd00::1]:5000", true),
        ("", "evil.example", false),
        ("", "localhost.evil.example", false),
        ("", "127.0.0.1.evil.example", false),
        ("", "evil.example:5000", false),
        ("", "2130706433", false),
        ("", "", false),
        ("", "a b", false),
        (named, "cache.example.com", true),
        (named, "CACHE.example.com.:1234", true),
        (named, "larder.internal:5000", true),
        (named, "other", true),
        (named, "example.com", false),
        (named, "a.larder.internal", false),
    ] {
        let world = world(server).await;
        let browsers: [Headers; 3] =
            [&[("user-agent", FIREFOX)], &[("sec-fetch-mode", "cors")], &[("origin", "http://evil.example")]];
        for browser in browsers {
            for uri in ["/", "/v2/", "/v2/a/blobs/uploads/x", "/api/overview", "/metrics", "/healthz", "/nowhere"] {
                let answer = ask(&world, "GET", uri, &[browser[0], ("host", host)]).await;
                let refused = answer.status == 403 && answer.text().contains("[server] hosts");
                assert_eq!(!refused, allowed, "{host} {browser:?} {uri}: {}", answer.text());
            }
        }
        // Clients of registries are never refused.
        for agent in [
            "docker/27.3.1 go/go1.22.7 git-commit/41ca978 kernel/6.8.0 os/linux arch/amd64 UpstreamClient(Docker-Client/27.3.1)",
            "buildkit/v0.17.2",
            "containerd/1.7.24",
            "crane/0.20.2 go-containerregistry/0.20.2",
            "Go-http-client/1.1",
            "curl/8.5.0",
        ] {
            ask(&world, "GET", "/v2/", &[("user-agent", agent), ("host", host)]).await.expect(200);
        }
    }
}

#[tokio::test]
async fn every_name_that_a_trusted_proxy_forwards_must_be_one_of_ours() {
    let server = "trusted_proxies = [\"10.0.0.0/8\"]\nhosts = [\"larder\", \"cache.example.com\"]";
    let world = world(server).await;
    for (peer, host, forwarded, allowed) in [
        ([10, 0, 0, 1], "larder", Some("cache.example.com"), true),
        ([10, 0, 0, 1], "larder:5000", None, true),
        ([10, 0, 0, 1], "larder", Some("evil.example"), false),
        ([10, 0, 0, 1], "larder", Some("cache.example.com, evil.example"), false),
        ([10, 0, 0, 1], "evil.example", Some("cache.example.com"), false),
        // Headers of a proxy count only from a trusted one.
        ([11, 0, 0, 1], "larder", Some("evil.example"), true),
        ([11, 0, 0, 1], "evil.example", Some("cache.example.com"), false),
    ] {
        let peer = Arc::new(Peer { address: Some(IpAddr::V4(Ipv4Addr::from(peer))), secure: false, certificate: None });
        let mut request = http::Request::get("/").header("user-agent", FIREFOX).header("host", host);
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-host", forwarded);
        }
        let answer = world.send(request.extension(peer).body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!(answer.status == 200, allowed, "{host} {forwarded:?}: {}", answer.text());
    }
    // A page behind a proxy is of the name that the browser used.
    let push = |origin: &'static str| {
        let request = http::Request::post("/v2/a/blobs/uploads/").header("host", "larder").header("origin", origin);
        let peer = Arc::new(Peer { address: Some(IpAddr::V4(Ipv4Addr::from([10, 0, 0, 1]))), ..Peer::default() });
        let request = request.header("x-forwarded-host", "cache.example.com").extension(peer);
        world.send(request.body(axum::body::Body::empty()).unwrap())
    };
    push("https://cache.example.com").await.expect(202);
    push("https://cache.example.com:444").await.expect(403);
}

#[tokio::test]
async fn a_blob_is_never_taken_for_a_page() {
    let world = World::new().await;
    let page = "<html><script>alert(document.domain)</script>";
    let digest = world.put_blob("a", page).await;
    let uri = format!("/v2/a/blobs/{digest}");
    for (method, range) in [("GET", None), ("HEAD", None), ("GET", Some("bytes=0-5")), ("GET", Some("bytes=0-1,3-4"))] {
        let call = world.call(method, &uri);
        let answer = match range {
            Some(range) => call.header("range", range).await,
            None => call.await,
        };
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{method} {range:?}");
        let kind = answer.header("content-type");
        assert!(kind == "application/octet-stream" || kind.starts_with("multipart/byteranges"), "{kind}");
    }
}
