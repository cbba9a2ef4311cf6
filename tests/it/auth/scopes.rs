//! Pull requests that cannot reach main, nor each other: the content that each of them reads, writes and can find out.

use std::path::Path;
use std::time::{Duration, SystemTime};

use larder::digest::Digest;
use larder::lifetime::collect::policy::Reason;
use serde_json::json;

use super::{basic, configure, static_token, token_entry};
use crate::views::{Cache, TAG, announced, import, steps, the};
use crate::world::{CONFIG, LAYER, World, age, descriptor, image};

/// `main` writes to the tenant. `next` is a branch, `onto-next` a pull request to it.
const RULES: &str = r#"
    [[rules]]
    identity = "token:main"
    may = ["pull", "push", "delete", "admin"]
    [[rules]]
    identity = "token:one"
    may = ["pull", "push", "delete"]
    scope = "pr:1"
    [[rules]]
    identity = "token:two"
    may = ["pull", "push", "delete"]
    scope = "pr:2"
    [[rules]]
    identity = "token:next"
    may = ["pull", "push"]
    scope = "branch:next"
    [[rules]]
    identity = "token:onto-next"
    may = ["pull", "push"]
    scope = "pr:3"
    parents = "branch:next"
"#;

async fn world() -> World {
    let tokens: String = ["main", "one", "two", "next", "onto-next"].map(token_entry).concat();
    World::with(|config| configure(config, &format!("{tokens}{RULES}"))).await
}

/// The world as one of them sees it from now on.
fn of<'w>(world: &'w World, who: &str) -> &'w World {
    world.show(basic("any", &static_token(who)))
}

async fn tags(world: &World, repo: &str) -> Vec<String> {
    let listed = world.get(format!("/v2/{repo}/tags/list")).await.expect(200).json();
    listed["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_string()).collect()
}

async fn referrers(world: &World, path: &str) -> usize {
    world.get(path).await.expect(200).json()["manifests"].as_array().unwrap().len()
}

async fn digest_of(world: &World, tag: &str) -> String {
    world.head(format!("/v2/app/manifests/{tag}")).await.expect(200).header("docker-content-digest").to_string()
}

#[tokio::test]
async fn a_pull_request_reads_main_and_what_it_writes_nobody_else_can_find() {
    let world = world().await;
    let main = of(&world, "main").put_image("app", "latest", "main").await;
    // Content of main needs no upload by the scope, which may reference it.
    let one = of(&world, "one");
    assert_eq!(digest_of(one, "latest").await, main.digest.to_string());
    one.head(format!("/v2/app/blobs/{}", main.layer)).await.expect(200);
    one.get(format!("/v2/app/blobs/{}", main.layer)).await.expect(200);
    one.post(format!("/v2/app/blobs/uploads/?mount={}&from=app", main.layer)).await.expect(201);
    let (config, layer) = (&b"{\"of\":\"one\"}"[..], &b"layer of one"[..]);
    one.put_blob("app", config).await;
    let own_layer = one.put_blob("app", layer).await;
    let layers = vec![main.manifest["layers"][0].clone(), descriptor(LAYER, layer)];
    let manifest = image(descriptor(CONFIG, config), layers);
    let own = one.put_manifest("app", "latest", &manifest).await;
    one.put_manifest("app", "mine", &manifest).await;
    let mut artifact = image(descriptor(CONFIG, config), Vec::new());
    artifact["subject"] = json!({ "mediaType": main.manifest["mediaType"], "digest": main.digest.to_string(),
                                  "size": main.manifest.to_string().len() });
    let artifact =
        one.put_manifest("app", &Digest::sha256(artifact.to_string().as_bytes()).to_string(), &artifact).await;
    one.put_image("only/ours", "a", "hidden").await;
    let session = one.begin("app").await;
    let session = one.patch(&*session).body("begun").await.expect(202).header("location").to_string();
    assert_eq!(digest_of(one, "latest").await, own.to_string());
    assert_eq!(tags(one, "app").await, ["latest", "mine"]);
    one.get(format!("/v2/app/blobs/{own_layer}")).await.expect(200);
    let subject = format!("/v2/app/referrers/{}", main.digest);
    assert_eq!(referrers(one, &subject).await, 1);

    for who in ["main", "two"] {
        let other = of(&world, who);
        assert_eq!(digest_of(other, "latest").await, main.digest.to_string(), "{who}");
        assert_eq!(tags(other, "app").await, ["latest"], "{who}");
        assert_eq!(referrers(other, &subject).await, 0, "{who}");
        for (method, path) in [
            ("HEAD", format!("app/blobs/{own_layer}")),
            ("GET", format!("app/blobs/{own_layer}")),
            ("GET", format!("only/ours/blobs/{own_layer}")),
            ("GET", format!("app/manifests/{own}")),
            ("HEAD", format!("app/manifests/{own}")),
            ("GET", format!("app/manifests/{artifact}")),
            ("GET", "app/manifests/mine".to_string()),
            ("GET", "only/ours/manifests/a".to_string()),
            ("GET", "only/ours/tags/list".to_string()),
            ("DELETE", format!("app/blobs/{own_layer}")),
            ("DELETE", format!("app/manifests/{own}")),
            ("DELETE", "app/manifests/mine".to_string()),
        ] {
            let answer = other.call(method, format!("/v2/{path}")).await;
            assert_eq!(answer.status, 404, "{who} {method} {path}");
        }
        // The beginning of a session reveals nothing: a mount of a blob that exists nowhere gets the same answer.
        for from in ["&from=app", "&from=only/ours", ""] {
            other.post(format!("/v2/app/blobs/uploads/?mount={own_layer}{from}")).await.expect(202);
        }
        for method in ["GET", "PATCH", "DELETE"] {
            other.call(method, &*session).await.expect(404);
        }
        let named = other
            .put(format!("/v2/app/manifests/{who}"))
            .header("content-type", manifest["mediaType"].as_str().unwrap());
        let named = named.body(manifest.to_string()).await.expect(404);
        assert!(named.text().contains(&own_layer.to_string()), "{}", named.text());
    }
    let catalog = of(&world, "main").get("/v2/_catalog").await.expect(200).json();
    assert_eq!(catalog["repositories"], json!(["app"]));
}

#[tokio::test]
async fn a_pull_request_deletes_nothing_but_its_own() {
    let world = world().await;
    let main = of(&world, "main").put_image("app", "latest", "main").await;
    let one = of(&world, "one");
    for path in [format!("blobs/{}", main.layer), format!("manifests/{}", main.digest), "manifests/latest".to_string()]
    {
        one.delete(format!("/v2/app/{path}")).await.expect(404);
    }
    let own = one.put_image("app", "latest", "one").await;
    assert_eq!(digest_of(one, "latest").await, own.digest.to_string());
    one.delete("/v2/app/manifests/latest").await.expect(202);
    // The tag of main shows again.
    assert_eq!(digest_of(one, "latest").await, main.digest.to_string());
    assert_eq!(digest_of(of(&world, "main"), "latest").await, main.digest.to_string());
}

#[tokio::test]
async fn pages_of_lists_go_through_the_own_and_the_parents() {
    let world = world().await;
    for (who, named) in [("main", ["a", "c", "e", "g"]), ("one", ["b", "c", "d", "h"])] {
        for tag in named {
            of(&world, who).put_image("app", tag, tag).await;
        }
    }
    let one = of(&world, "one");
    let (mut seen, mut next) = (Vec::new(), Some("/v2/app/tags/list?n=2".to_string()));
    while let Some(path) = next {
        let page = one.get(path).await.expect(200);
        let tags = page.json()["tags"].as_array().unwrap().clone();
        assert!((1..=2).contains(&tags.len()), "{tags:?}");
        seen.extend(tags.iter().map(|tag| tag.as_str().unwrap().to_string()));
        let link = page.headers.get("link").map(|link| link.to_str().unwrap().to_string());
        next = link.map(|link| link[1..link.find('>').unwrap()].to_string());
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e", "g", "h"]);
    assert_eq!(tags(of(&world, "two"), "app").await, ["a", "c", "e", "g"]);
}

#[tokio::test]
async fn a_cache_tag_is_the_view_of_main_and_of_the_pull_request_for_the_pull_request_alone() {
    let mut world = world().await;
    Cache::of(of(&world, "main"), "server", "sources").await.push(&world, "main").await;
    let before = announced(&world).await;
    assert_eq!(steps(of(&world, "one")).await, the(&["shared", "server"]));
    assert_eq!(announced(&world).await, before, "without anything of its own it is served what main is");

    let web = Cache::of(of(&world, "one"), "web", "sources of one").await;
    web.push(&world, "main").await;
    assert_eq!(steps(&world).await, the(&["shared", "server", "web"]));
    let other = Cache::of(of(&world, "two"), "web", "sources of two").await;
    other.push(&world, "main").await;
    let (found, layers) = import(&world, TAG).await;
    assert_eq!(found, the(&["shared", "server", "web"]));
    assert!(layers.contains(&other.own) && !layers.contains(&web.own));
    assert_eq!(announced(of(&world, "main")).await, before);
    assert_eq!(steps(&world).await, the(&["shared", "server"]));

    // The scopes read a later push of main at once, also through a server that knows nothing yet.
    Cache::of(of(&world, "main"), "docs", "sources").await.push(&world, "main").await;
    let merged = announced(&world).await;
    assert_eq!(steps(of(&world, "one")).await, the(&["shared", "server", "web", "docs"]));
    let of_one = announced(&world).await;
    world.restart().await;
    assert_eq!(announced(of(&world, "one")).await, of_one);
    assert_eq!(announced(of(&world, "main")).await, merged);
}

#[tokio::test]
async fn a_layer_that_main_lets_go_costs_a_pull_request_a_step() {
    let mut world = world().await;
    let server = Cache::of(of(&world, "main"), "server", "sources").await;
    server.push(&world, "main").await;
    Cache::of(of(&world, "one"), "web", "sources").await.push(&world, "main").await;
    assert_eq!(steps(&world).await, the(&["shared", "server", "web"]));
    world.damaged_on_purpose();
    std::fs::remove_file(world.blob_file(&server.own)).unwrap();
    assert_eq!(steps(&world).await, the(&["shared", "web"]));
    // An image cannot do without it.
    let main = of(&world, "main").put_image("app", "latest", "main").await;
    let one = of(&world, "one");
    let config = descriptor(CONFIG, b"{}");
    one.put_blob("app", &b"{}"[..]).await;
    one.put_manifest("app", "mine", &image(config, vec![main.manifest["layers"][0].clone()])).await;
    one.head("/v2/app/manifests/mine").await.expect(200);
    std::fs::remove_file(world.blob_file(&main.layer)).unwrap();
    one.head("/v2/app/manifests/mine").await.expect(404);
}

#[tokio::test]
async fn a_pull_request_to_a_branch_reads_the_branch_and_then_main() {
    let world = world().await;
    of(&world, "main").put_image("app", "a", "main").await;
    of(&world, "main").put_image("app", "b", "main").await;
    let branch = of(&world, "next").put_image("app", "b", "next").await;
    Cache::of(of(&world, "main"), "server", "sources").await.push(&world, "main").await;
    Cache::of(of(&world, "next"), "web", "sources").await.push(&world, "main").await;
    let onto = of(&world, "onto-next");
    assert_eq!(tags(onto, "app").await, ["a", "b"]);
    assert_eq!(digest_of(onto, "b").await, branch.digest.to_string());
    onto.get(format!("/v2/app/blobs/{}", branch.layer)).await.expect(200);
    assert_eq!(steps(onto).await, the(&["shared", "server", "web"]));
    Cache::of(onto, "docs", "sources").await.push(&world, "main").await;
    assert_eq!(steps(onto).await, the(&["shared", "server", "web", "docs"]));
    assert_eq!(steps(of(&world, "next")).await, the(&["shared", "server", "web"]));
    of(&world, "one").get(format!("/v2/app/blobs/{}", branch.layer)).await.expect(404);
}

fn folders(world: &World) -> Vec<String> {
    let listed = std::fs::read_dir(world.config().store.path.join("t")).unwrap();
    let mut names: Vec<String> = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn a_scope_that_nobody_uses_goes_as_a_whole() {
    let world = world().await;
    for who in ["main", "one", "two"] {
        Cache::of(of(&world, who), who, "sources").await.push(&world, "main").await;
        of(&world, who).put_image("app", "latest", who).await;
    }
    let [_, one, two] = &folders(&world)[..] else { panic!("{:?}", folders(&world)) };
    let store = world.config().store.path.clone();
    age(&store.join("t"), 20 * DAY);
    // A pull is a use.
    digest_of(of(&world, "two"), "latest").await;
    let used = store.join("t").join(two).join("repos/app/!/used/latest");
    std::fs::File::options().write(true).open(&used).unwrap().set_modified(SystemTime::now()).unwrap();
    let report = world.app().collect(true).await.unwrap();
    let unused = report.decisions.iter().filter_map(|gone| match gone.reason {
        Reason::Unused { seconds } => Some((format!("{}:{}", gone.repo, gone.tag), seconds)),
        _ => None,
    });
    let (gone, seconds): (Vec<String>, Vec<u64>) = unused.unzip();
    assert_eq!(gone, ["app:latest", "shop/cache:main"], "{:?}", report.decisions);
    let days = 20 * DAY.as_secs();
    assert!(seconds.iter().all(|seconds| (days..days + 600).contains(seconds)), "{seconds:?}");
    // Condemned objects wait for the grace period each time: first the tags, then their content.
    for _ in 0..3 {
        world.app().collect(false).await.unwrap();
        age(&store.join("condemned"), 2 * DAY);
    }
    world.app().collect(false).await.unwrap();
    let left = |tenant: &str| {
        let mut files = 0;
        count(&store.join("t").join(tenant), &mut files);
        files
    };
    assert_eq!(left(one), 0, "of {one}");
    assert!(left(two) > 0 && left("default") > 0);
    // While the disk's free space is low, other rules condemn more.
    if world.app().store.room().shortage() == 0 {
        assert_eq!(steps(of(&world, "main")).await, the(&["shared", "main"]));
        assert_eq!(steps(of(&world, "two")).await, the(&["shared", "main", "two"]));
        assert_eq!(steps(of(&world, "one")).await, the(&["shared", "main"]));
    }
}

fn count(folder: &Path, files: &mut usize) {
    let Ok(listed) = std::fs::read_dir(folder) else { return };
    for entry in listed.map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() { count(&entry.path(), files) } else { *files += 1 }
    }
}

#[tokio::test]
async fn each_scope_has_a_quota_of_its_own_and_what_is_mains_does_not_count() {
    let tokens: String = ["main", "one", "two"].map(token_entry).concat();
    let text = format!("{tokens}[scopes]\nquota = {{ max = 10000 }}\n{RULES}");
    let world = World::with(|config| configure(config, &text)).await;
    let push = |who: &'static str, bytes: usize, seed: u64| {
        let world = of(&world, who);
        async move {
            let bytes = crate::world::noise(bytes, seed);
            let digest = Digest::sha256(&bytes);
            let location = match world.post("/v2/app/blobs/uploads/").await {
                answer if answer.status == 202 => answer.header("location").to_string(),
                answer => return answer.status.as_u16(),
            };
            world.put(crate::world::with_digest(&location, &digest)).body(bytes).await.status.as_u16()
        }
    };
    assert_eq!(push("main", 50_000, 1).await, 201);
    assert_eq!(push("one", 9000, 2).await, 201);
    assert_ne!(push("one", 9000, 3).await, 201);
    assert_eq!(push("two", 9000, 4).await, 201);
    assert_eq!(push("main", 50_000, 5).await, 201);
}

#[tokio::test]
async fn what_happens_in_a_scope_is_shown_as_of_the_scope_and_not_of_main() {
    const SCOPED: &str = "one";
    let world = world().await;
    crate::pages::push_cache(of(&world, "main"), "shop/cache", "main", "main").await;
    crate::pages::push_cache(of(&world, SCOPED), "shop/cache", "main", "pull request").await;
    let html = async |who: &'static str, path: &str| {
        of(&world, who).get(path).header("accept", "text/html").await.expect(200).text()
    };
    let overview = html("main", "/").await;
    let events = overview.split("Imports and exports").nth(2).unwrap().split("</table>").next().unwrap();
    let rows: Vec<&str> = events.split("<tr>").skip(2).collect();
    assert!(rows[0].contains("scope pr:1 ") && rows[0].contains("token:one"), "{rows:?}");
    assert!(!rows[0].contains("href"), "no way to main's page, which it has not changed: {rows:?}");
    assert!(rows[1].contains("/repo/shop/cache:main") && !rows[1].contains("scope pr"), "{rows:?}");
    let told = of(&world, "main").get("/api/scopes").await.expect(200).json();
    let scopes = told["scopes"].as_array().unwrap();
    assert_eq!(scopes.len(), 1, "{told}");
    assert!(scopes[0]["scope"].as_str().unwrap().starts_with("default~pr-1-"), "{told}");
    assert_eq!((&scopes[0]["text"], &scopes[0]["tags"]), (&json!("pr:1"), &json!(1)), "{told}");
    assert!(scopes[0]["bytes"].as_u64().unwrap() > 0 && scopes[0]["last"].is_string(), "{told}");
    for path in ["/", "/scopes"] {
        assert!(html("main", path).await.contains("pr:1"), "{path}");
    }
    // Neither of main's page nor of the list of main's repositories, which the scope is no part of.
    assert!(html("main", "/repo/shop/cache:main").await.contains(" by token:main"));
    let scope = scopes[0]["scope"].as_str().unwrap();
    let listed = of(&world, "main").get(format!("/api/repositories?tenant={scope}")).await.expect(200).json();
    assert_eq!(listed["repositories"], json!([]));
    // Its own callers see what is theirs, and nobody who may not administer who did it, or what others are called.
    let own = of(&world, SCOPED).get("/api/overview").await.expect(200).json();
    let events = own["events"].as_array().unwrap();
    assert_eq!((events.len(), own["scopes"].is_null()), (1, true), "{own}");
    assert!(events[0]["who"].is_null() && events[0]["scope"].is_null(), "{own}");
    assert!(html(SCOPED, "/").await.contains("/repo/shop/cache:main"));
    assert!(!html(SCOPED, "/repo/shop/cache:main").await.contains(" by token:"));
    for path in ["/scopes", "/api/scopes"] {
        of(&world, SCOPED).get(path).await.expect(403);
    }
}
