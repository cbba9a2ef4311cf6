//! The server as a process on a network.

pub mod binary;
mod messages;
mod systemd;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use larder::config::Span;
use larder::digest::Digest;
use larder::doors::listen;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::call::Answer;
use crate::wire;
use crate::world::{Server, World, noise, with_digest};

const PING: &str = "GET /v2/ HTTP/1.1\nhost: larder\n\n";

/// A body that goes on when the test says so.
fn body() -> (mpsc::UnboundedSender<Bytes>, reqwest::Body) {
    let (send, receive) = mpsc::unbounded_channel::<Bytes>();
    let pieces = futures::stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
    (send, reqwest::Body::wrap_stream(pieces.map(Ok::<_, std::io::Error>)))
}

/// Begins to push `bytes` and returns when the server has the first half.
async fn half_pushed(
    world: &World,
    server: &Server,
    bytes: &Bytes,
) -> (mpsc::UnboundedSender<Bytes>, tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>) {
    let location = with_digest(&world.begin("a").await, &Digest::sha256(bytes));
    let (send, body) = body();
    let push = tokio::spawn(reqwest::Client::new().put(server.url(&location)).body(body).send());
    let half = bytes.slice(..bytes.len() / 2);
    send.send(half).unwrap();
    let receiving = world.config().store.path.join(".larder/tmp");
    // A temporary file shows that the bytes have begun to arrive.
    while std::fs::read_dir(&receiving).unwrap().count() == 0 {
        assert!(!push.is_finished(), "{:?}", push.await);
        tokio::task::yield_now().await;
    }
    (send, push)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_finished_when_the_server_stops() {
    let world = World::new().await;
    let mut server = world.serve().await;
    let bytes = noise(2_000_000, 1);
    let (send, push) = half_pushed(&world, &server, &bytes).await;
    let mut idle = server.connect().await;
    wire::send(&mut idle, PING).await;
    wire::answer(&mut idle).await;

    server.signal();
    // Its idle connections are closed, and new ones find nobody.
    assert_eq!(wire::rest(&mut idle).await, "");
    while TcpStream::connect(server.addresses[0]).await.is_ok() {
        tokio::task::yield_now().await;
    }
    send.send(bytes.slice(bytes.len() / 2..)).unwrap();
    drop(send);
    assert_eq!(push.await.unwrap().unwrap().status(), 201);
    server.stopped().await;
    world.get(format!("/v2/a/blobs/{}", Digest::sha256(&bytes))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_ends_does_not_keep_the_server() {
    let world = World::with(|config| config.server.drain = Span::seconds(1)).await;
    let server = world.serve().await;
    let bytes = noise(2_000_000, 2);
    let (send, push) = half_pushed(&world, &server, &bytes).await;
    server.stopped().await;
    drop((send, push));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_may_come_slowly() {
    let world = World::new().await;
    let server = world.serve().await;
    let bytes = noise(2_000_000, 3);
    let (send, push) = half_pushed(&world, &server, &bytes).await;
    // Meanwhile the builder fetches what it is going to send, from here.
    let other = world.put_blob("a", noise(1_000_000, 4)).await;
    let got = reqwest::get(server.url(&format!("/v2/a/blobs/{other}"))).await.unwrap();
    assert_eq!(got.bytes().await.unwrap().len(), 1_000_000);
    for piece in bytes.slice(bytes.len() / 2..).chunks(100_000) {
        send.send(bytes.slice_ref(piece)).unwrap();
        tokio::task::yield_now().await;
    }
    drop(send);
    assert_eq!(push.await.unwrap().unwrap().status(), 201);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_pauses_for_too_long_is_given_up() {
    let world = World::with(|config| config.limits.body_idle = Span::seconds(1)).await;
    let server = world.serve().await;
    let bytes = noise(2_000_000, 5);
    let (_send, push) = half_pushed(&world, &server, &bytes).await;
    let refused = Answer::over_tcp(push.await.unwrap().unwrap()).await.unwrap().expect(408);
    assert_eq!(refused.code(), "SIZE_INVALID");
    world.head(format!("/v2/a/blobs/{}", Digest::sha256(&bytes))).await.expect(404);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_bound_wait_for_a_place() {
    let world = World::with(|config| config.limits.connections = 2).await;
    let server = world.serve().await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for stream in [&mut first, &mut second] {
        wire::send(stream, PING).await;
        wire::answer(stream).await;
    }
    // The kernel takes it, the server does not look at it.
    let mut third = server.connect().await;
    wire::send(&mut third, PING).await;
    assert!(world.app().metrics.render().contains("larder_connections 2\n"));
    wire::send(&mut first, PING).await;
    wire::answer(&mut first).await;
    let mut byte = [0];
    assert!(futures::poll!(std::pin::pin!(third.peek(&mut byte))).is_pending());
    drop(first);
    let (head, _) = wire::answer(&mut third).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    drop((second, third));
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_serves_one_request_after_another() {
    let world = World::new().await;
    let pushed = world.put_image("a", "v1", "seed").await;
    let server = world.serve().await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        wire::send(&mut stream, PING).await;
        assert_eq!(wire::answer(&mut stream).await.1, b"{}");
        wire::send(&mut stream, "GET /v2/a/manifests/v1 HTTP/1.1\nhost: larder\n\n").await;
        assert_eq!(wire::answer(&mut stream).await.1, pushed.manifest.to_string().as_bytes());
        // A refusal costs nobody the connection.
        wire::send(&mut stream, "GET /v2/a/manifests/none HTTP/1.1\nhost: larder\n\n").await;
        assert!(wire::answer(&mut stream).await.0.starts_with("http/1.1 404"));
    }
    // Several at once: the answers come in the order of the requests.
    wire::send(&mut stream, &PING.repeat(3)).await;
    wire::send(&mut stream, "GET /healthz HTTP/1.1\nhost: larder\nconnection: close\n\n").await;
    let rest = wire::rest(&mut stream).await;
    assert_eq!(rest.matches("HTTP/1.1 200").count(), 4, "{rest}");
    assert!(rest.ends_with("ok\n"), "{rest}");
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_in_the_end() {
    let world = World::with(|config| config.limits.keep_alive = Span::seconds(1)).await;
    let server = world.serve().await;
    let (mut idle, mut slow) = (server.connect().await, server.connect().await);
    wire::send(&mut idle, PING).await;
    wire::answer(&mut idle).await;
    wire::send(&mut slow, "GET /v2/ HTTP/1.1\nhost: lar").await;
    assert_eq!(wire::rest(&mut idle).await, "");
    let slow = wire::rest(&mut slow).await;
    assert!(slow.is_empty() || slow.starts_with("HTTP/1.1 408"), "{slow}");
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_listens_on_several_addresses() {
    let world = World::new().await;
    let mut listeners = vec![listen::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()];
    // Where the machine has IPv6, the second is of that kind.
    let second = listen::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    listeners.push(second.or_else(|_| listen::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).unwrap());
    let server = world.serve_on(listeners).await;
    for address in &server.addresses {
        let got = reqwest::get(format!("http://{address}/v2/")).await.unwrap();
        assert_eq!(got.status(), 200, "{address}");
    }
    server.stopped().await;
}

#[tokio::test]
async fn what_answers_a_request_is_small_enough_to_be_handed_on() {
    let world = World::new().await;
    // Copied several times on its way to the connection, for each request: it once had 13 KiB.
    let bytes = world.answering(http::Request::head("/v2/a/blobs/latest").body(Body::empty()).unwrap());
    assert!(bytes <= 3 << 10, "{bytes} bytes");
}

#[tokio::test]
async fn paths_of_doors_to_come_and_of_nobody_are_not_found() {
    let world = World::new().await;
    let cache = "/_apis/artifactcache/cache?keys=k&version=v";
    for path in ["/twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry", cache, &format!("/t0ken{cache}")]
    {
        world.post(path).body("{}").await.expect(404);
    }
    for path in ["/larder/x?sig=y", "/_internal/caches", "/hub/v2/", "/nothing", "/?X-Amz-Signature=x", "/healthz/x"] {
        assert!(world.get(path).await.expect(404).body.is_empty(), "{path}");
    }
    let signed = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=y";
    world.get("/").header("authorization", signed).await.expect(404);
    world.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_way_to_choose_another() {
    let taken = listen::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = taken.local_addr().unwrap();
    let refused = listen::bind(address).unwrap_err().to_string();
    assert!(refused.contains(&address.to_string()) && refused.contains("--listen"), "{refused}");
    let elsewhere = listen::bind("192.0.2.1:0".parse().unwrap()).unwrap_err().to_string();
    assert!(elsewhere.contains("not an address of this machine"), "{elsewhere}");
}

#[tokio::test]
async fn health_and_metrics_are_told() {
    let world = World::new().await;
    assert_eq!(world.get("/healthz").await.expect(200).body, "ok\n");
    assert_eq!(world.get("/readyz").await.expect(200).body, "ready\n");
    let pushed = world.put_image("a", "v1", "seed").await;
    world.get(format!("/v2/a/blobs/{}", pushed.layer)).await.expect(200);
    world.get("/v2/a/manifests/none").await.expect(404);
    let metrics = world.get("/metrics").await.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain"));
    for line in [
        r#"larder_requests_total{method="PUT",route="manifest",status="201"} 1"#,
        r#"larder_requests_total{method="GET",route="manifest",status="404"} 1"#,
        r#"larder_requests_total{method="GET",route="blob",status="200"} 1"#,
        "larder_blobs_stored_total 2",
    ] {
        assert!(metrics.text().lines().any(|shown| shown == line), "{line} is not in\n{}", metrics.text());
    }
}

#[tokio::test]
async fn a_store_that_takes_no_writes_is_not_ready() {
    let world = World::new().await;
    let tmp = world.config().store.path.join(".larder/tmp");
    std::fs::remove_dir(&tmp).unwrap();
    world.get("/readyz").await.expect(503);
    world.get("/healthz").await.expect(200);
    std::fs::create_dir(&tmp).unwrap();
    world.get("/readyz").await.expect(200);
}

#[tokio::test]
async fn collections_that_break_off_are_counted() {
    let world = World::new().await;
    let tmp = world.config().store.path.join(".larder/tmp");
    let counted = |line: &str| world.app().metrics.render().lines().any(|shown| shown == line);
    assert!(counted("larder_collections_failed_total 0"));
    std::fs::remove_dir(&tmp).unwrap();
    assert!(world.app().collect(false).await.is_err());
    assert!(world.app().collect(true).await.is_ok(), "a dry one writes nothing");
    std::fs::create_dir(&tmp).unwrap();
    assert!(counted("larder_collections_failed_total 1") && counted("larder_collections_total 0"));
    world.app().collect(false).await.unwrap();
    assert!(counted("larder_collections_failed_total 1") && counted("larder_collections_total 1"));
}
