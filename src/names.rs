//! Names in requests and configuration. Parsed once at the edge, trusted inside.
//!
//! Grammar of repositories and tags: OCI distribution spec, "Pulling manifests".

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use crate::digest::{Digest, InvalidDigest};

/// The character between a tenant and its scope, outside the grammar of both.
const SCOPE_MARK: char = '~';
/// Longest name of a tenant that is no scope, in bytes.
const TENANT_BYTES_MAX: usize = 64;
/// Longest readable part of a scope's name, in bytes: letters, digits and dashes.
const SLUG_BYTES_MAX: usize = 32;
/// Digits of the hash in the name of a scope, and how many of them people are shown.
const SCOPE_HASH_DIGITS: usize = 32;
const SCOPE_DIGITS_SHOWN: usize = 8;

/// Longest repository name, in bytes. The spec lets a registry and its host name share 255 characters.
pub const REPO_NAME_BYTES_MAX: usize = 255;
/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

/// A reserved repository name, which the server uses itself, or will.
pub struct ReservedName {
    /// The name. Every name below it is reserved.
    pub name: &'static str,
    /// Whether the name itself is reserved, too.
    itself: bool,
}

/// All reserved repository names. Never all of `larder/`: users have repositories there.
pub const RESERVED_NAMES: [ReservedName; 2] = [
    // The frontend for BuildKit that the server distributes.
    ReservedName { name: "larder/dockerfile", itself: true },
    // Repositories with a token in their path.
    ReservedName { name: "larder/token", itself: false },
];

/// All reserved names as patterns, for display.
pub fn reserved_patterns() -> String {
    let patterns = RESERVED_NAMES.iter().map(|reserved| match reserved.itself {
        true => format!("{name}, {name}/**", name = reserved.name),
        false => format!("{}/**", reserved.name),
    });
    patterns.collect::<Vec<_>>().join(", ")
}

/// The reason why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("repository name must be lowercase components joined by '/', at most 255 characters")]
    Repo,
    #[error("tag must be at most 128 letters, digits, '_', '.' or '-', and not begin with '.' or '-'")]
    Tag,
    #[error("upload id must be 32 lowercase hexadecimal digits")]
    Upload,
    #[error("batch id must be 32 lowercase hexadecimal digits")]
    Batch,
    #[error("tenant must be a lowercase name component")]
    Tenant,
    #[error("session id must be three groups of hexadecimal digits")]
    Session,
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $valid:expr, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        // Cloned several times for each request.
        pub struct $name(Arc<str>);

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $valid(text) { Ok($name(text.into())) } else { Err($error) }
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a repository: `library/app`.
    RepoName,
    |text: &str| text.len() <= REPO_NAME_BYTES_MAX && text.split('/').all(is_component),
    InvalidName::Repo
);
name!(
    /// A mutable pointer to a manifest. Tags that differ in case only are different tags.
    Tag,
    is_tag,
    InvalidName::Tag
);
name!(
    /// The unguessable name of one upload session.
    UploadId,
    |text: &str| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
    InvalidName::Upload
);
name!(
    /// The name of one batch of condemned objects.
    BatchId,
    |text: &str| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
    InvalidName::Batch
);
name!(
    /// The boundary of isolation, deduplication and quota. `tenant~scope` is a scope of the tenant: it has all
    /// properties of a tenant, and reads its parents' content as well.
    Tenant,
    is_tenant,
    InvalidName::Tenant
);

name!(
    /// The name of a session begun by `/token/exchange`: `<end>-<whose>-<random>`. The name alone tells when its note
    /// can be removed.
    SessionId,
    is_session,
    InvalidName::Session
);

impl Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl SessionId {
    /// A new name. `end` is in seconds since 1970; `whose` is the same for all sessions of one identity.
    pub fn new(end: u64, whose: u64) -> SessionId {
        SessionId(format!("{end:016x}-{whose:016x}-{:032x}", rand::random::<u128>()).into())
    }

    /// The end of the session, in seconds since 1970.
    pub fn end(&self) -> u64 {
        self.group(0)
    }

    /// The number that all sessions of its identity share.
    pub fn whose(&self) -> u64 {
        self.group(1)
    }

    fn group(&self, number: usize) -> u64 {
        self.0.split('-').nth(number).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }
}

fn is_session(text: &str) -> bool {
    let hex = |digits: &str| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut groups = text.split('-');
    [16, 16, 32].iter().all(|length| groups.next().is_some_and(|digits| digits.len() == *length && hex(digits)))
        && groups.next().is_none()
}

/// Digits of an upload's id that are shown: enough to tell uploads apart.
const UPLOAD_ID_SHOWN: usize = 8;

/// A path or a key for display, with only the beginning of an upload's id: a caller that knows the whole id, and may
/// push, can send to the upload or end it.
pub fn without_upload_id(path: &str) -> Cow<'_, str> {
    // Every request's log line passes here: for short paths, this costs a third of `str::find`.
    const BEFORE: &[u8] = b"/uploads/";
    let mut at = 0;
    while let Some(found) = path.as_bytes()[at..].windows(BEFORE.len()).position(|bytes| bytes == BEFORE) {
        let begin = at + found + BEFORE.len();
        let part = path[begin..].split('/').next().unwrap_or_default();
        if part.parse::<UploadId>().is_ok() {
            let (shown, rest) = (begin + UPLOAD_ID_SHOWN, begin + part.len());
            return Cow::Owned([&path[..shown], "...", &path[rest..]].concat());
        }
        // The slash after it may begin the next.
        at = begin - 1;
    }
    Cow::Borrowed(path)
}

impl RepoName {
    /// Whether the name is one of [`RESERVED_NAMES`], or lies below one.
    pub fn is_reserved(&self) -> bool {
        RESERVED_NAMES.iter().any(|reserved| match self.strip_prefix(reserved.name) {
            Some("") => reserved.itself,
            Some(rest) => rest.starts_with('/'),
            None => false,
        })
    }
}

impl Tenant {
    /// The tenant of all callers, unless the configuration says otherwise.
    pub fn default_tenant() -> Tenant {
        Tenant("default".into())
    }

    /// The scope of this tenant with this name.
    ///
    /// Invariant: another text is another scope. The hash tells them apart; the rest of the name is for display.
    pub fn scope(&self, called: &ScopeName) -> Tenant {
        Tenant(format!("{}{SCOPE_MARK}{called}", self.root()).into())
    }

    /// Whether this tenant is a scope of another one.
    pub fn is_scope(&self) -> bool {
        self.0.contains(SCOPE_MARK)
    }

    /// Of a scope, what follows the tenant, with the first digits of its hash: for people.
    pub fn short_scope(&self) -> Option<&str> {
        let (_, name) = self.0.split_once(SCOPE_MARK)?;
        let hidden = SCOPE_HASH_DIGITS - SCOPE_DIGITS_SHOWN;
        Some(name.len().checked_sub(hidden).and_then(|end| name.get(..end)).unwrap_or(name))
    }

    /// The name without its scope.
    pub fn root(&self) -> &str {
        self.0.split(SCOPE_MARK).next().unwrap_or_default()
    }
}

/// The part of a scope's name after the tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeName {
    name: Box<str>,
    /// What the name was made from.
    text: Box<str>,
}

impl ScopeName {
    /// The name for any text: its beginning in the characters of a name, and 128 bits of its hash.
    pub fn of(text: &str) -> ScopeName {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut slug = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
        slug.truncate(SLUG_BYTES_MAX);
        let hash = Digest::sha256(text.as_bytes()).to_string();
        let hash = hash.trim_start_matches("sha256:").get(..SCOPE_HASH_DIGITS).unwrap_or_default();
        let slug = slug.trim_end_matches('-');
        let name = if slug.is_empty() { hash.into() } else { format!("{slug}-{hash}").into() };
        ScopeName { name, text: text.into() }
    }

    /// What the name was made from: the words of a rule with claims filled in, of any length.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl UploadId {
    /// 128 bits from the system's random source: a caller without the `Location` cannot guess it.
    pub fn random() -> UploadId {
        UploadId(format!("{:032x}", rand::random::<u128>()).into())
    }
}

impl BatchId {
    /// A name that is never used twice: `replica` is drawn at the start of each process, `number` counts in it.
    pub fn new(replica: u64, number: u64) -> BatchId {
        BatchId(format!("{replica:016x}{number:016x}").into())
    }
}

fn is_tenant(text: &str) -> bool {
    let (tenant, scope) = text.split_once(SCOPE_MARK).map_or((text, None), |(tenant, scope)| (tenant, Some(scope)));
    let fits = |name: &str| name.len() <= TENANT_BYTES_MAX + 1 && is_component(name);
    tenant.len() <= TENANT_BYTES_MAX && is_component(tenant) && scope.is_none_or(fits)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        let separator = match rest {
            [] => return true,
            [b'_', b'_', ..] => 2,
            [b'.' | b'_', ..] => 1,
            [b'-', ..] => rest.iter().take_while(|b| **b == b'-').count(),
            _ => return false,
        };
        rest = &rest[separator..];
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = text.bytes();
    text.len() <= TAG_BYTES_MAX && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

/// The reference of a manifest in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = InvalidName;

    /// A text with a colon can only be a digest: no tag may contain one.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains(':') { Ok(Reference::Digest(text.parse()?)) } else { Ok(Reference::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repository_names_follow_the_grammar() {
        for good in ["a", "a/b", "a-b", "a--b/c", "a__b", "a.b_c", "0/1/2", &"a".repeat(255)] {
            assert!(good.parse::<RepoName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a_",
            "_a",
            "a___b",
            "a..b",
            "a.-b",
            ".",
            "..",
            "a/../b",
            "a!",
            "a~b",
            "é",
            "a b",
            "a\0",
            &"a".repeat(256),
        ] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn reserved_names_are_few_and_what_lies_beside_them_is_free() {
        let is_reserved = |name: &str| name.parse::<RepoName>().unwrap().is_reserved();
        for name in ["larder/dockerfile", "larder/dockerfile/1", "larder/token/x", "larder/token/x/y"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in
            ["larder", "larder/cache", "larder/token", "larder/dockerfile-x", "larder/dockerfiles", "a/larder/token/x"]
        {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn a_session_is_named_by_its_end_and_whose_it_is() {
        let id = SessionId::new(1_700_000_000, u64::MAX);
        assert_eq!((id.end(), id.whose()), (1_700_000_000, u64::MAX));
        assert_eq!(id.parse::<SessionId>().unwrap(), id);
        assert_ne!(SessionId::new(1, 1), SessionId::new(1, 1));
        for bad in ["", "session", "a-b-c", &id[1..], &format!("{id}-0"), &id.to_uppercase()] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["a", "_", "1.0-rc_1", "Latest", &"a".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a:b", "a b", "é", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn another_text_is_another_scope_and_each_has_a_name_that_reads_back() {
        let tenant = Tenant::default_tenant();
        let texts =
            ["org/app@refs/pull/1/merge", "org/app@refs/pull/11/merge", "Org/app@refs/pull/1/merge", "", "-", "é"];
        let long = "x".repeat(5000);
        let names: Vec<Tenant> =
            texts.iter().copied().chain([&*long]).map(|text| tenant.scope(&ScopeName::of(text))).collect();
        for (at, name) in names.iter().enumerate() {
            assert_eq!(name.parse::<Tenant>().unwrap(), *name);
            assert!(name.is_scope() && name.root() == "default", "{name}");
            let short = name.short_scope().unwrap();
            assert!(short.len() <= SLUG_BYTES_MAX + 1 + SCOPE_DIGITS_SHOWN && name.contains(short), "{short}");
            assert!(!names[..at].contains(name), "{name}");
            assert_eq!(name.scope(&ScopeName::of("")), tenant.scope(&ScopeName::of("")));
        }
        assert!(names[0].starts_with("default~org-app-refs-pull-1-merge-"), "{}", names[0]);
        for bad in ["a~", "~a", "a~b~c", "a~B", "a~../b", "a~b/c"] {
            assert!(bad.parse::<Tenant>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_accepted_name_can_leave_its_folder(text in "[a-z0-9._/!~-]{1,20}") {
            if let Ok(name) = text.parse::<RepoName>() {
                for part in name.split('/') {
                    prop_assert!(!part.is_empty() && part != "." && part != ".." && part != "!");
                }
            }
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert!(!tag.contains('/') && &*tag != "." && &*tag != "..");
            }
        }

        #[test]
        fn components_match_the_published_expression(text in "[a-b0._-]{0,8}") {
            // The expression of the spec, as a small state machine: words separated by one of . _ __ or dashes.
            let spaced = text.replace("__", " ").replace(['.', '_'], " ");
            let dashed = spaced.split('-').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
            let edges = !text.starts_with(['.', '_', '-']) && !text.ends_with(['.', '_', '-']);
            let mixed = ["._", "_.", ".-", "-.", "_-", "-_", "..", "___"].iter().any(|m| text.contains(m));
            let expected = !text.is_empty() && edges && !mixed && dashed.split(' ').all(|w| !w.is_empty());
            prop_assert_eq!(text.parse::<RepoName>().is_ok(), expected);
        }
    }
}
