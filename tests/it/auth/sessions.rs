//! Sessions that are ended before their time.

use serde_json::json;

use super::oidc::{Issuer, begin, rules, world};
use super::{basic, configure, static_token};
use crate::call::Answer;
use crate::over_s3::Replica;
use crate::tap::Tap;
use crate::world::World;

async fn exchanged(world: &World, issuer: &Issuer) -> String {
    let form = format!("subject_token={}", issuer.jwt(json!({})));
    let answer = world.post("/token/exchange").body(form).await.expect(200);
    answer.json()["token"].as_str().unwrap().to_string()
}

async fn revoke(world: &World, token: &str) -> Answer {
    world.post("/token/revoke").body(format!("token={token}")).await
}

#[tokio::test]
async fn a_session_is_ended_by_who_holds_it_with_all_that_was_issued_for_it() {
    let issuer = Issuer::start().await;
    let mut world = world(&issuer, "1h").await;
    let (session, other) = (exchanged(&world, &issuer).await, exchanged(&world, &issuer).await);
    let asked = world.get("/token?scope=repository:org/app/cache:pull,push");
    let issued = asked.header("authorization", &basic("x", &session)).await.expect(200).json();
    let access = format!("Bearer {}", issued["token"].as_str().unwrap());
    let by_access = async |world: &World| {
        let call = world.post("/v2/org/app/cache/blobs/uploads/").header("host", "h");
        call.header("authorization", &access).await.status.as_u16()
    };
    // Both are remembered by now.
    assert_eq!(by_access(&world).await, 202);
    begin(&world, &session).await.expect(202);

    let revoked = revoke(&world, &session).await.expect(200);
    assert_eq!(revoked.header("cache-control"), "no-store");
    let refused = begin(&world, &session).await.expect(401);
    assert!(refused.text().contains("withdrawn"), "{}", refused.text());
    assert_eq!(by_access(&world).await, 401);
    world.get("/token").header("authorization", &basic("x", &session)).await.expect(401);
    begin(&world, &other).await.expect(202);
    // A client without an answer may repeat the request.
    revoke(&world, &session).await.expect(200);
    world.restart().await;
    begin(&world, &session).await.expect(401);
    assert_eq!(by_access(&world).await, 401);
    begin(&world, &other).await.expect(202);
    let bearer = format!("Bearer {other}");
    world.post("/token/revoke").header("authorization", &bearer).await.expect(200);
    begin(&world, &other).await.expect(401);
}

#[tokio::test]
async fn only_sessions_are_ended_so() {
    let issuer = Issuer::start().await;
    let world = world(&issuer, "1h").await;
    let session = exchanged(&world, &issuer).await;
    let issued = world.get("/token").header("authorization", &basic("x", &session)).await.expect(200).json();
    for other in [
        issued["token"].as_str().unwrap(),
        &session[..session.len() - 1],
        &issuer.jwt(json!({})),
        &static_token("ci"),
        "",
    ] {
        let refused = revoke(&world, other).await.expect(401);
        assert!(refused.text().contains("/token/exchange"), "{}", refused.text());
    }
    world.post("/token/revoke").body("x=y").await.expect(400);
    begin(&world, &session).await.expect(202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_one_server_has_revoked_every_server_over_the_bucket_refuses() {
    let tap = Tap::in_process().await;
    let issuer = Issuer::start().await;
    let key = format!("[auth]\nsigning_keys = [\"{}\"]\n", "k".repeat(32));
    let text = key + &rules(&issuer, "1h");
    let [one, two] = [
        Replica::with(&tap, |config| configure(config, &text)).await,
        Replica::with(&tap, |config| configure(config, &text)).await,
    ];
    let form = format!("subject_token={}", issuer.jwt(json!({})));
    let answer = one.send("POST", "/token/exchange", form).await.expect(200).json();
    let session = answer["token"].as_str().unwrap();
    let status = async |replica: &Replica| {
        let shown = basic("x", session);
        let answer = replica.respond("GET", "/v2/", ("authorization", &shown), "".into()).await;
        answer.status().as_u16()
    };
    assert_eq!((status(&one).await, status(&two).await), (200, 200));
    one.send("POST", "/token/revoke", format!("token={session}")).await.expect(200);
    assert_eq!(status(&one).await, 401);
    // The work of the job `revoked-sessions` of a running server.
    let learned = two.app.store.revoked_sessions().await.unwrap();
    assert_eq!(learned.len(), 1);
    two.app.gate.revoke(learned);
    assert_eq!(status(&two).await, 401);
    let three = Replica::with(&tap, |config| configure(config, &text)).await;
    assert_eq!(status(&three).await, 401, "a server that starts knows before it serves");
}
