//! Variables of the environment: which of them are for the configuration, and what they set.

use anyhow::{anyhow, bail};
use serde::Deserialize;

use super::Config;
use super::complaint::complaint_of_value;

/// Prefix of the names of Larder's variables.
const PREFIX: &str = "LARDER_";

/// The sections of the configuration.
const SECTIONS: [&str; 15] = [
    "server",
    "store",
    "hot",
    "limits",
    "log",
    "auth",
    "tls",
    "tokens",
    "issuers",
    "groups",
    "rules",
    "collect",
    "repositories",
    "tenants",
    "scopes",
];

/// Purpose of a variable.
#[derive(Debug, PartialEq, Eq)]
pub enum Meant {
    Key {
        section: String,
        key: String,
    },
    /// It begins as ours do, and names no section.
    NoSection,
    /// It belongs to another program.
    Other,
}

/// The purpose of a variable, by its name and, for those that Kubernetes sets, its value.
pub fn meant_by(name: &str, value: &str) -> Meant {
    let Some(rest) = name.strip_prefix(PREFIX) else { return Meant::Other };
    if is_service_link(name, value) {
        return Meant::Other;
    }
    let lower = rest.to_ascii_lowercase();
    match lower.split_once('_').filter(|(section, _)| SECTIONS.contains(section)) {
        Some((section, key)) => Meant::Key { section: section.to_string(), key: key.to_string() },
        None => Meant::NoSection,
    }
}

/// Whether Kubernetes has set a variable, as it does in every pod for each Service (kubernetes.io, "Service", "Environment
/// variables"): `…_SERVICE_HOST`, `…_SERVICE_PORT[_<name>]`, `…_PORT=tcp://…`, `…_PORT_<number>_<protocol>[_…]`. A Service may be
/// called `larder-store`, so any of ours can be meant.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_of_port = name.match_indices("_PORT_").any(|(at, port)| {
        let mut parts = name[at + port.len()..].split('_');
        parts.next().is_some_and(is_number) && parts.next().is_some_and(|part| ["TCP", "UDP", "SCTP"].contains(&part))
    });
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_address)
        || is_of_port
}

/// Sections within a section. `LARDER_STORE_S3_BUCKET` is `bucket` in `[store.s3]`.
const NESTED: [(&str, &str); 1] = [("store", "s3")];

/// Sets a key of a section from the variable `name`. The value is read as TOML where that fits the key, as text elsewhere.
pub fn overlay(table: &mut toml::Table, name: &str, (section, key): (&str, &str), value: &str) -> anyhow::Result<()> {
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut parsed| parsed.remove("v"));
    let text = toml::Value::String(value.to_string());
    // A bucket may be called `2026`, which is a number in TOML. A list is meant as one.
    let text = (!parsed.as_ref().is_some_and(toml::Value::is_array)).then_some(text);
    let attempts = parsed.into_iter().chain(text);
    let mut refused = None;
    for value in attempts {
        let mut changed = table.get(section).cloned().unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
        let Some(place) = place(&mut changed, section, key) else {
            bail!("{name}: only plain sections can be set from the environment")
        };
        *place = value;
        // One by one, so that the message names the variable.
        let alone = toml::Table::from_iter([(section.to_string(), changed.clone())]);
        match Config::deserialize(alone) {
            Ok(_) => {
                table.insert(section.to_string(), changed);
                return Ok(());
            }
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) => Err(anyhow!("{name} is not valid: {}", complaint_of_value(&error))),
        None => Ok(()),
    }
}

/// The place of the value of a key, in its section or in one nested in that.
fn place<'a>(within: &'a mut toml::Value, section: &str, key: &str) -> Option<&'a mut toml::Value> {
    let nested = NESTED.iter().filter(|(outer, _)| *outer == section);
    let mut nested = nested.filter_map(|(_, inner)| Some((*inner, key.strip_prefix(inner)?.strip_prefix('_')?)));
    let (table, key) = match nested.next() {
        None => (within.as_table_mut()?, key),
        Some((inner, key)) => {
            let entry = within.as_table_mut()?.entry(inner).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            (entry.as_table_mut()?, key)
        }
    };
    Some(table.entry(key).or_insert(toml::Value::Boolean(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_known() {
        let error = toml::from_str::<Config>("nothing = 1").unwrap_err().to_string();
        let (_, expected) = error.split_once("expected one of ").unwrap();
        let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        assert_eq!(names, SECTIONS);
    }
}
