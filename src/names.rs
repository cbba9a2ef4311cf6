//! The names that reach us from outside. Parsed once at the edge, trusted inside.
//!
//! Grammar of repositories and tags: OCI distribution spec, "Pulling manifests".

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use crate::digest::{Digest, InvalidDigest};

/// Longest repository name, in bytes. The spec lets a registry and its host name share 255 characters.
pub const REPO_NAME_BYTES_MAX: usize = 255;
/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

/// Why a text is not a name.
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
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $valid:expr, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

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
    /// The name of one batch of what is condemned.
    BatchId,
    |text: &str| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
    InvalidName::Batch
);
name!(
    /// The boundary of isolation, deduplication and quota.
    Tenant,
    |text: &str| text.len() <= 64 && is_component(text),
    InvalidName::Tenant
);

impl Tenant {
    /// The tenant that everybody belongs to unless the configuration says otherwise.
    pub fn default_tenant() -> Tenant {
        Tenant("default".into())
    }
}

impl UploadId {
    /// 128 bits from the system's random source: whoever does not hold the `Location` cannot guess it.
    pub fn random() -> UploadId {
        UploadId(format!("{:032x}", rand::random::<u128>()).into())
    }
}

impl BatchId {
    /// Never used twice: `replica` is drawn at the start of each process, `number` counts in it.
    pub fn new(replica: u64, number: u64) -> BatchId {
        BatchId(format!("{replica:016x}{number:016x}").into())
    }
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

/// How a manifest is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = InvalidName;

    /// What holds a colon can only be meant as a digest: no tag may.
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
    fn tags_follow_the_grammar() {
        for good in ["a", "_", "1.0-rc_1", "Latest", &"a".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a:b", "a b", "é", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
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
            // The expression of the spec, as a tiny machine: words separated by one of . _ __ or dashes.
            let spaced = text.replace("__", " ").replace(['.', '_'], " ");
            let dashed = spaced.split('-').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
            let edges = !text.starts_with(['.', '_', '-']) && !text.ends_with(['.', '_', '-']);
            let mixed = ["._", "_.", ".-", "-.", "_-", "-_", "..", "___"].iter().any(|m| text.contains(m));
            let expected = !text.is_empty() && edges && !mixed && dashed.split(' ').all(|w| !w.is_empty());
            prop_assert_eq!(text.parse::<RepoName>().is_ok(), expected);
        }
    }
}
