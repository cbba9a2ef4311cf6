//! Damage that is planted, and found.

use larder::check::Depth;

use super::*;
use crate::world::noise;

fn last(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_string()
}

#[tokio::test]
async fn a_key_that_is_not_ours() {
    let mut s = stocked().await;
    for name in ["t/default/stranger", "t/default/blobs/sha256/00/11", "t/default/repos/a/!/tags/-x", "condemner"] {
        std::fs::write(s.path(name), "x").unwrap_or_else(|_| {
            std::fs::create_dir_all(s.path(name).parent().unwrap()).unwrap();
            std::fs::write(s.path(name), "x").unwrap();
        });
    }
    let found = s.damaged().kinds(Depth::Names).await;
    assert_eq!(found, ["unknown_key condemner", "unknown_key 11", "unknown_key -x", "unknown_key stranger"]);
}

#[tokio::test]
async fn bytes_of_a_blob_that_changed_when_they_are_read() {
    let mut s = stocked().await;
    std::fs::write(s.world.blob_file(&s.image.layer), "layer of two").unwrap();
    assert_eq!(s.damaged().kinds(Depth::Names).await, [""; 0]);
    assert_eq!(s.kinds(Depth::Bytes).await, [format!("wrong_bytes {}", s.image.layer.hex())]);
}

#[tokio::test]
async fn a_blob_that_was_cut_without_reading_all_others() {
    let mut s = stocked().await;
    std::fs::write(s.world.blob_file(&s.image.layer), "layer").unwrap();
    assert_eq!(s.damaged().kinds(Depth::Names).await, [format!("wrong_bytes {}", s.image.layer.hex())]);
}

#[tokio::test]
async fn a_manifest_that_says_a_wrong_size_is_the_pushers_own_affair() {
    let s = stocked().await;
    let mut lying = s.image.manifest.clone();
    lying["layers"][0]["size"] = json!(7);
    s.world.put_manifest("a", "lying", &lying).await;
    assert_eq!(s.kinds(Depth::Names).await, [""; 0]);
}

#[tokio::test]
async fn bytes_of_a_manifest_that_changed() {
    let mut s = stocked().await;
    std::fs::write(s.manifest("a", &s.about), "{}").unwrap();
    let found = s.damaged().kinds(Depth::Names).await;
    // The statement of its tag about it is no longer true.
    assert!(found.contains(&format!("wrong_bytes {}", s.about.hex())), "{found:?}");
}

#[tokio::test]
async fn a_manifest_whose_blob_is_gone() {
    let mut s = stocked().await;
    std::fs::remove_file(s.world.blob_file(&s.image.layer)).unwrap();
    let found = s.damaged().kinds(Depth::Names).await;
    // It is the layer of the one and the config of the other.
    let mut expected = [format!("missing {}", s.image.digest.hex()), format!("missing {}", s.about.hex())];
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_index_a_tag_and_a_referrer_whose_manifest_is_gone() {
    let mut s = stocked().await;
    std::fs::remove_file(s.manifest("a", &s.image.digest)).unwrap();
    std::fs::remove_file(s.manifest("a", &s.about)).unwrap();
    let found = s.damaged().kinds(Depth::Names).await;
    let entry = format!("missing {}", last(&s.entry()));
    assert_eq!(found, [format!("missing {}", s.index.hex()), entry, "missing about".into(), "missing v1".into()]);
}

#[tokio::test]
async fn a_push_whose_manifest_is_gone() {
    let mut s = stocked().await;
    std::fs::remove_file(s.manifest("c", &s.pushes[0])).unwrap();
    let found = s.damaged().kinds(Depth::Names).await;
    assert_eq!(found, [format!("missing {}", last(&s.record(&s.pushes[0])))]);
}

#[tokio::test]
async fn a_push_whose_config_is_gone_but_layers_that_are_gone_are_only_noted() {
    let mut s = stocked().await;
    std::fs::remove_file(s.world.blob_file(&s.cached)).unwrap();
    let found = s.damaged().kinds(Depth::Names).await;
    assert!(found.contains(&format!("layers_gone {}", s.pushes[1].hex())), "{found:?}");
    assert!(found.contains(&"stale_hint main".to_string()), "{found:?}");
    assert_eq!(s.world.check().await, [], "views leave it out");
    let manifest = std::fs::read(s.manifest("c", &s.pushes[1])).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config: Digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    std::fs::remove_file(s.world.blob_file(&config)).unwrap();
    let found = s.world.check().await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].key.as_str().ends_with(&s.pushes[1].hex()), "{found:?}");
}

#[tokio::test]
async fn pointers_and_records_that_cannot_be_read() {
    let mut s = stocked().await;
    std::fs::write(s.tag("a", "v1"), "not a pointer").unwrap();
    std::fs::write(s.entry(), "[]").unwrap();
    std::fs::write(s.record(&s.pushes[0]), "").unwrap();
    std::fs::write(s.upload().join("state"), "{}").unwrap();
    std::fs::write(s.path("t/default/repos/c/!/views/main"), "{").unwrap();
    std::fs::write(s.path("meta/format"), "1").unwrap();
    let found = s.damaged().kinds(Depth::Names).await;
    let expected = [
        "unreadable format".to_string(),
        format!("unreadable {}", last(&s.entry())),
        "unreadable v1".into(),
        format!("unreadable {}", last(&s.record(&s.pushes[0]))),
        "unreadable_hint main".into(),
        "unreadable state".into(),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_upload_that_counts_a_part_which_is_gone() {
    let mut s = stocked().await;
    std::fs::remove_file(only(&s.upload().join("parts"))).unwrap();
    assert_eq!(s.damaged().kinds(Depth::Names).await, ["missing state"]);
}

#[tokio::test]
async fn a_tag_that_says_of_its_manifest_what_is_not_so() {
    for (field, value) in [("size", json!(7)), ("mediaType", json!(OCI_INDEX))] {
        let mut s = stocked().await;
        s.change(&s.tag("a", "v1"), |pointer| pointer[field] = value);
        assert_eq!(s.damaged().kinds(Depth::Names).await, ["tag_differs v1"], "{field}");
    }
}

#[tokio::test]
async fn referrers_that_are_not_listed_or_not_referrers() {
    let mut s = stocked().await;
    let entry = std::fs::read(s.entry()).unwrap();
    std::fs::remove_file(s.entry()).unwrap();
    assert_eq!(s.damaged().kinds(Depth::Names).await, [format!("referrer_missing {}", s.about.hex())]);
    std::fs::write(s.entry(), entry).unwrap();
    let other = s.entry().parent().unwrap().join(format!("sha256-{}", s.index.hex()));
    std::fs::copy(s.entry(), other).unwrap();
    assert_eq!(s.kinds(Depth::Names).await, [format!("referrer_differs sha256-{}", s.index.hex())]);
}

#[tokio::test]
async fn what_crashes_leave_is_noted_when_it_is_old() {
    let mut s = stocked().await;
    let part = s.upload().join("parts").join(format!("{:020}-{:016x}", 5, 1));
    let temporary = s.path(".larder/tmp/0123");
    for path in [&part, &temporary] {
        std::fs::write(path, "half").unwrap();
    }
    std::fs::remove_file(s.tag("c", "main")).unwrap();
    assert_eq!(s.damaged().kinds(Depth::Names).await, [""; 0], "a request may be under way");
    age(&part);
    age(&temporary);
    for push in s.pushes {
        age(&s.record(&push));
    }
    let found = s.kinds(Depth::Names).await;
    let records = s.pushes.map(|push| format!("orphan {}", last(&s.record(&push))));
    let mut expected = vec!["half_written 0123".to_string(), format!("leftover {}", last(&part))];
    expected.extend(records);
    let (mut found, mut expected) = (found, expected);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(s.world.check().await, [], "none of it is damage");
}

#[tokio::test]
async fn a_store_without_its_format() {
    let mut s = stocked().await;
    std::fs::remove_file(s.path("meta/format")).unwrap();
    assert_eq!(s.damaged().kinds(Depth::Names).await, ["no_format format"]);
}

#[tokio::test]
async fn what_is_in_quarantine_and_what_is_not_any_more() {
    let mut s = stocked().await;
    let large = s.world.put_blob("a", noise(5_000_000, 3)).await;
    std::fs::write(s.world.blob_file(&large), noise(5_000_000, 4)).unwrap();
    s.damaged();
    let summary = s.repair().await.1;
    assert_eq!((summary.broken, summary.repaired), (1, 1));
    assert_eq!(s.kinds(Depth::Names).await, [format!("quarantined {}", large.hex())]);
    std::fs::remove_file(s.world.blob_file(&large)).unwrap();
    assert_eq!(s.kinds(Depth::Names).await, [format!("stale_quarantine {}", large.hex())]);
}

#[tokio::test]
async fn a_repository_whose_name_is_reserved_by_now() {
    let s = stocked().await;
    let repos = s.path("t/default/repos");
    std::fs::create_dir_all(repos.join("larder/token")).unwrap();
    std::fs::rename(repos.join("a"), repos.join("larder/token/a")).unwrap();
    let found = check::all(s.world.objects(), s.world.config(), Depth::Names).await.unwrap();
    let named: Vec<_> = found.iter().map(|found| (found.problem.name(), found.problem.is_harmless())).collect();
    assert_eq!(named, [("reserved", true)]);
    assert!(found[0].key.as_str().starts_with("t/default/repos/larder/token/a/!/"), "{}", found[0]);
}

#[tokio::test]
async fn what_nobody_can_read_since_the_configuration_has_changed() {
    let s = stocked().await;
    let config = toml::from_str("[[tenants]]\nname = \"team\"\nrepositories = [\"a\"]\n").unwrap();
    let found = check::all(s.world.objects(), &config, Depth::Names).await.unwrap();
    let found: Vec<_> = found.iter().map(|found| found.problem.name()).collect();
    assert_eq!(found, ["unreachable"]);
}
