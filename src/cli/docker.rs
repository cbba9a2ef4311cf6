//! The configuration of docker, which buildctl, buildx and crane read as well: where credentials of registries are.

use std::path::PathBuf;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// `config.json` of this user.
fn path() -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(std::env::home_dir()?.join(".docker"));
    Ok(folder.or_else(home).context("there is no home folder: set DOCKER_CONFIG")?.join("config.json"))
}

fn read() -> anyhow::Result<Value> {
    let path = path()?;
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(json!({})),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Name and password for a registry, where they are in the file itself.
pub fn credentials(host: &str) -> Option<(String, String)> {
    let config = read().ok()?;
    let encoded = config["auths"][host]["auth"].as_str()?;
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_string(), password.to_string()))
}

/// The place of the credentials for a registry, for display.
pub fn looked_in(host: &str) -> String {
    let Ok(path) = path() else { return "no file: there is no home folder, and DOCKER_CONFIG is not set".to_string() };
    let config = read().unwrap_or_default();
    let helper = config["credsStore"].is_string() || config["credHelpers"][host].is_string();
    let unasked = if helper { "; its credential helpers are not asked" } else { "" };
    format!("{}{unasked}", path.display())
}

/// Keeps name and password for a registry, readable for this user alone. Returns where.
pub fn keep(host: &str, name: &str, password: &str) -> anyhow::Result<PathBuf> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let (path, mut config) = (path()?, read()?);
    let auth = BASE64_STANDARD.encode(format!("{name}:{password}"));
    let fields = config.as_object_mut().context("config.json of docker is not an object")?;
    let auths = fields.entry("auths").or_insert_with(|| json!({}));
    let auths = auths.as_object_mut().context("auths in config.json of docker is not an object")?;
    auths.insert(host.to_string(), json!({ "auth": auth }));
    // A helper would be asked in the place of the file.
    if let Some(helpers) = fields.get_mut("credHelpers").and_then(Value::as_object_mut) {
        helpers.remove(host);
    }
    let folder = path.parent().context("config.json of docker has no folder")?;
    std::fs::create_dir_all(folder)?;
    let new = folder.join(format!(".config.json.{:016x}", rand::random::<u64>()));
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec_pretty(&config)?)?;
    std::fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
