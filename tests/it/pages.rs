//! The pages and their JSON, as people and programs meet them.

use larder::digest::Digest;
use serde_json::Value;

use crate::call::Answer;
use crate::world::{LAYER, World, descriptor, image};

fn page(answer: &Answer) -> String {
    assert!(answer.header("content-type").starts_with("text/html"));
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// A cache with one record and one layer, pushed to a tag. Exactly what a builder sends.
pub async fn push_cache(world: &World, repo: &str, tag: &str, seed: &str) -> Digest {
    let layer = format!("layer of {seed}");
    world.put_blob(repo, layer.clone()).await;
    let mut named = descriptor(LAYER, layer.as_bytes());
    let diff = Digest::sha256(format!("diff of {layer}").as_bytes()).to_string();
    named["annotations"] = serde_json::json!({ "containerd.io/uncompressed": diff });
    let step = Digest::sha256(format!("step of {seed}").as_bytes()).to_string();
    let config = serde_json::json!({
        "layers": [{ "blob": named["digest"], "parent": -1 }],
        "records": [{ "digest": step, "layers": [{ "layer": 0, "createdAt": "2026-01-02T03:04:05Z" }] }],
    })
    .to_string();
    world.put_blob(repo, config.clone()).await;
    let config = descriptor("application/vnd.buildkit.cacheconfig.v0", config.as_bytes());
    world.put_manifest(repo, tag, &image(config, vec![named])).await
}

#[tokio::test]
async fn what_was_just_pushed_is_on_the_pages() {
    let world = World::new().await;
    push_cache(&world, "team/app", "cache", "one").await;
    world.put_image("team/app", "v1", "an image").await;
    let overview = page(&world.get("/").await.expect(200));
    for part in ["team/app", "/repo/team/app:cache", "export", "Overview – larder"] {
        assert!(overview.contains(part), "{part} is not in {overview}");
    }
    let repo = page(&world.get("/repo/team/app").await.expect(200));
    assert!(repo.contains("/repo/team/app:cache") && repo.contains("/repo/team/app:v1"), "{repo}");
    world.get("/repo/team/none").await.expect(404);
    world.get("/repo/team/app:none").await.expect(404);
    world.get("/repo/NO!").await.expect(404);
    world.delete("/v2/team/app/manifests/v1").await.expect(202);
    assert!(!page(&world.get("/repo/team/app").await.expect(200)).contains("/repo/team/app:v1"));
}

#[tokio::test]
async fn the_page_of_a_tag_draws_its_records_and_layers() {
    let world = World::new().await;
    push_cache(&world, "app", "cache", "one").await;
    push_cache(&world, "app", "cache", "two").await;
    let shown = page(&world.get("/repo/app:cache").await.expect(200));
    for seed in ["one", "two"] {
        let step = Digest::sha256(format!("step of {seed}").as_bytes());
        let layer = Digest::sha256(format!("layer of {seed}").as_bytes());
        for (what, digest) in [("record", step), ("layer", layer)] {
            assert!(shown.contains(&digest.hex()[..12]), "the {what} of {seed} is not in {shown}");
        }
    }
    let told = world.get("/api/repo/app:cache").await.expect(200).json();
    assert_eq!(told["is_view"], true);
    assert_eq!(told["outline"]["records"].as_array().unwrap().len(), 2);
    let blobs: Vec<&Value> = told["outline"]["layers"].as_array().unwrap().iter().map(|layer| &layer["blob"]).collect();
    for seed in ["one", "two"] {
        let layer = Digest::sha256(format!("layer of {seed}").as_bytes()).to_string();
        assert!(blobs.contains(&&Value::from(layer)), "{blobs:?}");
    }
    assert_eq!(told["known"]["pushes"], 2);
}

#[tokio::test]
async fn sizes_and_what_is_shared_are_known_when_the_store_was_counted() {
    let world = World::new().await;
    push_cache(&world, "a", "cache", "same").await;
    push_cache(&world, "b", "cache", "same").await;
    push_cache(&world, "b", "other", "own").await;
    let size = |seed: &str| format!("layer of {seed}").len() as u64;
    let tag = |told: &Value, tag: &str| {
        told["tags"].as_array().unwrap().iter().find(|row| row["tag"] == tag).cloned().unwrap()
    };
    let before = world.get("/api/repo/b").await.expect(200).json();
    assert_eq!(tag(&before, "cache")["shared"], Value::Null);
    assert!(tag(&before, "cache")["bytes"].as_u64().unwrap() > size("same"));
    world.app().store.scan_usage().await.unwrap();
    let told = world.get("/api/repo/b").await.expect(200).json();
    let cache = tag(&told, "cache");
    assert_eq!(cache["shared"], cache["bytes"], "all of it is in a:cache, too");
    assert_eq!(tag(&told, "other")["shared"], 0);
    let overview = world.get("/api/overview").await.expect(200).json();
    let tenant = &overview["tenants"][0];
    let bytes = |name: &str| tenant[name].as_u64().unwrap();
    let other = tag(&told, "other")["bytes"].as_u64().unwrap();
    assert_eq!(bytes("named_bytes"), 2 * cache["bytes"].as_u64().unwrap() + other);
    assert_eq!((tenant["repositories"].as_u64(), tenant["tags"].as_u64()), (Some(2), Some(3)));
}

#[tokio::test]
async fn a_search_finds_repositories_and_tags() {
    let world = World::new().await;
    push_cache(&world, "shop/web", "main", "one").await;
    push_cache(&world, "shop/api", "web-2", "two").await;
    let found = world.get("/api/repositories?q=web").await.expect(200).json();
    let names = |list: &str, name: &str| -> Vec<String> {
        found[list].as_array().unwrap().iter().map(|row| row[name].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names("repositories", "repo"), ["shop/web"]);
    let mut tags = names("tags", "tag");
    tags.sort();
    assert_eq!(tags, ["main", "web-2"]);
    let shown = page(&world.get("/repositories?q=%3Cscript%3E").await.expect(200));
    assert!(shown.contains("&lt;script&gt;") && !shown.contains("<script"), "{shown}");
}

#[tokio::test]
async fn what_a_cache_says_of_itself_is_text_on_a_page() {
    const EVIL: &str = "\"'><script>alert(1)</script><svg onload=x>";
    let world = World::new().await;
    world.put_blob("app", "layer").await;
    let mut layer = descriptor(EVIL, b"layer");
    let diff = Digest::sha256(b"diff").to_string();
    layer["annotations"] = serde_json::json!({ "containerd.io/uncompressed": diff, EVIL: EVIL });
    let records = (0..50).map(|i| match i {
        0 => serde_json::json!({ "digest": EVIL, "layers": [{ "layer": 0, "createdAt": "2026-01-02T03:04:05Z" }] }),
        i => serde_json::json!({ "digest": format!("{EVIL}{i}"), "inputs": [[{ "link": i - 1, "selector": EVIL }]] }),
    });
    let config = serde_json::json!({
        "layers": [{ "blob": layer["digest"], "parent": -1 }],
        "records": records.collect::<Vec<_>>(),
    });
    let config = config.to_string();
    world.put_blob("app", config.clone()).await;
    let mut manifest = image(descriptor("application/vnd.buildkit.cacheconfig.v0", config.as_bytes()), vec![layer]);
    manifest["annotations"] = serde_json::json!({ EVIL: EVIL });
    world.put_manifest("app", "evil", &manifest).await;
    for path in ["/repo/app:evil", "/repo/app", "/", "/repositories?q=evil", "/repositories?tenant=%3Cscript%3E%22"] {
        let shown = page(&world.get(path).header("accept", "text/html").await.expect(200));
        let lower = shown.to_lowercase();
        assert!(!lower.contains("<script") && !lower.contains("<svg onload"), "{path}: {shown}");
    }
    let shown = page(&world.get("/repo/app:evil").await.expect(200));
    assert!(shown.contains("&lt;script&gt;"), "the name of the record is on the page: {shown}");
}

#[tokio::test]
async fn every_page_is_guarded_and_is_json_for_programs() {
    let world = World::new().await;
    push_cache(&world, "app", "cache", "one").await;
    for path in ["/", "/repositories", "/repo/app", "/repo/app:cache", "/evictions", "/scopes", "/jobs", "/repo/none"] {
        let shown = world.get(path).header("accept", "text/html").await;
        assert!(shown.header("content-security-policy").contains("default-src 'none'"), "{path}");
        assert_eq!(shown.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(shown.header("x-frame-options"), "DENY", "{path}");
        let text = page(&shown);
        assert!(!text.contains("<script") && !text.contains(" style="), "{path} has what its policy forbids: {text}");
        let told = world.get(path).header("accept", "application/json").await;
        assert_eq!((told.status, told.header("content-type")), (shown.status, "application/json"), "{path}");
    }
    let style = world.get("/style.css").await.expect(200);
    assert!(style.header("content-type").starts_with("text/css"));
}

#[tokio::test]
async fn hits_and_bytes_are_counted_by_tenant_kind_and_source() {
    let world = World::new().await;
    push_cache(&world, "app", "cache", "one").await;
    let layer = Digest::sha256(b"layer of one");
    world.head(format!("/v2/app/blobs/{layer}")).await.expect(200);
    world.head(format!("/v2/app/blobs/{}", Digest::sha256(b"none"))).await.expect(404);
    world.get(format!("/v2/app/blobs/{layer}")).await.expect(200);
    world.get("/v2/app/manifests/none").await.expect(404);
    world.get("/v2/app/manifests/cache").await.expect(200);
    let metrics = String::from_utf8(world.get("/metrics").await.expect(200).body.to_vec()).unwrap();
    let size = "layer of one".len();
    for line in [
        r#"larder_lookups_total{kind="upload",result="hit",tenant="default"} 1"#.to_string(),
        r#"larder_lookups_total{kind="upload",result="miss",tenant="default"} 1"#.to_string(),
        r#"larder_lookups_total{kind="blob",result="hit",tenant="default"} 1"#.to_string(),
        r#"larder_lookups_total{kind="tag",result="hit",tenant="default"} 1"#.to_string(),
        r#"larder_lookups_total{kind="tag",result="miss",tenant="default"} 1"#.to_string(),
        format!(r#"larder_upload_saved_bytes_total{{how="present",tenant="default"}} {size}"#),
        format!(r#"larder_served_bytes_total{{from="hot",tenant="default"}} {size}"#),
        r#"larder_exports_total{tenant="default"} 1"#.to_string(),
        r#"larder_imports_total{tenant="default"} 0"#.to_string(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

/// The classes of the cells of each row of each table, the headings first.
fn tables(page: &str) -> Vec<Vec<Vec<bool>>> {
    let is_number = |cell: &str| cell.split('>').next().unwrap().contains(r#"class="number""#);
    let cells = |row: &str| -> Vec<bool> {
        let starts =
            row.match_indices("<t").filter(|(at, _)| row[*at..].starts_with("<td") || row[*at..].starts_with("<th"));
        starts.map(|(at, _)| is_number(&row[at..])).collect()
    };
    let tables = page.split("<table>").skip(1).map(|table| table.split("</table>").next().unwrap());
    tables.map(|table| table.split("<tr>").skip(1).map(cells).collect()).collect()
}

#[tokio::test]
async fn numbers_stand_under_their_headings() {
    let world = World::new().await;
    push_cache(&world, "app", "cache", "one").await;
    let mut seen = 0;
    for path in ["/", "/repositories", "/repositories?q=cache", "/repo/app", "/repo/app:cache", "/jobs"] {
        for table in tables(&page(&world.get(path).header("accept", "text/html").await.expect(200))) {
            let (headings, rows) = table.split_first().unwrap();
            assert!(headings.contains(&true) && !rows.is_empty(), "{path}: {table:?}");
            assert!(rows.iter().all(|row| row == headings), "{path}: {table:?}");
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen} tables");
}

#[tokio::test]
async fn existence_checks_of_exports_are_no_misses_of_imports() {
    let world = World::new().await;
    push_cache(&world, "app", "cache", "one").await;
    for seed in ["one", "two", "three", "four"] {
        world.head(format!("/v2/app/blobs/{}", Digest::sha256(format!("layer of {seed}").as_bytes()))).await;
    }
    world.get("/v2/app/manifests/cache").await.expect(200);
    let so_far = world.get("/api/overview").await.expect(200).json()["so_far"].take();
    assert_eq!((&so_far["hits"], &so_far["misses"]), (&Value::from(1), &Value::from(0)), "{so_far}");
    assert_eq!((&so_far["present"], &so_far["absent"]), (&Value::from(1), &Value::from(3)), "{so_far}");
    let overview = page(&world.get("/").await.expect(200));
    assert!(overview.contains("<strong>100 %</strong>"), "{overview}");
    assert!(overview.contains("25 % of the blobs of exports were there"), "{overview}");
}

#[tokio::test]
async fn an_import_and_an_export_last_from_the_first_request_of_their_build() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
    let world = World::new().await;
    push_cache(&world, "app", "cache", "one").await;
    let manifest = world.get("/v2/app/manifests/cache").header("traceparent", TRACE).await.expect(200).json();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let import = world.get(format!("/v2/app/blobs/{config}")).header("traceparent", TRACE);
    import.header("accept", &format!("{CONFIG}, */*")).await.expect(200);
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    world.head(format!("/v2/app/blobs/{layer}")).header("traceparent", TRACE).await.expect(200);
    let push = world.put("/v2/app/manifests/other").header("traceparent", TRACE);
    push.header("content-type", "application/vnd.oci.image.manifest.v1+json")
        .body(manifest.to_string())
        .await
        .expect(201);
    let events = world.get("/api/overview").await.expect(200).json()["events"].clone();
    let told: Vec<(&str, Option<&str>, bool)> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["deed"].as_str().unwrap(), event["tag"].as_str(), event["seconds"].is_number()))
        .collect();
    // The newest first; the first push told no trace.
    assert_eq!(
        told,
        [("export", Some("other"), true), ("import", Some("cache"), true), ("export", Some("cache"), false)]
    );
    let metrics = String::from_utf8(world.get("/metrics").await.expect(200).body.to_vec()).unwrap();
    assert!(metrics.contains("larder_export_seconds_count 1") && metrics.contains("larder_import_seconds_count 1"));
}

#[tokio::test]
async fn the_jobs_of_a_running_server_are_shown_with_their_last_results() {
    let world = World::new().await;
    let server = world.serve().await;
    let jobs = async || world.get("/api/jobs").await.expect(200).json()["jobs"].take();
    let names = |jobs: &Value| -> Vec<String> {
        jobs.as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap().to_string()).collect()
    };
    let expected = ["sweep", "count", "pending-deletions", "collection", "history", "revoked-sessions"];
    let mut told = jobs().await;
    while names(&told) != expected || told.as_array().unwrap()[..3].iter().any(|job| job["last"].is_null()) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        told = jobs().await;
    }
    assert_eq!((&told[0]["last"]["result"], &told[0]["failures"]), (&Value::from("ok"), &Value::from(0)));
    assert!(told[0]["next"].is_string() && told[3]["last"].is_null(), "{told}");
    let shown = page(&world.get("/jobs").header("accept", "text/html").await.expect(200));
    for part in expected.iter().chain(&["every 10 min", "when space is needed", r#"href="/jobs""#]) {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let metrics = String::from_utf8(world.get("/metrics").await.expect(200).body.to_vec()).unwrap();
    assert!(metrics.contains(r#"larder_job_runs_total{name="sweep",result="ok"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"larder_job_runs_total{name="collection",result="failed"} 0"#), "{metrics}");
    server.stopped().await;
}

const RESOLVES: &str = "application/vnd.docker.distribution.manifest.v2+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

#[tokio::test]
async fn the_first_page_says_how_many_imports_found_a_cache() {
    let world = World::new().await;
    push_cache(&world, "app", "cache", "one").await;
    // As BuildKit looks before it pushes, and before it imports.
    let look =
        |tag: &str, accept: &'static str| world.head(format!("/v2/app/manifests/{tag}")).header("accept", accept);
    look("none", "application/vnd.oci.image.manifest.v1+json, */*").await.expect(404);
    // As crane looks before it pushes.
    look("none", RESOLVES.strip_suffix(", */*").unwrap()).await.expect(404);
    let overview = page(&world.get("/").await.expect(200));
    assert!(overview.contains("no build has imported yet"), "{overview}");
    look("none", RESOLVES).await.expect(404);
    look("cache", RESOLVES).await.expect(200);
    let manifest = world.get("/v2/app/manifests/cache").header("accept", RESOLVES).await.expect(200).json();
    let config = world.get(format!("/v2/app/blobs/{}", manifest["config"]["digest"].as_str().unwrap()));
    config.header("accept", "application/vnd.buildkit.cacheconfig.v0, */*").await.expect(200);
    let overview = page(&world.get("/").await.expect(200));
    for part in ["<strong>1 of 2</strong>", "1 asked for a tag that does not exist", "import: no such tag"] {
        assert!(overview.contains(part), "{part} in {overview}");
    }
    let metrics = String::from_utf8(world.get("/metrics").await.expect(200).body.to_vec()).unwrap();
    assert!(metrics.contains(r#"larder_import_misses_total{tenant="default"} 1"#), "{metrics}");
    // Nothing lasts no time at all, and the request for the page is not one that people ask about.
    for part in ["last 0 s", ">0 s ago<", "0.0 s", "Requests in flight: 1"] {
        assert!(!overview.contains(part), "{part} in {overview}");
    }
    assert!(overview.contains("were there, since the start of the server"), "{overview}");
    // Before a count nobody knows what is shared.
    assert!(overview.contains("not counted yet"), "{overview}");
    world.app().store.scan_usage().await.unwrap();
    assert!(!page(&world.get("/").await.expect(200)).contains("not counted yet"));
}

#[tokio::test]
async fn an_empty_server_shows_the_lines_that_fill_it() {
    let world = World::new().await;
    let shown = |host: &'static str| {
        let asked = world.get("/").header("accept", "text/html").header("host", host);
        async move { page(&asked.await.expect(200)) }
    };
    let here = shown("127.0.0.1:5000").await;
    let build = "docker buildx build --cache-to type=registry,ref=127.0.0.1:5000/app:cache,mode=max,ignore-error=true \
                 --cache-from type=registry,ref=127.0.0.1:5000/app:cache .";
    assert!(here.contains(build) && here.contains("network=host"), "{here}");
    assert!(!here.contains("Nothing.") && !here.contains("<h2>"), "{here}");
    let elsewhere = shown("10.0.0.7:5000").await;
    for part in ["http = true", "ref=10.0.0.7:5000/app:cache", "--buildkitd-config"] {
        assert!(elsewhere.contains(part), "{part} in {elsewhere}");
    }
    push_cache(&world, "app", "cache", "one").await;
    assert!(!shown("127.0.0.1:5000").await.contains("docker buildx"));
}

#[tokio::test]
async fn a_condemned_tag_says_when_it_is_deleted_until_it_is_used() {
    let rules = "[[repositories]]\npattern = \"app\"\nretain = [{ tags = \"*\", newest = 1 }]\n";
    let rules = toml::from_str::<larder::config::Config>(rules).unwrap().repositories;
    let world = World::with(|config| config.repositories = rules.clone()).await;
    push_cache(&world, "app", "old", "old").await;
    let days = std::time::Duration::from_secs(20 * 24 * 3600);
    crate::world::age(&world.config().store.path.join("t"), days);
    push_cache(&world, "app", "new", "new").await;
    world.app().collect(false).await.unwrap();
    let row = async |tag: &str| {
        let told = world.get("/api/repo/app").await.expect(200).json();
        let rows = told["tags"].as_array().unwrap().iter();
        rows.filter(|row| row["tag"] == tag).map(|row| row["pending_deletion"].clone()).next().unwrap()
    };
    let pending = row("old").await;
    let at = |name: &str| pending[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let wait = world.app().store.refs().config().collect.wait(false);
    assert_eq!(at("due").duration_since(at("condemned")).unsigned_abs(), wait, "{pending}");
    assert_eq!(pending["why"], "not among the newest 1");
    assert!(pending["bytes"].as_u64().unwrap() > 0, "{pending}");
    assert!(row("new").await.is_null());
    for path in ["/repo/app", "/repo/app:old", "/", "/repositories?q=old"] {
        let shown = page(&world.get(path).header("accept", "text/html").await.expect(200));
        assert!(shown.contains("pending deletion (not among the newest 1): frees up to "), "{path}: {shown}");
    }
    let evictions = page(&world.get("/evictions").header("accept", "text/html").await.expect(200));
    assert!(evictions.contains("the tag") && !evictions.contains(">–<"), "its bytes are known: {evictions}");
    // To look at it is no use; to import it is.
    assert!(!row("old").await.is_null());
    world.get("/v2/app/manifests/old").await.expect(200);
    assert!(row("old").await.is_null());
}

#[tokio::test]
async fn the_page_of_an_image_shows_its_platforms_and_layers() {
    const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    let world = World::new().await;
    let mut children = Vec::new();
    for (architecture, said) in [("amd64", true), ("arm64", false)] {
        let (layer, config) =
            (format!("layer of {architecture}"), format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#));
        world.put_blob("base", layer.clone()).await;
        world.put_blob("base", config.clone()).await;
        let manifest = image(descriptor(IMAGE_CONFIG, config.as_bytes()), vec![descriptor(LAYER, layer.as_bytes())]);
        world.put_manifest("base", architecture, &manifest).await;
        let mut child = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        if said {
            // A client may write what it likes.
            child["platform"] =
                serde_json::json!({ "os": "linux", "architecture": "amd64", "variant": "\u{1b}[31m<b>" });
        }
        children.push(child);
    }
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": children,
    });
    world.put_manifest("base", "1", &index).await;
    for (tag, platforms) in [("arm64", &["linux/arm64"][..]), ("1", &["linux/amd64", "linux/arm64"])] {
        let told = world.get(format!("/api/inspect?ref=base:{tag}")).await.expect(200).json();
        let images = told["images"].as_array().unwrap();
        let found: Vec<&str> = images.iter().map(|image| image["platform"].as_str().unwrap()).collect();
        assert_eq!(found, platforms, "{tag}");
        let shown = page(&world.get(format!("/repo/base:{tag}")).await.expect(200));
        for platform in platforms {
            let layer = Digest::sha256(format!("layer of {}", &platform["linux/".len()..]).as_bytes());
            assert!(shown.contains(platform) && shown.contains(&layer.hex()[..12]), "{tag} {platform}: {shown}");
        }
    }
    push_cache(&world, "base", "cache", "one").await;
    assert!(world.get("/api/inspect?ref=base:cache").await.expect(200).json()["images"].is_null());
}
