//! Accounts: the server's usage of each tenant equals the stored bytes.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use larder::digest::Digest;
use larder::lifetime::collect::Wish;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::{MIB, by, of, of_bytes, push, slowly, world};
use crate::views::Cache;
use crate::world::{CONFIG, World, age, descriptor, image, noise, with_digest};

/// The accounts: bytes, blobs, and bytes in flight.
fn accounts(world: &World) -> BTreeMap<String, (u64, u64, u64)> {
    let accounts = world.app().store.usage().accounts().into_iter();
    let told = accounts.map(|(of, account)| (of.to_string(), (account.stored(), account.blobs(), account.arriving())));
    told.filter(|(_, told)| *told != (0, 0, 0)).collect()
}

/// Compares the accounts with a new count.
async fn assert_right(world: &World, when: &str) {
    let followed = accounts(world);
    world.app().store.scan_usage().await.unwrap();
    assert_eq!(followed, accounts(world), "{when}");
    let of_scopes: u64 = followed.iter().filter(|(of, _)| of.contains('~')).map(|(_, told)| told.0 + told.2).sum();
    assert_eq!(world.app().store.usage().of_scopes(), of_scopes, "{when}");
}

#[tokio::test]
async fn an_account_is_what_is_there_whatever_was_done() {
    let world = world(None, "", |_| {}).await;
    for who in ["main", "one"] {
        let repo = of(&world, who);
        let pushed = repo.put_image("app", "v1", "seed").await;
        // Sent again, several times at once, the layer counts once.
        join_all((0..4).map(|_| push(&world, who, "layer of seed".into()).into_future())).await;
        repo.put_image("app", "v1", "seed").await;
        repo.put_image("app", "v1", "another").await;
        repo.get("/v2/app/manifests/v1").await.expect(200);
        assert_right(&world, "pushed").await;
        for (target, sources) in [("a", "1"), ("a", "2"), ("b", "3")] {
            Cache::of(repo, target, sources).await.push(repo, "main").await;
            repo.get(crate::views::TAG).await.expect(200);
        }
        assert_right(&world, "a cache, with views").await;
        let mut artifact = image(descriptor(CONFIG, br#"{"seed":"seed"}"#), vec![]);
        artifact["subject"] = json!({ "mediaType": CONFIG, "digest": pushed.digest.to_string(), "size": 1 });
        let bytes = artifact.to_string();
        let referrer = format!("/v2/app/manifests/{}", Digest::sha256(bytes.as_bytes()));
        repo.put(&referrer).body(bytes).await.expect(201);
        assert_right(&world, "a referrer").await;
        // Chunks: kept, sealed, given up, and one that is refused at its end.
        let mut sessions = Vec::new();
        for seed in 0..4 {
            let session = repo.begin("app").await;
            let session = repo.patch(&session).body(noise(100_000, seed)).await.expect(202);
            sessions.push(session.header("location").to_string());
        }
        let both = [noise(100_000, 1), noise(5000, 9)].concat();
        repo.put(with_digest(&sessions[1], &Digest::sha256(&both))).body(noise(5000, 9)).await.expect(201);
        repo.put(with_digest(&sessions[0], &Digest::sha256(&noise(100_000, 0)))).body("").await.expect(201);
        repo.delete(&sessions[2]).await.expect(204);
        repo.put(with_digest(&sessions[3], &Digest::sha256(b"wrong"))).body("more").await.expect(400);
        assert_right(&world, "chunks").await;
        repo.delete(&referrer).await.expect(202);
        repo.delete("/v2/shop/cache/manifests/main").await.expect(202);
        repo.delete(format!("/v2/app/blobs/{}", Digest::sha256(&both))).await.expect(202);
        assert_right(&world, "deleted").await;
    }
    // Collections delete all garbage and the uploads.
    let store = &world.config().store.path;
    age(&store.join("t"), Duration::from_secs(72 * 3600));
    world.app().collector.run(Wish { dry: false }).await.unwrap();
    age(&store.join("condemned"), Duration::from_secs(72 * 3600));
    let report = world.app().collector.run(Wish { dry: false }).await.unwrap();
    assert!(report.deleted.objects > 0);
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    assert!(world.app().store.sweep_all_uploads(Duration::from_secs(60), later).await.unwrap() > 0);
    assert_right(&world, "collected").await;
}

/// One thing that a client does, drawn by `random`. Its answer is no failure of the server.
async fn act(world: &World, number: u64, random: &mut StdRng) {
    let who = ["main", "one", "two"][random.random_range(0..3)];
    let repo = ["app", "shop/app"][random.random_range(0..2)];
    // Few contents, so that the same is sent and deleted again.
    let content = noise([1, 500, 5000, 70_000, 700_000][random.random_range(0..5)], random.random_range(0..4));
    let digest = Digest::sha256(&content);
    let uploads = format!("/v2/{repo}/blobs/uploads/");
    let answer = match random.random_range(0..9) {
        0 => by(world, who, "POST", with_digest(&uploads, &digest)).body(content).await,
        1 => by(world, who, "POST", with_digest(&uploads, &digest)).stream(content).await,
        2 => {
            // Another length than announced, in pieces, and perhaps without an end.
            let (pieces, body) = slowly();
            let told = random.random_bool(0.7).then(|| content.len() + random.random_range(0..2));
            let cut = random.random_bool(0.3);
            let sending = by(world, who, "POST", with_digest(&uploads, &digest)).incoming(body, told);
            let mut rest = content.clone();
            while !rest.is_empty() {
                let piece = rest.split_to(random.random_range(1..=rest.len()));
                pieces.unbounded_send(Ok(piece)).unwrap();
                if cut && random.random_bool(0.5) {
                    pieces.unbounded_send(Err(std::io::Error::other("gone"))).unwrap();
                    break;
                }
            }
            drop(pieces);
            sending.await
        }
        3 => {
            let begun = by(world, who, "POST", uploads).await;
            let mut at = begun.headers.get("location").map(|at| at.to_str().unwrap().to_string());
            let mut last = begun;
            for piece in content.chunks(content.len().div_ceil(random.random_range(1..4))) {
                let Some(to) = at.take() else { break };
                last = by(world, who, "PATCH", to).stream(Bytes::copy_from_slice(piece)).await;
                at = last.headers.get("location").map(|at| at.to_str().unwrap().to_string());
            }
            match at {
                Some(at) if random.random_bool(0.7) => by(world, who, "PUT", with_digest(&at, &digest)).body("").await,
                Some(at) if random.random_bool(0.5) => by(world, who, "DELETE", at).await,
                _ => last,
            }
        }
        4 | 5 => {
            let mut manifest = image(descriptor(CONFIG, &content), vec![]);
            manifest["annotations"] = json!({ "text": "x".repeat(random.random_range(0..9000)) });
            if random.random_bool(0.5) {
                manifest["subject"] = json!({ "mediaType": CONFIG, "digest": digest.to_string(), "size": 1 });
            }
            let tag = format!("v{}", random.random_range(0..4));
            by(world, who, "PUT", format!("/v2/{repo}/manifests/{tag}")).body(manifest.to_string()).await
        }
        6 => by(world, who, "DELETE", format!("/v2/{repo}/blobs/{digest}")).await,
        7 => by(world, who, "DELETE", format!("/v2/{repo}/manifests/v{}", random.random_range(0..4))).await,
        _ => by(world, who, "GET", format!("/v2/{repo}/manifests/v{}", random.random_range(0..4))).await,
    };
    assert!(!answer.status.is_server_error() || answer.status == 507, "{number}: {answer:?}");
}

/// `LARDER_ROOM_STEPS` more of it, `LARDER_ROOM_SEED` another one.
#[tokio::test]
async fn whatever_clients_send_in_any_order_the_accounts_are_right_at_the_end() {
    let from = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (steps, seed) = (from("LARDER_ROOM_STEPS", 80), from("LARDER_ROOM_SEED", 1));
    let mut random = StdRng::seed_from_u64(seed);
    let world = world(of_bytes(12 * MIB), "quota = { max = \"2MiB\" }", |config| {
        config.store.reserve = Some(bytesize::ByteSize::kib(256));
    })
    .await;
    let mut done = 0;
    while done < steps {
        // Several at once.
        let together = random.random_range(1..6);
        let mut own: Vec<StdRng> = (0..together).map(|_| StdRng::seed_from_u64(random.random())).collect();
        join_all(own.iter_mut().enumerate().map(|(at, random)| act(&world, done + at as u64, random))).await;
        done += together;
        if random.random_bool(0.02) {
            world.app().collector.run(Wish { dry: false }).await.unwrap();
        }
    }
    let account = |of: &str| accounts(&world).get(of).copied().unwrap_or_default();
    assert_eq!(account("default").2, 0, "something is still on its way, seed {seed}");
    assert_right(&world, &format!("seed {seed}")).await;
}
