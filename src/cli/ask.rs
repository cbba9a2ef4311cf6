//! Questions to a running server, as anybody may ask them who can reach it and has the right.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::docker;
use super::reach::{Unreached, WrittenServer, client};

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
    /// Its name in docker's configuration.
    host: String,
    base: String,
    client: Client,
    credentials: Option<(String, String)>,
    may_be_told_secrets: bool,
}

impl AskedAddress {
    pub async fn asked(&self) -> anyhow::Result<AskedServer> {
        AskedServer::of(&self.server, self.trust.ca.as_deref()).await
    }
}

impl AskedServer {
    /// Finds out whether the server speaks TLS, before it learns any credentials.
    pub async fn of(server: &str, ca: Option<&Path>) -> anyhow::Result<AskedServer> {
        let (client, written) = (client(ca)?, WrittenServer::parse(server)?);
        let transport = written.find_out(&client).await?;
        let asked = AskedServer {
            host: written.host.to_string(),
            base: written.url(transport),
            client,
            credentials: docker::credentials(written.host),
            may_be_told_secrets: written.may_be_told_secrets(transport),
        };
        if asked.credentials.is_some() {
            asked.admit_secrets()?;
        }
        Ok(asked)
    }

    /// The name of the server in docker's configuration.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// An error where a secret would cross a network in the clear, and the user has not said that it may.
    pub fn admit_secrets(&self) -> anyhow::Result<()> {
        let host = &self.host;
        if !self.may_be_told_secrets {
            bail!("{host} speaks plain HTTP: write http://{host} to send credentials without TLS");
        }
        Ok(())
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

    /// A request to a path, or to an address that the server has told. At another server it shows nothing.
    pub fn request(&self, method: Method, at: &str) -> RequestBuilder {
        let request = self.anonymous_request(method, at);
        let ours = at.strip_prefix(&self.base).map_or(at, |path| path).starts_with('/');
        match self.credentials.as_ref().filter(|_| ours) {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// Sends a request. The error says in a sentence why there is no answer.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|error| anyhow!("{}", Unreached::of(&self.host, &error)))
    }

    /// The meaning of a refusal, by its status and its body.
    pub fn refusal(&self, status: StatusCode, body: &str) -> anyhow::Error {
        let answer: Value = serde_json::from_str(body).unwrap_or_default();
        let said = answer["errors"][0]["message"].as_str();
        let host = &self.host;
        match (status, &self.credentials) {
            (StatusCode::UNAUTHORIZED, None) => {
                anyhow!("{host} wants credentials: docker login {host} (looked in {})", docker::looked_in(host))
            }
            (StatusCode::UNAUTHORIZED, Some(_)) => {
                let said = said.unwrap_or("unauthorized");
                anyhow!("{host} does not accept the credentials of {}: {said}", docker::looked_in(host))
            }
            _ => said.map_or_else(|| anyhow!("{host} answered {status}"), |said| anyhow!("{said}")),
        }
    }

    /// The JSON of a path, parsed.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<T> {
        let response = self.send(self.request(Method::GET, path).query(query)).await?;
        let status = response.status();
        let text = response.text().await.map_err(|error| anyhow!("{}", Unreached::of(&self.host, &error)))?;
        if !status.is_success() {
            return Err(self.refusal(status, &text));
        }
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{} is no larder", self.host))?;
        serde_json::from_value(answer).with_context(|| format!("{} is of another version", self.host))
    }

    /// Whether the server says that it can be used, and what it says.
    pub async fn ready(&self) -> anyhow::Result<(bool, String)> {
        let response = self.send(self.request(Method::GET, "/readyz")).await?;
        let ready = response.status() == StatusCode::OK;
        Ok((ready, response.text().await?.trim().to_string()))
    }
}
