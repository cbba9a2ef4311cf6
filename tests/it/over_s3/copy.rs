//! A store moves from a folder into a bucket by copying its objects, and serves the same.

use futures::TryStreamExt;
use larder::objects::Objects;

use super::{Replica, assert_sound};
use crate::tap::Tap;
use crate::world::{World, noise};

/// Object by object, as `aws s3 sync` does.
async fn copy(from: &dyn Objects, to: &dyn Objects) -> usize {
    let mut listed = from.list("", None);
    let mut copied = 0;
    while let Some(meta) = listed.try_next().await.unwrap() {
        let (_, mut bytes) = from.get(&meta.key, 0..u64::MAX).await.unwrap();
        let mut draft = to.begin(&meta.key, Some(meta.size)).await.unwrap();
        while let Some(piece) = bytes.try_next().await.unwrap() {
            draft.write(vec![piece]).await.unwrap();
        }
        draft.commit().await.unwrap();
        copied += 1;
    }
    copied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_store_serves_the_same() {
    for tap in Tap::all().await {
        let world = World::new().await;
        let large = noise(9 << 20, 1);
        world.put_blob("c", large.clone()).await;
        let image = world.put_image("c", "v1", "seed").await;
        world.put_image("c", "v2", "other").await;
        for (i, step) in ["RUN a", "RUN b"].into_iter().enumerate() {
            let export = super::Export::of(step, vec![noise(1000, i as u64)]);
            for blob in &export.blobs {
                world.put_blob("c", blob.clone()).await;
            }
            world.put_manifest("c", "m", &export.manifest).await;
        }
        let uris: Vec<String> = ["manifests/m", "manifests/v1", "manifests/v2", "tags/list"]
            .map(|path| format!("/v2/c/{path}"))
            .into_iter()
            .chain([format!("/v2/c/manifests/{}", image.digest), format!("/v2/c/blobs/{}", image.layer)])
            .collect();
        let mut expected = Vec::new();
        for uri in &uris {
            expected.push(world.get(uri).await.expect(200).body);
        }
        assert!(copy(world.objects(), &tap.objects().await).await > 10);
        let replica = Replica::over(&tap).await;
        for (uri, body) in uris.iter().zip(expected) {
            assert_eq!(replica.get(uri).await.expect(200).body, body, "{uri}");
        }
        assert!(replica.get_blob(&large).await.expect(200).body == large);
        // The copied tag takes further exports.
        replica.export(&super::Export::of("RUN c", vec![noise(1000, 7)])).await;
        assert_eq!(replica.import().await["layers"].as_array().unwrap().len(), 3);
        assert_sound(&tap).await;
    }
}
