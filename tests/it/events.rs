//! Events: every subscriber receives each one, once.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use larder::config::Config;
use larder::digest::Digest;
use serde_json::{Value, json};
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;

use crate::auth::{basic, configure, static_token, token_entry};
use crate::call::Answer;
use crate::pages::push_cache;
use crate::world::World;

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
"#;

/// The lines that this thread logs, until it is dropped.
pub struct Log {
    written: Written,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// What an operator reads who has configured nothing.
    pub fn new() -> Log {
        Log::filtered("info")
    }

    /// With a filter as in `[log]`.
    pub fn filtered(filter: &str) -> Log {
        // Of one subscriber alone, tracing asks the thread that comes to a line first whether it is wanted: a test without
        // a log would turn the line off for those that have one.
        static SECOND: LazyLock<Dispatch> =
            LazyLock::new(|| tracing_subscriber::fmt().with_max_level(LevelFilter::OFF).finish().into());
        LazyLock::force(&SECOND);
        let written = Written::default();
        let to = written.clone();
        let log = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(move || to.clone()).finish();
        Log { written, _guard: tracing::subscriber::set_default(log) }
    }

    /// All lines since the last look.
    pub fn text(&self) -> String {
        let written = std::mem::take(&mut *self.written.0.lock().unwrap());
        String::from_utf8(written).unwrap()
    }

    /// What the lines of a target say since the last look.
    pub fn of(&self, target: &str) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == target).map(|line| line["fields"].clone()).collect()
    }

    /// The audit lines since the last look, without what is not theirs.
    pub fn audit(&self) -> Vec<Value> {
        let text = self.text();
        for secret in ["owner", "reader", "wrong"].map(static_token) {
            assert!(!text.contains(&secret), "a token is in the log: {text}");
        }
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == "larder::audit").map(|line| line["fields"].clone()).collect()
    }
}

async fn world() -> World {
    let tokens: String = ["reader", "owner"].into_iter().map(token_entry).collect();
    World::with(|config| configure(config, &format!("{tokens}{RULES}"))).await
}

fn write(who: &str, method: &str, path: &str, status: u16) -> Value {
    json!({ "message": "write", "who": who, "method": method, "path": path, "status": status })
}

fn refused(who: Option<&str>, reason: &str, (method, path): (&str, &str), route: &str, status: u16) -> Value {
    let mut line = json!({
        "message": "refused", "reason": reason, "method": method, "route": route, "path": path, "status": status,
    });
    if let Some(who) = who {
        line["who"] = who.into();
    }
    line
}

async fn ask(world: &World, who: &str, method: &str, path: &str) -> Answer {
    world.call(method, path).header("authorization", &basic("x", &static_token(who))).await
}

#[tokio::test]
async fn each_token_order_and_refusal_is_one_audit_line() {
    let world = world().await;
    let log = Log::new();
    let wrong = |method: &str, path: &str, route: &str| refused(None, "token is not valid", (method, path), route, 401);
    let denied = |what: &str, method: &str, path: &str, route: &str| {
        refused(Some("token:reader"), &format!("token:reader {what}"), (method, path), route, 403)
    };
    let (begin, gc) = ("/v2/a/blobs/uploads/", "/api/gc");
    for (who, method, path, status, line) in [
        ("owner", "GET", "/token?scope=repository:a:pull", 200, write("token:owner", "GET", "/token", 200)),
        ("wrong", "GET", "/token?scope=repository:a:pull", 401, wrong("GET", "/token", "token")),
        ("owner", "POST", begin, 202, write("token:owner", "POST", begin, 202)),
        ("reader", "POST", begin, 403, denied("may not push to a", "POST", begin, "upload")),
        ("wrong", "GET", "/", 401, wrong("GET", "/", "page")),
        ("reader", "GET", "/jobs", 403, denied("may not administer", "GET", "/jobs", "page")),
        ("owner", "POST", "/api/gc?dry_run=true", 200, write("token:owner", "POST", gc, 200)),
        ("reader", "POST", gc, 403, denied("may not administer", "POST", gc, "admin")),
        ("owner", "POST", "/api/check", 200, write("token:owner", "POST", "/api/check", 200)),
        ("wrong", "GET", "/api/usage", 401, wrong("GET", "/api/usage", "admin")),
    ] {
        let answer = ask(&world, who, method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(log.audit(), [line], "{who} {method} {path}");
    }
    let form = format!("grant_type=password&username=x&password={}", static_token("reader"));
    world.post("/token").body(form).await.expect(200);
    assert_eq!(log.audit(), [write("token:reader", "POST", "/token", 200)]);
    world.post("/token/exchange").header("authorization", "Bearer a.b.c").await.expect(401);
    let [line] = log.audit().try_into().unwrap();
    assert_eq!((&line["message"], &line["path"]), (&"refused".into(), &"/token/exchange".into()), "{line}");
    world.post("/token").body("grant_type=magic").await.expect(400);
    let why = "grant_type must be password, refresh_token or token-exchange";
    assert_eq!(log.audit(), [refused(None, why, ("POST", "/token"), "token", 400)]);
    // An allowed request that changes nothing, and a refused one without credentials, are in the log of requests alone.
    for (who, path) in [("owner", "/"), ("owner", "/api/usage"), ("reader", "/v2/a/tags/list")] {
        ask(&world, who, "GET", path).await;
    }
    world.get("/").await.expect(401);
    world.get("/v2/").header("host", "h").await.expect(401);
    assert_eq!(log.audit(), [Value::Null; 0]);
}

#[tokio::test]
async fn an_order_is_audited_also_where_everybody_may_everything() {
    let world = World::new().await;
    let log = Log::new();
    world.post("/api/gc").await.expect(403);
    assert_eq!(log.audit(), [refused(None, "access denied", ("POST", "/api/gc"), "admin", 403)]);
    let operator = format!("Bearer {}", world.app().gate.operator_token().expose());
    world.post("/api/gc").header("authorization", &operator).await.expect(200);
    assert_eq!(log.audit(), [write("operator", "POST", "/api/gc", 200)]);
    // The line of the request tells as much.
    world.begin("a").await;
    assert_eq!(log.audit(), [Value::Null; 0]);
}

#[tokio::test]
async fn pushing_serving_missing_and_evicting_count_once() {
    let rules = |config: &mut Config| {
        let rule = "[[repositories]]\npattern = \"**\"\n[[repositories.retain]]\ntags = \"old-*\"\nnewest = 1\n";
        config.repositories = toml::from_str::<Config>(rule).unwrap().repositories;
    };
    let world = World::with(rules).await;
    for tag in ["old-1", "old-2"] {
        push_cache(&world, "app", tag, tag).await;
    }
    world.get("/v2/app/manifests/old-1").await.expect(200);
    world.get("/v2/app/manifests/none").await.expect(404);
    let count = async |line: &str| {
        let shown = world.get("/metrics").await.expect(200).text();
        let of = |text: &str| text.strip_prefix(line).and_then(|rest| rest.trim().parse::<u64>().ok());
        shown.lines().find_map(of).unwrap_or_else(|| panic!("{line} is not in {shown}"))
    };
    assert_eq!(count(r#"larder_exports_total{tenant="default"}"#).await, 2);
    assert_eq!(count(r#"larder_lookups_total{kind="tag",result="hit",tenant="default"}"#).await, 1);
    assert_eq!(count(r#"larder_lookups_total{kind="tag",result="miss",tenant="default"}"#).await, 1);
    // The second collection finds the tag condemned by the first.
    for _ in 0..2 {
        world.app().collect(false).await.unwrap();
        assert_eq!(count(r#"larder_evictions_total{rule="not_newest",tenant="default"}"#).await, 1);
    }
    let recent = &world.app().metrics.recent;
    assert_eq!(recent.builds().len(), 2);
    let evicted: Vec<String> = recent.evictions().into_iter().map(|eviction| eviction.tag).collect();
    assert_eq!(evicted, ["old-1"]);
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Imports what a tag serves, as a builder does, in the build of [`TRACE`].
async fn import(world: &World, repo: &str, tag: &str) -> Value {
    let of_build = |path: String| world.get(path).header("traceparent", &format!("00-{TRACE}-b7ad6b7169203331-01"));
    let manifest = of_build(format!("/v2/{repo}/manifests/{tag}")).await.expect(200).json();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let read = of_build(format!("/v2/{repo}/blobs/{config}")).header("accept", &format!("{CACHE_CONFIG}, */*"));
    read.await.expect(200);
    manifest
}

#[tokio::test]
async fn each_import_and_export_is_one_line_that_says_who_what_and_how_much() {
    let world = world().await;
    world.show(basic("x", &static_token("owner")));
    let log = Log::new();
    push_cache(&world, "app", "main", "one").await;
    let line = |mut said: Value| {
        said["who"] = "token:owner".into();
        said["tenant"] = "default".into();
        said["repo"] = "app".into();
        said
    };
    let bytes = "layer of one".len();
    let all_new = json!({
        "message": "cache exported", "tag": "main",
        "layers_new": 1, "bytes_new": bytes, "layers_known": 0, "bytes_known": 0,
    });
    assert_eq!(log.of("larder::build"), [line(all_new)]);
    world.show(basic("x", &static_token("reader")));
    let manifest = import(&world, "app", "main").await;
    let mut imported = log.of("larder::build");
    assert!(imported[0]["seconds"].take().is_number(), "{imported:?}");
    let expected = json!({
        "message": "cache imported", "who": "token:reader", "tenant": "default", "repo": "app", "tag": "main",
        "layers": 1, "bytes": bytes, "seconds": null, "trace": TRACE,
    });
    assert_eq!(imported, [expected]);
    // Pushed again, to two tags: its layer was there.
    world.show(basic("x", &static_token("owner")));
    log.text();
    let path = format!("/v2/app/manifests/{}?tag=a&tag=b", Digest::sha256(manifest.to_string().as_bytes()));
    let push = world.put(path).header("content-type", "application/vnd.oci.image.manifest.v1+json");
    push.body(manifest.to_string()).await.expect(201);
    let text = log.text();
    assert!(!text.contains("larder::request"), "requests are not in the log of an operator: {text}");
    for tag in ["a", "b"] {
        let one = format!(r#""tag":"{tag}","layers_new":0,"bytes_new":0,"layers_known":1,"bytes_known":{bytes}"#);
        assert_eq!(text.matches(&one).count(), 1, "{one} in {text}");
    }
    let builds = world.get("/api/overview").await.expect(200).json()["events"].take();
    let told: Vec<[&Value; 4]> = builds
        .as_array()
        .unwrap()
        .iter()
        .map(|build| [&build["who"], &build["tag"], &build["layers"]["layers"], &build["new_layers"]["layers"]])
        .collect();
    let told = serde_json::to_value(told).unwrap();
    let expected = json!([
        ["token:owner", "b", 1, 0],
        ["token:owner", "a", 1, 0],
        ["token:reader", "main", 1, null],
        ["token:owner", "main", 1, 1],
    ]);
    assert_eq!(told, expected);
}
