//! Parsing of request lines, to routes and the rights that they require. Pure: no I/O happens before this has
//! succeeded.
//!
//! Endpoints: OCI distribution spec, "Endpoints". Unknown query parameters are ignored: builders behind a mirror add
//! their own.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::access::{Access, Tags, Verb};
use crate::content::staging::Session;
use crate::digest::{Algorithm, Digest};
use crate::doors::kit::refusal::RefusalKind;
use crate::doors::registry::error::OciError;
use crate::names::{InvalidName, Reference, RepoName, Tag, UploadId};
use crate::refs::page::Page;

/// Number of entries in a list, if the client does not give one.
const PAGE_DEFAULT: usize = 1_000;
/// Maximum number of entries in a list.
const PAGE_MAX: usize = 10_000;
/// Maximum number of tags that one push of a manifest may set.
const TAGS_MAX: usize = 64;

/// A request to the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Base,
    Catalog { page: Page },
    Tags { repo: RepoName, page: Page },
    Referrers { repo: RepoName, subject: Digest, kind: Option<String>, page: Page },
    ReadBlob { repo: RepoName, digest: Digest },
    DeleteBlob { repo: RepoName, digest: Digest },
    BeginUpload { repo: RepoName, begin: Begin },
    UploadStatus { repo: RepoName, session: Session },
    AppendUpload { repo: RepoName, session: Session },
    SealUpload { repo: RepoName, session: Session, digest: Digest },
    CancelUpload { repo: RepoName, session: Session },
    ReadManifest { repo: RepoName, reference: Reference },
    PutManifest { repo: RepoName, reference: Reference, tags: Vec<Tag> },
    DeleteManifest { repo: RepoName, reference: Reference },
}

/// Beginning of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    Session(Algorithm),
    /// The body is the whole blob.
    Whole(Digest),
    /// The blob may exist already; `from` is the repository in which the client saw it.
    Mount {
        digest: Digest,
        from: Option<RepoName>,
    },
}

impl Route {
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Route, OciError> {
        // Most paths have nothing to decode.
        let path = match path.contains('%') {
            true => percent_decode_str(path).decode_utf8().map_err(|_| OciError::new(RefusalKind::NameInvalid))?,
            false => path.into(),
        };
        let query = Query::parse(query.unwrap_or_default());
        let parts: Vec<&str> = path.strip_prefix("/v2").unwrap_or_default().split('/').skip(1).collect();
        // Matched from the end: no repository name may hide the endpoint.
        match &parts[..] {
            [] | [""] => read_only(method, Route::Base),
            ["_catalog"] => read_only(method, Route::Catalog { page: query.page()? }),
            [repo @ .., "tags", "list"] if !repo.is_empty() => {
                read_only(method, Route::Tags { repo: name(repo)?, page: query.page()? })
            }
            [repo @ .., "referrers", subject] if !repo.is_empty() => {
                let (repo, subject) = (name(repo)?, subject.parse::<Digest>().map_err(InvalidName::from)?);
                let kind = query.last("artifactType").filter(|kind| !kind.is_empty()).map(str::to_string);
                read_only(method, Route::Referrers { repo, subject, kind, page: query.page()? })
            }
            [repo @ .., "blobs", "uploads"] | [repo @ .., "blobs", "uploads", ""] if !repo.is_empty() => {
                match *method {
                    Method::POST => Ok(Route::BeginUpload { repo: name(repo)?, begin: query.begin()? }),
                    _ => Err(OciError::method_not_allowed("POST")),
                }
            }
            [repo @ .., "blobs", "uploads", id] if !repo.is_empty() => upload(method, name(repo)?, id, &query),
            [repo @ .., "blobs", digest] if !repo.is_empty() => {
                let (repo, digest) = (name(repo)?, digest.parse().map_err(InvalidName::from)?);
                match *method {
                    Method::GET | Method::HEAD => Ok(Route::ReadBlob { repo, digest }),
                    Method::DELETE => Ok(Route::DeleteBlob { repo, digest }),
                    _ => Err(OciError::method_not_allowed("GET, HEAD, DELETE")),
                }
            }
            [repo @ .., "manifests", reference] if !repo.is_empty() => {
                manifest(method, name(repo)?, reference.parse()?, &query)
            }
            _ => Err(OciError::not_found()),
        }
    }

    /// The required right and its repository; nothing if the request concerns no repository.
    pub fn access(&self) -> Option<Access> {
        let (repo, verb, tags) = match self {
            Route::Base | Route::Catalog { .. } => return None,
            Route::Tags { repo, .. } | Route::Referrers { repo, .. } => (repo, Verb::Pull, Tags::None),
            Route::ReadBlob { repo, .. } => (repo, Verb::Pull, Tags::None),
            Route::ReadManifest { repo, reference } => (repo, Verb::Pull, named(reference, &[])),
            Route::PutManifest { repo, reference, tags } => (repo, Verb::Push, named(reference, tags)),
            // A deletion of content deletes every tag that references it.
            Route::DeleteBlob { repo, .. } => (repo, Verb::Delete, Tags::All),
            Route::DeleteManifest { repo, reference: Reference::Digest(_) } => (repo, Verb::Delete, Tags::All),
            Route::DeleteManifest { repo, reference } => (repo, Verb::Delete, named(reference, &[])),
            Route::BeginUpload { repo, .. }
            | Route::UploadStatus { repo, .. }
            | Route::AppendUpload { repo, .. }
            | Route::SealUpload { repo, .. }
            | Route::CancelUpload { repo, .. } => (repo, Verb::Push, Tags::None),
        };
        Some(Access { repo: repo.clone(), verb, tags })
    }

    /// The scope to request in a token for this request (distribution spec, "Token Scope Documentation").
    pub fn scope(&self) -> Option<String> {
        match (self, self.access()) {
            (Route::BeginUpload { repo, begin: Begin::Mount { from: Some(from), .. } }, _) => {
                Some(format!("repository:{repo}:pull,push repository:{from}:pull"))
            }
            (_, Some(Access { repo, verb: Verb::Push, .. })) => Some(format!("repository:{repo}:pull,push")),
            (_, Some(Access { repo, verb, .. })) => Some(format!("repository:{repo}:{}", verb.as_str())),
            (Route::Catalog { .. }, None) => Some("registry:catalog:*".into()),
            (_, None) => None,
        }
    }

    /// The route's label in metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Route::Base => "base",
            Route::Catalog { .. } => "catalog",
            Route::Tags { .. } => "tags",
            Route::Referrers { .. } => "referrers",
            Route::ReadBlob { .. } | Route::DeleteBlob { .. } => "blob",
            Route::ReadManifest { .. } | Route::PutManifest { .. } | Route::DeleteManifest { .. } => "manifest",
            Route::BeginUpload { .. }
            | Route::UploadStatus { .. }
            | Route::AppendUpload { .. }
            | Route::SealUpload { .. }
            | Route::CancelUpload { .. } => "upload",
        }
    }

    /// Tells whether the request changes the store. Such a request is completed even if its client leaves.
    pub fn writes(&self) -> bool {
        match self {
            Route::Base | Route::Catalog { .. } | Route::Tags { .. } | Route::Referrers { .. } => false,
            Route::ReadBlob { .. } | Route::ReadManifest { .. } | Route::UploadStatus { .. } => false,
            Route::DeleteBlob { .. } | Route::DeleteManifest { .. } | Route::PutManifest { .. } => true,
            Route::BeginUpload { .. } | Route::AppendUpload { .. } => true,
            Route::SealUpload { .. } | Route::CancelUpload { .. } => true,
        }
    }
}

/// The tags in a request.
fn named(reference: &Reference, more: &[Tag]) -> Tags {
    let first = match reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(_) => None,
    };
    let tags: Vec<Tag> = first.into_iter().chain(more).cloned().collect();
    if tags.is_empty() { Tags::None } else { Tags::Named(tags) }
}

fn read_only(method: &Method, route: Route) -> Result<Route, OciError> {
    match *method {
        Method::GET | Method::HEAD => Ok(route),
        _ => Err(OciError::method_not_allowed("GET, HEAD")),
    }
}

fn name(parts: &[&str]) -> Result<RepoName, OciError> {
    Ok(parts.join("/").parse::<RepoName>()?)
}

fn upload(method: &Method, repo: RepoName, id: &str, query: &Query<'_>) -> Result<Route, OciError> {
    if id.contains("&digest=") {
        let hint = "the address of the upload has no ?, so digest goes behind it as ?digest=, and not as &digest=";
        return Err(OciError::new(RefusalKind::DigestInvalid).because(hint));
    }
    let id = id.parse::<UploadId>()?;
    let session = Session { id, algorithm: query.algorithm()?, staged: query.last("staged").is_some() };
    match *method {
        Method::GET | Method::HEAD => Ok(Route::UploadStatus { repo, session }),
        Method::PATCH => Ok(Route::AppendUpload { repo, session }),
        Method::PUT => {
            let digest = query
                .last("digest")
                .ok_or_else(|| OciError::new(RefusalKind::DigestInvalid).because("?digest= is missing"))?;
            let digest = digest.parse().map_err(InvalidName::from)?;
            Ok(Route::SealUpload { repo, session, digest })
        }
        Method::DELETE => Ok(Route::CancelUpload { repo, session }),
        _ => Err(OciError::method_not_allowed("GET, HEAD, PATCH, PUT, DELETE")),
    }
}

fn manifest(method: &Method, repo: RepoName, reference: Reference, query: &Query<'_>) -> Result<Route, OciError> {
    match *method {
        Method::GET | Method::HEAD => Ok(Route::ReadManifest { repo, reference }),
        Method::PUT => {
            let tags: Vec<Tag> = query.all("tag").map(str::parse).collect::<Result<_, _>>()?;
            if tags.len() > TAGS_MAX {
                return Err(OciError::new(RefusalKind::ManifestInvalid).because(format!("more than {TAGS_MAX} tags")));
            }
            if !tags.is_empty() && matches!(reference, Reference::Tag(_)) {
                return Err(OciError::new(RefusalKind::ManifestInvalid).because("?tag= goes with a push by digest"));
            }
            Ok(Route::PutManifest { repo, reference, tags })
        }
        Method::DELETE => Ok(Route::DeleteManifest { repo, reference }),
        _ => Err(OciError::method_not_allowed("GET, HEAD, PUT, DELETE")),
    }
}

/// The query of a request, decoded.
struct Query<'a> {
    pairs: Vec<(std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    fn parse(text: &'a str) -> Query<'a> {
        Query { pairs: form_urlencoded::parse(text.as_bytes()).collect() }
    }

    fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    fn last(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    fn page(&self) -> Result<Page, OciError> {
        let limit = match self.last("n") {
            None => PAGE_DEFAULT,
            Some(n) => n.parse().map_err(|_| OciError::bad_request("n must be a number of entries"))?,
        };
        let after = self.last("last").filter(|last| !last.is_empty()).map(str::to_string);
        Ok(Page { limit: limit.min(PAGE_MAX), after })
    }

    fn algorithm(&self) -> Result<Algorithm, OciError> {
        match self.last("digest-algorithm") {
            None => Ok(Algorithm::Sha256),
            Some(text) => Ok(text.parse().map_err(InvalidName::from)?),
        }
    }

    fn begin(&self) -> Result<Begin, OciError> {
        if let Some(digest) = self.last("mount") {
            let digest = digest.parse().map_err(InvalidName::from)?;
            let from = self.last("from").filter(|from| !from.is_empty()).map(str::parse).transpose()?;
            return Ok(Begin::Mount { digest, from });
        }
        match self.last("digest") {
            Some(digest) => Ok(Begin::Whole(digest.parse().map_err(InvalidName::from)?)),
            None => Ok(Begin::Session(self.algorithm()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const U: &str = "0123456789abcdef0123456789abcdef";

    fn parse(line: &str) -> Result<Route, OciError> {
        let (method, uri) = line.split_once(' ').unwrap();
        let uri = uri.replace("$D", D).replace("$U", U);
        let (path, query) = uri.split_once('?').map_or((&*uri, None), |(path, query)| (path, Some(query)));
        Route::parse(&method.parse().unwrap(), path, query)
    }

    #[test]
    fn every_endpoint_has_its_route_and_its_right() {
        use Verb::{Delete, Pull, Push};
        for (line, label, right) in [
            ("GET /v2/", "base", None),
            ("GET /v2", "base", None),
            ("GET /v2/_catalog?n=3", "catalog", None),
            ("GET /v2/a/b/tags/list?last=x", "tags", Some(("a/b", Pull))),
            ("GET /v2/a/referrers/$D?artifactType=x", "referrers", Some(("a", Pull))),
            ("HEAD /v2/a/blobs/$D", "blob", Some(("a", Pull))),
            (
                "GET /v2/a/blobs/sha256%3Ae3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "blob",
                Some(("a", Pull)),
            ),
            ("DELETE /v2/a/blobs/$D", "blob", Some(("a", Delete))),
            ("POST /v2/a/blobs/uploads/", "upload", Some(("a", Push))),
            ("POST /v2/a/blobs/uploads", "upload", Some(("a", Push))),
            ("POST /v2/a/blobs/uploads/?mount=$D&from=b/c&ns=docker.io", "upload", Some(("a", Push))),
            ("GET /v2/a/blobs/uploads/$U", "upload", Some(("a", Push))),
            ("PATCH /v2/a/blobs/uploads/$U?staged=1", "upload", Some(("a", Push))),
            ("PUT /v2/a/blobs/uploads/$U?digest=$D", "upload", Some(("a", Push))),
            ("DELETE /v2/a/blobs/uploads/$U", "upload", Some(("a", Push))),
            ("GET /v2/a/manifests/latest?ns=x", "manifest", Some(("a", Pull))),
            ("PUT /v2/a/manifests/$D?tag=x&tag=y", "manifest", Some(("a", Push))),
            ("DELETE /v2/a/manifests/latest", "manifest", Some(("a", Delete))),
            ("GET /v2/a/blobs/uploads/tags/list", "tags", Some(("a/blobs/uploads", Pull))),
            ("GET /v2/tags/list/manifests/x", "manifest", Some(("tags/list", Pull))),
        ] {
            let route = parse(line).unwrap_or_else(|error| panic!("{line}: {error:?}"));
            assert_eq!(route.label(), label, "{line}");
            let found = route.access().map(|access| (access.repo.to_string(), access.verb));
            assert_eq!(found, right.map(|(repo, verb)| (repo.to_string(), verb)), "{line}");
        }
    }

    #[test]
    fn a_mount_keeps_its_source() {
        let begin = Begin::Mount { digest: D.parse().unwrap(), from: Some("b/c".parse().unwrap()) };
        let repo = "a".parse().unwrap();
        assert_eq!(parse("POST /v2/a/blobs/uploads/?mount=$D&from=b%2Fc"), Ok(Route::BeginUpload { repo, begin }));
    }

    proptest! {
        #[test]
        fn any_request_line_parses_or_not_without_a_panic(
            method in "GET|HEAD|PUT|POST|PATCH|DELETE|[A-Z]{1,8}",
            path in "(/|/v2|/v2/)?(([a-z.%-]{0,4}|blobs|uploads|tags|list|manifests|referrers|sha256:[a-f0-9]{0,66}|%2[eEfF]|é)/?){0,8}",
            query in proptest::option::of("((n|last|digest|mount|from|tag|staged)?=?[a-z0-9%:&é]{0,6}&?){0,4}"),
        ) {
            let method: Method = method.parse().unwrap();
            if let Ok(route) = Route::parse(&method, &path, query.as_deref()) {
                prop_assert!(!matches!(method, Method::GET | Method::HEAD) || !route.writes());
            }
        }
    }
}
