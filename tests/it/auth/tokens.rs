//! The token endpoint, as docker and builders use it.

use larder::config::Config;

use super::{basic, configure, static_token, token_entry};
use crate::world::World;

const RULES: &str = "[[rules]]\nidentity = \"token:ci\"\nmay = [\"pull\", \"push\"]\nrepositories = \"a\"\n";

fn config(keys: &str) -> String {
    format!("[auth]\nsigning_keys = [{keys}]\n{}{RULES}", token_entry("ci"))
}

fn old() -> String {
    format!("\"{}\"", "o".repeat(32))
}

fn new() -> String {
    format!("\"{}\"", "n".repeat(32))
}

async fn issue(world: &World, scope: &str) -> String {
    let asked = world.get(format!("/token?service=h&scope={scope}"));
    let answer = asked.header("authorization", &basic("x", &static_token("ci"))).await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.json()["expires_in"], 3600);
    answer.json()["token"].as_str().unwrap().to_string()
}

fn reload(world: &World, text: &str) {
    let mut config = Config::default();
    configure(&mut config, text);
    world.app().gate.reload(&config, None).unwrap();
}

#[tokio::test]
async fn a_challenge_leads_to_a_token_that_is_good_for_what_was_asked() {
    let world = World::with(|c| configure(c, &config(&old()))).await;
    let challenged = world.post("/v2/a/blobs/uploads/").header("host", "cache:5000").await.expect(401);
    assert_eq!(
        challenged.header("www-authenticate"),
        "Bearer realm=\"http://cache:5000/token\",service=\"cache:5000\",scope=\"repository:a:pull,push\""
    );
    assert_eq!(challenged.code(), "UNAUTHORIZED");
    let bearer = format!("Bearer {}", issue(&world, "repository:a:pull").await);
    world.get("/v2/").header("authorization", &bearer).await.expect(200);
    world.get("/v2/a/tags/list").header("authorization", &bearer).await.expect(404);
    let more =
        world.post("/v2/a/blobs/uploads/").header("host", "h").header("authorization", &bearer).await.expect(401);
    assert!(more.header("www-authenticate").ends_with("error=\"insufficient_scope\""));
    let bearer = format!("Bearer {}", issue(&world, "repository:a:pull,push%20repository:b:pull").await);
    world.post("/v2/a/blobs/uploads/").header("authorization", &bearer).await.expect(202);
    // The rules do not allow it, whatever a token was asked for.
    world.get("/v2/b/tags/list").header("authorization", &bearer).await.expect(403);
}

#[tokio::test]
async fn a_form_gives_a_token_too() {
    let world = World::with(|c| configure(c, &config(&old()))).await;
    let ask =
        |form: String| world.post("/token").header("content-type", "application/x-www-form-urlencoded").body(form);
    let token = static_token("ci");
    for form in [
        format!("grant_type=password&username=x&password={token}&service=h&scope=repository:a:push"),
        format!("grant_type=refresh_token&refresh_token={token}&scope=repository:a:push"),
    ] {
        let answer = ask(form).await.expect(200).json();
        let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        world.post("/v2/a/blobs/uploads/").header("authorization", &bearer).await.expect(202);
    }
    for wrong in ["grant_type=password&username=x&password=y", "grant_type=refresh_token&refresh_token=larder_x"] {
        let answer = ask(wrong.into()).await.expect(401);
        assert_eq!(answer.json()["error"], "invalid_grant");
    }
    ask("grant_type=magic".into()).await.expect(400);
    ask("x".repeat(70_000)).await.expect(400);
}

#[tokio::test]
async fn keys_rotate_and_withdrawn_tokens_end() {
    let world = World::with(|c| configure(c, &config(&old()))).await;
    let bearer = format!("Bearer {}", issue(&world, "repository:a:pull").await);
    let status = async || world.get("/v2/").header("authorization", &bearer).header("host", "h").await.status.as_u16();
    assert_eq!(status().await, 200);
    reload(&world, &config(&format!("{}, {}", new(), old())));
    assert_eq!(status().await, 200);
    reload(&world, &config(&new()));
    assert_eq!(status().await, 401);
    reload(&world, &config(&old()));
    assert_eq!(status().await, 200);
    // The static token behind it is withdrawn.
    reload(&world, &format!("[auth]\nsigning_keys = [{}]\n{}{RULES}", old(), token_entry("other")));
    assert_eq!(status().await, 401);
}

#[tokio::test]
async fn a_bad_configuration_replaces_nothing() {
    let world = World::with(|c| configure(c, &config(&old()))).await;
    let mut bad = Config::default();
    configure(&mut bad, "[auth]\nhtpasswd = \"/does/not/exist\"");
    assert!(world.app().gate.reload(&bad, None).is_err());
    issue(&world, "repository:a:pull").await;
}

#[tokio::test]
async fn wrong_credentials_are_refused_also_where_none_are_needed() {
    let world = World::with(|c| {
        configure(c, &format!("{}[[rules]]\nidentity = \"anonymous\"\nmay = [\"pull\"]", config(&old())));
    })
    .await;
    world.get("/v2/a/tags/list").await.expect(404);
    for wrong in ["Bearer x", "Basic x", "Digest x", "", &basic("a", "b"), &basic("x", "larder_wrong")] {
        let answer = world.get("/v2/a/tags/list").header("host", "h").header("authorization", wrong).await.expect(401);
        assert!(answer.header("www-authenticate").contains("invalid_token"), "{wrong}");
    }
}

#[tokio::test]
async fn without_a_configured_key_the_store_keeps_one() {
    use std::os::unix::fs::PermissionsExt;
    let rules = format!("{}{RULES}", token_entry("ci"));
    let mut world = World::with(|c| configure(c, &rules)).await;
    let bearer = format!("Bearer {}", issue(&world, "repository:a:pull").await);
    let file = world.config().store.path.join("meta/signing-key");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    world.restart().await;
    world.get("/v2/").header("authorization", &bearer).await.expect(200);
}
