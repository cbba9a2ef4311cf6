//! Whole blobs: pushed, found, mounted, deleted.

use larder::digest::{Algorithm, Digest};

use crate::world::{LAYER, World, descriptor, image, noise, with_digest};

#[tokio::test]
async fn a_blob_goes_up_with_a_post_and_a_put() {
    let world = World::new().await;
    // The first fits in one portion of received bytes, the second does not.
    for bytes in [noise(1_000, 1), noise(1_500_000, 2)] {
        let digest = Digest::sha256(&bytes);
        world.head(format!("/v2/a/b/blobs/{digest}")).await.expect(404);
        let begun = world.post("/v2/a/b/blobs/uploads/").body("").await.expect(202);
        assert_eq!(begun.header("range"), "0-0");
        assert_eq!(begun.header("docker-upload-uuid").len(), 32);
        let put = world.put(with_digest(begun.header("location"), &digest)).body(bytes.clone()).await.expect(201);
        assert_eq!(put.header("docker-content-digest"), digest.to_string());
        let got = world.get(put.header("location")).await.expect(200);
        assert_eq!(got.header("content-length"), bytes.len().to_string());
        assert_eq!(got.header("docker-content-digest"), digest.to_string());
        assert!(got.body == bytes);
    }
}

#[tokio::test]
async fn a_blob_goes_up_with_a_single_post() {
    let world = World::new().await;
    let digest = Digest::sha256(b"hello");
    let posted = world.post(format!("/v2/a/blobs/uploads/?digest={digest}")).body("hello").await.expect(201);
    assert_eq!(world.get(posted.header("location")).await.expect(200).body, "hello");
}

#[tokio::test]
async fn a_blob_of_untold_length_is_taken() {
    let world = World::new().await;
    let bytes = noise(1_500_000, 3);
    let digest = Digest::sha256(&bytes);
    let location = world.begin("a").await;
    world.put(with_digest(&location, &digest)).stream(bytes.clone()).await.expect(201);
    assert!(world.get(format!("/v2/a/blobs/{digest}")).await.expect(200).body == bytes);
}

#[tokio::test]
async fn a_blob_is_named_by_the_algorithm_that_the_client_uses() {
    let world = World::new().await;
    let digest = Digest::of(Algorithm::Sha512, b"hello");
    let begun = world.post("/v2/a/blobs/uploads/?digest-algorithm=sha512").await.expect(202);
    let put = world.put(with_digest(begun.header("location"), &digest)).body("hello").await.expect(201);
    for answer in [&put, &world.get(format!("/v2/a/blobs/{digest}")).await.expect(200)] {
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    }
    // The same bytes under their other name are another blob.
    world.head(format!("/v2/a/blobs/{}", Digest::sha256(b"hello"))).await.expect(404);
}

#[tokio::test]
async fn a_blob_of_no_bytes_is_a_blob() {
    let world = World::new().await;
    let digest = world.put_blob("a", "").await;
    let got = world.get(format!("/v2/a/blobs/{digest}")).await.expect(200);
    assert_eq!((got.header("content-length"), got.body.len()), ("0", 0));
    world.get(format!("/v2/a/blobs/{digest}")).header("range", "bytes=0-").await.expect(416);
}

#[tokio::test]
async fn bytes_that_do_not_fit_the_digest_are_never_seen() {
    let world = World::new().await;
    for length in [10, 1_500_000] {
        let (right, wrong) = (noise(length, 4), noise(length, 5));
        let digest = Digest::sha256(&right);
        let location = world.begin("a").await;
        let attempts = [
            world.put(with_digest(&location, &digest)).body(wrong.clone()).await,
            world.put(with_digest(&location, &digest)).stream(right.slice(1..)).await,
            world.post(format!("/v2/a/blobs/uploads/?digest={digest}")).body(wrong).await,
        ];
        for refused in attempts {
            assert_eq!(refused.expect(400).code(), "DIGEST_INVALID");
        }
        world.head(format!("/v2/a/blobs/{digest}")).await.expect(404);
        world.get(format!("/v2/a/blobs/{digest}")).await.expect(404);
        // The session is as good as before.
        world.put(with_digest(&location, &digest)).body(right).await.expect(201);
    }
}

#[tokio::test]
async fn a_whole_blob_is_taken_by_a_session_that_nobody_knows() {
    let world = World::new().await;
    let digest = Digest::sha256(b"hello");
    let unknown = format!("/v2/a/blobs/uploads/{}?digest={digest}", "0123456789abcdef".repeat(2));
    world.put(&unknown).body("hello").await.expect(201);
    // The same for an unknown session that had received bytes, before its server was replaced.
    let again = Digest::sha256(b"again");
    let staged = format!("/v2/a/blobs/uploads/{}?staged=1&digest={again}", "0123456789abcdef".repeat(2));
    world.put(&staged).body("again").await.expect(201);
    // The end of a blob alone is refused.
    let never = staged.replace(&again.to_string(), &Digest::sha256(b"never made").to_string());
    let refused = world.put(never).header("content-range", "5-9").body("again").await.expect(404);
    assert_eq!(refused.code(), "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn the_same_blob_may_be_sent_by_many_at_once() {
    let world = World::new().await;
    let bytes = noise(800_000, 6);
    let pushes = (0..8).map(|_| world.put_blob("a", bytes.clone()));
    let digests = futures::future::join_all(pushes).await;
    assert!(world.get(format!("/v2/a/blobs/{}", digests[0])).await.expect(200).body == bytes);
}

#[tokio::test]
async fn a_mounted_blob_need_not_be_sent() {
    let world = World::new().await;
    let digest = world.put_blob("from/here", "layer").await;
    for query in [format!("mount={digest}&from=from/here"), format!("mount={digest}"), format!("mount={digest}&from=")]
    {
        let mounted = world.post(format!("/v2/to/there/blobs/uploads/?{query}")).await.expect(201);
        assert_eq!(mounted.header("docker-content-digest"), digest.to_string());
        assert_eq!(world.get(mounted.header("location")).await.expect(200).body, "layer");
    }
}

#[tokio::test]
async fn a_mount_of_what_is_not_here_begins_an_upload() {
    let world = World::new().await;
    for digest in [Digest::sha256(b"hello"), Digest::of(Algorithm::Sha512, b"hello")] {
        let begun = world.post(format!("/v2/a/blobs/uploads/?mount={digest}&from=b")).await.expect(202);
        world.put(with_digest(begun.header("location"), &digest)).body("hello").await.expect(201);
    }
}

#[tokio::test]
async fn a_blob_that_a_manifest_names_cannot_be_deleted() {
    let world = World::new().await;
    let pushed = world.put_image("team/app", "v1", "seed").await;
    // Through whichever repository of the tenant it is tried.
    for repo in ["team/app", "other"] {
        let refused = world.delete(format!("/v2/{repo}/blobs/{}", pushed.layer)).await.expect(405);
        assert_eq!(refused.code(), "UNSUPPORTED");
        assert!(refused.text().contains(&format!("team/app@{}", pushed.digest)), "{}", refused.text());
    }
    world.get(format!("/v2/team/app/blobs/{}", pushed.layer)).await.expect(200);
    world.delete(format!("/v2/team/app/manifests/{}", pushed.digest)).await.expect(202);
    world.delete(format!("/v2/team/app/blobs/{}", pushed.layer)).await.expect(202);
    world.get(format!("/v2/team/app/blobs/{}", pushed.layer)).await.expect(404);
}

#[tokio::test]
async fn a_deleted_blob_is_gone_at_once() {
    let world = World::new().await;
    let digest = world.put_blob("a", "layer").await;
    let uri = format!("/v2/a/blobs/{digest}");
    world.get(&uri).await.expect(200);
    world.delete(&uri).await.expect(202);
    assert_eq!(world.get(&uri).await.expect(404).code(), "BLOB_UNKNOWN");
    world.head(&uri).await.expect(404);
    world.delete(&uri).await.expect(404);
    world.post(format!("/v2/a/blobs/uploads/?mount={digest}")).await.expect(202);
    let manifest = image(descriptor(LAYER, b"layer"), vec![]);
    world.put("/v2/a/manifests/v1").body(manifest.to_string()).await.expect(404);
    world.put_blob("a", "layer").await;
    world.get(&uri).await.expect(200);
}

#[tokio::test]
async fn a_blob_larger_than_the_limit_is_refused() {
    let world = World::with(|config| config.limits.blob = bytesize::ByteSize::kib(700)).await;
    let bytes = noise(700 * 1024 + 1, 7);
    let digest = Digest::sha256(&bytes);
    let location = world.begin("a").await;
    let told = world.put(with_digest(&location, &digest)).body(bytes.clone()).await.expect(413);
    let untold = world.put(with_digest(&location, &digest)).stream(bytes.clone()).await.expect(413);
    let chunk = world.patch(&location).body(bytes.clone()).await.expect(413);
    for refused in [told, untold, chunk] {
        assert_eq!(refused.code(), "SIZE_INVALID");
    }
    world.put_blob("a", bytes.slice(1..)).await;
}

#[tokio::test]
async fn unknown_query_parameters_are_ignored() {
    let world = World::new().await;
    let pushed = world.put_image("a", "v1", "seed").await;
    for uri in [
        "/v2/?ns=docker.io".to_string(),
        "/v2/_catalog?ns=docker.io&n=5".to_string(),
        "/v2/a/tags/list?ns=docker.io".to_string(),
        "/v2/a/manifests/v1?ns=docker.io".to_string(),
        format!("/v2/a/blobs/{}?ns=docker.io&x", pushed.layer),
        format!("/v2/a/referrers/{}?ns=docker.io", pushed.digest),
    ] {
        world.get(uri).await.expect(200);
    }
    let digest = Digest::sha256(b"more");
    let begun = world.post("/v2/a/blobs/uploads/?ns=docker.io").await.expect(202);
    let closing = format!("{}&ns=docker.io", with_digest(begun.header("location"), &digest));
    world.put(closing).body("more").await.expect(201);
}

#[tokio::test]
async fn a_digest_behind_the_wrong_sign_is_refused_with_a_hint() {
    let world = World::new().await;
    let location = world.begin("a").await;
    assert!(!location.contains('?'), "{location}");
    let digest = Digest::sha256(b"hello");
    let refused = world.put(format!("{location}&digest={digest}")).body("hello").await.expect(400);
    assert_eq!(refused.code(), "DIGEST_INVALID");
    assert!(refused.text().contains("behind it as ?digest="), "{}", refused.text());
    world.put(with_digest(&location, &digest)).body("hello").await.expect(201);
}
