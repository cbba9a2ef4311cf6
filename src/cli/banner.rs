//! The lines that `larder serve` prints, to be pasted for builders.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use larder::config::Config;
use larder::paste::BuilderRoute;

/// An address on which the server listens.
#[derive(Clone, Copy)]
pub struct BoundAddress {
    pub address: SocketAddr,
    /// Without TLS.
    pub plain: bool,
}

impl BoundAddress {
    pub fn url(&self) -> String {
        format!("{}://{}", if self.plain { "http" } else { "https" }, self.address)
    }

    /// The address for a builder on this host that has no configuration: BuildKit speaks plain HTTP to loopback addresses.
    fn on_loopback(&self) -> Option<SocketAddr> {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            ip => ip,
        };
        (self.plain && ip.is_loopback()).then_some(SocketAddr::new(ip, self.address.port()))
    }
}

/// Stands for a name of this host, which the server cannot know.
const PLACEHOLDER: &str = "THIS_HOST";

/// The store as an operator finds it again: a bucket, or the absolute path of a folder.
pub fn store(config: &Config) -> String {
    match &config.store.s3 {
        Some(s3) => s3.address(),
        None => {
            let path = &config.store.path;
            format!("files in {}", std::path::absolute(path).unwrap_or_else(|_| path.clone()).display())
        }
    }
}

/// All of it.
pub fn banner(config: &Config, listening: &[BoundAddress]) -> String {
    let urls: Vec<String> = listening.iter().map(BoundAddress::url).collect();
    let mut out = format!(
        "larder {}\n  address    {}\n  store      {}\n  hot layer  {} of memory\n",
        env!("CARGO_PKG_VERSION"),
        urls.join(" "),
        store(config),
        config.hot.size
    );
    if let Some(url) = &config.server.public_url {
        let (scheme, name) = url.as_str().split_once("://").unwrap_or(("https", url.as_str()));
        remote(&mut out, config, "A builder on any host:", name, scheme == "http");
        return out;
    }
    let here = listening.iter().find_map(BoundAddress::on_loopback);
    if let Some(here) = here {
        out.push_str("\nA builder on this host:\n");
        let route = BuilderRoute { name: &here.to_string(), plain: true, closed: config.is_closed() };
        paste(&mut out, route.on_this_host());
    }
    let is_remote = |one: &&BoundAddress| !one.address.ip().is_loopback();
    // With TLS, if there is any: it is what others should use.
    let beyond = listening.iter().filter(is_remote).min_by_key(|one| one.plain);
    if let Some(shown) = beyond.or(listening.first()) {
        let (ip, port) = (shown.address.ip(), shown.address.port());
        let name = match ip.is_unspecified() || ip.is_loopback() {
            true => format!("{PLACEHOLDER}:{port}"),
            false => shown.address.to_string(),
        };
        let who = if here.is_some() { "A builder on another host" } else { "A builder on any host" };
        let mut heading = who.to_string();
        if name.starts_with(PLACEHOLDER) {
            let certified = if shown.plain { "" } else { ", a name in its certificate," };
            write!(heading, ", where this one is {PLACEHOLDER}{certified}").unwrap_or_default();
            if beyond.is_none() {
                write!(heading, " and listens beyond loopback (--listen 0.0.0.0:{port})").unwrap_or_default();
            }
        }
        heading.push(':');
        remote(&mut out, config, &heading, &name, shown.plain);
    }
    out
}

/// The lines for a builder that reaches the server by this name.
fn remote(out: &mut String, config: &Config, heading: &str, name: &str, plain: bool) {
    out.push_str(&format!("\n{heading}\n"));
    paste(out, BuilderRoute { name, plain, closed: config.is_closed() }.configured());
}

fn paste(out: &mut String, lines: Vec<String>) {
    lines.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(toml: &str, listening: &[(&str, bool)]) -> String {
        let config: Config = toml::from_str(toml).unwrap();
        let address =
            |(address, plain): &(&str, bool)| BoundAddress { address: address.parse().unwrap(), plain: *plain };
        banner(&config, &listening.iter().map(address).collect::<Vec<_>>())
    }

    fn has(shown: &str, parts: &[&str], missing: &[&str]) {
        parts.iter().for_each(|part| assert!(shown.contains(part), "{part} in\n{shown}"));
        missing.iter().for_each(|part| assert!(!shown.contains(part), "{part} in\n{shown}"));
    }

    #[test]
    fn without_tls_builders_here_need_nothing_and_others_one_line() {
        let default = shown("", &[("127.0.0.1:5000", true)]);
        has(
            &default,
            &[
                "address    http://127.0.0.1:5000\n",
                "A builder on this host:\n  docker buildx create",
                "ref=127.0.0.1:5000/app:cache,mode=max,ignore-error=true --cache-from type=registry,ref=127.0.0.1:5000/app:cache .",
                "where this one is THIS_HOST and listens beyond loopback (--listen 0.0.0.0:5000):\n",
                "printf '[registry.\"THIS_HOST:5000\"]\\n  http = true\\n' > buildkitd.toml\n",
            ],
            &["docker login", "https", "ca ="],
        );
        assert!(default.contains(&format!("files in {}/larder-data", std::env::current_dir().unwrap().display())));
        has(
            &shown("", &[("0.0.0.0:80", true)]),
            &["ref=127.0.0.1:80/app", "where this one is THIS_HOST:\n"],
            &["--listen"],
        );
        has(&shown("", &[("[::1]:5000", true)]), &["ref=[::1]:5000/app"], &[]);
        let one = shown("", &[("10.0.0.5:5000", true)]);
        has(
            &one,
            &["A builder on any host:\n", "[registry.\"10.0.0.5:5000\"]\\n  http = true"],
            &["THIS_HOST", "this host"],
        );
    }

    #[test]
    fn with_tls_no_line_speaks_plain_http() {
        const TLS: &str = "[tls]\ncert = \"c\"\nkey = \"k\"\n[[rules]]\nidentity = \"cert:*\"\nmay = [\"pull\"]\n";
        let tls = shown(TLS, &[("0.0.0.0:5000", false)]);
        has(
            &tls,
            &[
                "address    https://0.0.0.0:5000\n",
                "A builder on any host, where this one is THIS_HOST, a name in its certificate,:\n",
                "docker login THIS_HOST:5000   #",
                "  http = false\\n  ca = [\"/path/to/ca.pem\"]\\n",
                "ref=THIS_HOST:5000/app:cache,mode=max,ignore-error=true",
            ],
            &["http = true", "127.0.0.1"],
        );
        // Beside it without TLS for this host.
        let both = shown(TLS, &[("0.0.0.0:5000", false), ("127.0.0.1:5001", true)]);
        has(&both, &["ref=127.0.0.1:5001/app", "docker login 127.0.0.1:5001", "THIS_HOST:5000"], &["http = true"]);
    }

    #[test]
    fn a_public_url_is_the_name_in_every_line() {
        let url = |url: &str| shown(&format!("[server]\npublic_url = \"{url}\"\n"), &[("0.0.0.0:5000", true)]);
        let secure = url("https://cache.example.com");
        has(
            &secure,
            &["ref=cache.example.com/app:cache,", "[registry.\"cache.example.com\"]\\n  http = false"],
            &["127.0.0.1", "THIS_HOST", "http = true"],
        );
        has(
            &url("http://cache.example.com:81"),
            &["[registry.\"cache.example.com:81\"]\\n  http = true"],
            &["127.0.0.1"],
        );
    }
}
