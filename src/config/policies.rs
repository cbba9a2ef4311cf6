//! Policies of another file, for a look at what they would do.

use std::path::Path;

use anyhow::Context;

use crate::config::Config;
use crate::config::complaint::complaint;

/// The sections of a file that are policies.
const SECTIONS: [&str; 3] = ["repositories", "scopes", "tenants"];

/// The policies of a configuration file, as TOML that [`Config::of_policies`] reads: nothing else of the file, so that no
/// secret is in it.
pub fn policies_of_file(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut table: toml::Table = toml::from_str(&text).with_context(|| format!("{} is not valid", file.display()))?;
    table.retain(|section, _| SECTIONS.contains(&section));
    Ok(toml::to_string(&table)?)
}

impl Config {
    /// A configuration that has nothing but these policies.
    pub fn of_policies(toml: &str) -> anyhow::Result<Config> {
        toml::from_str(toml).map_err(|error| anyhow::anyhow!("the policies are not valid: {}", complaint(&error, toml)))
    }

    /// The configuration with the policies of another.
    #[must_use]
    pub fn with_policies(&self, by: &Config) -> Config {
        let tried = self.clone();
        tried.adopt(by);
        tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_a_file_are_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("larder.toml");
        let secret = "[[tokens]]\nname = \"ci\"\nhash = \"sha256:hush\"\n";
        std::fs::write(&file, format!("{secret}[scopes]\nmax_age = \"2h\"\n[hot]\nsize = \"1GiB\"\n")).unwrap();
        let policies = policies_of_file(&file).unwrap();
        assert!(!policies.contains("hush") && !policies.contains("hot"), "{policies}");
        let tried = Config::default().with_policies(&Config::of_policies(&policies).unwrap());
        assert_eq!(tried.scope_limits().max_age.get().as_secs(), 7200);
        assert!(Config::of_policies("[scopes]\nmax_age = 7\n").is_err());
    }
}
