//! No push waits for another slow one; and work that a list causes is counted once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use larder::config::Config;
use larder::digest::Digest;

use super::{Replica, assert_sound, blob_uri};
use crate::auth::{basic, configure, static_token, token_entry};
use crate::call::Answer;
use crate::tap::Tap;
use crate::world::{CONFIG, LAYER, descriptor, image};

/// A push of an image whose layers another server has checked: this one has to ask for them.
async fn put(replica: &Replica, tag: &str, layers: &[&str]) -> Answer {
    let layers = layers.iter().map(|layer| descriptor(LAYER, layer.as_bytes())).collect();
    let manifest = image(descriptor(CONFIG, b"{}"), layers).to_string();
    replica.send("PUT", &format!("/v2/c/manifests/{tag}"), manifest).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_for_what_a_manifest_names_keeps_nobody_waiting_who_deletes_or_pushes() {
    let tap = Tap::in_process().await;
    let [one, two] = [Replica::over(&tap).await, Replica::over(&tap).await];
    for blob in ["{}", "kept", "deleted"] {
        one.push_blob(&blob.into()).await;
    }
    two.push_blob(&"slow".into()).await;
    // The first push waits for the answer about one layer, after those about all others.
    let slow = Digest::sha256(b"slow");
    let held: &'static str = slow.hex().leak();
    tap.hold_at("head", held);
    let is_answered = AtomicBool::new(false);
    let first = async {
        let answer = put(&one, "first", &["deleted", "slow"]).await;
        is_answered.store(true, Relaxed);
        answer
    };
    let others = async {
        tap.is_holding(1).await;
        // A delete takes the lock of references exclusively, and a push waits behind a delete that waits for it.
        one.send("DELETE", &blob_uri(&Digest::sha256(b"deleted")), "").await.expect(202);
        put(&one, "second", &["kept"]).await.expect(201);
        put(&one, "none", &["nothing of the kind"]).await.expect(404);
        assert!(!is_answered.load(Relaxed), "the first push was not held back");
        tap.hold(None);
    };
    let (answer, ()) = tokio::join!(first, others);
    // A deleted layer is gone, or is only condemned in a bucket that others share: then it is referenced again.
    match answer.status.as_u16() {
        404 => assert!(answer.text().contains(&Digest::sha256(b"deleted").to_string()), "{}", answer.text()),
        status => assert_eq!(status, 201, "{}", answer.text()),
    }
    assert_sound(&tap).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_few_of_many_tags_is_listed_once() {
    const RULES: &str = "[[rules]]\nidentity = \"token:few\"\nmay = [\"pull\"]\ntags = \"z*\"\n\
                         [[rules]]\nidentity = \"token:all\"\nmay = [\"pull\", \"push\"]\n";
    let tap = Tap::in_process().await;
    let tokens: String = ["few", "all"].into_iter().map(token_entry).collect();
    let with = |config: &mut Config| configure(config, &format!("{tokens}{RULES}"));
    let replica = Replica::with(&tap, with).await;
    let all = basic("x", &static_token("all"));
    let ask = async |who: &str, method: &str, uri: &str, body: String| {
        Answer::of(replica.respond(method, uri, ("authorization", who), body.into()).await).await
    };
    ask(&all, "POST", &format!("/v2/c/blobs/uploads/?digest={}", Digest::sha256(b"{}")), "{}".into()).await.expect(201);
    let manifest = image(descriptor(CONFIG, b"{}"), vec![]).to_string();
    let digest = Digest::sha256(manifest.as_bytes());
    for block in 0..3 {
        let tags: Vec<String> = (0..50).map(|i| format!("tag=hidden-{block}-{i:02}")).collect();
        ask(&all, "PUT", &format!("/v2/c/manifests/{digest}?{}", tags.join("&")), manifest.clone()).await.expect(201);
    }
    ask(&all, "PUT", &format!("/v2/c/manifests/{digest}?tag=z1&tag=z2"), manifest.clone()).await.expect(201);
    let few = basic("x", &static_token("few"));
    tap.calls();
    for (uri, tags) in [
        ("/v2/c/tags/list?n=1", serde_json::json!(["z1"])),
        ("/v2/c/tags/list?n=1&last=z1", serde_json::json!(["z2"])),
        ("/v2/c/tags/list?n=10", serde_json::json!(["z1", "z2"])),
    ] {
        assert_eq!(ask(&few, "GET", uri, String::new()).await.expect(200).json()["tags"], tags, "{uri}");
        // The tags, and perhaps the condemned objects: not a page for each requested one.
        let calls = tap.calls();
        assert!(calls.of("list") <= 2, "{uri}: {calls:?}");
    }
}
