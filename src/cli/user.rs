//! `larder user`.

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Args;
use larder::config::Label;

/// bcrypt's cost: about a quarter of a second to verify a password. Clients verify it once, and then send the token that
/// they got for it.
const COST: u32 = 12;
/// bcrypt ignores the bytes of a password behind these.
const PASSWORD_BYTES_MAX: usize = 72;
/// Random bytes of a password that is made here.
const NEW_BYTES: usize = 24;

/// Makes a line of the htpasswd file for a person.
#[derive(Args)]
pub struct NewUser {
    /// Name of the person: their identity is `user:<NAME>`.
    name: String,
    /// Read the password from standard input, instead of making one.
    #[arg(long)]
    password_stdin: bool,
}

impl NewUser {
    pub fn run(self) -> anyhow::Result<()> {
        let name = Label::try_from(self.name).map_err(anyhow::Error::msg)?;
        let password = match self.password_stdin {
            true => std::io::read_to_string(std::io::stdin()).context("cannot read the password")?,
            false => BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; NEW_BYTES]>()),
        };
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            bail!("a password has 1 to {PASSWORD_BYTES_MAX} bytes; this one has {}", password.len());
        }
        let hash = bcrypt::hash(password, COST).context("cannot hash the password")?;
        if !self.password_stdin {
            println!("password (keep it, it is not shown again):\n  {password}\n");
        }
        println!("for the file that [auth] htpasswd names:\n  {}:{hash}", name.as_str());
        Ok(())
    }
}
