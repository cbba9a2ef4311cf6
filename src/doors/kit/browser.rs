//! What is refused to browsers. A browser sends what it remembers of a server, its password and its place in the
//! network, along with whatever a page of another site asks of that server; programs do not.
//!
//! Two things are refused, on all doors alike. What changes something is, when the browser says that a page of another
//! site asks for it (`Sec-Fetch-Site`, W3C Fetch Metadata; `Origin`, RFC 6454). And all is that comes by a name which
//! nobody has said to be ours: whoever owns a name can have it lead to this server's address once his page is there
//! ("DNS rebinding"), and then the browser takes the page and the server for one site.
//!
//! Builders and other clients of registries send none of the headers by which a browser is known, and are never refused
//! here.

use std::net::{IpAddr, Ipv6Addr};

use http::header::{ORIGIN, USER_AGENT};
use http::{HeaderMap, Method};

use crate::doors::kit::origin::RequestOrigin;

/// How all browsers begin their `User-Agent`.
const BROWSERS: &[u8] = b"Mozilla/";
/// How the headers of W3C Fetch Metadata begin, which scripts cannot set.
const FETCH_METADATA: &str = "sec-fetch-";
const SEC_FETCH_SITE: &str = "sec-fetch-site";
/// The origin of a page that has none of its own, or does not tell.
const OPAQUE: &[u8] = b"null";

/// Why a browser is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrowserRefusal {
    #[error(
        "a page of another site requests a change: only pages of this server may. If a proxy uses another name for the \
         server than browsers do, set [server] public_url"
    )]
    CrossSite,
    #[error(
        "browsers may not reach this server as {0:?}: if that is one of its names, set [server] public_url, or add it to \
         [server] hosts"
    )]
    UnknownHost(String),
}

/// Refuses what a browser must not be led to ask by another site.
pub fn refuse_foreign(origin: &RequestOrigin<'_>, method: &Method) -> Result<(), BrowserRefusal> {
    if !is_browser(origin.headers) {
        return Ok(());
    }
    let mut names = origin.names().peekable();
    if names.peek().is_none() {
        return Err(BrowserRefusal::UnknownHost(String::new()));
    }
    if let Some(foreign) = names.find(|name| !Authority::parse(name).is_some_and(|name| is_ours(origin, &name.host))) {
        return Err(BrowserRefusal::UnknownHost(foreign.to_string()));
    }
    if !method.is_safe() && is_cross_site(origin) {
        return Err(BrowserRefusal::CrossSite);
    }
    Ok(())
}

/// Whether a request looks as if a browser had sent it.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(BROWSERS))
        || headers.keys().any(|name| *name == ORIGIN || name.as_str().starts_with(FETCH_METADATA))
}

/// Whether a host is this server for certain: an address, the browser's own machine, or a name of the configuration.
/// Only names can be led elsewhere.
fn is_ours(origin: &RequestOrigin<'_>, host: &str) -> bool {
    let server = &origin.config.server;
    let public = server.public_url.as_ref().and_then(|url| Authority::of_url(url.as_str()));
    host.parse::<IpAddr>().is_ok()
        || host == "localhost"
        || host.ends_with(".localhost")
        || public.is_some_and(|public| public.host == host)
        || server.hosts.iter().any(|own| own.as_str() == host)
}

/// Whether the browser says that the page which asks is of another site, or of another server of the same site.
fn is_cross_site(origin: &RequestOrigin<'_>) -> bool {
    let mut sites = origin.headers.get_all(SEC_FETCH_SITE).into_iter().map(http::HeaderValue::as_bytes).peekable();
    let is_told = sites.peek().is_some();
    if !sites.all(|site| matches!(site, b"same-origin" | b"none")) {
        return true;
    }
    origin.headers.get_all(ORIGIN).into_iter().any(|page| match page.as_bytes() {
        // A page that sends no referrer has no origin either: then the browser's own word for it is needed.
        OPAQUE => !is_told,
        _ => !page.to_str().ok().and_then(Authority::of_url).is_some_and(|page| is_own(origin, &page)),
    })
}

/// Whether a page of that host and port is one of this server.
fn is_own(origin: &RequestOrigin<'_>, page: &Authority) -> bool {
    let public = origin.config.server.public_url.as_ref().and_then(|url| Authority::of_url(url.as_str()));
    let named = origin.names().filter_map(Authority::parse);
    public.into_iter().chain(named).any(|own| {
        // By which scheme a request without a port came to a proxy, the proxy knows.
        own.host == page.host && (own.port == page.port || own.port.is_none() && page.is_default_port)
    })
}

/// A host and a port (RFC 3986, section 3.2), in a form in which those that are the same are equal.
#[derive(Debug, PartialEq, Eq)]
struct Authority {
    /// In lower case, without the dot of a full name and the brackets of an address.
    host: String,
    /// Of a URL, that of its scheme where it says none.
    port: Option<u16>,
    /// Of a URL, whether it is the port of its scheme.
    is_default_port: bool,
}

impl Authority {
    fn parse(text: &str) -> Option<Authority> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (address.parse::<Ipv6Addr>().ok()?.to_string(), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(), port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(port) if !port.is_empty() => Some(port.parse().ok()?),
            Some(_) => None,
            None if port.is_empty() => None,
            None => return None,
        };
        (!host.is_empty()).then_some(Authority { host, port, is_default_port: false })
    }

    /// That of `http://host:port` or `https://host:port`.
    fn of_url(url: &str) -> Option<Authority> {
        let (scheme, authority) = url.split_once("://")?;
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let parsed = Authority::parse(authority)?;
        let port = parsed.port.unwrap_or(default);
        Some(Authority { port: Some(port), is_default_port: port == default, ..parsed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_are_the_same_are_equal() {
        for (text, host, port) in [
            ("Cache.Example.com.", "cache.example.com", None),
            ("cache.example.com:5000", "cache.example.com", Some(5000)),
            ("a:", "a", None),
            ("[::1]:5000", "::1", Some(5000)),
            ("[0:0::1]", "::1", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
        ] {
            let parsed = Authority::parse(text).unwrap();
            assert_eq!((&*parsed.host, parsed.port), (host, port), "{text}");
        }
        for bad in ["", ":80", ".", "a:b", "a:1:2", "::1", "[::1", "[::1]x", "[a]", "a:99999"] {
            assert_eq!(Authority::parse(bad), None, "{bad}");
        }
        let url = |text| Authority::of_url(text).map(|url| (url.port, url.is_default_port));
        assert_eq!(url("https://a"), Some((Some(443), true)));
        assert_eq!(url("http://a:443"), Some((Some(443), false)));
        assert_eq!(url("null"), None);
        assert_eq!(url("chrome-extension://a"), None);
    }
}
