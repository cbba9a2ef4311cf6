//! The bucket becomes unavailable, and available again.

use std::time::Duration;

use bytesize::ByteSize;
use larder::digest::Digest;

use super::{Export, Replica, blob_uri, eventually};
use crate::tap::Tap;
use crate::world::noise;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hot_is_served_while_the_bucket_is_away_and_the_rest_is_refused_in_time() {
    let tap = Tap::in_process().await;
    let cold = noise(3 * MIB, 1);
    Replica::over(&tap).await.push_blob(&cold).await;
    let replica = Replica::over(&tap).await;
    let export = Export::of("RUN", vec![noise(1000, 2), noise(5 * MIB, 3)]);
    replica.export(&export).await;
    replica.import().await;
    let manifest = Digest::sha256(export.manifest.to_string().as_bytes());
    assert_eq!(replica.get("/readyz").await.status, 200);

    tap.set_open(false);
    for blob in &export.blobs {
        replica.send("HEAD", &blob_uri(&Digest::sha256(blob)), "").await.expect(200);
        assert!(replica.get_blob(blob).await.expect(200).body == *blob);
    }
    replica.get(&format!("/v2/c/manifests/{manifest}")).await.expect(200);
    // Layers are asked for again by builders: they are refused soon. A tag is late, and never stale.
    let (layer, tag, look) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(20), replica.get_blob(&cold)),
        tokio::time::timeout(Duration::from_secs(60), replica.get("/v2/c/manifests/m")),
        tokio::time::timeout(Duration::from_secs(20), replica.get("/readyz")),
    );
    for refused in [layer, tag] {
        let refused = refused.expect("refused too late").expect(503);
        assert_eq!(refused.code(), "UNAVAILABLE");
        refused.header("retry-after");
    }
    // The last result may stay valid for some seconds.
    drop(look);
    eventually(async || (replica.get("/readyz").await.status == 503).then_some(())).await;
    assert_eq!(replica.get("/healthz").await.status, 200);

    tap.set_open(true);
    assert!(replica.get_blob(&cold).await.expect(200).body == cold);
    replica.import().await;
    eventually(async || (replica.get("/readyz").await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_come_again_finds_that_his_read_has_gone_on() {
    let tap = Tap::in_process().await;
    let (large, small) = (noise(2 * MIB + 1, 1), noise(1000, 2));
    let other = Replica::over(&tap).await;
    other.push_blob(&large).await;
    other.push_blob(&small).await;
    // Memory for one chunk in flight: the small blob waits for it.
    let replica = Replica::with(&tap, |config| config.hot.size = ByteSize::mib(4)).await;
    tap.hold(Some("get"));
    let (first, second) = tokio::join!(replica.get_blob(&large), replica.get_blob(&small));
    first.expect(503);
    second.expect(503);
    // The first attempt has been given up: let go of while its time ends, it would be counted beside the second.
    tap.is_holding_attempt(2).await;
    tap.hold(None);
    // The first chunk and all of the small blob, without a client that reads.
    let mut read = 0;
    eventually(async || {
        read += tap.calls().read_bytes;
        (read >= (MIB + small.len()) as u64).then_some(())
    })
    .await;
    assert!(replica.get_blob(&small).await.expect(200).body == small);
    assert!(replica.get_blob(&large).await.expect(200).body == large);
    assert_eq!(read + tap.calls().read_bytes, (large.len() + small.len()) as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_outage_delays_a_tag_and_an_export() {
    let tap = Tap::in_process().await;
    let replica = Replica::over(&tap).await;
    let export = Export::of("RUN", vec![noise(1000, 2)]);
    replica.export(&export).await;
    tap.set_open(false);
    let answers =
        async { tokio::join!(replica.import(), replica.send("PUT", "/v2/c/manifests/n", export.manifest.to_string())) };
    let back = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        tap.set_open(true);
    };
    let ((_, put), ()) = tokio::join!(answers, back);
    put.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_takes_no_writes_is_read() {
    let tap = Tap::in_process().await;
    let export = Export::of("RUN", vec![noise(1000, 2)]);
    Replica::over(&tap).await.export(&export).await;
    let replica = Replica::over(&tap).await;
    // The use of the tag cannot be noted.
    tap.hold(Some("put"));
    assert_eq!(replica.import().await, export.manifest);
}
