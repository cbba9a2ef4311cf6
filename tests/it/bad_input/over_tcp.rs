//! Input that only a real connection can carry.

use crate::wire;
use crate::world::{Server, World};

/// The status of the answer, or nothing if the connection was only closed.
async fn status(server: &Server, request: &str) -> Option<u16> {
    let mut stream = server.connect().await;
    wire::send(&mut stream, request).await;
    let answer = wire::rest(&mut stream).await;
    answer.split(' ').nth(1).map(|status| status.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_and_the_server_goes_on() {
    let world = World::new().await;
    let server = world.serve().await;
    let (path, host) = ("/v2/a/manifests/v1", "host: larder\nconnection: close");
    for (request, expected) in [
        ("\u{16}\u{3}\u{1} a TLS greeting\n\n".to_string(), Some(400)),
        ("GET\n\n".to_string(), Some(400)),
        ("GET / HTTP/9.9\n\n".to_string(), Some(400)),
        (format!("GET /v2/ä HTTP/1.1\n{host}\n\n"), Some(404)),
        (format!("GET /v2/a b HTTP/1.1\n{host}\n\n"), Some(400)),
        (format!("G@T{{ /v2/ HTTP/1.1\n{host}\n\n"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ncontent-length: -1\n\n"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ncontent-length: 1\ncontent-length: 2\n\n{{}}"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ntransfer-encoding: gzip\n\n{{}}"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ntransfer-encoding: chunked\n\nzz\n"), Some(400)),
        (format!("GET {path} HTTP/1.1\n{host}\nbad header\n\n"), Some(400)),
        // Requests that two servers in a row might take for two requests.
        (format!("PUT {path} HTTP/1.1\n{host}\ncontent-length: 6\ntransfer-encoding: chunked\n\n0\n\nX"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ntransfer-encoding: chunked\ncontent-length: 6\n\n0\n\nX"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ntransfer-encoding: chunked\ntransfer-encoding: x\n\n0\n\n"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ntransfer-encoding : chunked\n\n0\n\n"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ntransfer-encoding: xchunked\n\n0\n\n"), Some(400)),
        (format!("PUT {path} HTTP/1.0\n{host}\ntransfer-encoding: chunked\n\n0\n\n"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ncontent-length: +5\n\nhello"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ncontent-length: 5, 5\n\nhello"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ncontent-length: 18446744073709551616\n\nhello"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ntransfer-encoding: chunked\n\n0x5\nhello\n0\n\n"), Some(400)),
        (format!("PUT {path} HTTP/1.1\n{host}\ntransfer-encoding: chunked\n\nfffffffffffffffff\nx"), Some(400)),
        (format!("GET {path} HTTP/1.1\n{host}\nx: a\u{0}b\n\n"), Some(400)),
        (format!("GET {path} HTTP/1.1\n{host}\nx: a\n folded\n\n"), Some(400)),
        (format!("GET {path}?a=%0d%0aset-cookie:%20x HTTP/1.1\n{host}\n\n"), Some(404)),
        (format!("GET /v2/a%0d%0aset-cookie:%20x/tags/list HTTP/1.1\n{host}\n\n"), Some(400)),
        (format!("GET {path}{} HTTP/1.1\n{host}\n\n", "x".repeat(70_000)), Some(414)),
        (format!("GET {path} HTTP/1.1\n{host}\n{}\n", "x-flood: y\n".repeat(1_000)), Some(431)),
        (format!("GET {path} HTTP/1.1\n{host}\nx-flood: {}\n\n", "y".repeat(2_000_000)), Some(431)),
    ] {
        let found = status(&server, &request).await;
        let shown: String = request.chars().take(80).collect();
        // Where too much is sent, the answer may be lost with the connection.
        let lost = found.is_none() && request.len() > 60_000;
        assert!(found == expected || lost, "{shown:?}: expected {expected:?}, got {found:?}");
    }
    assert_eq!(status(&server, &format!("GET /v2/ HTTP/1.1\n{host}\n\n")).await, Some(200));
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_behind_a_request_is_the_next_one_and_no_part_of_it() {
    let world = World::new().await;
    let server = world.serve().await;
    let mut stream = server.connect().await;
    // The body of a GET is no request of its own.
    let smuggled = "GET /metrics HTTP/1.1\nhost: larder\n\n";
    let body = smuggled.replace('\n', "\r\n").len();
    wire::send(&mut stream, &format!("GET /v2/ HTTP/1.1\nhost: larder\ncontent-length: {body}\n\n{smuggled}")).await;
    wire::send(&mut stream, "GET /healthz HTTP/1.1\nhost: larder\nconnection: close\n\n").await;
    let answers = wire::rest(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    assert!(answers.ends_with("ok\n") && !answers.contains("larder_connections"), "{answers}");
    // HTTP/2 comes with TLS alone.
    let mut stream = server.connect().await;
    let upgrade = "connection: upgrade, http2-settings, close\nupgrade: h2c\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA";
    wire::send(&mut stream, &format!("GET /healthz HTTP/1.1\nhost: larder\n{upgrade}\n\n")).await;
    let answer = wire::rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_ne!(status(&server, "PRI * HTTP/2.0\n\nSM\n\n").await, Some(200));
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_beyond_all_limits_is_refused_and_is_in_no_account() {
    let world = World::new().await;
    let server = world.serve().await;
    for length in ["9223372036854775808", "18446744073709551615", "1099511627776"] {
        let mut stream = server.connect().await;
        let location = world.begin("a").await;
        let uri = crate::world::with_digest(&location, &larder::digest::Digest::sha256(b""));
        wire::send(&mut stream, &format!("PUT {uri} HTTP/1.1\nhost: larder\ncontent-length: {length}\n\nx")).await;
        let (head, _) = wire::answer(&mut stream).await;
        let status = head.split(' ').nth(1).unwrap();
        assert!(matches!(status, "400" | "413" | "431"), "{length}: {head}");
    }
    let account = world.app().store.usage().account(&larder::names::Tenant::default_tenant());
    assert_eq!((account.arriving(), account.stored()), (0, 0));
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_all_before_it_reads_gets_to_read_why_it_was_refused() {
    let world = World::with(|config| config.limits.blob = bytesize::ByteSize::mib(1)).await;
    let server = world.serve().await;
    let location = world.begin("a").await;
    let mut stream = server.connect().await;
    let body = vec![0; 8 << 20];
    let uri = crate::world::with_digest(&location, &larder::digest::Digest::sha256(b""));
    let head =
        format!("PUT {uri} HTTP/1.1\r\nhost: larder\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &body).await.unwrap();
    let answer = wire::rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("more than 1048576 bytes"), "{answer}");
    server.stopped().await;
}
