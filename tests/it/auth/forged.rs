//! Forged claims and JWTs: none is a way in, nor out of a scope.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use super::oidc::{Issuer, begin, rules, world};
use super::{basic, configure};
use crate::world::World;

#[tokio::test]
async fn what_a_claim_makes_of_a_repository_is_a_name_of_one_or_nothing() {
    let issuer = Issuer::start().await;
    let world = world(&issuer, "1h").await;
    for repository in [
        json!(["org/app", "org/other"]),
        json!([]),
        json!(""),
        json!("org/app/../app"),
        json!("../org/app"),
        json!("org/app\0"),
        json!("**"),
        json!("org/**"),
        json!("*/app"),
        json!("org//app"),
        json!("/org/app"),
        json!("org/app/"),
        json!("org/app/cache/deeper"),
        json!("org/app ".repeat(200)),
        json!({ "name": "org/app" }),
        Value::Null,
        json!(true),
    ] {
        let refused = begin(&world, &issuer.jwt(json!({ "repository": repository }))).await;
        assert_eq!(refused.status, 403, "{repository}");
    }
    begin(&world, &issuer.jwt(json!({ "repository": "org/app" }))).await.expect(202);
}

/// A pull request chooses its target branch, and with that the content that it reads.
#[tokio::test]
async fn the_base_of_a_pull_request_is_no_way_into_another_pull_request() {
    let issuer = Issuer::start().await;
    let scoped = r#"
        [[rules]]
        identity = "oidc:ci"
        claims = { ref = "refs/pull/**" }
        may = ["pull", "push"]
        repositories = "{repository}/**"
        scope = "{repository}@{ref}"
        parents = "{repository}@refs/heads/{base_ref}"
        [[rules]]
        identity = "oidc:ci"
        claims = { ref = "refs/heads/dev/**" }
        may = ["pull", "push"]
        repositories = "{repository}/**"
        scope = "{repository}@{ref}"
        "#;
    let world = World::with(|config| configure(config, &(rules(&issuer, "1h") + scoped))).await;
    let of = |git: &str, base: &str| {
        world.show(basic("gha", &issuer.jwt(json!({ "ref": git, "base_ref": base }))));
        &world
    };
    of("refs/pull/21/merge", "main").put_image("org/app/cache", "t", "secret").await;
    of("refs/heads/dev/x", "").put_image("org/app/cache", "d", "branch").await;
    let reads = async |git, base, tag| {
        let found = of(git, base).head(format!("/v2/org/app/cache/manifests/{tag}")).await;
        assert!(matches!(found.status.as_u16(), 200 | 404), "{git} onto {base}: {}", found.status);
        found.status == 200
    };
    assert!(reads("refs/pull/21/merge", "main", "t").await);
    for base in
        ["../pull/21/merge", "../../refs/pull/21/merge", "main@refs/pull/21/merge", "..%2fpull%2f21%2fmerge", "*"]
    {
        assert!(!reads("refs/pull/99/merge", base, "t").await, "{base}");
    }
    assert!(reads("refs/pull/98/merge", "dev/x", "d").await);
    assert!(!reads("refs/pull/98/merge", "main", "d").await);
    assert!(!reads("refs/pull/98/merge", "dev", "d").await);
}

/// Each JWT is unsigned, or signed with a key of no configured issuer.
#[tokio::test]
async fn a_jwt_that_brings_its_own_proof_is_refused() {
    let issuer = Issuer::start().await;
    let world = world(&issuer, "1h").await;
    let jwt = issuer.jwt(json!({}));
    begin(&world, &jwt).await.expect(202);
    let [header, payload, signature] = jwt.split('.').collect::<Vec<_>>()[..] else { panic!("{jwt}") };
    let header: Value = serde_json::from_slice(&BASE64.decode(header).unwrap()).unwrap();
    let with = |changes: Value| {
        let mut changed = header.clone();
        changed.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        format!("{}.{payload}.{signature}", BASE64.encode(changed.to_string()))
    };
    for changes in [
        json!({ "alg": "none" }),
        json!({ "alg": "None" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "RS256" }),
        json!({ "alg": 1 }),
        json!({ "jku": format!("{}/keys", issuer.url) }),
        json!({ "jwk": { "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" } }),
        json!({ "crit": ["exp"] }),
        json!({ "kid": "another" }),
        json!({ "kid": "../first" }),
        json!({ "kid": null }),
    ] {
        begin(&world, &with(changes.clone())).await.expect(401);
    }
    // Changes of the signed text: more of it, less of it, and other characters for the same bytes.
    for changed in [format!("{jwt}A"), format!("{jwt}="), jwt[..jwt.len() - 2].to_string(), jwt.replacen('.', "..", 1)]
    {
        begin(&world, &changed).await.expect(401);
    }
    for claims in [
        json!({ "iss": format!("{}/", issuer.url) }),
        json!({ "iss": [issuer.url] }),
        json!({ "aud": [] }),
        json!({ "aud": { "larder": true } }),
        json!({ "aud": "Larder" }),
        json!({ "exp": "9999999999" }),
        json!({ "exp": 1e300 }),
    ] {
        begin(&world, &issuer.jwt(claims)).await.expect(401);
    }
}
