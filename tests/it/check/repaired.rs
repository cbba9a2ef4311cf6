//! Damage that is repaired, and damage that is left alone.

use super::*;

fn done(told: &[Told]) -> Vec<(&str, Option<&str>)> {
    told.iter().map(|told| (&*told.problem, told.repaired.as_deref())).collect()
}

#[tokio::test]
async fn wrong_bytes_count_as_missing_until_they_are_pushed_again() {
    let mut s = stocked().await;
    let uri = format!("/v2/a/blobs/{}", s.image.layer);
    std::fs::write(s.world.blob_file(&s.image.layer), "layer of two").unwrap();
    std::fs::write(s.manifest("a", &s.about), "{}").unwrap();
    s.damaged();
    s.world.restart().await;
    s.world.head(&uri).await.expect(200);
    let (told, _) = s.repair().await;
    assert_eq!(
        told.iter().filter(|told| told.repaired.as_deref() == Some("put into quarantine")).count(),
        2,
        "{told:?}"
    );
    for _ in 0..2 {
        s.world.head(&uri).await.expect(404);
        s.world.get(&uri).await.expect(404);
        s.world.get("/v2/a/manifests/about").await.expect(404);
        // The next server on this store knows of the damage, too.
        s.world.restart().await;
    }
    s.world.put_blob("a", "layer of one").await;
    assert_eq!(s.world.get(&uri).await.expect(200).body, "layer of one");
    let mut about = image(descriptor(LAYER, b"layer of one"), vec![]);
    about["subject"] = descriptor(OCI_MANIFEST, s.image.manifest.to_string().as_bytes());
    s.world.put_manifest("a", "about", &about).await;
    assert_eq!(s.kinds(Depth::Bytes).await, [""; 0]);
}

#[tokio::test]
async fn rot_that_a_reader_finds_is_known_to_the_next_server() {
    let mut s = stocked().await;
    let uri = format!("/v2/a/blobs/{}", s.image.layer);
    std::fs::write(s.world.blob_file(&s.image.layer), "layer of two").unwrap();
    s.damaged();
    s.world.restart().await;
    s.world.get(&uri).await.expect(404);
    s.world.restart().await;
    s.world.head(&uri).await.expect(404);
    // An image that cannot be pulled to its end is not offered.
    for image in ["v1".to_string(), s.image.digest.to_string()] {
        s.world.get(format!("/v2/a/manifests/{image}")).await.expect(404);
    }
    s.world.put_blob("a", "layer of one").await;
    s.world.get("/v2/a/manifests/v1").await.expect(200);
    s.world.restart().await;
    s.world.get(&uri).await.expect(200);
    assert_eq!(s.kinds(Depth::Bytes).await, [""; 0]);
}

#[tokio::test]
async fn names_of_what_is_gone_go_when_they_are_old() {
    let mut s = stocked().await;
    std::fs::remove_file(s.manifest("a", &s.about)).unwrap();
    std::fs::remove_file(s.manifest("c", &s.pushes[0])).unwrap();
    let record = s.record(&s.pushes[0]);
    s.damaged();
    let (told, summary) = s.repair().await;
    let young = [("missing", None), ("missing", None), ("missing", None)];
    assert_eq!((done(&told), summary.repaired), (young.to_vec(), 0), "a push may be under way");
    for path in [&s.tag("a", "about"), &s.entry(), &record] {
        age(path);
    }
    let (told, summary) = s.repair().await;
    assert_eq!((summary.broken, summary.repaired), (3, 3), "{told:?}");
    assert_eq!(s.world.check().await, []);
    s.world.get("/v2/a/manifests/about").await.expect(404);
    let tags = s.world.get("/v2/a/tags/list").await.expect(200).json();
    assert_eq!(tags["tags"], json!(["index", "v1"]));
    s.world.get("/v2/c/manifests/main").await.expect(200);
}

#[tokio::test]
async fn a_cache_tag_whose_last_push_is_gone_goes_on_serving_the_others() {
    let mut s = stocked().await;
    std::fs::remove_file(s.manifest("c", &s.pushes[1])).unwrap();
    age(&s.tag("c", "main"));
    s.damaged();
    s.world.restart().await;
    s.repair().await;
    s.world.get("/v2/c/manifests/main").await.expect(200);
}

#[tokio::test]
async fn what_can_be_told_from_the_content_is_written_anew() {
    let mut s = stocked().await;
    std::fs::remove_file(s.entry()).unwrap();
    s.change(&s.tag("a", "v1"), |pointer| pointer["size"] = json!(7));
    s.damaged();
    let (told, _) = s.repair().await;
    let mended = [("referrer_missing", Some("written again")), ("tag_differs", Some("written again"))];
    assert_eq!(done(&told), mended);
    assert_eq!(s.kinds(Depth::Bytes).await, [""; 0]);
    let referrers = s.world.get(format!("/v2/a/referrers/{}", s.image.digest)).await.expect(200).json();
    assert_eq!(referrers["manifests"][0]["digest"], s.about.to_string());
}

#[tokio::test]
async fn what_crashes_left_is_swept_when_it_is_old() {
    let mut s = stocked().await;
    let part = s.upload().join("parts").join(format!("{:020}-{:016x}", 5, 1));
    std::fs::write(&part, "half").unwrap();
    age(&part);
    std::fs::remove_file(s.tag("c", "main")).unwrap();
    let records = s.pushes.map(|push| s.record(&push));
    age(&records[0]);
    s.damaged();
    let (told, _) = s.repair().await;
    assert!(!part.exists() && !records[0].exists() && records[1].exists(), "{told:?}");
}

#[tokio::test]
async fn what_only_people_can_judge_is_left() {
    let mut s = stocked().await;
    std::fs::write(s.path("t/default/stranger"), "x").unwrap();
    age(&s.path("t/default/stranger"));
    std::fs::remove_file(s.world.blob_file(&s.image.layer)).unwrap();
    s.damaged();
    let before = s.kinds(Depth::Bytes).await;
    let (told, summary) = s.repair().await;
    assert_eq!((summary.broken, summary.repaired), (3, 0), "{told:?}");
    assert_eq!(s.kinds(Depth::Bytes).await, before);
}

#[tokio::test]
async fn a_note_that_is_mended_does_not_stand_for_what_is_broken() {
    let mut s = stocked().await;
    std::fs::remove_file(s.world.blob_file(&s.image.layer)).unwrap();
    let part = s.upload().join("parts").join(format!("{:020}-{:016x}", 5, 1));
    std::fs::write(&part, "half").unwrap();
    age(&part);
    s.damaged();
    let (told, summary) = s.repair().await;
    assert!(!part.exists() && summary.broken > 0, "{told:?}");
    assert_eq!((summary.repaired, summary.notes, summary.notes_repaired), (0, 1, 1), "{told:?}");
}
