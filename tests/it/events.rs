//! Events: every subscriber receives each one, once.

use std::io;
use std::sync::{Arc, Mutex};

use larder::config::Config;
use serde_json::{Value, json};
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
    pub fn new() -> Log {
        let written = Written::default();
        let to = written.clone();
        let log = tracing_subscriber::fmt().json().with_writer(move || to.clone()).finish();
        Log { written, _guard: tracing::subscriber::set_default(log) }
    }

    /// All lines since the last look.
    pub fn text(&self) -> String {
        let written = std::mem::take(&mut *self.written.0.lock().unwrap());
        String::from_utf8(written).unwrap()
    }

    /// The audit lines since the last call, without the fields of the log itself.
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
