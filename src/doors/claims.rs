//! Routing of requests to doors: one table of claims for all of them, planned ones included.
//!
//! The registry comes first, by one comparison: it has most requests, and no bucket can be named `v2`, since S3
//! requires three letters. Then come requests with a signature of S3, whatever their path: a signed `/metrics/<key>` is
//! an object of a bucket. Then come paths. A `Host` that stands for an upstream changes the content that a door serves
//! and not the door, so no host is claimed.
//!
//! Invariant: no path has two owners, and a configured prefix takes no path from another door.

use http::header::AUTHORIZATION;
use http::{HeaderMap, Uri};

/// A door, as the target of routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Registry,
    Pages,
    /// Health, metrics, tokens, and JSON for operators and programs.
    Admin,
    /// A planned door: its paths are kept free, and answered with 404.
    Reserved,
    /// Claimed by no door: 404.
    Nobody,
}

/// The shape of a claimed path.
#[derive(Clone, Copy, Debug)]
enum Path {
    /// This path alone.
    At(&'static str),
    /// This path and all paths below it.
    Below(&'static str),
}

/// The claims of paths outside of `/v2`.
const CLAIMS: [(Path, Door); 16] = [
    (Path::At("/"), Door::Pages),
    (Path::At("/repositories"), Door::Pages),
    (Path::Below("/repo"), Door::Pages),
    (Path::At("/evictions"), Door::Pages),
    (Path::At("/scopes"), Door::Pages),
    (Path::At("/jobs"), Door::Pages),
    (Path::At("/style.css"), Door::Pages),
    (Path::Below("/api"), Door::Admin),
    (Path::Below("/token"), Door::Admin),
    (Path::At("/healthz"), Door::Admin),
    (Path::At("/readyz"), Door::Admin),
    (Path::At("/metrics"), Door::Admin),
    // The cache of GitHub Actions, by its protocols.
    (Path::Below("/twirp"), Door::Reserved),
    (Path::Below(ACTIONS), Door::Reserved),
    (Path::Below("/_internal"), Door::Reserved),
    // Signed URLs.
    (Path::Below("/larder"), Door::Reserved),
];

const REGISTRY: &str = "/v2";
/// The older protocol of GitHub Actions. Clients that cannot send a token prepend one: `/<credential>/_apis/…`.
const ACTIONS: &str = "/_apis";

impl Path {
    fn has(self, path: &str) -> bool {
        match self {
            Path::At(own) => path == own,
            Path::Below(own) => is_below(path, own),
        }
    }
}

fn is_below(path: &str, own: &str) -> bool {
    path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The door of a request. `prefixes` are configured ones before the `/v2` of a mirror, without slashes at the ends.
pub fn door(uri: &Uri, headers: &HeaderMap, prefixes: &[&str]) -> Door {
    let path = uri.path();
    if is_below(path, REGISTRY) {
        return Door::Registry;
    }
    if is_signed(uri, headers) {
        return Door::Reserved;
    }
    let claimed = CLAIMS.iter().find(|(claim, _)| claim.has(path)).map(|(_, door)| *door);
    claimed.unwrap_or_else(|| {
        let rest = path.strip_prefix('/').unwrap_or_default();
        let behind_credential = rest.find('/').is_some_and(|end| is_below(&rest[end..], ACTIONS));
        let of_mirror = |prefix: &&str| rest.strip_prefix(*prefix).is_some_and(|rest| is_below(rest, REGISTRY));
        if behind_credential || prefixes.iter().any(of_mirror) { Door::Reserved } else { Door::Nobody }
    })
}

/// Tells whether a request has a signature of S3: in a header, or as a presigned URL.
fn is_signed(uri: &Uri, headers: &HeaderMap) -> bool {
    let by_header = |value: &http::HeaderValue| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256");
    let by_query = |query: &str| query.split('&').any(|pair| pair.starts_with("X-Amz-Signature="));
    headers.get(AUTHORIZATION).is_some_and(by_header) || uri.query().is_some_and(by_query)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn door_of(path: &str, prefixes: &[&str]) -> Door {
        door(&path.parse().unwrap(), &HeaderMap::new(), prefixes)
    }

    #[test]
    fn each_path_has_its_door() {
        for (door, paths) in [
            (Door::Registry, &["/v2", "/v2/", "/v2/_catalog", "/v2/a/_apis/x", "/v2/x/manifests/y?ns=docker.io"][..]),
            (Door::Pages, &["/", "/repositories?q=x", "/repo/team/app:cache", "/repo/_apis/x", "/evictions"]),
            (Door::Admin, &["/api/overview", "/api/_apis/x", "/token", "/token/exchange", "/healthz", "/metrics"]),
            (Door::Reserved, &["/twirp/github.actions.results.api.v1.CacheService/GetCacheEntryDownloadURL"]),
            (Door::Reserved, &["/_apis/artifactcache/cache", "/t0ken/_apis/artifactcache/cache", "/t0ken/_apis"]),
            (Door::Reserved, &["/_internal/caches", "/larder/blob?sig=x", "/hub/v2/", "/hub/v2"]),
            (Door::Nobody, &["/v", "/v22", "/v2x/y", "/healthz/x", "/metricsx", "/hub", "/hub/v2x", "/x/y/_apis"]),
            (Door::Nobody, &["//v2", "/other/v2/", "//hub/v2"]),
        ] {
            for path in paths {
                assert_eq!(door_of(path, &["hub"]), door, "{path}");
            }
        }
    }

    #[test]
    fn signed_requests_are_those_of_s3_but_for_the_registrys() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("AWS4-HMAC-SHA256 Credential=x"));
        for path in ["/", "/bucket/key", "/metrics", "/api/key", "/x"] {
            assert_eq!(door(&path.parse().unwrap(), &headers, &[]), Door::Reserved, "{path}");
            assert_eq!(door_of(&format!("{path}?X-Amz-Date=x&X-Amz-Signature=y"), &[]), Door::Reserved, "{path}");
        }
        assert_eq!(door(&"/v2/".parse().unwrap(), &headers, &[]), Door::Registry);
    }

    #[test]
    fn no_claim_lies_within_another() {
        let own = |claim: Path| match claim {
            Path::At(path) | Path::Below(path) => path,
        };
        let registry = (Path::Below(REGISTRY), Door::Registry);
        let all: Vec<Path> = CLAIMS.iter().chain([&registry]).map(|(claim, _)| *claim).collect();
        for (at, claim) in all.iter().enumerate() {
            let others = all.iter().enumerate().filter(|(other, _)| *other != at);
            let owners: Vec<_> = others.filter(|(_, other)| other.has(own(*claim))).collect();
            assert!(owners.is_empty(), "{claim:?} is claimed by {owners:?} too");
        }
    }

    proptest! {
        #[test]
        fn no_path_has_two_owners_and_no_prefix_shadows_one(
            path in "/(v2|repo|api|token|larder|_apis|_internal|twirp|hub|metrics|[a-z._]{0,4})(/(v2|_apis|[a-z]{0,3})){0,3}",
            prefixes in proptest::collection::vec("(v2|repo|api|token|larder|_apis|twirp|hub|[a-z/]{0,5})", 0..4),
        ) {
            let owners = CLAIMS.iter().filter(|(claim, _)| claim.has(&path)).count();
            prop_assert!(owners + usize::from(is_below(&path, REGISTRY)) <= 1);
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let (without, with) = (door_of(&path, &[]), door_of(&path, &prefixes));
            prop_assert!(with == without || without == Door::Nobody, "{path} goes from {without:?} to {with:?}");
        }
    }
}
