//! `larder token`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Args;
use larder::auth::TOKEN_PREFIX;
use larder::digest::Digest;
use reqwest::Method;
use serde_json::Value;

use super::ask::{AskedAddress, AskedServer};

/// Makes a static token.
#[derive(Args)]
pub struct New {
    /// Name of the token: its bearer is `token:<NAME>`.
    name: String,
}

impl New {
    pub fn run(self) -> anyhow::Result<()> {
        // Shows a bad name before it is in a configuration.
        let name = larder::config::Label::try_from(self.name).map_err(anyhow::Error::msg)?;
        // 256 bits cannot be guessed, so a fast hash of them is enough.
        let token = format!("{TOKEN_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        println!(
            "token (keep it, it is not shown again; the password, with any user name):\n  {token}\n\nfor the configuration:\n  [[tokens]]\n  name = \"{name}\"\n  hash = \"{hash}\"",
            name = name.as_str(),
            hash = Digest::sha256(token.as_bytes()),
        );
        Ok(())
    }
}

/// Ends a session before its time.
#[derive(Args)]
pub struct Revoke {
    #[command(flatten)]
    server: AskedAddress,
    /// File with the token that `/token/exchange` or `larder login --print` has given: `-` is standard input. By
    /// default the one that `larder login` has kept.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Revoke {
    pub async fn run(self) -> anyhow::Result<()> {
        let server = self.server.asked().await?;
        server.admit_secrets()?;
        let token = match &self.token_file {
            Some(path) if path.as_os_str() == "-" => std::io::read_to_string(std::io::stdin())?,
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => server.password().context("no session of this server is kept here: give --token-file")?.to_string(),
        };
        revoke(&server, token.trim()).await?;
        println!("session is revoked; other servers over the same store may accept it for 30 more seconds");
        Ok(())
    }
}

async fn revoke(server: &AskedServer, token: &str) -> anyhow::Result<()> {
    let request = server.anonymous_request(Method::POST, "/token/revoke").form(&[("token", token)]);
    let response = server.send(request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let answer: Value = response.json().await.unwrap_or_default();
    bail!("refused: {}", answer["errors"][0]["message"].as_str().unwrap_or(status.as_str()));
}
