//! Mixed load over a long time, and the memory of the server while it goes on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::http::Connection;
use crate::work::{Blobs, manifest};
use crate::{at_once, cpu_seconds, memory_kib};

/// Sizes of blobs: configs, small layers, layers that fit into the hot layer and layers that do not.
const SIZES: [u64; 6] = [4 << 10, 100_000, 1 << 20, 5_000_000, 12 << 20, 40 << 20];
/// Blobs of each size. The same ones are pushed again, so that the store does not grow for ever.
const NUMBERS: u64 = 24;

#[derive(Args)]
pub struct Soak {
    /// `host:port`.
    url: String,
    #[arg(long)]
    pid: u32,
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Clients.
    #[arg(long, default_value_t = 12)]
    parallel: u64,
    /// Milliseconds that each client rests after a request.
    #[arg(long, default_value_t = 0)]
    rest: u64,
    /// Name of what is measured.
    #[arg(long)]
    server: String,
}

impl Soak {
    pub fn run(&self) -> Result<()> {
        let blobs: Vec<Blobs> = SIZES.iter().map(|size| Blobs::new(*size)).collect();
        for (number, blobs) in (0..NUMBERS).flat_map(|number| blobs.iter().map(move |blobs| (number, blobs))) {
            blobs.push(&mut Connection::open(&self.url)?, number)?;
        }
        let (stop, requests) = (AtomicBool::new(false), AtomicU64::new(0));
        let client = |seed: u64| self.client(&blobs, seed, &stop, &requests);
        let clients =
            (0..self.parallel).map(|seed| Box::new(move || client(seed)) as Box<dyn Fn() -> Result<()> + Send + Sync>);
        let watch = Box::new(|| self.watch(&stop, &requests)) as Box<dyn Fn() -> Result<()> + Send + Sync>;
        at_once(clients.chain([watch]).collect::<Vec<_>>().iter())
    }

    fn client(&self, blobs: &[Blobs], seed: u64, stop: &AtomicBool, requests: &AtomicU64) -> Result<()> {
        let mut state = seed * 2 + 1;
        let mut connection = Connection::open(&self.url)?;
        while !stop.load(Ordering::Relaxed) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let random = state >> 33;
            let (blobs, number) = (&blobs[(random / 64) as usize % blobs.len()], random / 4096 % NUMBERS);
            match random % 16 {
                0..=3 => drop(blobs.push(&mut connection, number)?),
                4..=5 => drop(manifest(&mut connection)?),
                // Many clients come for one thing.
                6 => connection = Connection::open(&self.url)?,
                _ => drop(blobs.pull(&mut connection, number)?),
            }
            requests.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(self.rest));
        }
        Ok(())
    }

    /// Prints, every ten seconds: name, seconds, resident memory and its peak in KiB, requests, CPU seconds.
    fn watch(&self, stop: &AtomicBool, requests: &AtomicU64) -> Result<()> {
        let began = Instant::now();
        let look = || -> Result<()> {
            let (held, peak) = (memory_kib(self.pid, "VmRSS:")?, memory_kib(self.pid, "VmHWM:")?);
            let (seconds, cpu) = (began.elapsed().as_secs(), cpu_seconds(&[self.pid])?);
            println!("{},{seconds},{held},{peak},{},{cpu:.2}", self.server, requests.load(Ordering::Relaxed));
            Ok(())
        };
        let mut looked = Ok(());
        while looked.is_ok() && began.elapsed() < Duration::from_secs(self.minutes * 60) {
            looked = look();
            std::thread::sleep(Duration::from_secs(10));
        }
        stop.store(true, Ordering::Relaxed);
        looked
    }
}
