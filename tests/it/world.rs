//! The real server on a folder of its own. When a test is done with it, the store must be sound.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use larder::app::{self, App, Stop};
use larder::check::{Depth, Finding, check};
use larder::config::Config;
use larder::digest::Digest;
use larder::doors::Front;
use larder::doors::listen;
use larder::objects::Objects;
use larder::objects::fs::FsObjects;
use larder::oci::OCI_MANIFEST;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::call::{Answer, Call};
use crate::disk::{Disk, SmallDisk};

pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A store and the server over it. Dropped, it fails its test when [`check`] finds anything.
pub struct World {
    running: Option<Running>,
    config: Config,
    /// The disk, where it is a small one.
    disk: Option<Disk>,
    folder: TempDir,
    damaged: bool,
    /// The credentials of every request that has none of its own.
    shown: Mutex<Option<String>>,
}

struct Running {
    objects: FsObjects,
    app: App,
    front: Front,
}

impl World {
    pub async fn new() -> World {
        World::with(|_| {}).await
    }

    /// A server with another configuration than none.
    pub async fn with(change: impl FnOnce(&mut Config)) -> World {
        World::on_disk(None, change).await
    }

    /// A server on a disk of its own.
    pub async fn on_disk(disk: Option<Disk>, change: impl FnOnce(&mut Config)) -> World {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.path = folder.path().join("store");
        change(&mut config);
        let running = Some(Running::open(&config, disk).await);
        World { running, config, disk, folder, damaged: false, shown: Mutex::default() }
    }

    /// The same folder under a new server, which knows only its content.
    pub async fn restart(&mut self) {
        self.running = None;
        self.running = Some(Running::open(&self.config, self.disk).await);
    }

    /// The same folder under a new server with another configuration.
    pub async fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.restart().await;
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn objects(&self) -> &FsObjects {
        &self.running().objects
    }

    pub fn app(&self) -> &App {
        &self.running().app
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file behind a blob.
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let name = format!("t/default/blobs/{}/{}/{hex}", digest.algorithm().as_str(), &hex[..2]);
        self.config.store.path.join(name)
    }

    /// Declares that damage in the store at the end of the test is on purpose.
    pub fn damaged_on_purpose(&mut self) {
        self.damaged = true;
    }

    pub async fn check(&self) -> Vec<Finding> {
        check(self.objects(), &self.config, Depth::Bytes).await.unwrap()
    }

    pub async fn send(&self, request: http::Request<Body>) -> Answer {
        let Ok(response) = self.running().front.clone().oneshot(request).await;
        Answer::of(response).await
    }

    /// Bytes of the future that answers a request.
    pub fn answering(&self, request: http::Request<Body>) -> usize {
        std::mem::size_of_val(&self.running().front.answer(request))
    }

    /// Sets the `Authorization` of all further requests.
    pub fn show(&self, authorization: impl Into<String>) -> &World {
        *self.shown.lock().unwrap() = Some(authorization.into());
        self
    }

    pub fn call(&self, method: &str, uri: impl Into<String>) -> Call<'_> {
        let call = Call::new(self, method, uri.into());
        match &*self.shown.lock().unwrap() {
            Some(shown) => call.header("authorization", shown),
            None => call,
        }
    }

    pub fn get(&self, uri: impl Into<String>) -> Call<'_> {
        self.call("GET", uri)
    }

    pub fn head(&self, uri: impl Into<String>) -> Call<'_> {
        self.call("HEAD", uri)
    }

    pub fn post(&self, uri: impl Into<String>) -> Call<'_> {
        self.call("POST", uri)
    }

    pub fn put(&self, uri: impl Into<String>) -> Call<'_> {
        self.call("PUT", uri)
    }

    pub fn patch(&self, uri: impl Into<String>) -> Call<'_> {
        self.call("PATCH", uri)
    }

    pub fn delete(&self, uri: impl Into<String>) -> Call<'_> {
        self.call("DELETE", uri)
    }

    /// Begins an upload; returns where to send it.
    pub async fn begin(&self, repo: &str) -> String {
        let begun = self.post(format!("/v2/{repo}/blobs/uploads/")).await.expect(202);
        begun.header("location").to_string()
    }

    /// Pushes a blob as builders do: POST, then one PUT.
    pub async fn put_blob(&self, repo: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        let location = self.begin(repo).await;
        self.put(with_digest(&location, &digest)).body(bytes).await.expect(201);
        digest
    }

    pub async fn put_manifest(&self, repo: &str, reference: &str, manifest: &Value) -> Digest {
        let bytes = manifest.to_string();
        let digest = Digest::sha256(bytes.as_bytes());
        let kind = manifest["mediaType"].as_str().unwrap_or(OCI_MANIFEST).to_string();
        let put = self.put(format!("/v2/{repo}/manifests/{reference}")).header("content-type", &kind);
        put.body(bytes).await.expect(201);
        digest
    }

    /// Pushes an image with one layer, made from `seed`: its config and its layer, then a manifest.
    pub async fn put_image(&self, repo: &str, tag: &str, seed: &str) -> Image {
        let (config, layer) = (format!(r#"{{"seed":"{seed}"}}"#), format!("layer of {seed}"));
        self.put_blob(repo, config.clone()).await;
        self.put_blob(repo, layer.clone()).await;
        let manifest = image(descriptor(CONFIG, config.as_bytes()), vec![descriptor(LAYER, layer.as_bytes())]);
        let digest = self.put_manifest(repo, tag, &manifest).await;
        Image { digest, layer: Digest::sha256(layer.as_bytes()), manifest }
    }

    /// The same server, reachable over TCP.
    pub async fn serve(&self) -> Server {
        let listener = listen::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        self.serve_on(vec![listener]).await
    }

    pub async fn serve_on(&self, listeners: Vec<TcpListener>) -> Server {
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(app::run(self.app().clone(), listeners, async {
            let _ = stopped.await;
            Stop::Now
        }));
        Server { addresses, stop: Some(stop), running }
    }
}

impl Running {
    async fn open(config: &Config, disk: Option<Disk>) -> Running {
        let objects = FsObjects::open(&config.store.path).unwrap();
        let backend: Arc<dyn Objects> = match disk {
            Some(disk) => Arc::new(SmallDisk::new(objects.clone(), &config.store.path, disk)),
            None => Arc::new(objects.clone()),
        };
        let app = App::over(backend, config.clone()).await.unwrap();
        let front = app.front();
        Running { objects, app, front }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() || self.damaged {
            return;
        }
        let Some(running) = &self.running else { return };
        // In a thread with a runtime of its own: this one may be inside another runtime, which must not be blocked.
        let findings = std::thread::scope(|scope| {
            let look = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(check(&running.objects, &self.config, Depth::Bytes)).unwrap()
            };
            scope.spawn(look).join().unwrap()
        });
        let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "the store in {:?} is not sound: {findings:#?}", self.folder.path());
    }
}

/// Makes everything below the folder as old as that.
pub fn age(folder: &Path, by: Duration) {
    // Empty folders are removed.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            age(&entry.path(), by);
        } else {
            age_file(&entry.path(), by);
        }
    }
}

pub fn age_file(file: &Path, by: Duration) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

/// A pushed image.
pub struct Image {
    pub digest: Digest,
    pub layer: Digest,
    pub manifest: Value,
}

/// A server that listens. It stops when dropped or stopped.
pub struct Server {
    pub addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses[0])
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addresses[0]).await.unwrap()
    }

    /// Tells it to stop, without waiting until it has.
    pub fn signal(&mut self) {
        drop(self.stop.take());
    }

    pub async fn stopped(mut self) {
        self.signal();
        self.running.await.unwrap();
    }
}

pub fn image(config: Value, layers: Vec<Value>) -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers })
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len() })
}

/// The address that closes an upload.
pub fn with_digest(location: &str, digest: &Digest) -> String {
    let mark = if location.contains('?') { '&' } else { '?' };
    format!("{location}{mark}digest={digest}")
}

/// Bytes without a pattern, the same every time.
pub fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes.into()
}
