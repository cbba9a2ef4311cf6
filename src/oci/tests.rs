//! Which bytes are a manifest, and their references.

use super::*;

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str, content_type: Option<&str>) -> Result<ManifestContent> {
    ManifestContent::parse(text.replace("$D", D).as_bytes(), content_type)
}

#[test]
fn the_media_type_is_what_the_manifest_is() {
    let image = r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"$D","size":0},"layers":[]}"#;
    assert_eq!(parse(image, None).unwrap().media_type, OCI_MANIFEST);
    assert_eq!(parse(image, Some("application/json")).unwrap().media_type, OCI_MANIFEST);
    assert!(parse(image, Some(DOCKER_MANIFEST)).is_err());
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    assert_eq!(parse(index, Some(OCI_INDEX)).unwrap().media_type, OCI_INDEX);
    assert!(parse(index, Some(OCI_MANIFEST)).is_err());
}

#[test]
fn what_could_be_two_things_is_refused() {
    for bad in [
        r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#,
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#,
        r#"{"schemaVersion":2}"#,
        r#"{"schemaVersion":3,"manifests":[]}"#,
        r#"{"schemaVersion":1,"fsLayers":[]}"#,
        r#"{"schemaVersion":2,"manifests":null,"manifests":[]}"#,
        r#"{"schemaVersion":2,"mediaType":"text/plain","manifests":[]}"#,
        r#"{"schemaVersion":2,"layers":[{"mediaType":"a/b","digest":"md5:00","size":1}]}"#,
        "[]",
        "",
    ] {
        assert!(matches!(parse(bad, None), Err(InvalidManifest(_))), "{bad}");
    }
}

#[test]
fn children_of_an_index_are_manifests_or_blobs_by_their_media_type() {
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[
            {{"mediaType":"{OCI_MANIFEST}","digest":"$D","size":1}},
            {{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"$D","size":1}},
            {{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"$D","size":1}}]}}"#
    );
    let parsed = parse(&text, None).unwrap();
    assert_eq!((parsed.children.len(), parsed.blobs.len()), (1, 2));
}

#[test]
fn foreign_layers_need_not_be_here() {
    let text = r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"$D","size":0},"layers":[
        {"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":"$D","size":1},
        {"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"$D","size":1},
        {"mediaType":"a/b","digest":"$D","size":1,"urls":["https://example.com"]},
        {"mediaType":"a/b","digest":"$D","size":1}]}"#;
    assert_eq!(parse(text, None).unwrap().blobs.len(), 2);
}

#[test]
fn a_name_in_another_case_is_none_for_the_registry_and_one_for_buildkit() {
    let text = r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"$D","size":0},"Layers":[
        {"mediaType":"a/b","digest":"$D","size":1,"Size":2}]}"#;
    assert_eq!(parse(text, None).unwrap().blobs.len(), 1);
    let document = Document::parse(text.replace("$D", D).as_bytes()).unwrap();
    let layers = document.fields().unwrap().layers.unwrap();
    assert!(layers[0].fields().is_err(), "it has two sizes");
    let doubled = Document::parse(br#"{"layers":[],"LAYERS":[]}"#).unwrap();
    assert!(doubled.fields().is_err());
}

#[test]
fn descriptors_are_complete() {
    let descriptor = |rest: &str| format!(r#"{{"schemaVersion":2,"manifests":[{{{rest}}}]}}"#);
    let whole = r#""mediaType":"a/b","digest":"$D","size":1"#;
    assert!(parse(&descriptor(whole), None).is_ok());
    for rest in [
        r#""digest":"$D","size":1"#.to_owned(),
        r#""mediaType":"a/b","size":1"#.to_owned(),
        r#""mediaType":"a/b","digest":"$D""#.to_owned(),
        r#""mediaType":null,"digest":"$D","size":1"#.to_owned(),
        format!(r#"{whole},"annotations":{{"a":null}}"#),
        format!(r#"{whole},"platform":{{}}"#),
        format!(r#"{whole},"size":1"#),
    ] {
        assert!(parse(&descriptor(&rest), None).is_err(), "{rest}");
    }
}

#[test]
fn a_list_of_nothing_is_refused_before_it_takes_memory() {
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}{{}}]}}"#, "{},".repeat(1_000_000));
    assert!(Document::parse(text.as_bytes()).is_err_and(|error| error.0.contains("digest")));
}
