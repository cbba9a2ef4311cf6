//! `larder config check`.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use larder::auth::Gate;
use larder::config::Config;

/// Says what of a valid configuration is ignored or doubtful, and reads the files that it names as a start does.
pub fn check(config: Config, has_file: bool) -> anyhow::Result<()> {
    config.ignored().iter().for_each(|what| eprintln!("{what}"));
    config.doubts().iter().for_each(|doubt| eprintln!("{doubt}"));
    let s3 = config.store.s3.iter();
    let s3 = s3.flat_map(|s3| [&s3.access_key_id_file, &s3.secret_access_key_file, &s3.ca_file]).flatten();
    for path in config.files().into_iter().chain(s3.map(PathBuf::as_path)) {
        File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Gate::open(Arc::new(config), None)?;
    println!("{}", if has_file { "valid" } else { "no file: defaults and environment are valid" });
    Ok(())
}
