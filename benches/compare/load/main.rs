//! The client of the comparison: one for all servers, plain threads and sockets, so that it takes as little as possible
//! of the cores it shares with them. `benches/compare/run` says what is measured with it.
//!
//! Every measured command prints one line: server, row, requests, bytes, seconds, CPU seconds of the server, and its
//! peak memory in KiB while the row ran.

mod http;
mod soak;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use larder::digest::Digest;

use http::Connection;
use work::Blobs;

/// Of the times in `/proc`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Push blobs: POST, then one PUT with the digest, as BuildKit does.
    Push(Measured<Many>),
    /// Pull blobs that were pushed, each so many times.
    Pull(Measured<Many>),
    /// HEAD of blobs that were pushed, round and round.
    Head(Measured<Many>),
    /// GET of a manifest by its tag.
    Manifest(Measured<Many>),
    /// Pushes and pulls at once, as many of each. What is pulled are the first blobs of `count`, pushed before.
    Both(Measured<Many>),
    /// HEAD of blobs that `seed` made.
    HeadSeeded(Measured<Many>),
    /// Push an image manifest as `bench:latest`, with its config. Not measured.
    Image { url: String },
    /// Write blobs and manifest as files where a web server finds them under the same paths.
    Files { folder: PathBuf, count: u64, size: u64 },
    /// Put blobs into a store of Larder's by its layout, behind its back: files of 4 KiB without content.
    Seed { store: PathBuf, count: u64 },
    /// Mixed load for some minutes; memory of the server over time.
    Soak(soak::Soak),
}

#[derive(Args)]
struct Measured<T: Args> {
    /// `host:port`.
    url: String,
    /// Name of the server in the result.
    #[arg(long)]
    server: String,
    /// Name of the row in the result.
    #[arg(long)]
    row: String,
    /// Processes of the server.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    #[command(flatten)]
    what: T,
}

#[derive(Args, Clone)]
struct Many {
    /// Blobs.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Bytes of each.
    #[arg(long, default_value_t = 4096)]
    size: u64,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    parallel: u64,
    /// Requests for each blob.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Number of the first blob: blobs of one size differ by their number.
    #[arg(long, default_value_t = 0)]
    first: u64,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Push(row) => measure(&row, |url, many| {
            let blobs = Blobs::new(many.size);
            each(url, many, |connection, number| blobs.push(connection, number))
        }),
        Command::Pull(row) => measure(&row, |url, many| {
            let blobs = Blobs::new(many.size);
            each(url, many, |connection, number| blobs.pull(connection, number))
        }),
        Command::Head(row) => measure(&row, |url, many| {
            let blobs = Blobs::new(many.size);
            let known: Vec<Digest> = (0..many.count).map(|number| blobs.digest(many.first + number)).collect();
            let at = |number: u64| known[(number - many.first) as usize];
            each(url, many, |connection, number| work::head(connection, &at(number)))
        }),
        Command::HeadSeeded(row) => measure(&row, |url, many| {
            each(url, many, |connection, number| work::head(connection, &work::seeded(number)))
        }),
        Command::Manifest(row) => {
            measure(&row, |url, many| each(url, many, |connection, _| work::manifest(connection)))
        }
        Command::Both(row) => measure(&row, both),
        Command::Image { url } => work::push_image(&mut Connection::open(&url)?),
        Command::Files { folder, count, size } => work::write_files(&folder, count, size),
        Command::Seed { store, count } => seed(&store, count),
        Command::Soak(soak) => soak.run(),
    }
}

/// Runs `work` and prints what it cost.
fn measure(row: &Measured<Many>, work: impl Fn(&str, &Many) -> Result<(u64, u64)>) -> Result<()> {
    // Written to this file, 5 sets the peak to what is held now.
    row.pids.iter().for_each(|pid| drop(fs::write(format!("/proc/{pid}/clear_refs"), "5")));
    let (before, began) = (cpu_seconds(&row.pids)?, Instant::now());
    let (requests, bytes) = work(&row.url, &row.what)?;
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(&row.pids)? - before);
    let peak: u64 = row.pids.iter().map(|pid| peak_kib(*pid)).sum::<Result<u64>>()?;
    println!("{},{},{requests},{bytes},{took:.3},{cpu:.2},{peak}", row.server, row.row);
    Ok(())
}

/// One request for each blob, as many rounds as are wanted, over several connections. Requests and bytes.
fn each(url: &str, many: &Many, request: impl Fn(&mut Connection, u64) -> Result<u64> + Sync) -> Result<(u64, u64)> {
    let (next, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let total = many.count * many.rounds;
    let worker = || -> Result<()> {
        let mut connection = Connection::open(url)?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                return Ok(());
            }
            let moved = request(&mut connection, many.first + number % many.count)?;
            bytes.fetch_add(moved, Ordering::Relaxed);
        }
    };
    at_once((0..many.parallel).map(|_| &worker))?;
    Ok((total, bytes.into_inner()))
}

fn both(url: &str, many: &Many) -> Result<(u64, u64)> {
    let blobs = Blobs::new(many.size);
    let push = |number: u64| blobs.push(&mut Connection::open(url)?, 1_000_000 + number).map(drop);
    let pull = |number: u64| blobs.pull(&mut Connection::open(url)?, many.first + number % many.count).map(drop);
    let pushes =
        (0..many.parallel).map(|number| Box::new(move || push(number)) as Box<dyn Fn() -> Result<()> + Send + Sync>);
    let pulls =
        (0..many.parallel).map(|number| Box::new(move || pull(number)) as Box<dyn Fn() -> Result<()> + Send + Sync>);
    at_once(pushes.chain(pulls).collect::<Vec<_>>().iter())?;
    Ok((many.parallel * 2, many.parallel * 2 * many.size))
}

fn at_once<'a, W: Fn() -> Result<()> + Sync + ?Sized + 'a>(work: impl Iterator<Item = &'a W>) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a client panicked")))
    })
}

/// User and system time that the processes have taken so far.
fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let ticks = |pid: &u32| -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone")?;
        // The name, in brackets, may hold anything: fields are counted behind it.
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let ticks = pids.iter().map(ticks).sum::<Result<u64>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

fn peak_kib(pid: u32) -> Result<u64> {
    memory_kib(pid, "VmHWM:")
}

fn memory_kib(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the server is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn seed(store: &Path, count: u64) -> Result<()> {
    let blobs = store.join("t/default/blobs/sha256");
    for number in 0..count {
        let hex = work::seeded(number).hex();
        let folder = blobs.join(&hex[..2]);
        if number < 4096 {
            fs::create_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder).and_then(|()| fs::File::create(folder.join(hex)))?.set_len(4096)?;
    }
    Ok(())
}
