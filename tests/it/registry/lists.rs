//! Lists of tags and repositories, in order and in pages.

use serde_json::{Value, json};

use crate::world::World;

/// Follows `Link` to the end; returns what each page lists under `field`.
pub async fn pages(world: &World, first: &str, field: &str) -> Vec<Vec<Value>> {
    let (mut pages, mut next) = (Vec::new(), Some(first.to_string()));
    while let Some(uri) = next {
        let answer = world.get(uri).await.expect(200);
        pages.push(answer.json()[field].as_array().unwrap().clone());
        next = answer.headers.contains_key("link").then(|| {
            let link = answer.header("link").strip_prefix('<').unwrap();
            link.strip_suffix(">; rel=\"next\"").unwrap().to_string()
        });
        assert!(pages.len() < 100, "the pages never end");
    }
    pages
}

fn texts(pages: &[Vec<Value>]) -> Vec<&str> {
    pages.iter().flatten().map(|entry| entry.as_str().unwrap()).collect()
}

#[tokio::test]
async fn tags_are_listed_in_order_and_page_by_page() {
    let world = World::new().await;
    let pushed = world.put_image("team/app", "v1", "seed").await;
    let sorted = ["1.0", "1.0-rc", "V2", "_x", "latest", "v1", "v10", "v2"];
    for tag in sorted.iter().rev() {
        world.put_manifest("team/app", tag, &pushed.manifest).await;
    }
    let all = world.get("/v2/team/app/tags/list").await.expect(200);
    assert_eq!(all.json(), json!({ "name": "team/app", "tags": sorted }));
    assert!(all.headers.get("link").is_none());
    for n in 1..=9 {
        let pages = pages(&world, &format!("/v2/team/app/tags/list?n={n}"), "tags").await;
        assert_eq!(texts(&pages), sorted);
        assert_eq!(pages.len(), sorted.len().div_ceil(n));
        assert!(pages[..pages.len() - 1].iter().all(|page| page.len() == n));
    }
    let behind = world.get("/v2/team/app/tags/list?last=nothing-has-this-name").await.expect(200);
    assert_eq!(behind.json()["tags"], json!(["v1", "v10", "v2"]));
    assert_eq!(world.get("/v2/team/app/tags/list?last=v2").await.expect(200).json()["tags"], json!([]));
    assert_eq!(world.get("/v2/team/app/tags/list?n=0").await.expect(200).json()["tags"], json!([]));
}

#[tokio::test]
async fn tags_of_an_unknown_repository_are_not_found() {
    let world = World::new().await;
    assert_eq!(world.get("/v2/no/such/tags/list").await.expect(404).code(), "NAME_UNKNOWN");
    // With a manifest and no tag it is known.
    let pushed = world.put_image("a", "v1", "seed").await;
    world.delete("/v2/a/manifests/v1").await.expect(202);
    assert_eq!(world.get("/v2/a/tags/list").await.expect(200).json()["tags"], json!([]));
    world.delete(format!("/v2/a/manifests/{}", pushed.digest)).await.expect(202);
    world.get("/v2/a/tags/list").await.expect(404);
}

#[tokio::test]
async fn the_catalog_lists_every_repository_once() {
    let world = World::new().await;
    assert_eq!(world.get("/v2/_catalog").await.expect(200).json(), json!({ "repositories": [] }));
    let mut names = vec!["a", "a-b", "a/b", "a/b/c", "a0", "tags/list", "z"];
    for name in &names {
        for tag in ["v1", "v2"] {
            world.put_image(name, tag, tag).await;
        }
    }
    for n in [1, 2, 3, 7, 100] {
        let pages = pages(&world, &format!("/v2/_catalog?n={n}"), "repositories").await;
        let mut listed = texts(&pages);
        listed.sort_unstable();
        names.sort_unstable();
        assert_eq!(listed, names, "pages of {n}");
    }
}

#[tokio::test]
async fn the_base_says_that_this_is_a_registry() {
    let world = World::new().await;
    for uri in ["/v2/", "/v2"] {
        assert_eq!(world.get(uri).await.expect(200).json(), json!({}));
    }
}

/// Docker's CLI up to 20.10 makes no manifest list at a server that does not say so.
#[tokio::test]
async fn every_answer_names_the_version_of_the_protocol() {
    let world = World::new().await;
    let image = world.put_image("a", "t", "seed").await;
    for (method, uri, status) in [
        ("GET", "/v2/".to_string(), 200),
        ("GET", "/v2/a/manifests/t".to_string(), 200),
        ("HEAD", "/v2/a/manifests/t".to_string(), 200),
        ("HEAD", format!("/v2/a/blobs/{}", image.layer), 200),
        ("GET", "/v2/a/manifests/none".to_string(), 404),
        ("GET", "/v2/A/manifests/t".to_string(), 400),
        ("POST", "/v2/a/blobs/uploads/".to_string(), 202),
        ("PUT", "/v2/a/tags/list".to_string(), 405),
        ("GET", "/v2/a/nothing".to_string(), 404),
    ] {
        let answer = world.call(method, &*uri).await;
        assert_eq!(answer.status, status, "{method} {uri}");
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0", "{method} {uri}");
    }
}
