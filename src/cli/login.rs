//! `larder login`: a CI job's JWT lives for minutes, and builders ask for their token at the end of a build. So it is
//! exchanged beforehand for one that lives as long as a build.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::docker;

/// Exchanges a JWT and keeps what comes of it where docker, buildctl and crane look for credentials.
#[derive(Args)]
pub struct Login {
    /// The server: HOST:PORT, or with http:// in front if it has no TLS.
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
        let client = client(self.ca.as_deref())?;
        let jwt = self.jwt(&client).await?;
        let (base, host) = address(&self.server);
        let asked = client.post(format!("{base}/token/exchange")).form(&[("subject_token", jwt.trim())]).send().await;
        let response = asked.with_context(|| format!("no larder answers at {base}"))?;
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

    async fn jwt(&self, client: &reqwest::Client) -> anyhow::Result<String> {
        if let Some(name) = &self.jwt_env {
            return std::env::var(name).with_context(|| format!("{name} is not set"));
        }
        match &self.jwt_file {
            Some(path) if path.as_os_str() == "-" => Ok(std::io::read_to_string(std::io::stdin())?),
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())),
            None => self.of_github(client).await,
        }
    }

    /// GitHub Actions gives a JWT to whoever holds what it puts into the environment of jobs with `id-token: write`.
    async fn of_github(&self, client: &reqwest::Client) -> anyhow::Result<String> {
        let of = |name: &str| std::env::var(name);
        let (Ok(url), Ok(secret)) = (of("ACTIONS_ID_TOKEN_REQUEST_URL"), of("ACTIONS_ID_TOKEN_REQUEST_TOKEN")) else {
            bail!(
                "there is no JWT: give --jwt-file or --jwt-env, or run in GitHub Actions with `permissions: id-token: write`"
            );
        };
        let asked = client.get(url).query(&[("audience", &self.audience)]).bearer_auth(secret).send().await;
        let answer: Value = asked.and_then(reqwest::Response::error_for_status)?.json().await?;
        Ok(answer["value"].as_str().context("GitHub answered without a JWT")?.to_string())
    }
}

/// A client that trusts some certificates beside those of the system.
pub fn client(ca: Option<&std::path::Path>) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder();
    if let Some(path) = ca {
        let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        for certificate in reqwest::Certificate::from_pem_bundle(&pem)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    Ok(builder.build()?)
}

/// Where a server is, and what docker calls it. This machine itself is taken to have no TLS, as docker does.
pub fn address(server: &str) -> (String, &str) {
    let server = server.trim_end_matches('/');
    let host = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let local = ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|name| host.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')));
    let base = match host.len() == server.len() {
        false => server.to_string(),
        true if local => format!("http://{host}"),
        true => format!("https://{host}"),
    };
    (base, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_by_tls_unless_it_is_here() {
        for (server, base, host) in [
            ("cache.example.com", "https://cache.example.com", "cache.example.com"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("https://127.0.0.1:5000/", "https://127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://cache:5000", "http://cache:5000", "cache:5000"),
            ("localhost.example.com", "https://localhost.example.com", "localhost.example.com"),
        ] {
            assert_eq!(address(server), (base.to_string(), host));
        }
    }
}
