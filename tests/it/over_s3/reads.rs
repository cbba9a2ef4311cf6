//! Blobs read from a bucket in chunks.

use std::net::{Ipv4Addr, SocketAddr};

use bytesize::ByteSize;
use larder::app;
use larder::config::Redirect;
use larder::digest::Digest;
use larder::doors::listen;
use tokio::io::AsyncWriteExt;

use super::{Replica, blob_uri};
use crate::call::Answer;
use crate::tap::Tap;
use crate::world::noise;

const MIB: usize = 1 << 20;

/// A blob that another server has pushed.
async fn pushed(tap: &Tap, size: usize) -> bytes::Bytes {
    let blob = noise(size, 5);
    Replica::over(tap).await.push_blob(&blob).await;
    blob
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_part_of_a_large_blob_can_be_read() {
    for tap in Tap::all().await {
        let size = 9 * MIB + 12_345;
        let blob = pushed(&tap, size).await;
        for hot in [ByteSize::mib(4), ByteSize::mib(64)] {
            let replica = Replica::with(&tap, |config| config.hot.size = hot).await;
            for range in [0..1, 0..size, MIB - 1..MIB + 1, MIB..2 * MIB, 3..8 * MIB, size - 1..size, 5 * MIB + 7..size]
            {
                let got = replica.get_range(&blob, range.clone()).await.expect(206);
                assert!(got.body == blob[range.clone()], "{range:?}");
            }
            assert!(replica.get_blob(&blob).await.expect(200).body == blob);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_fetches_the_chunks_that_it_touches() {
    for tap in Tap::all().await {
        let blob = pushed(&tap, 40 * MIB).await;
        // A verified blob is not checked in the background.
        let replica = Replica::with(&tap, |config| config.hot.size = ByteSize::mib(8)).await;
        replica.get_blob(&blob).await.expect(200);
        assert_eq!(tap.calls().read_bytes, 40 << 20);
        let range = 5 * MIB - 10..6 * MIB + 10;
        let got = replica.get_range(&blob, range.clone()).await.expect(206);
        assert!(got.body == blob[range]);
        let calls = tap.calls();
        assert_eq!((calls.of("get"), calls.read_bytes), (3, 3 << 20), "{calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_holds_up_nobody() {
    let tap = Tap::in_process().await;
    let blob = pushed(&tap, 48 * MIB).await;
    // Smaller than the blob: no read is served from the memory of another.
    let replica = Replica::with(&tap, |config| config.hot.size = ByteSize::mib(16)).await;
    let listener = listen::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let uri = blob_uri(&Digest::sha256(&blob));
    let running = tokio::spawn(app::run(replica.app, vec![listener], std::future::pending()));
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {uri} HTTP/1.1\r\nhost: larder\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // The answer has begun, and is not read any further.
        stream.readable().await.unwrap();
        stalled.push(stream);
    }
    let client = reqwest::Client::new();
    let reads = (0..8).map(|_| async {
        let got = client.get(format!("http://{address}{uri}")).send().await.unwrap();
        assert!(Answer::over_tcp(got).await.unwrap().body == blob);
    });
    futures::future::join_all(reads).await;
    drop(stalled);
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_that_is_cold_may_be_fetched_from_the_bucket() {
    for mut tap in Tap::all().await {
        let (large, small) = (noise(3 * MIB, 1), noise(2 * MIB, 2));
        let pushing = Replica::over(&tap).await;
        pushing.push_blob(&large).await;
        pushing.push_blob(&small).await;
        assert_eq!(Replica::over(&tap).await.get_blob(&large).await.status, 200);
        tap.config.redirect = Redirect::ColdLarge;
        tap.config.redirect_min = ByteSize::mib(3);
        let replica = Replica::over(&tap).await;
        let answer = replica.get_blob(&large).await.expect(307);
        assert_eq!(answer.header("cache-control"), "no-store");
        let (client, location) = (reqwest::Client::new(), answer.header("location"));
        let got = client.get(location).send().await.unwrap();
        assert!(Answer::over_tcp(got).await.unwrap().expect(200).body == large);
        let got = client.get(location).header("range", "bytes=10-19").send().await.unwrap();
        assert!(Answer::over_tcp(got).await.unwrap().expect(206).body == large[10..20]);
        // A bucket answers several ranges with the whole.
        let several = replica.get_range_header(&large, "bytes=0-9,200-209").await.expect(206);
        assert!(several.body.len() < 1_000, "{}", several.body.len());
        let replica = Replica::over(&tap).await;
        // Below the bound, for a `HEAD`, or from memory, the server answers itself.
        replica.get_blob(&small).await.expect(200);
        replica.send("HEAD", &blob_uri(&Digest::sha256(&large)), "").await.expect(200);
        let pushing = Replica::over(&tap).await;
        let hot = noise(4 * MIB, 3);
        pushing.push_blob(&hot).await;
        assert!(pushing.get_blob(&hot).await.expect(200).body == hot);
    }
}
