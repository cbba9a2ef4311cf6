//! Questions to a running server, as anybody may ask them who can reach it.

use anyhow::{Context, bail};
use clap::Args;
use reqwest::StatusCode;
use serde_json::Value;

/// Where the server is.
#[derive(Args, Clone)]
pub struct Server {
    /// The server: HOST:PORT, or a URL.
    #[arg(value_name = "SERVER", env = "LARDER_SERVER", default_value = "127.0.0.1:5000")]
    server: String,
}

/// A server to ask.
pub struct Asked {
    base: String,
    pub client: reqwest::Client,
}

impl Server {
    pub fn asked(&self) -> anyhow::Result<Asked> {
        Asked::of(&self.server)
    }
}

impl Asked {
    pub fn of(server: &str) -> anyhow::Result<Asked> {
        let server = server.trim_end_matches('/');
        let base = if server.contains("://") { server.to_string() } else { format!("http://{server}") };
        Ok(Asked { base, client: reqwest::Client::builder().build()? })
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// JSON from a path.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let sent = self.client.get(self.url(path)).query(query).send().await;
        let response = sent.with_context(|| format!("no larder answers at {}", self.base))?;
        let status = response.status();
        let text = response.text().await?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{} answered {status}", self.base))?;
        if !status.is_success() {
            bail!("{}", answer["errors"][0]["message"].as_str().unwrap_or("refused"));
        }
        Ok(answer)
    }

    /// Whether the server says that it can be used, and what it says.
    pub async fn ready(&self) -> anyhow::Result<(bool, String)> {
        let sent = self.client.get(self.url("/readyz")).send().await;
        let response = sent.with_context(|| format!("no larder answers at {}", self.base))?;
        let ready = response.status() == StatusCode::OK;
        Ok((ready, response.text().await?.trim().to_string()))
    }
}
