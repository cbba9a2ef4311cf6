//! Reserved names of repositories.

use std::path::PathBuf;

use larder::digest::Digest;
use serde_json::json;

use crate::world::World;

/// The folder of a repository with all that are below it.
fn folder(world: &World, repo: &str) -> PathBuf {
    world.config().store.path.join("t/default/repos").join(repo)
}

/// A store that was filled by a server to which `larder/dockerfile/old` was a name like any other.
async fn stocked() -> World {
    let mut world = World::new().await;
    world.put_image("larder/docker", "v1", "beside").await;
    world.put_image("old", "v1", "under a name that is reserved by now").await;
    let reserved = folder(&world, "larder/dockerfile/old");
    std::fs::create_dir_all(reserved.parent().unwrap()).unwrap();
    std::fs::rename(folder(&world, "old"), reserved).unwrap();
    world.restart().await;
    world
}

#[tokio::test]
async fn a_push_to_a_reserved_name_is_refused_and_says_which_names_are_free() {
    let world = World::new().await;
    let digest = Digest::sha256(b"x");
    for repo in ["larder/dockerfile", "larder/dockerfile/1", "larder/token/abc"] {
        for (method, path) in [
            ("POST", "blobs/uploads/".to_string()),
            ("POST", format!("blobs/uploads/?mount={digest}&from=a")),
            ("PUT", format!("blobs/uploads/0123456789abcdef0123456789abcdef?digest={digest}")),
            ("PUT", "manifests/latest".to_string()),
        ] {
            let refused = world.call(method, format!("/v2/{repo}/{path}")).body("x").await.expect(403);
            assert_eq!(refused.code(), "DENIED", "{method} {path}");
            let said = refused.text();
            for part in [repo, "is reserved", "larder/dockerfile/**, larder/token/**", "any other name is free"] {
                assert!(said.contains(part), "{part} is not in {said}");
            }
        }
    }
    for repo in ["larder", "larder/cache", "larder/token", "larder/dockerfile-x"] {
        world.put_image(repo, "v1", "free").await;
    }
}

#[tokio::test]
async fn nothing_is_served_under_a_reserved_name() {
    let world = stocked().await;
    let digest = Digest::sha256(b"x");
    for repo in ["larder/dockerfile", "larder/dockerfile/old", "larder/token/abc"] {
        for path in
            ["manifests/v1".to_string(), format!("blobs/{digest}"), "tags/list".into(), format!("referrers/{digest}")]
        {
            let unknown = world.get(format!("/v2/{repo}/{path}")).await.expect(404);
            assert_eq!(unknown.code(), "NAME_UNKNOWN", "{repo} {path}");
            world.head(format!("/v2/{repo}/{path}")).await.expect(404);
        }
        let deleted = world.delete(format!("/v2/{repo}/manifests/v1")).await.expect(404);
        assert_eq!(deleted.code(), "NAME_UNKNOWN");
        world.get(format!("/api/inspect?ref={repo}:v1")).await.expect(404);
        world.get(format!("/repo/{repo}")).await.expect(404);
        world.get(format!("/repo/{repo}:v1")).await.expect(404);
    }
    // Nor is a reserved name a source of mounts: the client is to upload.
    world.post(format!("/v2/a/blobs/uploads/?mount={digest}&from=larder/dockerfile/old")).await.expect(202);
}

#[tokio::test]
async fn lists_leave_reserved_names_out() {
    let world = stocked().await;
    let catalog = |n: usize| format!("/v2/_catalog?n={n}");
    assert_eq!(world.get(catalog(100)).await.expect(200).json(), json!({ "repositories": ["larder/docker"] }));
    let one = world.get(catalog(1)).await.expect(200);
    assert_eq!(one.json(), json!({ "repositories": ["larder/docker"] }));
    assert!(one.headers.get("link").is_none(), "{:?}", one.headers);
    world.app().store.scan_usage().await.unwrap();
    let listed = world.get("/api/repositories").await.expect(200).json();
    assert_eq!(listed["repositories_in_all"], 1, "{listed}");
}

#[tokio::test]
async fn a_start_finds_repositories_that_have_reserved_names() {
    let world = stocked().await;
    let found = world.app().store.refs().reserved_repos().await.unwrap();
    let found: Vec<String> = found.iter().map(|(tenant, repo)| format!("{tenant} {repo}")).collect();
    assert_eq!(found, ["default larder/dockerfile/old"]);
    // Follows the advice of the warning.
    let mut world = world;
    std::fs::rename(folder(&world, "larder/dockerfile/old"), folder(&world, "kept")).unwrap();
    world.restart().await;
    assert!(world.app().store.refs().reserved_repos().await.unwrap().is_empty());
    world.get("/v2/kept/manifests/v1").await.expect(200);
}
