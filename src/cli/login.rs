//! `larder login`: a CI job's JWT lives for minutes, and builders ask for their token at the end of a build. So it is
//! exchanged beforehand for one that lives as long as a build.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::ask::AskedServer;
use super::docker;
use super::reach::client;

/// Exchanges a JWT and keeps what comes of it where docker, buildctl and crane look for credentials.
#[derive(Args)]
pub struct Login {
    /// The server: HOST:PORT, or a URL. Without TLS, credentials are sent to another machine only by http://HOST:PORT.
    #[arg(value_name = "SERVER")]
    server: String,
    /// File with the JWT: `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "jwt_env")]
    jwt_file: Option<PathBuf>,
    /// Variable of the environment with the JWT, as GitLab's `id_tokens` sets one.
    #[arg(long, value_name = "NAME")]
    jwt_env: Option<String>,
    /// Audience to request from GitHub Actions, if no JWT is given.
    #[arg(long, default_value = "larder")]
    audience: String,
    /// Certificates (PEM) to trust, in addition to those of the system.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print the token instead of storing it.
    #[arg(long)]
    print: bool,
}

impl Login {
    pub async fn run(self) -> anyhow::Result<()> {
        let jwt = self.jwt().await?;
        let server = AskedServer::of(&self.server, self.ca.as_deref()).await?;
        server.admit_secrets()?;
        let host = server.host();
        let request = server.anonymous_request(Method::POST, "/token/exchange");
        let response = server.send(request.form(&[("subject_token", jwt.trim())])).await?;
        let status = response.status();
        let answer: Value = response.json().await.with_context(|| format!("{host} answered {status}"))?;
        let Some(token) = answer["token"].as_str().filter(|_| status.is_success()) else {
            bail!("{host} refused: {}", answer["errors"][0]["message"].as_str().unwrap_or(status.as_str()));
        };
        if self.print {
            println!("{token}");
            return Ok(());
        }
        let path = docker::keep(host, "larder", token)?;
        let minutes = answer["expires_in"].as_u64().unwrap_or(0) / 60;
        println!("logged in to {host} for {minutes} minutes, kept in {}", path.display());
        Ok(())
    }

    async fn jwt(&self) -> anyhow::Result<String> {
        if let Some(name) = &self.jwt_env {
            return std::env::var(name).with_context(|| format!("{name} is not set"));
        }
        match &self.jwt_file {
            Some(path) if path.as_os_str() == "-" => Ok(std::io::read_to_string(std::io::stdin())?),
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())),
            None => self.of_github().await,
        }
    }

    /// GitHub Actions gives a JWT to whoever holds what it puts into the environment of jobs with `id-token: write`.
    async fn of_github(&self) -> anyhow::Result<String> {
        let of = |name: &str| std::env::var(name);
        let (Ok(url), Ok(secret)) = (of("ACTIONS_ID_TOKEN_REQUEST_URL"), of("ACTIONS_ID_TOKEN_REQUEST_TOKEN")) else {
            bail!(
                "there is no JWT: give --jwt-file or --jwt-env, or run in GitHub Actions with `permissions: id-token: write`"
            );
        };
        let client = client(self.ca.as_deref())?;
        let asked = client.get(url).query(&[("audience", &self.audience)]).bearer_auth(secret).send().await;
        let answer: Value = asked.and_then(reqwest::Response::error_for_status)?.json().await?;
        Ok(answer["value"].as_str().context("GitHub answered without a JWT")?.to_string())
    }
}
