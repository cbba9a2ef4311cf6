//! Parsing: forms that BuildKit writes, forms that its importer tolerates, and forms that it refuses.

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;

fn parse(config: &str) -> Result<CacheConfig, FormatError> {
    CacheConfig::parse(config.as_bytes())
}

fn json_error(config: &str) -> bool {
    matches!(parse(config), Err(FormatError::Json { .. }))
}

#[test]
fn names_match_in_any_case_and_omitted_fields_have_gos_zero_values() {
    let blob = Digest::sha256(b"blob");
    let config = parse(&format!(
        r#"{{"LAYERS":[{{"Blob":"{blob}","Parent":-1}},{{"blob":"{blob}","annotations":{{"size":1}}}},{{}}],
            "Records":[{{"Digest":"sha256:01"}},{{"layers":[{{"layer":1}}],"inputs":[[{{"SELECTOR":"s"}}]]}}],"more":[[]]}}"#
    ))
    .unwrap();
    assert_eq!(config.layers[0], Layer { blob: Some(blob), parent: None });
    assert_eq!(config.layers[1], Layer { blob: Some(blob), parent: Some(0) });
    assert_eq!(config.layers[2], Layer { blob: None, parent: None });
    assert_eq!(config.records[1].inputs, [[Link { selector: "s".into(), record: 0 }]]);
    assert_eq!(config.records[1].results, [StoredResult { stack: Stack::Top(1), created_at: CreatedAt::default() }]);
    assert_eq!(serde_json::to_string(&CreatedAt::default()).unwrap(), r#""0001-01-01T00:00:00Z""#);
}

#[test]
fn null_is_the_same_as_omitted() {
    let empty = CacheConfig::parse(b"{}").unwrap();
    assert_eq!(parse("null").unwrap(), empty);
    assert_eq!(parse(r#"{"layers":null,"records":null}"#).unwrap(), empty);
    let record = parse(r#"{"records":[null,{"digest":null,"inputs":null,"layers":null,"chains":null}]}"#).unwrap();
    assert_eq!(record.records[0], record.records[1]);
}

#[test]
fn chains_of_an_inline_cache_need_no_parents() {
    // An absent parent is 0, so the first layer would be its own parent: that matters only if it is followed.
    let config = parse(r#"{"layers":[{},{},{}],"records":[{"chains":[{"layers":[0,2]}]}]}"#).unwrap();
    assert_eq!(config.records[0].results[0].stack, Stack::Listed(vec![0, 2]));
    assert_eq!(config.layers[1].parent, None);
}

#[test]
fn what_the_importer_refuses_is_a_typed_error() {
    let cases = [
        (r#"{"records":[{"inputs":[[]]}]}"#, FormatError::EmptyInput { record: 0, input: 0 }),
        (r#"{"records":[{"inputs":[[{"link":1}],null]},{}]}"#, FormatError::EmptyInput { record: 0, input: 1 }),
        (r#"{"records":[{"inputs":[[{"link":1}]]}]}"#, FormatError::NoSuchRecord { record: 0, link: 1 }),
        (r#"{"records":[{"inputs":[[{"link":-1}]]}]}"#, FormatError::NoSuchRecord { record: 0, link: -1 }),
        (r#"{"records":[{"inputs":[[{}]]}]}"#, FormatError::RecordLoop { record: 0 }),
        (r#"{"records":[{"inputs":[[{"link":1}]]},{"inputs":[[{}]]}]}"#, FormatError::RecordLoop { record: 0 }),
        (r#"{"records":[{"layers":[{}]}]}"#, FormatError::NoSuchLayer { layer: 0 }),
        (r#"{"records":[{"chains":[{"layers":[-1]}]}]}"#, FormatError::NoSuchLayer { layer: -1 }),
        (r#"{"layers":[{"parent":9}],"records":[{"layers":[{}]}]}"#, FormatError::NoSuchLayer { layer: 9 }),
        (r#"{"layers":[{"parent":-2}],"records":[{"layers":[{}]}]}"#, FormatError::NoSuchLayer { layer: -2 }),
        (r#"{"layers":[{}],"records":[{"layers":[{}]}]}"#, FormatError::LayerLoop { layer: 0 }),
        (r#"{"layers":[{"parent":1},{}],"records":[{"layers":[{}]}]}"#, FormatError::LayerLoop { layer: 0 }),
    ];
    for (config, error) in cases {
        assert_eq!(parse(config), Err(error), "{config}");
    }
}

#[test]
fn what_is_no_cacheconfig_at_all_is_an_error() {
    for config in [
        "",
        "[]",
        "1",
        "{",
        r#"{"records":{}}"#,
        r#"{"records":[[]]}"#,
        r#"{"records":[{"digest":1}]}"#,
        r#"{"records":[{"inputs":[[{"link":"0"}]]}]}"#,
        r#"{"records":[{"inputs":[[{"link":0.0}]]}]}"#,
        r#"{"records":[{"inputs":[[{"link":9223372036854775808}]]}]}"#,
        r#"{"records":[],"records":[]}"#,
        r#"{"records":[],"Records":[]}"#,
        r#"{"records":[{"layers":[{"createdAt":"yesterday"}]}]}"#,
        r#"{"records":[{"layers":[{"createdAt":"-000001-01-01T00:00:00Z"}]}]}"#,
    ] {
        assert!(json_error(config), "{config}");
    }
}

#[test]
fn a_manifest_is_a_cache_manifest_by_its_body() {
    let descriptor = |media_type: &str| {
        let digest = Digest::sha256(media_type.as_bytes());
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":7,"annotations":{{"a":"b"}},"platform":{{}}}}"#
        )
    };
    let (config, layer) = (descriptor(CONFIG_MEDIA_TYPE), descriptor("layer"));
    let image = "application/vnd.oci.image.manifest.v1+json";
    let index = "application/vnd.oci.image.index.v1+json";
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let cases = [
        (format!(r#"{{"mediaType":"{image}","config":{config},"layers":[{layer},{layer}]}}"#), Form::Image, 2),
        (format!(r#"{{"config":{config}}}"#), Form::Image, 0),
        (format!(r#"{{"mediaType":"{index}","manifests":[{layer},{config}]}}"#), Form::Index, 1),
        (format!(r#"{{"MANIFESTS":[{config},{layer}],"schemaVersion":2}}"#), Form::Index, 1),
        (format!(r#"{{"mediaType":"{list}","manifests":[{layer},{config}]}}"#), Form::DockerList, 1),
    ];
    for (manifest, form, layers) in cases {
        let read = CacheManifest::detect(manifest.as_bytes()).unwrap().unwrap();
        assert_eq!((read.form, read.layers.len(), read.bytes), (form, layers, manifest.len() as u64), "{manifest}");
        assert_eq!((read.config.media_type.as_str(), read.config.size), (CONFIG_MEDIA_TYPE, 7));
        assert!(read.layers.iter().all(|layer| layer.annotations["a"] == "b"));
    }

    let others = [
        "not JSON".to_owned(),
        format!(r#"{{"mediaType":"{image}","config":{layer},"layers":[]}}"#),
        format!(r#"{{"mediaType":"{index}","manifests":[{layer}]}}"#),
        format!(r#"{{"mediaType":"{image}","config":{layer},"layers":[{config}]}}"#),
        format!(r#"{{"mediaType":"something/else","config":{config}}}"#),
    ];
    for manifest in others {
        assert_eq!(CacheManifest::detect(manifest.as_bytes()), Ok(None), "{manifest}");
    }

    let broken = [
        format!(r#"{{"config":{config},"layers":[],"manifests":[]}}"#),
        format!(r#"{{"config":{config},"layers":[{{}}]}}"#),
        format!(r#"{{"config":{config},"config":{config}}}"#),
        format!(r#"{{"config":{config}"#),
    ];
    for manifest in broken {
        assert!(CacheManifest::detect(manifest.as_bytes()).is_err(), "{manifest}");
    }
}

#[test]
fn a_config_of_another_size_than_announced_is_invalid() {
    let mut source = fixtures::fixture("A");
    source.config.push(b' ');
    let push = read(&source.manifest, &source.config);
    assert_eq!(push.config, Err(FormatError::ConfigSize { found: 1919, expected: 1918 }));
}

#[test]
fn a_push_that_cannot_be_read_is_left_out_and_reported() {
    let mut pushes = read_all(&[fixtures::fixture("A"), fixtures::fixture("B")]);
    pushes[1].config = CacheConfig::parse(b"{");
    let view = super::view(&pushes, &|_| true, &BOUNDS).unwrap();
    assert_eq!(view.outcome, ViewOutcome::Unchanged(0));
    assert_eq!(view.explanation.invalid_pushes[0].push, 1);
    assert_eq!(super::view(&pushes[1..], &|_| true, &BOUNDS), Err(NoView::NoValidPush));
    assert_eq!(super::view::<Push>(&[], &|_| true, &BOUNDS), Err(NoView::NoValidPush));
}

#[test]
fn descriptors_of_one_blob_are_merged_without_what_differs_between_exports() {
    let mut pushes = read_all(&[fixtures::fixture("t1"), fixtures::fixture("t1")]);
    let blob = pushes[0].manifest.layers[0].digest;
    let note = |push: &mut Push, key: &str, value: &str| {
        let layers = push.manifest.layers.iter_mut().filter(|layer| layer.digest == blob);
        layers.for_each(|layer| drop(layer.annotations.insert(key.to_owned(), value.to_owned())));
    };
    note(&mut pushes[0], "org.example.note", "kept");
    note(&mut pushes[0], CREATED_AT, "2020-01-01T00:00:00.25Z");
    note(&mut pushes[1], CREATED_AT, "2020-01-01T00:00:00.5Z");
    note(&mut pushes[1], "containerd.io/distribution.source.example.org", "team/app");
    let (view, _) = union(&pushes);
    let merged = view.manifest.layers.iter().find(|layer| layer.digest == blob).unwrap();
    assert_eq!(merged.annotations["org.example.note"], "kept");
    assert_eq!(merged.annotations[CREATED_AT], "2020-01-01T00:00:00.25Z");
    assert!(!merged.annotations.keys().any(|key| key.starts_with(DISTRIBUTION_SOURCE)));
}

#[test]
fn a_layer_without_diff_id_takes_its_results_along_and_leaves_their_keys() {
    let mut pushes = read_all(&[fixtures::fixture("A"), fixtures::fixture("B")]);
    let shared = pushes[0].manifest.layers[1].digest;
    for layer in pushes.iter_mut().flat_map(|push| &mut push.manifest.layers) {
        if layer.digest == shared {
            layer.annotations.remove(DIFF_ID);
        }
    }
    let (view, explanation) = union(&pushes);
    assert_eq!(explanation.layers_without_diff_id, 1);
    assert!(explanation.broken_results > 0 && explanation.results_out < explanation.results_in);
    assert_eq!(explanation.records_out, 13);
    assert!(view.manifest.layers.iter().all(|layer| layer.digest != shared));
}

proptest! {
    #[test]
    fn nothing_that_comes_in_panics(config in r#"[\[\]{}":,0-9a-z \\-]{0,80}"#, manifest: Vec<u8>) {
        let _ = parse(&config);
        let _ = CacheManifest::detect(&manifest);
        let _ = CacheManifest::detect(format!("{{\"config\":{config},\"x\":\"{CONFIG_MEDIA_TYPE}\"}}").as_bytes());
    }

    #[test]
    fn a_damaged_push_is_an_error_or_a_plain_answer(at: prop::sample::Index, byte: u8, other in "[0-9]{1,3}") {
        let mut source = fixtures::fixture("art");
        let at = at.index(source.config.len());
        if source.config[at].is_ascii_digit() {
            source.config.splice(at..=at, other.bytes());
        } else {
            source.config[at] = byte;
        }
        let mut push = read(&source.manifest, &source.config);
        push.config = CacheConfig::parse(&source.config);
        let _ = view(&[push.clone(), push], &|digest| digest.bytes()[0] % 2 == 0, &BOUNDS);
    }
}
