//! A client that records the answers of the server, and checks that they stay true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use larder::digest::Digest;
use serde_json::{Value, json};

use crate::call::Answer;
use crate::world::{CONFIG, LAYER, descriptor, image, noise, with_digest};

const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// A request is answered by then, one way or the other: the longest wait for a busy store, and one call more.
const ANSWERED: Duration = Duration::from_secs(75);
/// Maximum number of times that an upload is resumed after a refusal.
const RESUMES_MAX: usize = 4;
/// Pushes to one cache tag: fewer than the server keeps of one.
const TARGETS_MAX: usize = 40;

/// A blob that can be made again.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    pub digest: Digest,
    seed: u64,
    bytes: usize,
}

impl Blob {
    fn new(seed: u64, bytes: usize) -> Blob {
        Blob { digest: Digest::sha256(&noise(bytes, seed)), seed, bytes }
    }

    pub fn bytes(&self) -> Bytes {
        noise(self.bytes, self.seed)
    }
}

/// Content that the server has acknowledged.
#[derive(Default)]
pub struct Told {
    pub blobs: Vec<Blob>,
    pub manifests: Vec<(Digest, Bytes)>,
    /// The manifests that a tag may serve: that of the last push, and those of failed pushes.
    pub tags: BTreeMap<String, Vec<Digest>>,
    /// The layers of all targets that were pushed to a cache tag.
    pub caches: BTreeMap<String, BTreeSet<String>>,
}

/// The state shared by all pushes and pulls.
pub struct Client {
    http: reqwest::Client,
    /// `http://host:port/v2/c`
    base: String,
    pub told: Mutex<Told>,
    targets: AtomicUsize,
    pub refused: AtomicUsize,
    pub cut: AtomicUsize,
    pub wrong_parts: AtomicUsize,
    /// The last failure, for the message of a check that allows none.
    last: Mutex<String>,
}

/// `None` when the server, in trouble, has said so cleanly.
type Outcome<T> = Option<T>;

impl Client {
    pub fn new(server: &str, told: Told) -> Client {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWERED).build().unwrap();
        let base = format!("{server}/v2/c");
        let count = AtomicUsize::default;
        let told = Mutex::new(told);
        let (refused, cut, wrong_parts) = (count(), count(), count());
        Client { http, base, told, targets: count(), refused, cut, wrong_parts, last: Mutex::default() }
    }

    /// Sends a request. A failure must be 503 with an error of the registry's kind and `Retry-After`, or a connection
    /// that ends too early: never another error, never silence.
    async fn send(&self, method: Method, path: &str, headers: &[(&str, String)], body: Bytes) -> Outcome<Answer> {
        let url = format!("{}{}", self.base, path.strip_prefix("/v2/c").unwrap_or(path));
        let mut request = self.http.request(method.clone(), url).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = match request.send().await {
            Ok(answer) => Answer::over_tcp(answer).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer.status.is_server_error() => {
                // The answer to HEAD has no body.
                let code = (method != Method::HEAD).then(|| answer.code());
                let clean = answer.status == 503 && answer.headers.contains_key("retry-after");
                assert!(clean, "{method} {path}: {} {code:?} {}", answer.status, answer.text());
                self.refused.fetch_add(1, Ordering::Relaxed);
                *self.last.lock().unwrap() = format!("{method} {path}: {}", answer.text());
                None
            }
            Ok(answer) => Some(answer),
            Err(error) => {
                assert!(!error.is_timeout(), "{method} {path}: no answer after {ANSWERED:?}");
                assert!(!error.is_connect(), "{method} {path}: {error:?}");
                self.cut.fetch_add(1, Ordering::Relaxed);
                *self.last.lock().unwrap() = format!("{method} {path}: {error:?}");
                None
            }
        }
    }

    async fn get(&self, path: &str) -> Outcome<Answer> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    async fn begin(&self) -> Outcome<String> {
        let begun = self.send(Method::POST, "/blobs/uploads/", &[], Bytes::new()).await?;
        Some(begun.expect(202).header("location").to_string())
    }

    /// Pushes a blob as BuildKit does: POST, and one PUT.
    pub async fn push_blob(&self, seed: u64, bytes: usize) -> Outcome<Blob> {
        let blob = Blob::new(seed, bytes);
        self.push(blob.bytes()).await?;
        self.told.lock().unwrap().blobs.push(blob);
        Some(blob)
    }

    async fn push(&self, bytes: Bytes) -> Outcome<()> {
        let location = with_digest(&self.begin().await?, &Digest::sha256(&bytes));
        self.send(Method::PUT, &location, &[], bytes).await?.expect(201);
        Some(())
    }

    /// Pushes in three chunks. After a refusal it asks for the offset of the upload and resumes there.
    pub async fn push_chunks(&self, seed: u64, bytes: usize) -> Outcome<()> {
        let blob = Blob::new(seed, bytes);
        let content = blob.bytes();
        let mut location = self.begin().await?;
        let (mut offset, mut resumes) = (0, 0);
        while offset < bytes {
            let end = (offset + bytes.div_ceil(3)).min(bytes);
            let range = ("content-range", format!("{offset}-{}", end - 1));
            let sent = self.send(Method::PATCH, &location, &[range], content.slice(offset..end)).await;
            let sent = match sent {
                Some(sent) => sent.expect(202),
                None => {
                    resumes += 1;
                    if resumes > RESUMES_MAX {
                        return None;
                    }
                    self.get(&location).await?.expect(204)
                }
            };
            location = sent.header("location").to_string();
            let last: usize = sent.header("range").rsplit('-').next().unwrap().parse().unwrap();
            // `0-0` may be a byte or none.
            offset = if last == 0 { 0 } else { last + 1 };
        }
        let location = with_digest(&location, &blob.digest);
        while resumes <= RESUMES_MAX {
            if let Some(sealed) = self.send(Method::PUT, &location, &[], Bytes::new()).await {
                sealed.expect(201);
                self.told.lock().unwrap().blobs.push(blob);
                return Some(());
            }
            resumes += 1;
        }
        None
    }

    async fn put_manifest(&self, reference: &str, manifest: &Value) -> Outcome<Digest> {
        let kind = ("content-type", manifest["mediaType"].as_str().unwrap().to_string());
        let bytes = Bytes::from(manifest.to_string());
        let path = format!("/manifests/{reference}");
        self.send(Method::PUT, &path, &[kind], bytes.clone()).await?.expect(201);
        let digest = Digest::sha256(&bytes);
        self.told.lock().unwrap().manifests.push((digest, bytes));
        Some(digest)
    }

    /// Pushes an image of acknowledged blobs, under a tag without other pushes at the same time.
    pub async fn push_image(&self, tag: &str, seed: u64) -> Outcome<()> {
        let config = Bytes::from(format!(r#"{{"seed":{seed}}}"#));
        self.push(config.clone()).await?;
        let layers: Vec<Value> = {
            let told = self.told.lock().unwrap();
            let layer =
                |blob: &Blob| json!({ "mediaType": LAYER, "digest": blob.digest.to_string(), "size": blob.bytes });
            told.blobs.iter().rev().take(5).map(layer).collect()
        };
        let manifest = image(descriptor(CONFIG, &config), layers);
        let digest = Digest::sha256(manifest.to_string().as_bytes());
        self.told.lock().unwrap().tags.entry(tag.to_string()).or_default().push(digest);
        self.put_manifest(tag, &manifest).await?;
        self.told.lock().unwrap().tags.insert(tag.to_string(), vec![digest]);
        Some(())
    }

    /// The cache of a target of its own, to a tag to which others push at the same time.
    pub async fn push_cache(&self, seed: u64) -> Outcome<()> {
        let tags = self.targets.fetch_add(1, Ordering::Relaxed) / TARGETS_MAX;
        // One letter, because of the server in process: see `Bucket`.
        let tag = char::from(b'a' + u8::try_from(tags % 26).unwrap()).to_string();
        let layer = noise(2_000, seed);
        self.push(layer.clone()).await?;
        let mut layer = descriptor(LAYER, &layer);
        layer["annotations"] = json!({ "containerd.io/uncompressed": layer["digest"] });
        let name = layer["digest"].as_str().unwrap().to_string();
        let config = json!({ "layers": [{ "blob": name, "parent": -1 }], "records": [
            { "digest": name, "layers": [{ "layer": 0, "createdAt": "2026-01-02T03:04:05Z" }] } ] });
        let config = Bytes::from(config.to_string());
        self.push(config.clone()).await?;
        self.put_manifest(&tag, &image(descriptor(CACHE_CONFIG, &config), vec![layer])).await?;
        self.told.lock().unwrap().caches.entry(tag).or_default().insert(name);
        Some(())
    }

    pub async fn look(&self, blob: Blob) -> Outcome<()> {
        let path = format!("/blobs/{}", blob.digest);
        let found = self.send(Method::HEAD, &path, &[], Bytes::new()).await?.expect(200);
        assert_eq!(found.header("content-length"), blob.bytes.to_string());
        Some(())
    }

    pub async fn pull_blob(&self, blob: Blob) -> Outcome<()> {
        let found = self.get(&format!("/blobs/{}", blob.digest)).await?.expect(200);
        assert!(found.body == blob.bytes(), "{blob:?} has other bytes");
        Some(())
    }

    /// A part of a blob. Until the server has seen the whole, no digest tells whether a part is right: a client
    /// that puts a blob together out of parts looks at its digest in the end.
    pub async fn pull_range(&self, blob: Blob, part: std::ops::Range<usize>) -> Outcome<()> {
        let range = ("range", format!("bytes={}-{}", part.start, part.end - 1));
        let path = format!("/blobs/{}", blob.digest);
        let found = self.send(Method::GET, &path, &[range], Bytes::new()).await?.expect(206);
        assert_eq!(found.body.len(), part.len());
        if found.body != blob.bytes().slice(part) {
            self.wrong_parts.fetch_add(1, Ordering::Relaxed);
        }
        Some(())
    }

    pub async fn pull_manifest(&self, (digest, bytes): (Digest, Bytes)) -> Outcome<()> {
        let found = self.get(&format!("/manifests/{digest}")).await?.expect(200);
        assert!(found.body == bytes, "{digest} has other bytes");
        Some(())
    }

    /// Pulls a tag without pushes at the same time.
    pub async fn pull_tag(&self, tag: &str) -> Outcome<()> {
        let allowed = self.told.lock().unwrap().tags.get(tag).cloned().unwrap_or_default();
        let found = self.get(&format!("/manifests/{tag}")).await?;
        if allowed.is_empty() || (found.status == 404 && self.never_acknowledged(tag)) {
            return Some(());
        }
        let digest = Digest::sha256(&found.expect(200).body);
        assert!(allowed.contains(&digest), "{tag} is {digest}, and not one of {allowed:?}");
        Some(())
    }

    /// Tells whether no push to the tag was acknowledged: then none may have been done.
    fn never_acknowledged(&self, tag: &str) -> bool {
        let told = self.told.lock().unwrap();
        let acknowledged = |digest: &Digest| told.manifests.iter().any(|(manifest, _)| manifest == digest);
        !told.tags.get(tag).is_some_and(|digests| digests.iter().any(acknowledged))
    }

    /// Imports as BuildKit does: the tag, the manifest by its digest, the config. All acknowledged pushes must be in
    /// it.
    pub async fn import(&self, tag: &str) -> Outcome<()> {
        let expected = self.told.lock().unwrap().caches.get(tag).cloned().unwrap_or_default();
        let head = self.send(Method::HEAD, &format!("/manifests/{tag}"), &[], Bytes::new()).await?;
        if expected.is_empty() {
            return Some(());
        }
        let digest = head.expect(200).header("docker-content-digest").to_string();
        let manifest = self.get(&format!("/manifests/{digest}")).await?.expect(200).json();
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap());
        let layers: BTreeSet<String> = layers.map(str::to_string).collect();
        let lost: Vec<&String> = expected.difference(&layers).collect();
        assert!(lost.is_empty(), "{tag} has lost {} of {} targets", lost.len(), expected.len());
        let config = manifest["config"]["digest"].as_str().unwrap();
        let found = self.get(&format!("/blobs/{config}")).await?.expect(200);
        assert_eq!(Digest::sha256(&found.body).to_string(), config);
        Some(())
    }

    fn lost(&self, what: &str) -> ! {
        panic!("{what}: {}", self.last.lock().unwrap())
    }

    /// Pulls all acknowledged content; no failure is allowed.
    pub async fn everything(&self) {
        let (blobs, manifests, tags, caches) = {
            let told = self.told.lock().unwrap();
            let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>();
            let (tags, caches) = (names(told.tags.keys().collect()), names(told.caches.keys().collect()));
            (told.blobs.clone(), told.manifests.clone(), tags, caches)
        };
        for blob in blobs {
            self.pull_blob(blob).await.unwrap_or_else(|| self.lost(&format!("{blob:?} cannot be read")));
        }
        for manifest in manifests {
            let digest = manifest.0;
            self.pull_manifest(manifest)
                .await
                .unwrap_or_else(|| self.lost(&format!("manifest {digest} cannot be read")));
        }
        for tag in tags {
            self.pull_tag(&tag).await.unwrap_or_else(|| self.lost(&format!("tag {tag} cannot be read")));
        }
        for tag in caches {
            self.import(&tag).await.unwrap_or_else(|| self.lost(&format!("cache {tag} cannot be imported")));
        }
    }
}
