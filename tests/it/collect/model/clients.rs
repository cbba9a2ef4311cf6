//! What clients do: push, ask and then push, pull, move and delete tags.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use larder::access::{Access, Verb};
use larder::auth::Gate;
use larder::config::{Config, RepositoryConfig, RetainConfig};
use larder::digest::Digest;
use larder::names::{Reference, Tag};
use larder::store::{Error, Repo, Store};
use serde_json::json;

use super::ghost::{Ghost, blob_key, manifest_key};
use super::play::{Dice, Setting};
use super::sim::Sim;
use crate::world::{CONFIG, LAYER, descriptor, image};

const REPO: &str = "app";
/// Few blobs and few tags: they shall meet.
const BLOBS: usize = 3;
const TAGS: [&str; 3] = ["a", "b", "pr-1"];

pub struct Replica {
    store: Store,
}

impl Replica {
    pub fn new(store: Store) -> Replica {
        Replica { store }
    }

    fn repo(&self) -> Repo {
        let access = Access::to(REPO.parse().unwrap(), Verb::Push);
        let gate = Gate::open(Arc::new(Config::default()), None).unwrap();
        self.store.repo(gate.admit(&gate.anonymous(), access).unwrap())
    }
}

/// Tags `pr-*` go by themselves when others are newer.
pub fn rules(config: &mut Config) {
    let retain = RetainConfig {
        tags: "pr-*".to_string().try_into().unwrap(),
        protected: false,
        unused: Some(larder::config::Span::seconds(1800)),
        pushed: None,
        newest: None,
    };
    let pattern = REPO.to_string().try_into().unwrap();
    config.repositories = vec![RepositoryConfig { pattern, sparse: false, views: true, retain: vec![retain] }];
}

fn blob(number: usize) -> Bytes {
    Bytes::from(format!("{{\"blob\":{number}}}"))
}

/// The image of two blobs.
fn manifest(config: usize, layer: usize) -> Bytes {
    let layer = vec![descriptor(LAYER, &blob(layer))];
    Bytes::from(image(descriptor(CONFIG, &blob(config)), layer).to_string())
}

/// What there was before: garbage that is old enough to go, and tags.
pub fn plant(sim: &Sim, dice: &mut Dice, setting: Setting) {
    let old = setting.wait() * 4;
    for number in 0..BLOBS {
        if dice.permille(800) {
            sim.plant(&blob_key(&Digest::sha256(&blob(number))), blob(number), old);
        }
    }
    for tag in TAGS {
        if dice.permille(400) {
            let (config, layer) = (dice.below(BLOBS), dice.below(BLOBS));
            let bytes = manifest(config, layer);
            let digest = Digest::sha256(&bytes);
            let pointer = json!({ "mediaType": larder::store::manifests::OCI_MANIFEST, "digest": digest.to_string(),
                "size": bytes.len(), "pushed": "2026-01-01T00:00:00Z" });
            for number in [config, layer] {
                sim.plant(&blob_key(&Digest::sha256(&blob(number))), blob(number), old);
            }
            sim.plant(&manifest_key(REPO, &digest), bytes, old);
            sim.plant(&format!("t/default/repos/{REPO}/!/tags/{tag}"), pointer.to_string().into(), old);
        }
    }
}

/// What one client does. It asks one of two servers each time, as behind a balancer.
pub async fn script(
    number: usize,
    replicas: [Replica; 2],
    ghost: Rc<RefCell<Ghost>>,
    dice: Rc<RefCell<Dice>>,
    setting: Setting,
) {
    let roll = |bound: usize| dice.borrow_mut().below(bound);
    let repo = || replicas[roll(2)].repo();
    for _ in 0..1 + roll(3) {
        // Clients come when something is going on, not all at the beginning.
        let waits = [0, 10, setting.wait().as_secs() as usize, setting.wait().as_secs() as usize * 2];
        let wait = waits[roll(waits.len())];
        tokio::time::sleep(Duration::from_secs(1 + roll(wait + 1) as u64)).await;
        let tag: Tag = TAGS[roll(TAGS.len())].parse().unwrap();
        match (number + roll(2)) % 5 {
            0 | 1 => push(&repo, &tag, roll(BLOBS), roll(BLOBS), true, &ghost).await,
            2 => push(&repo, &tag, roll(BLOBS), roll(BLOBS), false, &ghost).await,
            3 => pull(&repo(), &tag, &ghost).await,
            _ => drop(repo().delete_tag(&tag).await),
        }
    }
}

async fn push(
    repo: &impl Fn() -> Repo,
    tag: &Tag,
    config: usize,
    layer: usize,
    asks: bool,
    ghost: &Rc<RefCell<Ghost>>,
) {
    for number in [config, layer] {
        let digest = Digest::sha256(&blob(number));
        let key = blob_key(&digest);
        if asks {
            match repo().stat_blob(&digest).await {
                Ok(Some(_)) => {
                    ghost.borrow_mut().advertised(&key, "HEAD");
                    continue;
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
        let body = futures::stream::iter([Ok(blob(number))]).boxed();
        match repo().put_blob(&digest, Some(blob(number).len() as u64), body).await {
            Ok(()) => ghost.borrow_mut().advertised(&key, "201"),
            Err(_) => return,
        }
    }
    let bytes = manifest(config, layer);
    let digest = Digest::sha256(&bytes);
    match repo().put_manifest(None, std::slice::from_ref(tag), None, bytes).await {
        Ok(_) => ghost.borrow_mut().pushed(REPO, tag, &digest),
        Err(Error::ManifestBlobUnknown(missing)) => ghost.borrow_mut().refused(&missing),
        Err(_) => {}
    }
}

async fn pull(repo: &Repo, tag: &Tag, ghost: &Rc<RefCell<Ghost>>) {
    if let Ok(manifest) = repo.manifest(&Reference::Tag(tag.clone())).await {
        ghost.borrow_mut().served(REPO, &manifest.digest);
    }
}
