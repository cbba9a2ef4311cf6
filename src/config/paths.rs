//! Where relative paths begin: those that are written in a file at its folder, all others (of variables, flags and
//! defaults) at the working directory.

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail};
use toml::{Table, Value};

use super::Config;

/// The keys that hold a path, each by the names that lead to it. A section may be a list.
const PATHS: [&[&str]; 10] = [
    STORE_PATH,
    &["store", "s3", "access_key_id_file"],
    &["store", "s3", "secret_access_key_file"],
    &["store", "s3", "ca_file"],
    &["auth", "htpasswd"],
    &["auth", "signing_keys_file"],
    &["tls", "cert"],
    &["tls", "key"],
    &["tls", "client_ca"],
    &["issuers", "ca_file"],
];
const STORE_PATH: &[&str] = &["store", "path"];
/// The file that every store of files has, and no other folder.
const STORE_MARK: &str = "meta/format";

/// Makes the relative paths of a file's table absolute, from the folder of the file.
///
/// Up to version 0.1 they began at the working directory. What is only there is not left behind in silence: that is an
/// error, which names both places.
pub fn from_folder_of(file: &Path, table: &mut Table) -> anyhow::Result<()> {
    let file = absolute(file).with_context(|| format!("the folder of {} is not known", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    for keys in PATHS {
        let mut written = Vec::new();
        if let Some((section, rest)) = keys.split_first().and_then(|(first, rest)| Some((table.get_mut(*first)?, rest)))
        {
            collect(section, rest, &mut written);
        }
        for value in written {
            let Some(path) = value.as_str().filter(|path| !path.is_empty()).map(PathBuf::from) else { continue };
            let (meant, before) = (folder.join(&path), absolute(&path)?);
            let is_there = |path: &Path| if keys == STORE_PATH { path.join(STORE_MARK) } else { path.into() }.exists();
            if meant != before && !is_there(&meant) && is_there(&before) {
                let (section, key) = keys.split_at(keys.len() - 1);
                bail!(
                    "[{}] {} in {}: a relative path begins at the folder of the file, where {} is not there; {} is: write \
                     that path in full, or move it there",
                    section.join("."),
                    key.concat(),
                    file.display(),
                    meant.display(),
                    before.display(),
                );
            }
            let meant = meant.to_str().with_context(|| format!("{} is not UTF-8", folder.display()))?;
            *value = Value::String(meant.to_string());
        }
    }
    Ok(())
}

/// The values at the end of `keys`, of each table where there is a list of them.
fn collect<'t>(value: &'t mut Value, keys: &[&str], found: &mut Vec<&'t mut Value>) {
    match (keys.split_first(), value) {
        (None, value) => found.push(value),
        (Some((key, rest)), Value::Table(table)) => {
            if let Some(value) = table.get_mut(*key) {
                collect(value, rest, found);
            }
        }
        (Some(_), Value::Array(values)) => values.iter_mut().for_each(|value| collect(value, keys, found)),
        (Some(_), _) => {}
    }
}

/// Makes the paths that are still relative absolute, from the working directory.
pub fn make_absolute(config: &mut Config) -> anyhow::Result<()> {
    let (s3, tls) = (config.store.s3.iter_mut(), config.tls.iter_mut());
    let s3 = s3.flat_map(|s3| [&mut s3.access_key_id_file, &mut s3.secret_access_key_file, &mut s3.ca_file]);
    let tls = tls.flat_map(|tls| [Some(&mut tls.cert), Some(&mut tls.key), tls.client_ca.as_mut()]);
    let auth = [&mut config.auth.htpasswd, &mut config.auth.signing_keys_file];
    let issuers = config.issuers.iter_mut().map(|issuer| &mut issuer.ca_file);
    let optional = s3.chain(auth).chain(issuers).map(Option::as_mut);
    for path in optional.chain(tls).chain([Some(&mut config.store.path)]).flatten() {
        *path = absolute(&*path).with_context(|| format!("{} cannot be made absolute", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &Path, text: &str, environment: &[(&str, &str)]) -> anyhow::Result<Config> {
        std::fs::write(file, text).unwrap();
        Config::load(Some(file), environment.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }

    #[test]
    fn a_relative_path_begins_where_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (file, of) = (folder.path().join("larder.toml"), |name: &str| folder.path().join(name));
        let text = r#"
            [store]
            path = "cache"
            [auth]
            htpasswd = "users"
            [tls]
            cert = "tls/cert.pem"
            key = "/etc/key.pem"
            [[issuers]]
            name = "a"
            issuer = "https://a"
            audience = "a"
            ca_file = "a.pem"
            [[issuers]]
            name = "b"
            issuer = "https://b"
            audience = "b"
        "#;
        let config = load(&file, text, &[("LARDER_TLS_CLIENT_CA", "clients.pem")]).unwrap();
        let tls = config.tls.unwrap();
        assert_eq!((config.store.path, tls.cert, tls.key), (of("cache"), of("tls/cert.pem"), "/etc/key.pem".into()));
        assert_eq!(config.auth.htpasswd, Some(of("users")));
        assert_eq!(
            config.issuers.iter().map(|issuer| issuer.ca_file.clone()).collect::<Vec<_>>(),
            [Some(of("a.pem")), None]
        );
        assert_eq!(tls.client_ca, Some(absolute("clients.pem").unwrap()));
        let s3 = "[store.s3]\nbucket = \"b\"\nca_file = \"s3.pem\"";
        assert_eq!(load(&file, s3, &[]).unwrap().store.s3.unwrap().ca_file, Some(of("s3.pem")));
        // A default is written nowhere.
        assert_eq!(load(&file, "", &[]).unwrap().store.path, absolute("larder-data").unwrap());
    }
}
