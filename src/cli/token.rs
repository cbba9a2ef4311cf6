//! `larder token new`.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Args;
use larder::auth::TOKEN_PREFIX;
use larder::digest::Digest;

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
        // 256 bits: nobody guesses it, so a fast hash of it is enough.
        let token = format!("{TOKEN_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        println!(
            "token (keep it, it is not shown again; the password, with any user name):\n  {token}\n\nfor the configuration:\n  [[tokens]]\n  name = \"{name}\"\n  hash = \"{hash}\"",
            name = name.as_str(),
            hash = Digest::sha256(token.as_bytes()),
        );
        Ok(())
    }
}
