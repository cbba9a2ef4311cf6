//! Orders to the server that owns a store: the answer comes as lines of JSON.

use anyhow::{Context, anyhow, bail};
use larder::config::Config;
use larder::operator::Operator;
use serde::de::DeserializeOwned;

use super::reach::Unreached;

/// The server that has this store open.
pub struct OpenServer {
    url: String,
    operator: Operator,
    client: reqwest::Client,
}

impl OpenServer {
    /// Finds the server of a store of files that is in use.
    pub async fn of(config: &Config) -> anyhow::Result<OpenServer> {
        let path = config.store.path.display();
        let found = Operator::find(&config.store.path);
        let found = found.with_context(|| format!("cannot read where the server of {path} is"))?;
        let Some(operator) = found else { bail!("the store in {path} is in use, but not by a server") };
        // Its certificate is for the name by which builders know it. Whoever answers here in its place, after its end,
        // learns a token that ended with it.
        let client = reqwest::Client::builder().no_proxy().danger_accept_invalid_certs(operator.secure).build()?;
        let urls: Vec<String> = operator.urls().collect();
        for url in urls {
            if client.get(format!("{url}/healthz")).send().await.is_ok() {
                return Ok(OpenServer { url, operator, client });
            }
        }
        bail!("the store in {path} is in use, but its server does not answer")
    }

    /// The URL of the server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives an order, with a body, and hands each line of the answer to `each`.
    pub async fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: String,
        mut each: impl FnMut(T),
    ) -> anyhow::Result<()> {
        let request = self.client.post(format!("{}{path}", self.url)).query(query).body(body);
        let sent = request.bearer_auth(self.operator.token.expose()).send().await;
        let mut response = sent.map_err(|error| anyhow!("{}", Unreached::of(&self.url, &error)))?;
        if !response.status().is_success() {
            let (status, text) = (response.status(), response.text().await?);
            bail!("{} answered {status}: {text}", self.url);
        }
        let mut rest = Vec::new();
        while let Some(piece) = response.chunk().await.context("the server closed the connection")? {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                each(serde_json::from_slice(&line)?);
            }
        }
        Ok(())
    }
}
