//! The registry over a bucket behind a network that breaks: pushes and pulls at random, while calls to the bucket fail,
//! stall, are cut short and damaged. Acknowledged content stays, no wrong byte is delivered as right, and requests that
//! cannot be served are refused cleanly.
//!
//! `FAULT_SEEDS` and `FAULT_OPERATIONS` make it longer; `FAULT_FIRST_SEED` begins elsewhere. With `IT_S3_ENDPOINT` and
//! `IT_S3_BUCKET` the bucket is that of a real server.

mod client;
mod proxy;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Instant;

use bytesize::ByteSize;
use larder::app::{self, App};
use larder::check::{Depth, check};
use larder::config::{Config, S3Config};
use larder::doors::listen;
use larder::objects::s3::S3Objects;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::{Builder, Runtime};

use crate::bucket::{self, Bucket};
use client::{Client, Told};
use proxy::FaultProxy;

const WORKERS: usize = 16;
/// Prefix of the names of server threads: a panic in one of them is not a test's.
const SERVER_THREAD: &str = "larder under fault";
/// One in so many operations is allowed a stalled call.
const OPERATIONS_PER_STALL: usize = 200;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn no_fault_of_the_bucket_loses_or_changes_what_was_acknowledged() {
    let (seeds, operations) = (setting("FAULT_SEEDS", 2), setting("FAULT_OPERATIONS", 150));
    let first = setting("FAULT_FIRST_SEED", 1);
    let all: Vec<u64> = (first..first + seeds).map(|seed| seed as u64).collect();
    // Most of the time they wait.
    for together in all.chunks(2) {
        std::thread::scope(|scope| {
            for seed in together {
                scope.spawn(move || run(*seed, operations));
            }
        });
    }
}

/// The server, on threads of its own.
struct Server {
    runtime: Option<Runtime>,
    url: String,
}

impl Server {
    fn start(s3: &S3Config) -> Server {
        count_panics();
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name(SERVER_THREAD).enable_all().build();
        let runtime = runtime.unwrap();
        let url = runtime.block_on(async {
            let mut config = Config::default();
            // Smaller than the pushed content, so that many reads reach the bucket.
            config.hot.size = ByteSize::mib(8);
            let objects = Arc::new(S3Objects::open(s3).await.unwrap());
            let app = App::over(objects, config).await.unwrap();
            let listener = listen::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(app::run(app, vec![listener], std::future::pending()));
            url
        });
        Server { runtime: Some(runtime), url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Counts the panics of servers, besides the usual handling of panics.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() == Some(SERVER_THREAD) {
                PANICS.lock().unwrap().push(panic.to_string());
            }
            before(panic);
        }));
    });
}

fn run(seed: u64, operations: usize) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (bucket, direct) = match bucket::real() {
        Some(real) => (None, real),
        None => {
            let mut bucket = runtime.block_on(Bucket::in_process());
            // Leaves space for the longest keys: see `Bucket`.
            bucket.config.prefix.clear();
            let config = bucket.config.clone();
            (Some(bucket), config)
        }
    };
    let stalls = (operations / OPERATIONS_PER_STALL).max(1);
    let target = direct.endpoint.clone().unwrap();
    // The server in process mixes two writes of a key: see `Bucket`.
    let proxy = runtime.block_on(FaultProxy::start(&target, seed, stalls, bucket.is_some()));
    let mut faulty = direct.clone();
    faulty.endpoint = Some(format!("http://{}", proxy.address));
    faulty.part_size = ByteSize::mib(5);
    let server = Server::start(&faulty);
    let client = Arc::new(Client::new(&server.url, Told::default()));
    let began = Instant::now();
    runtime.block_on(async {
        proxy.set_calm(false);
        storm(&client, seed, operations).await;
        proxy.set_calm(true);
        // It recovers by itself.
        client.everything().await;
    });
    let took = began.elapsed();
    // A replica that knows only the bucket has all content, too.
    let other = Server::start(&direct);
    let told = std::mem::take(&mut *client.told.lock().unwrap());
    let count = (told.blobs.len(), told.manifests.len());
    runtime.block_on(async {
        Client::new(&other.url, told).everything().await;
        let objects = S3Objects::open(&direct).await.unwrap();
        let findings = check(&objects, &Config::default(), Depth::Bytes).await.unwrap();
        assert!(findings.is_empty(), "{:#?}", findings.iter().map(ToString::to_string).collect::<Vec<_>>());
    });
    let panics = PANICS.lock().unwrap();
    assert!(panics.is_empty(), "the server panicked: {panics:#?}");
    let (refused, cut) = (client.refused.load(Ordering::Relaxed), client.cut.load(Ordering::Relaxed));
    let wrong = client.wrong_parts.load(Ordering::Relaxed);
    println!(
        "seed {seed}: {operations} operations in {took:.0?}, {refused} requests refused, {cut} cut, {wrong} parts with a \
         wrong bit; {} blobs and {} manifests acknowledged; {} calls to the bucket, faults {:?}",
        count.0,
        count.1,
        proxy.calls(),
        proxy.faults()
    );
    // Below these numbers the run would prove nothing.
    assert!(count.0 > operations / 5 && count.1 > operations / 10, "{count:?}");
    assert!(proxy.faults().values().sum::<usize>() > operations / 5);
}

/// So many operations, side by side.
async fn storm(client: &Arc<Client>, seed: u64, operations: usize) {
    let left = Arc::new(AtomicUsize::new(operations));
    let workers = (0..WORKERS).map(|worker| {
        let (client, left) = (client.clone(), left.clone());
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed << 8 | worker as u64);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                operation(&client, worker, &mut random).await;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        if let Err(error) = worker.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// One push or pull. Its success does not matter here: the client has checked the form of a failure.
async fn operation(client: &Client, worker: usize, random: &mut StdRng) {
    let seed = random.random::<u64>() | 1;
    let large = 5 << 20..11 << 20;
    let size = match random.random_range(0..20) {
        0 => random.random_range(large.clone()),
        1..5 => random.random_range(64 << 10..1 << 20),
        _ => random.random_range(1..64 << 10),
    };
    let known = {
        let told = client.told.lock().unwrap();
        let count = told.blobs.len();
        (count > 0).then(|| told.blobs[random.random_range(0..count)])
    };
    let own = format!("own-{worker}-{}", random.random_range(0..2));
    match (random.random_range(0..100), known) {
        (0..30, _) | (_, None) => drop(client.push_blob(seed, size).await),
        (30..38, _) => drop(client.push_chunks(seed, size.max(100)).await),
        (38..48, _) => drop(client.push_image(&own, seed).await),
        (48..58, _) => drop(client.push_cache(seed).await),
        (58..72, Some(blob)) => drop(client.pull_blob(blob).await),
        (72..78, Some(blob)) => {
            let start = random.random_range(0..blob.bytes().len());
            let end = random.random_range(start + 1..=blob.bytes().len());
            client.pull_range(blob, start..end).await;
        }
        (78..82, Some(blob)) => drop(client.look(blob).await),
        (82..88, _) => {
            let manifest = {
                let told = client.told.lock().unwrap();
                let count = told.manifests.len();
                (count > 0).then(|| told.manifests[random.random_range(0..count)].clone())
            };
            if let Some(manifest) = manifest {
                client.pull_manifest(manifest).await;
            }
        }
        (88..93, _) => drop(client.pull_tag(&own).await),
        _ => {
            let tag = {
                let told = client.told.lock().unwrap();
                let count = told.caches.len();
                let at = random.random_range(0..count.max(1));
                told.caches.keys().nth(at).cloned()
            };
            if let Some(tag) = tag {
                client.import(&tag).await;
            }
        }
    }
}
