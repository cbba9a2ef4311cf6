//! The deeds of clients: push, ask and then push, pull, move and delete tags.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use larder::access::{Permit, Right, Tags};
use larder::auth::Gate;
use larder::buildkit::CONFIG_MEDIA_TYPE;
use larder::cache::ManifestPush;
use larder::config::{Config, Quota, RepositoryConfig, RetainConfig, TenantConfig};
use larder::deadline::Deadline;
use larder::digest::Digest;
use larder::error::Error;
use larder::events::BuildCaller;
use larder::names::{Tag, Tenant};
use larder::refs::{Repo, RepoEraser, RepoWriter};
use larder::store::Store;
use serde_json::{Value, json};

use super::ghost::{Ghost, blob_key, manifest_key};
use super::play::{Dice, Setting};
use super::sim::Sim;
use crate::world::{CONFIG, LAYER, descriptor, image};

const REPO: &str = "app";
/// Few blobs and few tags: they shall meet.
const BLOBS: usize = 3;
const TAGS: [&str; 3] = ["a", "b", "pr-1"];
/// The tag that builders push their caches to.
pub const CACHE: &str = "cache";
/// Maximum size of a blob, in bytes.
pub const BLOB_BYTES: u64 = 1000;

pub struct Replica {
    store: Store,
}

impl Replica {
    pub fn new(store: Store) -> Replica {
        Replica { store }
    }

    fn permit<R: Right>(&self) -> Permit<R> {
        let gate = Gate::open(Arc::new(Config::default()), None).unwrap();
        gate.admit(&gate.anonymous(), REPO.parse().unwrap(), Tags::None).unwrap()
    }

    fn reads(&self) -> Repo {
        self.store.repo(self.permit(), Deadline::of_each_call())
    }

    fn writes(&self) -> RepoWriter {
        self.store.writer(self.permit(), Deadline::of_each_call()).unwrap()
    }

    fn deletes(&self) -> RepoEraser {
        self.store.eraser(self.permit(), Deadline::of_each_call()).unwrap()
    }
}

/// Tags `pr-*` go by themselves when others are newer.
pub fn rules(config: &mut Config, room: Option<(u64, u64)>) {
    let retain = RetainConfig {
        tags: "pr-*".to_string().try_into().unwrap(),
        protected: false,
        unused: Some(larder::config::Span::seconds(1800)),
        pushed: None,
        newest: None,
    };
    let pattern = REPO.to_string().try_into().unwrap();
    config.repositories = vec![RepositoryConfig { pattern, sparse: false, views: true, retain: vec![retain] }];
    if let Some((high, low)) = room {
        let quota = Quota { max: None, high: Some(high), low: Some(low) };
        config.tenants = vec![TenantConfig { name: Tenant::default_tenant(), repositories: Vec::new(), quota }];
    }
}

fn blob(number: usize) -> Bytes {
    Bytes::from(format!("{{\"blob\":{number:0>980}}}"))
}

/// A push of a client.
struct Push {
    blobs: Vec<Bytes>,
    manifest: Bytes,
}

impl Push {
    /// The image of two blobs.
    fn image(config: usize, layer: usize) -> Push {
        let layers = vec![descriptor(LAYER, &blob(layer))];
        let manifest = image(descriptor(CONFIG, &blob(config)), layers).to_string().into();
        Push { blobs: vec![blob(config), blob(layer)], manifest }
    }

    /// The cache of a build of one step, or of two when they are not the same.
    fn cache(first: usize, second: usize) -> Push {
        let named = |text: String| Digest::sha256(text.as_bytes()).to_string();
        let step = |key: String, inputs: Value, layer: usize| {
            json!({ "digest": named(key), "inputs": inputs,
                "layers": [{ "layer": layer, "createdAt": "2026-01-02T03:04:05Z" }] })
        };
        let mut numbers = vec![first];
        let mut records = vec![step(format!("step {first}"), json!([]), 0)];
        if second != first {
            numbers.push(second);
            records.push(step(format!("step {second} on {first}"), json!([[{ "link": 0 }]]), 1));
        }
        let layers: Vec<Value> = numbers
            .iter()
            .map(|number| {
                let mut layer = descriptor(LAYER, &blob(*number));
                layer["annotations"] = json!({ "containerd.io/uncompressed": named(format!("diff of {number}")) });
                layer
            })
            .collect();
        let chain: Vec<Value> = (0..layers.len() as i64)
            .map(|at| json!({ "blob": layers[at as usize]["digest"], "parent": at - 1 }))
            .collect();
        let config = Bytes::from(json!({ "layers": chain, "records": records }).to_string());
        let manifest = image(descriptor(CONFIG_MEDIA_TYPE, &config), layers).to_string().into();
        let blobs = numbers.into_iter().map(blob).chain([config]).collect();
        Push { blobs, manifest }
    }

    fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }
}

/// Objects from before: garbage that is old enough to be condemned, and tags.
pub fn plant(sim: &Sim, dice: &mut Dice, setting: Setting) {
    let old = setting.wait() * 4;
    for number in 0..BLOBS {
        if dice.permille(800) {
            sim.plant(&blob_key(&Digest::sha256(&blob(number))), blob(number), old);
        }
    }
    for tag in TAGS {
        if dice.permille(400) {
            let push = Push::image(dice.below(BLOBS), dice.below(BLOBS));
            let pointer = json!({ "mediaType": larder::oci::OCI_MANIFEST,
                "digest": push.digest().to_string(), "size": push.manifest.len(), "pushed": "2026-01-01T00:00:00Z" });
            for blob in &push.blobs {
                sim.plant(&blob_key(&Digest::sha256(blob)), blob.clone(), old);
            }
            sim.plant(&manifest_key(REPO, &push.digest()), push.manifest, old);
            sim.plant(&format!("t/default/repos/{REPO}/!/tags/{tag}"), pointer.to_string().into(), old);
        }
    }
    if dice.permille(setting.due) {
        plant_batch(sim, setting);
    }
}

/// A batch of unreferenced objects, published so long ago that it can be deleted just now.
fn plant_batch(sim: &Sim, setting: Setting) {
    let at = setting.wait() + Duration::from_secs(30);
    let marked = jiff::Timestamp::try_from(sim.now() - at).unwrap();
    let state = sim.state.lock().unwrap();
    let blobs: Vec<String> = state.objects.keys().filter(|key| key.contains("/blobs/")).cloned().collect();
    let sizes: Vec<usize> = blobs.iter().map(|key| state.objects[key].bytes.len()).collect();
    drop(state);
    let list = json!({ "kind": "garbage", "marked": marked, "keys": blobs, "sizes": sizes });
    sim.plant(&format!("condemned/{:032x}/list", 77), list.to_string().into(), at);
}

/// One deed of a client.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// Asks for each object of a push, and sends the missing ones.
    Ask,
    Push,
    /// Uploads a blob alone, whether or not it exists.
    Upload,
    Pull,
    Delete,
}

/// One client. It asks one of two servers each time, as behind a balancer.
pub struct Client {
    pub replicas: [Replica; 2],
    pub ghost: Rc<RefCell<Ghost>>,
    pub dice: Rc<RefCell<Dice>>,
    pub setting: Setting,
}

impl Client {
    fn roll(&self, bound: usize) -> usize {
        self.dice.borrow_mut().below(bound)
    }

    fn replica(&self) -> &Replica {
        &self.replicas[self.roll(2)]
    }

    pub async fn script(self, number: usize) {
        let deeds = self.setting.deeds;
        for _ in 0..1 + self.roll(self.setting.deeds_max) {
            // Clients come while other work is in progress, not all at the beginning.
            let wait = self.setting.wait().as_secs() as usize;
            let later = [0, 0, 10, wait, wait * 2];
            let waits = self.setting.waits.unwrap_or(&later);
            let wait = waits[self.roll(waits.len())];
            tokio::time::sleep(Duration::from_secs(1 + self.roll(wait + 1) as u64)).await;
            let is_cache = self.roll(1000) < self.setting.caches;
            let tag: Tag = if is_cache { CACHE } else { TAGS[self.roll(TAGS.len())] }.parse().unwrap();
            let (one, other) = (self.roll(BLOBS), self.roll(BLOBS));
            let pushed = || if is_cache { Push::cache(one, other) } else { Push::image(one, other) };
            match deeds[(number + self.roll(2)) % deeds.len()] {
                Deed::Ask => self.push(&tag, pushed(), true).await,
                Deed::Push => self.push(&tag, pushed(), false).await,
                Deed::Upload => drop(self.upload(&blob(one)).await),
                Deed::Pull => self.pull(&tag).await,
                Deed::Delete => self.delete(&tag, one).await,
            }
        }
    }

    async fn upload(&self, blob: &Bytes) -> Result<(), Error> {
        let digest = Digest::sha256(blob);
        let body = futures::stream::iter([Ok(blob.clone())]).boxed();
        self.replica().writes().blobs().put_blob(&digest, Some(blob.len() as u64), body).await?;
        self.ghost.borrow_mut().advertised(&blob_key(&digest), "201");
        Ok(())
    }

    async fn push(&self, tag: &Tag, push: Push, asks: bool) {
        for blob in &push.blobs {
            let digest = Digest::sha256(blob);
            let key = blob_key(&digest);
            if asks {
                if self.roll(3) == 0 {
                    // Another client reads it, through the same server or the other one, some time before.
                    drop(self.replica().reads().blobs().open_blob(&digest).await);
                    tokio::time::sleep(Duration::from_secs(self.roll(60) as u64)).await;
                }
                match self.replica().reads().blobs().stat_blob(&digest).await {
                    Ok(Some(_)) => {
                        self.ghost.borrow_mut().advertised(&key, "HEAD");
                        continue;
                    }
                    Ok(None) => {}
                    Err(_) => return,
                }
            }
            if self.upload(blob).await.is_err() {
                return;
            }
        }
        let digest = push.digest();
        let (began, promises) = (self.ghost.borrow().records_removed, self.ghost.borrow().promises());
        let replica = self.replica();
        let (tags, bytes) = (std::slice::from_ref(tag), push.manifest);
        let manifest = ManifestPush { digest: None, tags, content_type: None, bytes, by: BuildCaller::default() };
        match replica.store.caches().push(&replica.writes(), manifest).await {
            Ok(_) => self.ghost.borrow_mut().pushed(REPO, tag, &digest, began),
            Err(Error::ManifestBlobUnknown(missing)) => self.ghost.borrow_mut().refused(&missing, promises),
            Err(_) => {}
        }
    }

    /// Deletes a tag, or content by its digest. If servers share a store, other clients may rely on the content.
    async fn delete(&self, tag: &Tag, number: usize) {
        let replica = self.replica();
        let (deletion, from) = (replica.store.deletion(), replica.deletes());
        match if self.setting.far { self.roll(3) } else { 0 } {
            0 => drop(from.delete_tag(tag).await),
            1 => {
                let digest = Digest::sha256(&blob(number));
                self.ghost.borrow_mut().deleting(&digest);
                if deletion.delete_blob(&from, &digest).await.is_err() {
                    self.ghost.borrow_mut().not_deleted(&digest);
                }
            }
            _ => {
                let Ok(Some((_, pointer))) = replica.reads().pointer(tag).await else { return };
                drop(deletion.delete_manifest(&from, &pointer.digest).await);
            }
        }
    }

    /// Pulls like an importer: the tag, then its content.
    async fn pull(&self, tag: &Tag) {
        let before = self.ghost.borrow().cache_pushes();
        let replica = self.replica();
        let Ok(manifest) = replica.store.caches().serve(&replica.reads(), tag).await else { return };
        let named = self.ghost.borrow_mut().served(REPO, tag, &manifest.digest, before);
        for digest in named {
            let rest = self.roll(self.setting.lease.as_secs() as usize / 8);
            tokio::time::sleep(Duration::from_secs(rest as u64)).await;
            // Servers may remember what they have read.
            if let Err(Error::BlobUnknown(_)) = self.replica().reads().blobs().open_blob(&digest).await {
                self.ghost.borrow_mut().unreadable(&digest);
            }
        }
    }
}
