//! Refusals of requests from browsers. A browser adds its stored credentials and its place in the network to every
//! request, even if a page of another site causes it; programs do not.
//!
//! Two kinds are refused, on all doors alike. First, writes that a page of another site causes, according to the
//! browser (`Sec-Fetch-Site`, W3C Fetch Metadata; `Origin`, RFC 6454). Second, all requests to a name that is not
//! configured: the owner of a name can point it to this server's address once their page is loaded ("DNS rebinding"),
//! and then the browser takes the page and the server for one site.
//!
//! Builders and other clients of registries send none of the headers by which a browser is recognised, and are never
//! refused here.

use std::net::{IpAddr, Ipv6Addr};

use http::header::{ORIGIN, USER_AGENT};
use http::{HeaderMap, Method};

use crate::doors::kit::origin::RequestOrigin;

/// Prefix of the `User-Agent` of all browsers.
const BROWSERS: &[u8] = b"Mozilla/";
/// Prefix of the headers of W3C Fetch Metadata, which scripts cannot set.
const FETCH_METADATA: &str = "sec-fetch-";
const SEC_FETCH_SITE: &str = "sec-fetch-site";
/// The origin of a page without one, or that hides it.
const OPAQUE: &[u8] = b"null";

/// The reason why a browser is refused.
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

/// Refuses requests that another site may have caused in a browser.
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

/// Tells whether a request seems to come from a browser.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(BROWSERS))
        || headers.keys().any(|name| *name == ORIGIN || name.as_str().starts_with(FETCH_METADATA))
}

/// Tells whether a host is certainly this server: an address, the browser's own machine, or a configured name. Only
/// names can be pointed elsewhere.
fn is_ours(origin: &RequestOrigin<'_>, host: &str) -> bool {
    let server = &origin.config.server;
    let public = server.public_url.as_ref().and_then(|url| Authority::of_url(url.as_str()));
    host.parse::<IpAddr>().is_ok()
        || host == "localhost"
        || host.ends_with(".localhost")
        || public.is_some_and(|public| public.host == host)
        || server.hosts.iter().any(|own| own.as_str() == host)
}

/// Tells whether the page that causes the request is of another site, or of another server of the same site.
fn is_cross_site(origin: &RequestOrigin<'_>) -> bool {
    let mut sites = origin.headers.get_all(SEC_FETCH_SITE).into_iter().map(http::HeaderValue::as_bytes).peekable();
    let is_told = sites.peek().is_some();
    if !sites.all(|site| matches!(site, b"same-origin" | b"none")) {
        return true;
    }
    origin.headers.get_all(ORIGIN).into_iter().any(|page| match page.as_bytes() {
        // A page that sends no referrer has no origin either: then `Sec-Fetch-Site` must be present.
        OPAQUE => !is_told,
        _ => !page.to_str().ok().and_then(Authority::of_url).is_some_and(|page| is_own(origin, &page)),
    })
}

/// Tells whether a page of that host and port belongs to this server.
fn is_own(origin: &RequestOrigin<'_>, page: &Authority) -> bool {
    let public = origin.config.server.public_url.as_ref().and_then(|url| Authority::of_url(url.as_str()));
    let named = origin.names().filter_map(Authority::parse);
    public.into_iter().chain(named).any(|own| {
        // If the request has no port, only the proxy knows the scheme by which it came.
        own.host == page.host && (own.port == page.port || own.port.is_none() && page.is_default_port)
    })
}

/// A host and a port (RFC 3986, section 3.2), normalised for comparison.
#[derive(Debug, PartialEq, Eq)]
struct Authority {
    /// Lower case, without the final dot of a full name and the brackets of an address.
    host: String,
    /// For a URL without a port, the default port of its scheme.
    port: Option<u16>,
    /// For a URL, whether `port` is the default of its scheme.
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

    /// Parses the host and port of `http://host:port` or `https://host:port`.
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
