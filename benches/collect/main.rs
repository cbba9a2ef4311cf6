//! What it costs to collect a big store, and what readers notice of it.
//!
//! ```text
//! cargo bench --bench collect -- generate DIR [--blobs 1000000] [--manifests 20000]
//! cargo bench --bench collect -- run DIR [--order gc|check] [--seconds 20] [--rate 200]
//! ```
//!
//! `generate` writes a store through the real layout, without syncing each file. `run` starts the server on it, sends it
//! requests at a steady rate, and while they go on has it collect (or check) the store; it prints the latency before and
//! during that, the wall time, and the CPU time and the peak memory of the server.

mod generate;
mod load;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::Value;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Task>,
    /// What cargo says to every benchmark.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Write a big store into a folder.
    Generate {
        folder: PathBuf,
        #[arg(long, default_value_t = 1_000_000)]
        blobs: usize,
        #[arg(long, default_value_t = 20_000)]
        manifests: usize,
    },
    /// Measure.
    Run {
        folder: PathBuf,
        #[arg(long, value_enum, default_value_t = Order::Gc)]
        order: Order,
        /// Requests are measured for so long before.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Requests a second.
        #[arg(long, default_value_t = 200)]
        rate: u64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    Gc,
    Check,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        None => println!("nothing to do: see the head of benches/collect/main.rs"),
        Some(Task::Generate { folder, blobs, manifests }) => {
            let began = Instant::now();
            generate::store(&folder, blobs, manifests).unwrap();
            println!("{blobs} blobs and {manifests} manifests in {:.1} s", began.elapsed().as_secs_f64());
        }
        Some(Task::Run { folder, order, seconds, rate }) => run(&folder, order, seconds, rate),
    }
    ExitCode::SUCCESS
}

fn run(folder: &Path, order: Order, seconds: u64, rate: u64) {
    let mut server = Server::start(folder);
    let sample = generate::sample(folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The server counts what it has when it starts: that is not what is measured.
    server.wait_until_quiet();
    let load = load::Load { url: server.url.clone(), digests: sample, rate };
    let before = runtime.block_on(load.measure(async { tokio::time::sleep(Duration::from_secs(seconds)).await }));
    println!("before  {before}");
    let (cpu, began) = (server.cpu(), Instant::now());
    let argument = match order {
        Order::Gc => "gc",
        Order::Check => "check",
    };
    let ordered = async {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args([argument, "--json", "--store"]).arg(folder);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let (mut wall, mut told) = (Duration::ZERO, Vec::new());
    let during = runtime.block_on(load.measure(async {
        told = ordered.await.stdout;
        wall = began.elapsed();
    }));
    println!("during  {during}");
    println!("{argument}: {:.1} s of wall time", wall.as_secs_f64());
    println!("server: {:.1} s of CPU meanwhile, peak memory {} MiB", server.cpu() - cpu, server.peak_bytes() >> 20);
    println!("p99 during / before: {:.2}", during.p99.as_secs_f64() / before.p99.as_secs_f64());
    let last = String::from_utf8_lossy(&told).lines().last().unwrap_or_default().to_string();
    println!("{}", serde_json::from_str::<Value>(&last).map_or(last, |last| last.to_string()));
}

/// The server on the store, ended with its owner.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LARDER_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(folder);
        command.env("LARDER_LOG_FILTER", "warn");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| Some(line.trim().strip_prefix("address")?.trim().to_string())).unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, url: address }
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// CPU time so far, in seconds.
    fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // `utime` and `stime`, in ticks of which Linux has 100 a second.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    fn peak_bytes(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    fn wait_until_quiet(&mut self) {
        let mut before = self.cpu();
        loop {
            std::thread::sleep(Duration::from_secs(2));
            let now = self.cpu();
            if now - before < 0.1 {
                return;
            }
            before = now;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
