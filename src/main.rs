//! The command line.

#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]

mod cli;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use cli::banner::{self, BoundAddress};
use futures::FutureExt;
use larder::app::reload::{Reload, hangups};
use larder::app::{self, Stop};
use larder::config::{Config, ListenAddress, LogFormat};
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
    /// Make users of the htpasswd file.
    User {
        #[command(subcommand)]
        command: UserCommand,
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
enum UserCommand {
    /// Make a line of the htpasswd file, with a new password or one from standard input.
    New(cli::user::NewUser),
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
        Command::Gc(order) => {
            let file = order.place.source.config.clone();
            order.place.load().and_then(|config| block_on(order.gc.run(config, file.as_deref())))
        }
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
        Command::User { command: UserCommand::New(new) } => new.run().map(|()| ExitCode::SUCCESS),
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
    let (app, inherited) = app::open_or_succeed(config).await?;
    let listeners = open_listeners(&app.config, inherited)?;
    // First: a process that has read the announcement may send a signal.
    let (stop, hangups) = (stop_signal()?, hangups()?);
    app.announce(&listeners)?;
    announce(&app.config, &listeners)?;
    systemd::notify(SystemdState::Ready);
    let stop = stop.inspect(|_| systemd::notify(SystemdState::Stopping));
    let file = serve.place.source.config.clone();
    let reload = Reload::new(&app, move || serve.load(), file, hangups);
    tokio::spawn(app.jobs.add(reload));
    app::run(app, listeners, stop).await;
    Ok(())
}

/// The configured addresses. Where systemd has handed over sockets, they stand for those of `[server] listen`; what the server
/// before had open is taken over, where it is still configured.
fn open_listeners(config: &Config, mut inherited: Vec<std::net::TcpListener>) -> anyhow::Result<Vec<Listener>> {
    let mut open = |address: SocketAddr| -> anyhow::Result<TcpListener> {
        match inherited.iter().position(|socket| socket.local_addr().is_ok_and(|local| local == address)) {
            Some(at) => Ok(TcpListener::from_std(inherited.swap_remove(at))?),
            None => listen::bind(address),
        }
    };
    let mut listeners = Vec::new();
    let passed = systemd::listeners()?;
    let is_passed = !passed.is_empty();
    for socket in passed {
        let socket = TcpListener::from_std(socket)?;
        listeners.push(Listener { socket, plain: config.tls.is_none(), serves_on: false });
    }
    for address in config.server.listen.iter().filter(|_| !is_passed) {
        listeners.push(Listener { socket: open(*address)?, plain: config.tls.is_none(), serves_on: true });
    }
    for address in &config.server.listen_plain {
        listeners.push(Listener { socket: open(*address)?, plain: true, serves_on: true });
    }
    Ok(listeners)
}

/// Resolves at SIGTERM, which drains, or ctrl-C, at which a person waits.
fn stop_signal() -> anyhow::Result<impl Future<Output = Stop>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Stop::Drain,
            _ = interrupt.recv() => Stop::Now,
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

/// Tells that the server has started: to the log, and to a person who has started it by hand. Whatever parses JSON parses
/// all that the server writes.
fn announce(config: &Config, listeners: &[Listener]) -> anyhow::Result<()> {
    let address =
        |listener: &Listener| Ok(BoundAddress { address: listener.socket.local_addr()?, plain: listener.plain });
    let listening = listeners.iter().map(address).collect::<anyhow::Result<Vec<_>>>()?;
    if config.log.format == LogFormat::Text {
        println!("{}", banner::banner(config, &listening));
    }
    let addresses: Vec<String> = listening.iter().map(BoundAddress::url).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        addresses = addresses.join(" "),
        store = banner::store(config),
        tls = config.tls.is_some(),
        authentication = config.is_closed(),
        "started"
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
