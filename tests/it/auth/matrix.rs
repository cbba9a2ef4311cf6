//! Every identity at every endpoint of every kind of repository, from one table of rights.

use larder::digest::Digest;

use super::{basic, configure, static_token, token_entry};
use crate::world::World;

const RULES: &str = r#"
    [[rules]]
    identity = "anonymous"
    may = ["pull"]
    repositories = "public/**"
    [[rules]]
    identity = "token:reader"
    may = ["pull"]
    [[rules]]
    identity = "token:writer"
    may = ["pull", "push"]
    repositories = "team/**"
    [[rules]]
    identity = "token:tagger"
    may = ["pull", "push", "delete"]
    repositories = "team/**"
    tags = "v*"
    [[rules]]
    identity = "token:owner"
    may = ["pull", "push", "delete"]
    [[rules]]
    identity = "token:owner"
    may = ["admin"]
    [[rules]]
    identity = "token:tenant"
    may = ["pull", "push", "delete"]
    tenant = "other"
"#;

const WHO: [&str; 7] = ["", "reader", "writer", "tagger", "owner", "tenant", "nobody"];
const REPOS: [&str; 3] = ["public/app", "team/app", "team-b/app"];

/// The right that a request needs.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Pull(&'static str),
    Push(&'static str),
    Delete(&'static str),
}

/// The meaning of the rules above, written by hand. The tag `*` stands for all tags, none for content.
fn may(who: &str, repo: &str, needs: Needs) -> bool {
    let team = repo.starts_with("team/");
    let v = |tag: &str| tag.is_empty() || tag.starts_with('v');
    match (who, needs) {
        ("", Needs::Pull(_)) => repo.starts_with("public/"),
        ("reader", Needs::Pull(_)) => true,
        ("writer", Needs::Pull(_) | Needs::Push(_)) => team,
        ("tagger", Needs::Pull(tag) | Needs::Push(tag)) => team && v(tag),
        ("tagger", Needs::Delete(tag)) => team && tag.starts_with('v'),
        ("owner" | "tenant", _) => true,
        _ => false,
    }
}

async fn world() -> World {
    let tokens: String = WHO.iter().filter(|who| !who.is_empty()).map(|who| token_entry(who)).collect();
    World::with(|config| configure(config, &format!("{tokens}{RULES}"))).await
}

#[tokio::test]
async fn every_endpoint_asks_the_rules() {
    use Needs::{Delete, Pull, Push};
    let world = world().await;
    let digest = Digest::sha256(b"nothing that is there");
    let upload = "0123456789abcdef0123456789abcdef";
    let endpoints = [
        ("GET", "manifests/main", Pull("main")),
        ("HEAD", "manifests/v1", Pull("v1")),
        ("GET", "manifests/$D", Pull("")),
        ("GET", "blobs/$D", Pull("")),
        ("HEAD", "blobs/$D", Pull("")),
        ("GET", "tags/list", Pull("")),
        ("GET", "referrers/$D", Pull("")),
        ("POST", "blobs/uploads/", Push("")),
        ("POST", "blobs/uploads/?mount=$D&from=team-b/app", Push("")),
        ("PATCH", "blobs/uploads/$U", Push("")),
        ("GET", "blobs/uploads/$U", Push("")),
        ("PUT", "blobs/uploads/$U?digest=$D", Push("")),
        ("DELETE", "blobs/uploads/$U", Push("")),
        ("PUT", "manifests/main", Push("main")),
        ("PUT", "manifests/v1", Push("v1")),
        ("PUT", "manifests/$D", Push("")),
        ("DELETE", "manifests/main", Delete("main")),
        ("DELETE", "manifests/v1", Delete("v1")),
        ("DELETE", "manifests/$D", Delete("*")),
        ("DELETE", "blobs/$D", Delete("*")),
    ];
    let mut cells = 0;
    for who in WHO {
        for repo in REPOS {
            for (method, path, needs) in endpoints {
                let path = path.replace("$D", &digest.to_string()).replace("$U", upload);
                let mut call = world.call(method, format!("/v2/{repo}/{path}"));
                if !who.is_empty() {
                    call = call.header("authorization", &basic("any", &static_token(who)));
                }
                let answer = call.await;
                let refused = if who.is_empty() { 401 } else { 403 };
                let expected = may(who, repo, needs);
                let let_in = answer.status != 401 && answer.status != 403;
                assert_eq!(let_in, expected, "{who:?} {method} {repo} {path}: {}", answer.text());
                assert!(let_in || answer.status == refused, "{who:?} {method} {repo} {path}: {}", answer.status);
                cells += 1;
            }
        }
    }
    assert!(cells >= 300, "{cells}");
}

#[tokio::test]
async fn a_refusal_does_not_tell_what_is_there() {
    let world = world().await;
    let owner = basic("a", &static_token("owner"));
    let digest = Digest::sha256(b"{}");
    let put = world
        .put("/v2/team-b/app/blobs/uploads/0123456789abcdef0123456789abcdef?digest=".to_string() + &digest.to_string());
    put.header("authorization", &owner).body("{}").await.expect(201);
    let writer = basic("a", &static_token("writer"));
    for (there, missing) in [
        (format!("/v2/team-b/app/blobs/{digest}"), format!("/v2/team-b/none/blobs/{digest}")),
        ("/v2/team-b/app/tags/list".into(), "/v2/team-b/none/tags/list".into()),
    ] {
        let ask =
            async |path: &String| world.get(path.clone()).header("authorization", &writer).await.expect(403).text();
        assert_eq!(ask(&there).await.replace("app", ""), ask(&missing).await.replace("none", ""));
    }
    // Another tenant has the same names, and none of the content.
    let tenant = basic("a", &static_token("tenant"));
    let head = |auth: String| world.head(format!("/v2/team-b/app/blobs/{digest}")).header("authorization", &auth);
    head(tenant.clone()).await.expect(404);
    head(owner.clone()).await.expect(200);
    let mount = format!("/v2/team-b/x/blobs/uploads/?mount={digest}&from=team-b/app");
    world.post(mount.clone()).header("authorization", &tenant).await.expect(202);
    world.post(mount).header("authorization", &owner).await.expect(201);
    // A caller that may not read the source is told to upload, as if the blob did not exist.
    let mount = format!("/v2/team/x/blobs/uploads/?mount={digest}&from=team-b/app");
    world.post(mount).header("authorization", &writer).await.expect(202);
}

#[tokio::test]
async fn only_administrators_see_the_catalog() {
    let world = world().await;
    let owner = basic("a", &static_token("owner"));
    world.get("/v2/_catalog").header("authorization", &owner).await.expect(200);
    world.get("/v2/_catalog").header("authorization", &basic("a", &static_token("reader"))).await.expect(403);
    let answer = world.get("/v2/_catalog").header("host", "h").await.expect(401);
    assert!(answer.header("www-authenticate").contains("registry:catalog:*"));
}

#[tokio::test]
async fn orders_and_counts_are_for_who_administers_and_for_the_host() {
    let world = world().await;
    let operator = format!("Bearer {}", world.app().gate.operator_token().expose());
    for (method, path) in [
        ("GET", "/api/usage"),
        ("GET", "/api/jobs"),
        ("GET", "/api/gc"),
        ("POST", "/api/gc?dry_run=true"),
        ("POST", "/api/check"),
    ] {
        let as_token = |who| basic("any", &static_token(who));
        for (shown, status) in [
            (None, 401),
            (Some(as_token("reader")), 403),
            (Some(as_token("tenant")), 403),
            (Some(as_token("unknown")), 401),
            (Some("Bearer 00000000000000000000000000000000".to_string()), 401),
            (Some(as_token("owner")), 200),
            (Some(operator.clone()), 200),
        ] {
            let call = world.call(method, path);
            let answer = match &shown {
                Some(shown) => call.header("authorization", shown).await,
                None => call.await,
            };
            assert_eq!(answer.status, status, "{method} {path} {shown:?}: {}", answer.text());
        }
    }
}
