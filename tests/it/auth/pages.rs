//! Pages show to each caller what that caller may pull, and numbers of all tenants to admins.

use larder::events::{BuildCaller, Event};
use larder::names::Tenant;
use serde_json::Value;

use super::{basic, configure, static_token, token_entry};
use crate::world::World;

const RULES: &str = r#"
    [[rules]]
    identity = "token:reader"
    may = ["pull"]
    repositories = "team/**"
    [[rules]]
    identity = "token:tagger"
    may = ["pull"]
    repositories = "team/**"
    tags = "v*"
    [[rules]]
    identity = "token:owner"
    may = ["pull"]
    [[rules]]
    identity = "token:owner"
    may = ["admin"]
"#;

async fn world() -> World {
    let mut world = World::new().await;
    for (repo, tag) in [("team/app", "main"), ("team/app", "v1"), ("secret/app", "main")] {
        world.put_image(repo, tag, &format!("{repo}:{tag}")).await;
    }
    let tokens: String = ["reader", "tagger", "owner"].into_iter().map(token_entry).collect();
    world.reconfigure(|config| configure(config, &format!("{tokens}{RULES}"))).await;
    world.app().store.scan_usage().await.unwrap();
    world
}

async fn told(world: &World, who: &str, path: &str) -> (u16, Value) {
    let answer = world.get(path).header("authorization", &basic("any", &static_token(who))).await;
    (answer.status.as_u16(), answer.json())
}

fn names(list: &Value, name: &str) -> Vec<String> {
    let mut names: Vec<String> =
        list.as_array().unwrap().iter().map(|row| row[name].as_str().unwrap().to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn each_sees_what_he_may_pull() {
    let world = world().await;
    for (who, repos, tags) in [
        ("reader", vec!["team/app"], vec!["main", "v1"]),
        ("tagger", vec!["team/app"], vec!["v1"]),
        ("owner", vec!["secret/app", "team/app"], vec!["main", "main", "v1"]),
    ] {
        let (_, overview) = told(&world, who, "/api/overview").await;
        assert_eq!(names(&overview["repositories"], "repo"), repos, "{who}");
        assert_eq!(names(&overview["tags"], "tag"), tags, "{who}");
        assert_eq!(overview["tags_in_all"], tags.len(), "{who}");
        assert_eq!(overview["tenants"].is_array(), who == "owner", "{who}");
        let (_, found) = told(&world, who, "/api/repositories?q=secret").await;
        assert_eq!(names(&found["repositories"], "repo").is_empty(), who != "owner", "{who}");
    }
    assert_eq!(names(&told(&world, "tagger", "/api/repo/team/app").await.1["tags"], "tag"), ["v1"]);
    for (who, path, status) in [
        ("tagger", "/api/repo/team/app:v1", 200),
        ("tagger", "/api/repo/team/app:main", 403),
        ("reader", "/api/repo/secret/app", 403),
        ("reader", "/api/repo/secret/app:main", 403),
        ("reader", "/api/repo/secret/none", 403),
        ("owner", "/api/repo/secret/app:main", 200),
        // The figures of tenants and content are for admins.
        ("reader", "/api/jobs", 403),
        ("owner", "/api/jobs", 200),
    ] {
        assert_eq!(told(&world, who, path).await.0, status, "{who} {path}");
    }
    for (who, status) in [("reader", 403), ("owner", 200)] {
        world.get("/jobs").header("authorization", &basic("any", &static_token(who))).await.expect(status);
    }
}

#[tokio::test]
async fn whether_there_is_a_tenant_of_a_name_is_not_told() {
    let mut world = world().await;
    let tokens: String = ["reader", "tagger", "owner"].into_iter().map(token_entry).collect();
    let tenants = "[[tenants]]\nname = \"acme\"\nrepositories = [\"secret/**\"]\n";
    world.reconfigure(|config| configure(config, &format!("{tokens}{RULES}{tenants}"))).await;
    world.app().store.scan_usage().await.unwrap();
    let asked = async |name: &str| {
        let (status, mut list) = told(&world, "reader", &format!("/api/repositories?tenant={name}")).await;
        assert_eq!((status, list["tenant"].as_str()), (200, Some(name)));
        list["tenant"].take();
        list["now"].take();
        list
    };
    assert_eq!(asked("acme").await, asked("nope").await);
    assert_eq!(names(&asked("nope").await["repositories"], "repo"), Vec::<String>::new());
    assert_eq!(names(&asked("default").await["repositories"], "repo"), ["team/app"]);
    let all = told(&world, "reader", "/api/repositories?tenant=").await.1;
    assert_eq!((all["tenant"].is_null(), names(&all["repositories"], "repo")), (true, vec!["team/app".to_string()]));
}

#[tokio::test]
async fn lists_of_tags_hide_those_that_a_caller_may_not_pull() {
    let mut world = World::new().await;
    let pushed = world.put_image("team/app", "a", "seed").await;
    for tag in ["b", "c", "v1", "v2", "x", "y"] {
        world.put_manifest("team/app", tag, &pushed.manifest).await;
    }
    let tokens: String = ["reader", "tagger", "owner"].into_iter().map(token_entry).collect();
    world.reconfigure(|config| configure(config, &format!("{tokens}{RULES}"))).await;
    world.show(basic("any", &static_token("tagger")));
    for n in [1, 2, 3, 100] {
        let pages = crate::registry::lists::pages(&world, &format!("/v2/team/app/tags/list?n={n}"), "tags").await;
        assert_eq!(pages.concat(), ["v1", "v2"], "pages of {n}");
        // None of them says by an empty page that something is hidden.
        assert!(pages.iter().all(|page| !page.is_empty()), "{pages:?}");
    }
    assert_eq!(told(&world, "tagger", "/v2/team/app/tags/list?last=v2").await.1["tags"], serde_json::json!([]));
    assert!(!world.get("/v2/team/app/tags/list?n=1").await.expect(200).text().contains("\"b\""));
}

#[tokio::test]
async fn numbers_of_a_whole_repository_are_for_who_may_pull_all_of_it() {
    let world = world().await;
    // A config of a cache is read by its digest: the server cannot tell which tag is imported.
    let (tenant, repo) = (Tenant::default_tenant(), "team/app".parse().unwrap());
    world.app().events.emit(Event::Imported {
        tenant: &tenant,
        repo: &repo,
        tag: None,
        layers: None,
        by: &BuildCaller::default(),
    });
    for (who, all) in [("tagger", false), ("reader", true), ("owner", true)] {
        let (_, overview) = told(&world, who, "/api/overview").await;
        let rows = overview["repositories"].as_array().unwrap();
        let row = rows.iter().find(|row| row["repo"] == "team/app").unwrap();
        assert_eq!(row["bytes"].is_u64(), all, "{who} {row}");
        assert_eq!(row["tags"], if all { 2 } else { 1 }, "{who}");
        assert_eq!(overview["events"].as_array().unwrap().len(), usize::from(all), "{who}");
        let (_, shown) = told(&world, who, "/api/repo/team/app").await;
        assert_eq!((shown["bytes"].is_u64(), shown["manifests"] == 2), (all, all), "{who} {shown}");
    }
}

#[tokio::test]
async fn a_browser_without_credentials_is_asked_for_them() {
    let world = world().await;
    for path in ["/", "/repositories", "/repo/team/app", "/repo/team/app:main", "/evictions", "/api/overview"] {
        let answer = world.get(path).await.expect(401);
        assert!(answer.header("www-authenticate").starts_with("Basic"), "{path}");
        assert!(!answer.text().contains("team/app"), "{path}");
    }
}

#[tokio::test]
async fn metrics_are_for_everybody_or_for_whom_the_configuration_names() {
    let mut world = world().await;
    world.get("/metrics").await.expect(200);
    for (readers, allowed) in [
        ("[\"token:r*\"]", vec!["reader", "owner"]),
        ("[]", vec!["owner"]),
        ("[\"anonymous\"]", vec!["owner", "nobody"]),
    ] {
        let tokens: String = ["reader", "tagger", "owner"].into_iter().map(token_entry).collect();
        let text = format!("{tokens}{RULES}\n[auth]\nmetrics = {readers}\n");
        world.reconfigure(|config| configure(config, &text)).await;
        for who in ["reader", "tagger", "owner", "nobody"] {
            let asked = world.get("/metrics");
            let answer = match who {
                "nobody" => asked.await,
                who => asked.header("authorization", &basic("any", &static_token(who))).await,
            };
            let refused = if who == "nobody" { 401 } else { 403 };
            let status = if allowed.contains(&who) { 200 } else { refused };
            assert_eq!(answer.status.as_u16(), status, "{who} of {readers}");
            assert_eq!(answer.text().contains("larder_connections"), status == 200, "{who} of {readers}");
        }
    }
}

#[tokio::test]
async fn a_misspelt_name_is_answered_with_those_that_the_caller_may_list() {
    const RULES: &str = "[[rules]]\nidentity = \"token:all\"\nmay = [\"pull\", \"push\"]\n\
                         [[rules]]\nidentity = \"token:few\"\nmay = [\"pull\"]\nrepositories = [\"app\", \"apq\"]\ntags = \"pub*\"\n";
    let text = format!("{}{}{RULES}", super::token_entry("all"), super::token_entry("few"));
    let world = World::with(|config| super::configure(config, &text)).await;
    let by = |name: &str| super::basic("x", &super::static_token(name));
    let manifest = crate::world::image(crate::world::descriptor(crate::world::CONFIG, b"{}"), vec![]).to_string();
    let digest = larder::digest::Digest::sha256(b"{}");
    for repo in ["app", "apx"] {
        let upload = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        world.post(&upload).header("authorization", &by("all")).body("{}").await.expect(201);
        for tag in ["public", "private"] {
            let put = world.put(format!("/v2/{repo}/manifests/{tag}")).header("authorization", &by("all"));
            put.body(manifest.clone()).await.expect(201);
        }
    }
    let said = async |caller: &str, name: &str| {
        let asked = world.get(format!("/api/inspect?ref={name}")).header("authorization", &by(caller));
        asked.await.expect(404).json()["errors"][0]["message"].as_str().unwrap().to_string()
    };
    assert!(said("all", "app:pubic").await.starts_with("app has no tag pubic; it has: public, private"));
    assert_eq!(said("few", "app:pubic").await, "app has no tag pubic; it has: public");
    assert_eq!(said("all", "ap:public").await, "nothing was pushed to ap; did you mean app, apx?");
    assert_eq!(said("few", "apq:public").await, "nothing was pushed to apq; did you mean app?");
}
