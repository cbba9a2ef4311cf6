//! The command line.

#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]

mod cli;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use futures::FutureExt;
use larder::app::reload::{Reload, hangups};
use larder::app::{self, App};
use larder::config::{Config, ListenAddress};
use larder::doors::listen::{self, Listener};
use larder::systemd::{self, SystemdState};
use tokio::net::TcpListener;

/// A self-hosted remote cache for container builds.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
#[command(
    after_help = "Exit status of every command: 0 done, 1 failed, 2 misused; the help of a command lists others."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server. Needs no configuration: by default the store is in ./larder-data, and the server listens on
    /// 127.0.0.1:5000.
    Serve(Serve),
    /// Find broken invariants in the store, and repair them.
    Check(CheckStore),
    /// Delete unreferenced content, and content that policies expire.
    Gc(CollectStore),
    /// Show stored and saved bytes, cache hits and background jobs of a running server.
    Status(cli::status::StatusCommand),
    /// List the repositories of a running server, or the tags of one.
    Ls(cli::ls::ListCommand),
    /// Show the pushes, records and layers of a tag on a running server.
    Inspect(cli::inspect::Inspect),
    /// Let this machine's docker, buildctl or crane use a server, by exchanging the JWT of a CI job.
    Login(cli::login::Login),
    /// Make static tokens, and end sessions.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Work with the rules of the configuration.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Measure a running server.
    Bench(cli::bench::Bench),
    /// Work with the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page (roff), or write that of each command to a folder, which is created if it is missing.
    Man {
        /// Where to write larder.1, larder-serve.1 and so on.
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token: it is shown once, its hash goes into the configuration.
    New(cli::token::New),
    /// Revoke a session of `larder login` or /token/exchange.
    Revoke(cli::token::Revoke),
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Show whether a caller may do something, and why. The exit code is 0 when the caller may, 3 when
    /// the caller may not.
    Test {
        #[command(flatten)]
        source: ConfigArgs,
        #[command(flatten)]
        test: cli::policy::PolicyTest,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Validate the configuration.
    Check(ConfigArgs),
}

/// Where the configuration is.
#[derive(Args)]
struct ConfigArgs {
    /// Configuration file (TOML).
    #[arg(long, env = "LARDER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where the configuration and the store are.
#[derive(Args)]
struct StoreArgs {
    #[command(flatten)]
    source: ConfigArgs,
    /// Folder of the store, instead of the one in the configuration.
    #[arg(long, value_name = "FOLDER")]
    store: Option<PathBuf>,
}

#[derive(Args)]
struct CheckStore {
    #[command(flatten)]
    place: StoreArgs,
    #[command(flatten)]
    check: cli::check::CheckCommand,
}

#[derive(Args)]
struct CollectStore {
    #[command(flatten)]
    place: StoreArgs,
    #[command(flatten)]
    gc: cli::gc::Gc,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    place: StoreArgs,
    /// Address to listen on, instead of those in the configuration: also NAME:PORT, or :PORT for all IPv4 addresses. May be
    /// given several times.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<ListenAddress>,
}

impl StoreArgs {
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = self.source.load()?;
        if let Some(path) = &self.store {
            if config.store.s3.is_some() {
                anyhow::bail!("--store names a folder, but the configuration has [store.s3]: use one of them");
            }
            config.store.path = std::path::absolute(path)?;
        }
        Ok(config)
    }
}

impl ConfigArgs {
    fn load(&self) -> anyhow::Result<Config> {
        // Not part of the configuration: where it is, and where a server is for commands that ask one.
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let environment = environment.filter(|(name, _)| !matches!(&**name, "LARDER_CONFIG" | "LARDER_SERVER"));
        Config::load(self.config.as_deref(), environment)
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => run(serve).map(|()| ExitCode::SUCCESS),
        Command::Check(order) => order.place.load().and_then(|config| block_on(order.check.run(config))),
        Command::Gc(order) => order.place.load().and_then(|config| block_on(order.gc.run(config))),
        Command::Status(status) => block_on(status.run()),
        Command::Ls(list) => block_on(list.run()).map(|()| ExitCode::SUCCESS),
        Command::Bench(bench) => block_on(bench.run()).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "larder", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { folder } => man(folder.as_deref()).map(|()| ExitCode::SUCCESS),
        Command::Inspect(inspect) => block_on(inspect.run()).map(|()| ExitCode::SUCCESS),
        Command::Login(login) => block_on(login.run()).map(|()| ExitCode::SUCCESS),
        Command::Token { command: TokenCommand::New(new) } => new.run().map(|()| ExitCode::SUCCESS),
        Command::Token { command: TokenCommand::Revoke(revoke) } => block_on(revoke.run()).map(|()| ExitCode::SUCCESS),
        Command::Policy { command: PolicyCommand::Test { source, test } } => {
            let allowed = source.load().and_then(|config| test.run(config));
            allowed.map(|allowed| if allowed { ExitCode::SUCCESS } else { ExitCode::from(3) })
        }
        Command::Config { command: ConfigCommand::Check(source) } => source
            .load()
            .and_then(|config| cli::config::check(config, source.config.is_some()))
            .map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("larder: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn man(folder: Option<&Path>) -> anyhow::Result<()> {
    match folder {
        Some(folder) => {
            let failed = || format!("cannot write manual pages to {}", folder.display());
            std::fs::create_dir_all(folder).with_context(failed)?;
            clap_mangen::generate_to(Cli::command(), folder).with_context(failed)?;
        }
        None => clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?,
    }
    Ok(())
}

impl Serve {
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = self.place.load()?;
        if !self.listen.is_empty() {
            config.server.listen = ListenAddress::all(self.listen.clone());
        }
        Ok(config)
    }
}

fn run(serve: Serve) -> anyhow::Result<()> {
    let config = serve.load()?;
    cli::log::start(&config.log)?;
    larder::trace::start();
    raise_file_limit();
    block_on(start(serve, config))
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

async fn start(serve: Serve, config: Config) -> anyhow::Result<()> {
    let app = App::open(config).await?;
    let listeners = open_listeners(&app.config)?;
    // First: whoever has read the announcement may send a signal.
    let (stop, hangups) = (stop_signal()?, hangups()?);
    app.announce(&listeners)?;
    announce(&app.config, &listeners)?;
    systemd::notify(SystemdState::Ready);
    let stop = stop.inspect(|()| systemd::notify(SystemdState::Stopping));
    let file = serve.place.source.config.clone();
    let reload = Reload::new(&app, move || serve.load(), file, hangups);
    tokio::spawn(app.jobs.add(reload));
    app::run(app, listeners, stop).await;
    Ok(())
}

/// The configured addresses. Where systemd has handed over sockets, they stand for those of `[server] listen`.
fn open_listeners(config: &Config) -> anyhow::Result<Vec<Listener>> {
    let bind =
        |addresses: &[SocketAddr]| addresses.iter().map(|at| listen::bind(*at)).collect::<anyhow::Result<Vec<_>>>();
    let passed = systemd::listeners()?;
    let sockets = if passed.is_empty() {
        bind(&config.server.listen)?
    } else {
        passed.into_iter().map(TcpListener::from_std).collect::<Result<_, _>>()?
    };
    let listeners = sockets.into_iter().map(|socket| Listener { socket, plain: config.tls.is_none() });
    let plain = bind(&config.server.listen_plain)?.into_iter().map(|socket| Listener { socket, plain: true });
    Ok(listeners.chain(plain).collect())
}

/// Resolves at SIGTERM or ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Each connection and each file being read takes a descriptor; the usual soft limit of 1,024 is soon used up.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// What somebody who has just started a server wants to know next.
fn announce(config: &Config, listeners: &[Listener]) -> anyhow::Result<()> {
    let address = |listener: &Listener| {
        let scheme = if listener.plain { "http" } else { "https" };
        Ok(format!("{scheme}://{}", listener.socket.local_addr()?))
    };
    let shown = listeners.iter().map(address).collect::<anyhow::Result<Vec<_>>>()?.join(" ");
    let store = match &config.store.s3 {
        Some(s3) => s3.address(),
        None => format!("files in {}", config.store.path.display()),
    };
    let first = listeners.first().map(|listener| listener.socket.local_addr()).transpose()?;
    let port = first.map_or(5000, |address| address.port());
    let here = format!("127.0.0.1:{port}");
    println!(
        "larder {version}
  address    {shown}
  store      {store}
  hot layer  {hot} of memory

A builder on this host:
  docker buildx create --name larder --driver docker-container --driver-opt network=host --use
  docker buildx build --cache-to type=registry,ref={here}/app:cache,mode=max --cache-from type=registry,ref={here}/app:cache .

A builder on another host, where this one is THIS_HOST and listens beyond loopback (--listen 0.0.0.0:{port}):
  printf '[registry.\"THIS_HOST:{port}\"]\\n  http = true\\n' > buildkitd.toml
  docker buildx create --name larder --driver docker-container --buildkitd-config buildkitd.toml --use
",
        version = env!("CARGO_PKG_VERSION"),
        hot = config.hot.size,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
