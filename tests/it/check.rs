//! `larder check`: every kind of damage is found and reported, and repaired if that is without risk.

mod bucket;
mod busy;
mod found;
mod repaired;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use larder::buildkit::CONFIG_MEDIA_TYPE;
use larder::check;
use larder::check::{CheckEvent, Depth, Summary, Told};
use larder::digest::Digest;
use larder::oci::{OCI_INDEX, OCI_MANIFEST};
use serde_json::{Value, json};

use crate::world::{Image, LAYER, World, descriptor, image};

/// A store with one of everything.
struct Stocked {
    world: World,
    image: Image,
    index: Digest,
    /// Refers to the image.
    about: Digest,
    /// Two pushes of one cache tag.
    pushes: [Digest; 2],
    /// A layer that only the second push references.
    cached: Digest,
}

async fn stocked() -> Stocked {
    stocked_with(World::new().await).await
}

async fn stocked_with(world: World) -> Stocked {
    let image = world.put_image("a", "v1", "one").await;
    let child = descriptor(OCI_MANIFEST, image.manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child] });
    let index = world.put_manifest("a", "index", &index).await;
    let mut about = crate::world::image(descriptor(LAYER, b"layer of one"), vec![]);
    about["subject"] = child;
    let about = world.put_manifest("a", "about", &about).await;
    let (first, _) = push(&world, "first").await;
    let (second, cached) = push(&world, "second").await;
    // Asked for, it makes the view.
    world.get("/v2/c/manifests/main").await.expect(200);
    let session = world.begin("a").await;
    world.patch(session).body("chunk").await.expect(202);
    let stocked = Stocked { world, image, index, about, pushes: [first, second], cached };
    assert_eq!(stocked.kinds(Depth::Bytes).await, [""; 0], "a sound store has findings");
    stocked
}

/// Pushes a cache of one step; returns its manifest and its layer.
async fn push(world: &World, step: &str) -> (Digest, Digest) {
    let name = |text: &str| Digest::sha256(text.as_bytes()).to_string();
    let layer = world.put_blob("c", format!("layer of {step}")).await;
    let mut named = descriptor(LAYER, format!("layer of {step}").as_bytes());
    named["annotations"] = json!({ "containerd.io/uncompressed": name(&format!("diff of {step}")) });
    let config = json!({
        "layers": [{ "blob": layer.to_string(), "parent": -1 }],
        "records": [
            { "digest": name("FROM") },
            { "digest": name(step), "inputs": [[{ "link": 0 }]],
              "layers": [{ "layer": 0, "createdAt": "2026-01-02T03:04:05Z" }] },
        ],
    });
    let config = config.to_string();
    world.put_blob("c", config.clone()).await;
    let manifest = image(descriptor(CONFIG_MEDIA_TYPE, config.as_bytes()), vec![named]);
    (world.put_manifest("c", "main", &manifest).await, layer)
}

impl Stocked {
    /// A file of the store.
    fn path(&self, key: &str) -> PathBuf {
        self.world.config().store.path.join(key)
    }

    fn manifest(&self, repo: &str, digest: &Digest) -> PathBuf {
        self.path(&format!("t/default/repos/{repo}/!/manifests/sha256/{}", digest.hex()))
    }

    fn tag(&self, repo: &str, tag: &str) -> PathBuf {
        self.path(&format!("t/default/repos/{repo}/!/tags/{tag}"))
    }

    /// The entry of `about` among the referrers of the image.
    fn entry(&self) -> PathBuf {
        let (subject, about) = (self.image.digest.hex(), self.about.hex());
        self.path(&format!("t/default/repos/a/!/referrers/sha256/{subject}/sha256-{about}"))
    }

    /// The only upload.
    fn upload(&self) -> PathBuf {
        only(&self.path("t/default/uploads"))
    }

    fn record(&self, push: &Digest) -> PathBuf {
        let records = std::fs::read_dir(self.path("t/default/repos/c/!/pushes/main")).unwrap();
        let mut records = records.map(|entry| entry.unwrap().path());
        records.find(|path| path.display().to_string().ends_with(&push.hex())).unwrap()
    }

    /// Changes the JSON in a file.
    fn change(&self, path: &PathBuf, change: impl FnOnce(&mut Value)) {
        let mut content = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        change(&mut content);
        std::fs::write(path, content.to_string()).unwrap();
    }

    /// The problems found, as `problem file`, shortened to the last part of the key.
    async fn kinds(&self, depth: Depth) -> Vec<String> {
        let found = check::all(self.world.objects(), self.world.config(), depth).await.unwrap();
        let last = |key: String| key.rsplit('/').next().unwrap().to_string();
        found.into_iter().map(|found| format!("{} {}", found.problem.name(), last(found.key.to_string()))).collect()
    }

    #[track_caller]
    fn damaged(&mut self) -> &Stocked {
        self.world.damaged_on_purpose();
        self
    }

    /// Repairs, and returns the results.
    async fn repair(&self) -> (Vec<Told>, Summary) {
        let (mut told, mut summary) = (Vec::new(), None);
        let report = |event| {
            match event {
                CheckEvent::Finding(finding) => told.push(finding),
                CheckEvent::Done(done) => summary = Some(done),
                CheckEvent::Progress(_) => {}
                CheckEvent::Failed(reason) => panic!("{reason}"),
            }
            std::future::ready(())
        };
        let returned = self.world.app().store.check(Depth::Bytes, true, report).await.unwrap();
        assert_eq!(Some(returned), summary);
        (told, returned)
    }
}

fn only(folder: &PathBuf) -> PathBuf {
    let mut entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let first = entries.next().unwrap();
    assert!(entries.next().is_none(), "{folder:?} has more than one entry");
    first
}

/// Makes a file so old that no write of it can be in flight.
fn age(path: &PathBuf) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(40 * 24 * 3600)).unwrap();
}
