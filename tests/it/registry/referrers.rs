//! Referrers: manifests with a subject.

use larder::digest::Digest;
use larder::oci::{OCI_INDEX, OCI_MANIFEST};
use serde_json::{Value, json};

use crate::registry::lists::pages;
use crate::world::{World, descriptor, image};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Pushes an artifact about `subject`; returns its digest and its expected entry in a list of referrers.
async fn put_about(world: &World, subject: &Value, kind: Option<&str>, note: &str) -> (Digest, Value) {
    world.put_blob("a", "{}").await;
    let mut manifest = image(descriptor(EMPTY, b"{}"), vec![descriptor(EMPTY, b"{}")]);
    manifest["subject"] = subject.clone();
    manifest["annotations"] = json!({ "note": note });
    if let Some(kind) = kind {
        manifest["artifactType"] = kind.into();
    }
    let text = manifest.to_string();
    let digest = Digest::sha256(text.as_bytes());
    let put = world.put(format!("/v2/a/manifests/{digest}")).header("content-type", OCI_MANIFEST).body(text.clone());
    assert_eq!(put.await.expect(201).header("oci-subject"), subject["digest"].as_str().unwrap());
    let mut expected = descriptor(OCI_MANIFEST, text.as_bytes());
    expected["artifactType"] = kind.unwrap_or(EMPTY).into();
    expected["annotations"] = json!({ "note": note });
    (digest, expected)
}

async fn referrers(world: &World, subject: &Digest, query: &str) -> Vec<Value> {
    let got = world.get(format!("/v2/a/referrers/{subject}{query}")).await.expect(200);
    assert_eq!(got.header("content-type"), OCI_INDEX);
    let index = got.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(OCI_INDEX)));
    index["manifests"].as_array().unwrap().clone()
}

fn sorted(mut descriptors: Vec<Value>) -> Vec<Value> {
    descriptors.sort_by_key(|descriptor| descriptor["digest"].to_string());
    descriptors
}

#[tokio::test]
async fn nothing_refers_to_what_nobody_knows() {
    let world = World::new().await;
    assert_eq!(referrers(&world, &Digest::sha256(b"unknown"), "").await, Vec::<Value>::new());
}

#[tokio::test]
async fn referrers_are_listed_with_their_type_and_notes() {
    let mut world = World::new().await;
    let subject = world.put_image("a", "v1", "seed").await;
    let about = descriptor(OCI_MANIFEST, subject.manifest.to_string().as_bytes());
    let (_, one) = put_about(&world, &about, Some("application/sbom"), "one").await;
    let (_, two) = put_about(&world, &about, None, "two").await;
    // An index may refer as well; its type is its `artifactType`, as it has no config.
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": about,
        "artifactType": "application/bundle" });
    world.put_manifest("a", "bundle", &index).await;
    let mut three = descriptor(OCI_INDEX, index.to_string().as_bytes());
    three["artifactType"] = "application/bundle".into();
    for _ in 0..2 {
        let expected = sorted(vec![one.clone(), two.clone(), three.clone()]);
        assert_eq!(referrers(&world, &subject.digest, "").await, expected);
        world.restart().await;
    }
    // Another repository does not list it.
    let other = world.get(format!("/v2/b/referrers/{}", subject.digest)).await.expect(200);
    assert_eq!(other.json()["manifests"], json!([]));
}

#[tokio::test]
async fn a_filter_is_applied_and_said_to_be() {
    let world = World::new().await;
    let subject = descriptor(OCI_MANIFEST, b"not pushed yet");
    let digest = Digest::sha256(b"not pushed yet");
    let (_, sbom) = put_about(&world, &subject, Some("application/sbom+json"), "one").await;
    put_about(&world, &subject, Some("application/other"), "two").await;
    let uri = format!("/v2/a/referrers/{digest}?artifactType=application%2Fsbom%2Bjson");
    let got = world.get(uri).await.expect(200);
    assert_eq!(got.header("oci-filters-applied"), "artifactType");
    assert_eq!(got.json()["manifests"], json!([sbom]));
    assert!(referrers(&world, &digest, "?artifactType=none").await.is_empty());
    let all = world.get(format!("/v2/a/referrers/{digest}")).await.expect(200);
    assert!(all.headers.get("oci-filters-applied").is_none());
}

#[tokio::test]
async fn a_deleted_referrer_is_not_listed() {
    let world = World::new().await;
    let subject = descriptor(OCI_MANIFEST, b"subject");
    let (gone, _) = put_about(&world, &subject, None, "one").await;
    let (_, stays) = put_about(&world, &subject, None, "two").await;
    world.delete(format!("/v2/a/manifests/{gone}")).await.expect(202);
    assert_eq!(referrers(&world, &Digest::sha256(b"subject"), "").await, [stays]);
}

#[tokio::test]
async fn pages_of_referrers_make_the_whole() {
    let world = World::new().await;
    let subject = descriptor(OCI_MANIFEST, b"subject");
    let mut expected = Vec::new();
    for i in 0..7 {
        let kind = if i % 2 == 0 { "application/even" } else { "application/odd" };
        expected.push(put_about(&world, &subject, Some(kind), &format!("note {i}")).await.1);
    }
    let uri = format!("/v2/a/referrers/{}", Digest::sha256(b"subject"));
    let all = pages(&world, &format!("{uri}?n=3"), "manifests").await;
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    assert_eq!(all.concat(), sorted(expected.clone()));
    // The filter applies to all pages, and pages count its results.
    let even = pages(&world, &format!("{uri}?artifactType=application%2Feven&n=2"), "manifests").await;
    assert_eq!(even.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    assert!(even.concat().iter().all(|found| found["artifactType"] == "application/even"));
}
