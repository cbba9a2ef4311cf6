//! The sender of a request, as its connection and headers tell, and the challenge for a refused one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST};
use http::{Extensions, HeaderMap, HeaderValue, Uri};

use crate::auth::{AuthError, Certificate, Credentials};
use crate::config::{Challenge, Config};
use crate::doors::Doors;

/// The connection of a request. `listen` attaches it to each request.
#[derive(Debug, Default)]
pub struct Peer {
    pub address: Option<IpAddr>,
    /// Whether the connection uses TLS.
    pub secure: bool,
    pub certificate: Option<Certificate>,
}

/// The origin of a request: all that is known of its sender before anything of it is verified.
pub struct RequestOrigin<'r> {
    pub config: &'r Config,
    pub headers: &'r HeaderMap,
    peer: Option<&'r Peer>,
    pub uri: &'r Uri,
}

impl<'r> RequestOrigin<'r> {
    pub fn new<B>(doors: &'r Doors, request: &'r http::Request<B>) -> RequestOrigin<'r> {
        RequestOrigin::of(doors, request.headers(), request.extensions(), request.uri())
    }

    pub fn of(doors: &'r Doors, headers: &'r HeaderMap, extensions: &'r Extensions, uri: &'r Uri) -> RequestOrigin<'r> {
        let peer = extensions.get::<Arc<Peer>>().map(Arc::as_ref);
        RequestOrigin { config: &doors.config, headers, peer, uri }
    }

    pub fn credentials(&self) -> Credentials<'r> {
        // A header that is not text must not count as an absent one.
        let authorization = self.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        let certificate = self.peer.and_then(|peer| peer.certificate.as_ref());
        Credentials { authorization, certificate, address: self.address() }
    }

    /// The client's address, as far as trusted proxies tell: the last one that is not a proxy's.
    pub fn address(&self) -> Option<IpAddr> {
        let direct = self.peer?.address?;
        if !self.behind_proxy() {
            return Some(direct);
        }
        let trusted = |address: &IpAddr| self.config.server.trusted_proxies.iter().any(|net| net.contains(*address));
        let lines = self.headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok());
        let chain: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
        let hops = chain.into_iter().rev().map_while(|hop| address_of(hop.trim()));
        let mut nearest = direct;
        for hop in hops {
            nearest = hop;
            if !trusted(&hop) {
                break;
            }
        }
        Some(nearest)
    }

    fn behind_proxy(&self) -> bool {
        let Some(direct) = self.peer.and_then(|peer| peer.address) else { return false };
        self.config.server.trusted_proxies.iter().any(|net| net.contains(direct))
    }

    fn forwarded(&self, name: &str) -> Option<&'r str> {
        let value = self.headers.get(name)?.to_str().ok()?;
        self.behind_proxy().then(|| value.split(',').next().unwrap_or_default().trim())
    }

    /// All names by which the request calls the server: in its URL, in `Host` and, from trusted proxies, in
    /// `X-Forwarded-Host`. A name that is not text is empty.
    pub fn names(&self) -> impl Iterator<Item = &'r str> {
        let text = |value: &'r HeaderValue| value.to_str().unwrap_or_default();
        let forwarded = self.behind_proxy().then(|| self.headers.get_all("x-forwarded-host"));
        let forwarded = forwarded.into_iter().flatten().flat_map(move |value| text(value).split(',').map(str::trim));
        let named = self.uri.authority().map(|authority| authority.as_str()).into_iter();
        named.chain(self.headers.get_all(HOST).into_iter().map(text)).chain(forwarded)
    }

    /// How the sender reaches the server: `https://host:port`. What it says of that comes back to it alone.
    pub fn base_url(&self) -> Option<String> {
        if let Some(url) = &self.config.server.public_url {
            return Some(url.as_str().to_string());
        }
        let named = self.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = self.forwarded("x-forwarded-host").or(named).or(self.uri.authority().map(|host| host.as_str()))?;
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b)) {
            return None;
        }
        let secure = match self.forwarded("x-forwarded-proto") {
            Some(scheme) => scheme.eq_ignore_ascii_case("https"),
            None => self.peer.is_some_and(|peer| peer.secure),
        };
        Some(format!("{}://{host}", if secure { "https" } else { "http" }))
    }

    /// The `WWW-Authenticate` header for a client that may try again with other credentials (distribution spec, "Token
    /// Authentication"; RFC 6750, section 3).
    pub fn challenge(&self, way: Challenge, error: &AuthError, scope: Option<&str>) -> Option<HeaderValue> {
        let code = match error {
            AuthError::Unidentified => None,
            AuthError::Invalid(_) | AuthError::Jwt(_) => Some("invalid_token"),
            AuthError::Insufficient => Some("insufficient_scope"),
            AuthError::Denied(_) | AuthError::Reserved(_) | AuthError::RepoUnknown(_) => return None,
            AuthError::TooMany(_) | AuthError::Unavailable => return None,
        };
        let text = match (way, self.base_url()) {
            (Challenge::Bearer, Some(base)) => {
                let service = base.split_once("://").map_or(&*base, |(_, host)| host);
                let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
                let code = code.map(|code| format!(",error=\"{code}\"")).unwrap_or_default();
                format!("Bearer realm=\"{base}/token\",service=\"{service}\"{scope}{code}")
            }
            _ => "Basic realm=\"larder\"".to_string(),
        };
        HeaderValue::try_from(text).ok()
    }
}

/// The address of one hop of `X-Forwarded-For`, in any form that proxies use: alone, in brackets, with a port.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    // The zone of a link-local address is one of the proxy's host, and has no meaning here.
    let unzoned = bare.split_once('%').map_or(bare, |(address, _)| address);
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    unzoned.parse().ok().or_else(with_port)
}

/// The trace of a request (W3C Trace Context, `traceparent`): one for all requests of a build.
pub fn trace_id(headers: &HeaderMap) -> Option<String> {
    let mut fields = headers.get("traceparent")?.to_str().ok()?.split('-');
    let id = fields.nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_an_address_however_a_proxy_writes_it() {
        for (hop, address) in [
            ("3.3.3.3", "3.3.3.3"),
            ("3.3.3.3:1234", "3.3.3.3"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%2]:443", "fe80::1"),
        ] {
            assert_eq!(address_of(hop), address.parse().ok(), "{hop}");
        }
        for bad in ["", "unknown", "_hidden", "3.3.3.3:", "3.3.3.3:99999", "3.3.3", "[3.3.3.3", "::1]", "a:1"] {
            assert_eq!(address_of(bad), None, "{bad}");
        }
    }
}
