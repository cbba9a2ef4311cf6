//! Entity tags of content with a digest (RFC 9110, section 8.8.3).

use bytes::Bytes;

use crate::digest::Digest;

/// The entity tag of content: its digest in quotes.
pub struct EntityTag(Bytes);

impl EntityTag {
    pub fn of(digest: &Digest) -> EntityTag {
        EntityTag(["\"", digest.algorithm().as_str(), ":", &digest.hex(), "\""].concat().into())
    }

    /// Tells whether `If-None-Match` or `If-Range` contains this tag.
    pub fn is(&self, said: Option<&str>) -> bool {
        said.is_some_and(|said| said.as_bytes() == self.0)
    }

    /// The tag with its quotes, as in a header.
    pub fn text(&self) -> Bytes {
        self.0.clone()
    }

    /// The digest, as in a header: the same memory as the tag.
    pub fn digest(&self) -> Bytes {
        self.0.slice(1..self.0.len() - 1)
    }
}
