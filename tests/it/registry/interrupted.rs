//! Clients that go away in the middle, over real connections.

use bytes::Bytes;
use larder::digest::Digest;
use tokio::io::AsyncWriteExt;

use crate::call::Answer;
use crate::wire;
use crate::world::{Server, World, noise, with_digest};

/// Sends the head of a request and the beginning of its body, then disconnects.
async fn cut(server: &Server, method: &str, uri: &str, body: &Bytes, sent: usize) {
    let mut stream = server.connect().await;
    let head = format!("{method} {uri} HTTP/1.1\nhost: larder\ncontent-length: {}\n\n", body.len());
    wire::send(&mut stream, &head).await;
    stream.write_all(&body[..sent]).await.unwrap();
    stream.shutdown().await.unwrap();
    // The server's answer, if any, or its close: then the server has seen the end.
    wire::rest(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_was_cut_can_be_sent_again_to_the_same_address() {
    let world = World::new().await;
    let server = world.serve().await;
    for length in [100_000, 2_000_000] {
        let bytes = noise(length, 1);
        let digest = Digest::sha256(&bytes);
        let location = with_digest(&world.begin("a").await, &digest);
        for sent in [0, 1, length / 2, length - 1] {
            cut(&server, "PUT", &location, &bytes, sent).await;
            world.head(format!("/v2/a/blobs/{digest}")).await.expect(404);
        }
        let client = reqwest::Client::new();
        let put = client.put(server.url(&location)).body(bytes.clone()).send().await.unwrap();
        Answer::over_tcp(put).await.unwrap().expect(201);
        assert!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body == bytes);
    }
    server.stopped().await;
    assert_eq!(std::fs::read_dir(world.config().store.path.join(".larder/tmp")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_was_cut_keeps_what_arrived() {
    let world = World::new().await;
    let server = world.serve().await;
    let bytes = noise(2_000_000, 2);
    let digest = Digest::sha256(&bytes);
    let begun = world.begin("a").await;
    cut(&server, "PATCH", &begun, &bytes, 1_234_567).await;
    // The client has no answer, so it asks where it was heading.
    let status = world.get(&begun).await.expect(204);
    assert_eq!(status.header("range"), "0-1234566");
    let location = status.header("location");
    let rest = world.patch(location).header("content-range", "1234567-1999999").body(bytes.slice(1_234_567..));
    let location = rest.await.expect(202).header("location").to_string();
    world.put(with_digest(&location, &digest)).await.expect(201);
    assert!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body == bytes);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_disturbs_nobody() {
    let world = World::new().await;
    let bytes = noise(8_000_000, 3);
    let digest = world.put_blob("a", bytes.clone()).await;
    let server = world.serve().await;
    for _ in 0..4 {
        let mut stream = server.connect().await;
        wire::send(&mut stream, &format!("GET /v2/a/blobs/{digest} HTTP/1.1\nhost: larder\n\n")).await;
        let mut some = [0; 1000];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut some).await.unwrap();
    }
    let got = reqwest::get(server.url(&format!("/v2/a/blobs/{digest}"))).await.unwrap();
    assert!(Answer::over_tcp(got).await.unwrap().expect(200).body == bytes);
    server.stopped().await;
}
