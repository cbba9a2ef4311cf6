//! The audit log: each route that changes something or refuses has its line, and no client can forge a line.

use std::collections::BTreeSet;

use larder::config::Config;
use larder::digest::Digest;
use serde_json::{Value, json};

use crate::auth::oidc::Issuer;
use crate::auth::{basic, configure, static_token, token_entry};
use crate::events::Log;
use crate::world::{World, noise};

const RULES: &str = r#"
    [[rules]]
    identity = "token:reader"
    may = ["pull"]
    [[rules]]
    identity = "token:owner"
    may = ["pull", "push", "delete"]
    [[rules]]
    identity = "token:owner"
    may = ["admin"]
    [auth]
    metrics = []
"#;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const UPLOAD: &str = "0123456789abcdef0123456789abcdef";

/// A route as the sources call it, and a request for it: `$D` is a digest, `$U` the id of an upload.
type Row = (&'static str, &'static str);

/// Requests that need a right and change nothing.
const READS: &[Row] = &[
    ("Route::Base", "GET /v2/"),
    ("Route::Catalog", "GET /v2/_catalog"),
    ("Route::Tags", "GET /v2/a/tags/list"),
    ("Route::Referrers", "GET /v2/a/referrers/$D"),
    ("Route::ReadBlob", "GET /v2/a/blobs/$D"),
    ("Route::ReadManifest", "GET /v2/a/manifests/v1"),
    ("Route::UploadStatus", "GET /v2/a/blobs/uploads/$U"),
    ("get /metrics", "GET /metrics"),
    ("get /api/inspect", "GET /api/inspect?ref=a:v1"),
    ("get /api/usage", "GET /api/usage"),
    ("get /api/jobs", "GET /api/jobs"),
    ("get /api/scopes", "GET /api/scopes"),
    ("get /api/gc", "GET /api/gc"),
    ("get /", "GET /"),
    ("get /repositories", "GET /repositories"),
    ("get /repo/{*name}", "GET /repo/a"),
    ("get /evictions", "GET /evictions"),
    ("get /scopes", "GET /scopes"),
    ("get /jobs", "GET /jobs"),
    ("get /api/overview", "GET /api/overview"),
    ("get /api/repositories", "GET /api/repositories"),
    ("get /api/repo/{*name}", "GET /api/repo/a:v1"),
    ("get /api/evictions", "GET /api/evictions"),
];

/// Requests that change something, issue a token or give an order.
pub const CHANGES: &[Row] = &[
    ("Route::BeginUpload", "POST /v2/a/blobs/uploads/"),
    ("Route::AppendUpload", "PATCH /v2/a/blobs/uploads/$U"),
    ("Route::SealUpload", "PUT /v2/a/blobs/uploads/$U?digest=$D"),
    ("Route::CancelUpload", "DELETE /v2/a/blobs/uploads/$U"),
    ("Route::PutManifest", "PUT /v2/a/manifests/v1"),
    ("Route::DeleteManifest", "DELETE /v2/a/manifests/v1"),
    ("Route::DeleteBlob", "DELETE /v2/a/blobs/$D"),
    ("get /token", "GET /token"),
    ("post /token", "POST /token"),
    ("post /token/exchange", "POST /token/exchange"),
    ("post /token/revoke", "POST /token/revoke"),
    ("post /api/check", "POST /api/check"),
    ("post /api/gc", "POST /api/gc?dry_run=true"),
];

/// Requests that all callers may send.
const OPEN: &[&str] = &["get /healthz", "get /readyz", "get /style.css"];

/// The method and the address of a row.
pub fn asked(line: &str) -> (String, String) {
    let line = line.replace("$D", DIGEST).replace("$U", UPLOAD);
    let (method, uri) = line.split_once(' ').unwrap();
    (method.to_string(), uri.to_string())
}

/// All routes of the sources, by name: those that the registry parses, and those of the router of the other doors.
fn routes_of_the_sources() -> BTreeSet<String> {
    let read =
        |path: &str| std::fs::read_to_string(format!("{}/src/doors/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let registry = read("registry/route.rs");
    let variants = registry.split_once("pub enum Route {").unwrap().1.split_once("\n}").unwrap().0;
    let variants = variants.lines().map(str::trim).filter(|line| line.starts_with(char::is_uppercase));
    let name = |line: &str| format!("Route::{}", line.split(|c: char| !c.is_alphanumeric()).next().unwrap());
    let mut found: BTreeSet<String> = variants.map(name).collect();
    for file in ["mod.rs", "pages/mod.rs"] {
        for route in read(file).split(".route(\"").skip(1) {
            let (path, rest) = route.split_once('"').unwrap();
            let methods = rest.split_once('\n').unwrap().0;
            for method in ["get", "post", "put", "patch", "delete", "any"] {
                if methods.contains(&format!(" {method}(")) || methods.contains(&format!(".{method}(")) {
                    found.insert(format!("{method} {path}"));
                }
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}

async fn world() -> World {
    let tokens: String = ["reader", "owner"].into_iter().map(token_entry).collect();
    World::with(|config| configure(config, &format!("{tokens}{RULES}"))).await
}

/// The one audit line of a request, which must be of it. Asked with the token of that name.
async fn line(world: &World, log: &Log, who: &str, row: Row) -> (u16, Value) {
    let (method, uri) = asked(row.1);
    let answer = world.call(&method, &uri).header("authorization", &basic("x", &static_token(who))).await;
    let [line] = <[Value; 1]>::try_from(log.audit()).unwrap_or_else(|lines| panic!("{who} {row:?}: {lines:?}"));
    assert_eq!(line["method"], method, "{line}");
    let path = uri.split('?').next().unwrap().replace(&UPLOAD[8..], "...");
    assert_eq!(line["path"], path, "{line}");
    assert_eq!(line["status"], answer.status.as_u16(), "{line}");
    (answer.status.as_u16(), line)
}

#[tokio::test]
async fn each_route_that_changes_or_refuses_has_its_line() {
    let listed = READS.iter().chain(CHANGES).map(|(route, _)| *route).chain(OPEN.iter().copied());
    let listed: BTreeSet<String> = listed.map(str::to_string).collect();
    assert_eq!(listed, routes_of_the_sources(), "each route is to be listed in this test");
    let world = world().await;
    let log = Log::new();
    for row in READS.iter().chain(CHANGES) {
        // The form of a token names the caller, not the header; a wrong one is refused by its content.
        if matches!(row.0, "post /token" | "post /token/exchange" | "post /token/revoke") {
            continue;
        }
        let (status, line) = line(&world, &log, "wrong", *row).await;
        assert_eq!((status, &line["message"]), (401, &json!("refused")), "{row:?} {line}");
    }
    for row in CHANGES {
        let (status, line) = line(&world, &log, "owner", *row).await;
        let what = if status < 400 { "write" } else { "refused" };
        assert_eq!(line["message"], what, "{row:?} {line}");
        let is_form = row.1.starts_with("POST /token");
        assert!(is_form || line["who"] == "token:owner", "{row:?} {line}");
        assert!(status < 400 || line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{row:?} {line}");
        if row.0.starts_with("Route::") || row.0.starts_with("post /api/") {
            let (status, line) = self::line(&world, &log, "reader", *row).await;
            assert_eq!((status, &line["who"]), (403, &json!("token:reader")), "{row:?} {line}");
        }
    }
}

#[tokio::test]
async fn refusals_that_are_not_of_rights_say_who_and_why() {
    let configured: Config = toml::from_str(
        "[[tenants]]\nname = \"small\"\nrepositories = [\"small/**\"]\n\
                                             quota = { max = \"1KiB\" }\n",
    )
    .unwrap();
    for closed in [true, false] {
        let tokens = token_entry("owner");
        let world = World::with(|config| {
            if closed {
                configure(config, &format!("{tokens}{RULES}"));
            }
            config.tenants = configured.tenants.clone();
        })
        .await;
        if closed {
            world.show(basic("x", &static_token("owner")));
        }
        let log = Log::new();
        let blob = noise(4096, 1);
        let whole = format!("POST /v2/small/a/blobs/uploads/?digest={}", Digest::sha256(&blob));
        for (row, body, status, reason, is_known) in [
            (&*whole, blob, 403, "may store", true),
            ("PUT /v2/a/manifests/v1", "not json".into(), 400, "manifest", true),
            ("POST /v2/larder/dockerfile/blobs/uploads/", "".into(), 403, "reserved", true),
            ("PATCH /v2/a/blobs/uploads/0123456789abcdef0123456789abcdef?staged=1", "x".into(), 404, "upload", true),
            // A request that cannot be parsed is refused before its caller is authenticated.
            ("PUT /v2/a/manifests/v1?tag=v2", "{}".into(), 400, "?tag=", false),
            ("PUT /v2/NO/manifests/v1", "{}".into(), 400, "name", false),
            ("PUT /v2/a/tags/list", "".into(), 405, "method", false),
            ("DELETE /api/gc", "".into(), 405, "Method Not Allowed", false),
            ("POST /api/check?repair=perhaps", "".into(), 400, "Bad Request", false),
            ("BREW /repositories", "".into(), 405, "Method Not Allowed", false),
            ("POST /no/such/path", "".into(), 404, "Not Found", false),
        ] {
            let (method, uri) = asked(row);
            let answer = world.call(&method, &uri).body(body).await.expect(status);
            let [line] = <[Value; 1]>::try_from(log.audit()).unwrap_or_else(|lines| panic!("{row}: {lines:?}"));
            assert_eq!((&line["message"], &line["status"]), (&json!("refused"), &json!(status)), "{row} {line}");
            let told = line["reason"].as_str().unwrap();
            assert!(told.contains(reason), "{row} {line} {}", answer.text());
            let who = is_known.then_some("token:owner");
            assert!(!closed || line["who"].as_str() == who, "{row} {line}");
        }
    }
}

#[tokio::test]
async fn what_an_issuer_says_of_somebody_forges_no_line() {
    let issuer = Issuer::start().await;
    let text = format!(
        "[[issuers]]\nname = \"ci\"\nissuer = \"{}\"\naudience = \"larder\"\n\
         [[rules]]\nidentity = \"oidc:ci\"\nmay = [\"push\"]\nrepositories = \"mine/**\"\n",
        issuer.url
    );
    let world = World::with(|config| configure(config, &text)).await;
    let log = Log::new();
    let forged =
        "a)\n2026-11-30T00:00:00Z  INFO larder::audit: write who=token:FORGED\r\u{1b}[31m\u{7}\u{85}\u{2028}\u{202e}";
    for (subject, repo, message) in [
        (forged.to_string(), "mine/a", "write"),
        (forged.to_string(), "other", "refused"),
        (format!("{forged}{}", "long".repeat(1_000)), "mine/a", "write"),
        (format!("{forged}{}", "long".repeat(1_000)), "other", "refused"),
    ] {
        let jwt = issuer.jwt(json!({ "sub": subject }));
        let begin = world.post(format!("/v2/{repo}/blobs/uploads/"));
        begin.header("authorization", &basic("x", &jwt)).header("host", "h").await;
        let text = log.text();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("larder::audit")).collect();
        let [line] = lines[..] else { panic!("{lines:?}") };
        let fields = serde_json::from_str::<Value>(line).unwrap()["fields"].clone();
        assert_eq!(fields["message"], message);
        for field in ["who", "reason"] {
            let Some(shown) = fields[field].as_str() else { continue };
            assert!(shown.len() <= 520, "{} bytes in {field}", shown.len());
            let steers = |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
            assert!(!shown.contains(steers) && shown.contains(r"a)\n2026-11-30T00:00:00Z"), "{shown}");
        }
        // A refused caller is named, too.
        assert!(fields["who"].as_str().unwrap().starts_with("oidc:ci (a)"), "{fields}");
    }
}

#[tokio::test]
async fn the_id_of_an_upload_is_in_no_line() {
    let world = world().await;
    world.show(basic("x", &static_token("owner")));
    let log = Log::filtered("info,larder::request=debug");
    let location = world.begin("a").await;
    let id = location.rsplit('/').next().unwrap().to_string();
    let staged = world.patch(&location).body("hello").await.expect(202).header("location").to_string();
    world.patch(staged.replace("/uploads/", "%2Fuploads%2f")).body(" world").await.expect(202);
    world.get(&staged).await.expect(204);
    world.patch(&staged).header("content-range", "0-1").body("xx").await.expect(416);
    world.delete(&staged).await.expect(204);
    world.put(format!("{location}?digest={DIGEST}")).await.expect(404);
    let text = log.text();
    assert!(text.lines().filter(|line| line.contains("larder::request")).count() >= 7, "{text}");
    assert!(!text.contains(&id) && text.contains(&format!("uploads/{}...", &id[..8])), "{text}");
}

#[tokio::test]
async fn a_write_whose_client_goes_away_has_its_line() {
    let world = world().await;
    let server = world.serve().await;
    let log = Log::new();
    let mut stream = server.connect().await;
    let owner = basic("x", &static_token("owner"));
    let head = format!("POST /v2/a/blobs/uploads/?digest={DIGEST} HTTP/1.1\nhost: larder\nauthorization: {owner}\n");
    crate::wire::send(&mut stream, &format!("{head}content-length: 5\n\nhel")).await;
    drop(stream);
    // The body ends early; the line is written once the server has seen that.
    let mut lines = log.audit();
    while lines.is_empty() {
        tokio::task::yield_now().await;
        lines = log.audit();
    }
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&line["who"], &line["message"]), (&json!("token:owner"), &json!("refused")), "{line}");
    server.stopped().await;
}

#[tokio::test]
async fn no_credential_is_in_the_log() {
    let world = world().await;
    let log = Log::filtered("info,larder::request=debug");
    let secrets = ["SECRET-PASSWORD", "SECRET-FORM", "SECRET-QUERY", "SECRET-TOKEN", "eyJhbGciOiJub25lIn0"];
    world.get("/v2/").header("host", "h").header("authorization", &basic("alice", secrets[0])).await.expect(401);
    let form = format!("grant_type=password&username=u&password={}", secrets[1]);
    world.post("/token").body(form).await.expect(401);
    world.get(format!("/token?scope=x&password={}", secrets[2])).await;
    world.get(format!("/v2/?access_token={}", secrets[2])).header("host", "h").await;
    world.get("/v2/").header("host", "h").header("authorization", &format!("Bearer larder_{}", secrets[3])).await;
    let jwt = format!("{}.e30.x", secrets[4]);
    world.put("/v2/a/manifests/x").header("host", "h").header("authorization", &basic("x", &jwt)).await.expect(401);
    world.post("/token/exchange").body(format!("subject_token={jwt}")).await.expect(401);
    let text = log.text();
    assert!(text.lines().count() >= 10, "{text}");
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}
