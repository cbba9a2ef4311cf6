//! Questions to a running server, as anybody may ask them who can reach it and has the right.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::docker;
use super::login::{address, client};

/// Where the server is.
#[derive(Args, Clone)]
pub struct AskedAddress {
    /// The server: HOST:PORT, or a URL. Credentials are those of `docker login`.
    #[arg(value_name = "SERVER", env = "LARDER_SERVER", default_value = "127.0.0.1:5000")]
    server: String,
    #[command(flatten)]
    pub trust: Trust,
}

/// Whom to trust.
#[derive(Args, Clone)]
pub struct Trust {
    /// Certificates (PEM) to trust, in addition to those of the system.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// A server to ask.
pub struct AskedServer {
    base: String,
    client: Client,
    credentials: Option<(String, String)>,
}

impl AskedAddress {
    pub fn asked(&self) -> anyhow::Result<AskedServer> {
        AskedServer::of(&self.server, self.trust.ca.as_deref())
    }
}

impl AskedServer {
    pub fn of(server: &str, ca: Option<&Path>) -> anyhow::Result<AskedServer> {
        let (base, host) = address(server);
        Ok(AskedServer { base, client: client(ca)?, credentials: docker::credentials(host) })
    }

    /// The password that docker's configuration has for the server.
    pub fn password(&self) -> Option<&str> {
        self.credentials.as_ref().map(|(_, password)| &**password)
    }

    /// A request that shows nothing.
    pub fn anonymous_request(&self, method: Method, at: &str) -> RequestBuilder {
        let url = if at.starts_with('/') { format!("{}{at}", self.base) } else { at.to_string() };
        self.client.request(method, url)
    }

    /// A request to a path, or to an address that the server has told.
    pub fn request(&self, method: Method, at: &str) -> RequestBuilder {
        let request = self.anonymous_request(method, at);
        match &self.credentials {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// What the JSON from a path says.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<T> {
        let sent = self.request(Method::GET, path).query(query).send().await;
        let response = sent.with_context(|| format!("no larder answers at {}", self.base))?;
        let status = response.status();
        let text = response.text().await?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{} answered {status}", self.base))?;
        if !status.is_success() {
            bail!("{}", answer["errors"][0]["message"].as_str().unwrap_or("refused"));
        }
        serde_json::from_value(answer).with_context(|| format!("{} is of another version", self.base))
    }

    /// Whether the server says that it can be used, and what it says.
    pub async fn ready(&self) -> anyhow::Result<(bool, String)> {
        let sent = self.request(Method::GET, "/readyz").send().await;
        let response = sent.with_context(|| format!("no larder answers at {}", self.base))?;
        let ready = response.status() == StatusCode::OK;
        Ok((ready, response.text().await?.trim().to_string()))
    }
}
