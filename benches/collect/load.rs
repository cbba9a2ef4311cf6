//! Requests at a steady rate, whatever the server does: a late answer does not delay the next request.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder::digest::Digest;

pub struct Load {
    pub url: String,
    pub digests: Vec<Digest>,
    /// Requests a second.
    pub rate: u64,
}

/// How long answers took.
pub struct Latency {
    pub requests: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub worst: Duration,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency { requests, p50, p99, worst } = self;
        write!(f, "{requests} requests: p50 {p50:.2?}, p99 {p99:.2?}, worst {worst:.2?}")
    }
}

impl Load {
    /// Sends requests until `done`: every other one a HEAD, the others a GET of the same small blob.
    pub async fn measure(&self, done: impl Future<Output = ()>) -> Latency {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let (took, began) = (Arc::<Mutex<Vec<Duration>>>::default(), Instant::now());
        let sending = async {
            for number in 0.. {
                let due = began + Duration::from_micros(1_000_000 * number / self.rate);
                tokio::time::sleep_until(due.into()).await;
                // The timer has a grain of a millisecond, which is not the server's.
                let sent = Instant::now();
                let digest = self.digests[(number / 2) as usize % self.digests.len()];
                let url = format!("{}/v2/team0/app1/blobs/{digest}", self.url);
                let request = if number.is_multiple_of(2) { client.head(url) } else { client.get(url) };
                let took = took.clone();
                tokio::spawn(async move {
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                    answer.bytes().await.unwrap();
                    took.lock().unwrap().push(sent.elapsed());
                });
            }
        };
        tokio::select! {
            () = done => {}
            () = sending => {}
        }
        let mut took = std::mem::take(&mut *took.lock().unwrap());
        took.sort();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        Latency { requests: took.len(), p50: at(50), p99: at(99), worst: at(100) }
    }
}
