//! JWTs of an issuer that runs here and changes its keys.

use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::Json;
use axum::routing::get;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{basic, configure};
use crate::call::Answer;
use crate::world::World;

/// An issuer with one key at a time.
pub struct Issuer {
    pub url: String,
    key: Arc<Mutex<(String, EcdsaKeyPair)>>,
    asked: Arc<watch::Sender<usize>>,
    /// Set while the issuer accepts requests and answers none.
    hangs: Arc<watch::Sender<bool>>,
}

fn key(id: &str) -> (String, EcdsaKeyPair) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    (id.to_string(), EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap())
}

impl Issuer {
    pub async fn start() -> Issuer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (shared, asked) = (Arc::new(Mutex::new(key("first"))), Arc::new(watch::Sender::new(0)));
        let hangs = Arc::new(watch::Sender::new(false));
        let (keys, count, base, hang) = (shared.clone(), asked.clone(), url.clone(), hangs.clone());
        let jwks = move || async move {
            count.send_modify(|count| *count += 1);
            hang.subscribe().wait_for(|hangs| !hangs).await.unwrap();
            let held = keys.lock().unwrap();
            // An uncompressed point: 4, x, y.
            let point = held.1.public_key().as_ref();
            let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
            let key =
                json!({ "kty": "EC", "crv": "P-256", "kid": held.0, "alg": "ES256", "use": "sig", "x": x, "y": y });
            Json(json!({ "keys": [key] }))
        };
        let discovery = move || async move { Json(json!({ "issuer": base, "jwks_uri": format!("{base}/keys") })) };
        let router =
            axum::Router::new().route("/.well-known/openid-configuration", get(discovery)).route("/keys", get(jwks));
        tokio::spawn(async move { axum_serve(listener, router).await });
        Issuer { url, key: shared, asked, hangs }
    }

    fn rotate(&self, id: &str) {
        *self.key.lock().unwrap() = key(id);
    }

    fn asked(&self) -> usize {
        *self.asked.borrow()
    }

    /// A JWT with these claims beside the usual ones.
    pub fn jwt(&self, claims: Value) -> String {
        let now = jiff::Timestamp::now().as_second();
        let mut payload = json!({
            "iss": self.url, "aud": "larder", "sub": "repo:org/app:ref:refs/heads/main",
            "repository": "Org/App", "ref": "refs/heads/main", "iat": now, "exp": now + 300,
        });
        payload.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let held = self.key.lock().unwrap();
        let header = json!({ "alg": "ES256", "kid": held.0, "typ": "JWT" });
        let part = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&payload));
        let signature = held.1.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature))
    }
}

async fn axum_serve(listener: tokio::net::TcpListener, router: axum::Router) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let stream = hyper_util::rt::TokioIo::new(stream);
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
    }
}

pub async fn world(issuer: &Issuer, cool_down: &str) -> World {
    World::with(|config| configure(config, &rules(issuer, cool_down))).await
}

/// Jobs of org/app on main may push below their repository.
pub fn rules(issuer: &Issuer, cool_down: &str) -> String {
    format!(
        r#"
        [[issuers]]
        name = "ci"
        issuer = "{}"
        audience = "larder"
        cool_down = "{cool_down}"
        [[rules]]
        identity = "oidc:ci"
        claims = {{ ref = "refs/heads/main" }}
        may = ["pull", "push"]
        repositories = "{{repository}}/**"
        "#,
        issuer.url
    )
}

pub async fn begin(world: &World, jwt: &str) -> Answer {
    let push = world.post("/v2/org/app/cache/blobs/uploads/").header("host", "h");
    push.header("authorization", &basic("gha", jwt)).await
}

#[tokio::test]
async fn a_jwt_is_a_password_for_what_its_claims_allow() {
    let issuer = Issuer::start().await;
    let world = world(&issuer, "1h").await;
    begin(&world, &issuer.jwt(json!({}))).await.expect(202);
    begin(&world, &issuer.jwt(json!({ "aud": ["other", "larder"] }))).await.expect(202);
    for (claims, status) in [
        (json!({ "ref": "refs/pull/1/merge" }), 403),
        (json!({ "repository": "org/other" }), 403),
        (json!({ "aud": "other" }), 401),
        (json!({ "iss": "https://evil.example" }), 401),
        (json!({ "exp": jiff::Timestamp::now().as_second() - 1 }), 401),
        (json!({ "nbf": jiff::Timestamp::now().as_second() + 600 }), 401),
        (json!({ "exp": null }), 401),
        // RFC 7519, section 2: a time is a number.
        (json!({ "nbf": "x" }), 401),
        (json!({ "nbf": null }), 401),
        (json!({ "iat": "1700000000" }), 401),
        (json!({ "iat": [0] }), 401),
        (json!({ "nbf": 1e300 }), 401),
    ] {
        begin(&world, &issuer.jwt(claims.clone())).await.expect(status);
    }
    // Ours might be a little behind the issuer's clock.
    begin(&world, &issuer.jwt(json!({ "iat": jiff::Timestamp::now().as_second() + 20 }))).await.expect(202);
    let jwt = issuer.jwt(json!({}));
    let (signed, _) = jwt.rsplit_once('.').unwrap();
    begin(&world, &format!("{signed}.{}", BASE64.encode([0; 64]))).await.expect(401);
    let none = format!("{}.{}.", BASE64.encode(r#"{"alg":"none"}"#), signed.split_once('.').unwrap().1);
    begin(&world, &none).await.expect(401);
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn keys_are_fetched_when_they_change_and_not_more_often_than_that() {
    let issuer = Issuer::start().await;
    let (quick, slow) = (world(&issuer, "1ms").await, world(&issuer, "1h").await);
    for world in [&quick, &slow] {
        begin(world, &issuer.jwt(json!({}))).await.expect(202);
    }
    let old = issuer.jwt(json!({ "jti": "old" }));
    issuer.rotate("second");
    let new = issuer.jwt(json!({}));
    let before = issuer.asked();
    begin(&slow, &new).await.expect(401);
    assert_eq!(issuer.asked(), before, "within its cool-down");
    begin(&quick, &new).await.expect(202);
    begin(&quick, &old).await.expect(401);
}

#[tokio::test]
async fn a_jwt_is_exchanged_for_a_token_that_lives_as_long_as_a_build() {
    let issuer = Issuer::start().await;
    let world = world(&issuer, "1h").await;
    let form = format!("subject_token={}", issuer.jwt(json!({})));
    let session = world.post("/token/exchange").body(form).await.expect(200).json();
    assert_eq!(session["expires_in"], 6 * 3600);
    let token = session["token"].as_str().unwrap();
    begin(&world, token).await.expect(202);
    // It carries the claims, so the rules still say no to the rest.
    let other = world.post("/v2/org/other/blobs/uploads/").header("authorization", &basic("x", token));
    other.await.expect(403);
    let asked =
        world.get("/token?scope=repository:org/app/cache:pull,push").header("authorization", &basic("x", token));
    let bearer = format!("Bearer {}", asked.await.expect(200).json()["token"].as_str().unwrap());
    world.post("/v2/org/app/cache/blobs/uploads/").header("authorization", &bearer).await.expect(202);
    // No token can be prolonged for ever, and no expired one is accepted.
    world.post("/token/exchange").body(format!("subject_token={token}")).await.expect(401);
    let late = issuer.jwt(json!({ "exp": jiff::Timestamp::now().as_second() - 1 }));
    let refused = world.post("/token/exchange").header("authorization", &format!("Bearer {late}")).await.expect(401);
    assert!(refused.text().contains("expired"), "{}", refused.text());
}

/// A JWT that names an unknown key of its issuer: sending one takes no signature.
fn of_a_stranger(issuer: &Issuer, kid: &str) -> String {
    let part = |value: Value| BASE64.encode(value.to_string());
    format!("{}.{}.AAAA", part(json!({ "alg": "ES256", "kid": kid })), part(json!({ "iss": issuer.url })))
}

#[tokio::test]
async fn a_jwt_whose_key_is_known_does_not_wait_for_an_issuer_that_hangs() {
    let issuer = Issuer::start().await;
    let world = world(&issuer, "1ms").await;
    begin(&world, &issuer.jwt(json!({}))).await.expect(202);
    assert_eq!(issuer.asked(), 1);
    issuer.hangs.send_replace(true);
    let strangers = (0..20).map(|number| {
        let (world, jwt) = (&world, of_a_stranger(&issuer, &format!("random {number}")));
        async move { begin(world, &jwt).await.expect(401) }
    });
    let mut strangers = Box::pin(futures::future::join_all(strangers));
    let mut asked = issuer.asked.subscribe();
    tokio::select! {
        answers = &mut strangers => panic!("answered without the issuer: {answers:?}"),
        asked = asked.wait_for(|asked| *asked == 2) => drop(asked.unwrap()),
    }
    // The issuer has been asked, and does not answer.
    let known = async {
        begin(&world, &issuer.jwt(json!({ "jti": "1" }))).await.expect(202);
        let form = format!("subject_token={}", issuer.jwt(json!({ "jti": "2" })));
        world.post("/token/exchange").body(form).await.expect(200);
    };
    tokio::select! {
        biased;
        () = known => {}
        _ = &mut strangers => panic!("the known key had to wait for the others"),
    }
    issuer.hangs.send_replace(false);
    strangers.await;
    assert_eq!(issuer.asked(), 2, "one question for all of them");
}

#[tokio::test]
async fn a_jwt_that_would_make_too_long_a_session_is_refused_at_once() {
    let issuer = Issuer::start().await;
    let world = world(&issuer, "1h").await;
    let exchange = async |pad: usize| {
        let form = format!("subject_token={}", issuer.jwt(json!({ "pad": "x".repeat(pad) })));
        world.post("/token/exchange").body(form).await
    };
    // All that is issued is taken.
    let mut issued = 0;
    for pad in [0, 8_000, 11_500, 12_000, 12_500, 20_000, 40_000] {
        let answer = exchange(pad).await;
        if answer.status == 200 {
            issued += 1;
            begin(&world, answer.json()["token"].as_str().unwrap()).await.expect(202);
        } else {
            assert!(answer.expect(401).text().contains("too long"), "{pad}");
        }
    }
    assert!((2..7).contains(&issued), "{issued}");
}

#[tokio::test]
async fn a_pull_request_whose_scope_cannot_be_told_gets_into_the_tenant_by_no_rule() {
    let issuer = Issuer::start().await;
    let text = rules(&issuer, "1h")
        + r#"
        [[rules]]
        identity = "oidc:ci"
        may = ["pull", "push"]
        repositories = "{repository}/**"
        [[rules]]
        identity = "oidc:ci"
        claims = { ref = "refs/pull/**" }
        may = ["pull", "push"]
        repositories = "{repository}/**"
        scope = "{repository}@{head_ref}"
        "#;
    let world = World::with(|config| configure(config, &text)).await;
    begin(&world, &issuer.jwt(json!({}))).await.expect(202);
    let pull = |head: Value| issuer.jwt(json!({ "ref": "refs/pull/1/merge", "head_ref": head }));
    begin(&world, &pull(json!("x"))).await.expect(202);
    for head in [json!(null), json!(""), json!(["x", "y"])] {
        let refused = begin(&world, &pull(head.clone())).await.expect(403);
        assert!(refused.text().contains("head_ref"), "{head}: {}", refused.text());
        let read = world.get("/v2/org/app/cache/tags/list").header("authorization", &basic("x", &pull(head)));
        read.await.expect(403);
    }
}
