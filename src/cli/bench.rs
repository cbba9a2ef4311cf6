//! `larder bench`: what a running server does, measured from here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use bytesize::ByteSize;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use larder::digest::Digest;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use super::ask::{AskedAddress, AskedServer};
use super::show::{ProgressLine, bar, table};
use larder::human::bytes;

/// Measures a running server as a builder would use it.
///
/// Pushes layers of random bytes to a new repository, asks for them, pulls them, and deletes the manifest; the collector
/// takes the layers. Leaves nothing else behind, and takes room meanwhile.
#[derive(Args)]
pub struct Bench {
    #[command(flatten)]
    server: AskedAddress,
    /// Layers to push.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    layers: u32,
    /// Size of each layer.
    #[arg(long, default_value = "8MiB", value_name = "BYTES")]
    size: ByteSize,
    /// Requests at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    /// How many existence checks to send for each layer.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    asks: u32,
    /// Repository to use; a random number is appended to its name.
    #[arg(long, default_value = "larder-bench")]
    repo: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Maximum number of bytes that one run sends.
const BYTES_MAX: u64 = 16 << 30;

/// Result of one kind of request.
struct Measured {
    what: &'static str,
    bytes: u64,
    took: Duration,
    each: Vec<Duration>,
}

impl Bench {
    pub async fn run(self) -> anyhow::Result<()> {
        let size = self.size.as_u64();
        ensure!(size > 0, "layers need at least one byte");
        if size.saturating_mul(u64::from(self.layers)) > BYTES_MAX {
            bail!("that is more than the {} that one run sends at most", bytes(BYTES_MAX));
        }
        let repo = format!("{}/{:012x}", self.repo, rand::random::<u64>() >> 16);
        let run = BenchRun { asked: Arc::new(self.server.asked().await?), repo, jobs: self.jobs as usize };
        let mut progress = ProgressLine::new(self.json);
        let layers = layers(self.layers, usize::try_from(size)?);
        let all: Vec<&(Digest, Bytes)> = layers.iter().collect();
        let mut measured = vec![run.each("push", &all, &mut progress, |layer| run.push(&layer.0, &layer.1)).await?];
        let manifest = run.push_manifest(&layers).await?;
        let asks: Vec<&(Digest, Bytes)> = all.iter().cycle().take(all.len() * self.asks as usize).copied().collect();
        measured.push(run.each("ask", &asks, &mut progress, |layer| run.ask(&layer.0)).await?);
        measured.push(run.each("pull", &all, &mut progress, |layer| run.pull(&layer.0)).await?);
        measured.push(run.each("pull again", &all, &mut progress, |layer| run.pull(&layer.0)).await?);
        run.delete(&manifest).await?;
        if self.json {
            println!(
                "{}",
                json!({ "repository": run.repo, "measured": measured.iter().map(told).collect::<Vec<_>>() })
            );
        } else {
            let rows: Vec<Vec<String>> = measured.iter().map(row).collect();
            let headings = ["WHAT", ">REQUESTS", ">PER SECOND", ">BYTES PER SECOND", ">MEDIAN", ">99 %", ">SLOWEST"];
            print!("{}", table(&headings, &rows));
        }
        Ok(())
    }
}

/// Random layers, which cannot be compressed or shared.
fn layers(count: u32, size: usize) -> Vec<(Digest, Bytes)> {
    let mut bytes = vec![0; size];
    rand::fill(&mut bytes[..]);
    let layer = |number: u32| {
        let mut bytes = bytes.clone();
        let mark = number.to_le_bytes();
        let taken = mark.len().min(size);
        bytes[..taken].copy_from_slice(&mark[..taken]);
        (Digest::sha256(&bytes), Bytes::from(bytes))
    };
    (0..count).map(layer).collect()
}

struct BenchRun {
    asked: Arc<AskedServer>,
    repo: String,
    jobs: usize,
}

impl BenchRun {
    /// Does `work` for each layer, some at once. It tells how many bytes it moved.
    async fn each<'a, F>(
        &self,
        what: &'static str,
        layers: &[&'a (Digest, Bytes)],
        progress: &mut ProgressLine,
        work: impl Fn(&'a (Digest, Bytes)) -> F,
    ) -> anyhow::Result<Measured>
    where
        F: Future<Output = anyhow::Result<u64>>,
    {
        let began = Instant::now();
        let timed = layers.iter().map(|layer| {
            let work = work(layer);
            async move {
                let began = Instant::now();
                work.await.map(|bytes| (bytes, began.elapsed()))
            }
        });
        let mut done = stream::iter(timed).buffer_unordered(self.jobs);
        let (mut bytes, mut each) = (0, Vec::new());
        while let Some((moved, took)) = done.try_next().await? {
            bytes += moved;
            each.push(took);
            progress.show(|| format!("{} {what}", bar(each.len() as u64, layers.len() as u64)));
        }
        progress.clear();
        each.sort_unstable();
        Ok(Measured { what, bytes, took: began.elapsed(), each })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.asked.request(method, &format!("/v2/{}{path}", self.repo))
    }

    /// As builders do: POST, then one PUT.
    async fn push(&self, digest: &Digest, bytes: &Bytes) -> anyhow::Result<u64> {
        let begin = self.request(Method::POST, "/blobs/uploads/").header("content-length", "0");
        let begun = self.good(begin).await?;
        let location = begun.headers().get("location").and_then(|at| at.to_str().ok()).context("no Location")?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let put = self.asked.request(Method::PUT, &format!("{location}{separator}digest={digest}")).body(bytes.clone());
        self.good(put).await?;
        Ok(bytes.len() as u64)
    }

    async fn ask(&self, digest: &Digest) -> anyhow::Result<u64> {
        self.good(self.request(Method::HEAD, &format!("/blobs/{digest}"))).await?;
        Ok(0)
    }

    async fn pull(&self, digest: &Digest) -> anyhow::Result<u64> {
        let mut answer = self.good(self.request(Method::GET, &format!("/blobs/{digest}"))).await?;
        let mut bytes = 0;
        while let Some(piece) = answer.chunk().await? {
            bytes += piece.len() as u64;
        }
        Ok(bytes)
    }

    async fn push_manifest(&self, layers: &[(Digest, Bytes)]) -> anyhow::Result<Digest> {
        const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
        let config = Bytes::from_static(b"{}");
        let digest = Digest::sha256(&config);
        self.push(&digest, &config).await?;
        let named = layers.iter().map(|(digest, bytes)| {
            json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.to_string(), "size": bytes.len() })
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": named.collect::<Vec<Value>>(),
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest.to_string(), "size": config.len() },
        })
        .to_string();
        let put = self.request(Method::PUT, "/manifests/run").header("content-type", MANIFEST);
        let digest = Digest::sha256(manifest.as_bytes());
        self.good(put.body(manifest)).await?;
        Ok(digest)
    }

    async fn delete(&self, manifest: &Digest) -> anyhow::Result<()> {
        self.good(self.request(Method::DELETE, &format!("/manifests/{manifest}"))).await.map(drop)
    }

    /// The answer to a request, where it is done.
    async fn good(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = self.asked.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(self.asked.refusal(status, &response.text().await.unwrap_or_default()))
    }
}

/// The time within which `percent` of the requests were done. They are in order.
fn within(each: &[Duration], percent: usize) -> Duration {
    let at = (each.len() * percent).div_ceil(100).clamp(1, each.len().max(1)) - 1;
    each.get(at).copied().unwrap_or_default()
}

fn per_second(count: f64, took: Duration) -> f64 {
    count / took.as_secs_f64().max(f64::EPSILON)
}

fn millis(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1000.0)
}

fn row(measured: &Measured) -> Vec<String> {
    let rate = per_second(measured.bytes as f64, measured.took) as u64;
    vec![
        measured.what.to_string(),
        measured.each.len().to_string(),
        format!("{:.0}", per_second(measured.each.len() as f64, measured.took)),
        if measured.bytes == 0 { "-".to_string() } else { bytes(rate) },
        millis(within(&measured.each, 50)),
        millis(within(&measured.each, 99)),
        millis(within(&measured.each, 100)),
    ]
}

fn told(measured: &Measured) -> Value {
    let seconds = |percent| within(&measured.each, percent).as_secs_f64();
    json!({
        "what": measured.what,
        "requests": measured.each.len(),
        "bytes": measured.bytes,
        "seconds": measured.took.as_secs_f64(),
        "requests_per_second": per_second(measured.each.len() as f64, measured.took),
        "bytes_per_second": per_second(measured.bytes as f64, measured.took),
        "median_seconds": seconds(50),
        "p99_seconds": seconds(99),
        "slowest_seconds": seconds(100),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let each: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let at = |percent| within(&each, percent).as_millis();
        assert_eq!((at(50), at(99), at(100)), (100, 198, 200));
        assert_eq!(within(&each[..1], 50), Duration::from_millis(1));
        assert_eq!(within(&[], 50), Duration::ZERO);
    }

    #[test]
    fn no_two_layers_are_the_same() {
        let layers = layers(3, 5);
        assert!(layers[0].0 != layers[1].0 && layers[1].0 != layers[2].0);
        assert!(layers.iter().all(|(digest, bytes)| bytes.len() == 5 && Digest::sha256(bytes) == *digest));
    }
}
