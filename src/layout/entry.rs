//! The part of a key that names an entry: `<space>/<version>/<escaped key>`.
//!
//! Clients choose the key of an entry. It is escaped byte by byte and cut into pieces of 200 bytes, so that a list
//! below [`EntryName::prefix`] finds the keys which begin with a text. The last piece has an ending, so that one key
//! may continue another one on a filesystem. After 400 bytes a hash of the whole key takes the place of the rest: a key
//! of a bucket has 1,024 bytes at most, of which the longest tenant and repository take 405, the note of a quarantine
//! 11, space and version 82, and the hash with its ending 71. The entry's record has the whole key.

use crate::digest::Digest;

/// Bytes of one piece of an escaped key: with its ending it fits a file name.
const PIECE_BYTES: usize = 200;
/// Bytes of an escaped key in the path.
const STEM_BYTES_MAX: usize = 2 * PIECE_BYTES;
const SPACE_BYTES_MAX: usize = 16;
const VERSION_BYTES_MAX: usize = 64;

/// The name of an entry in its repository, as its path contains it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryName {
    space: String,
    version: String,
    /// The beginning of the escaped key.
    stem: String,
    /// SHA-256 of a key that is longer than its stem, in hexadecimal digits.
    hash: Option<String>,
}

/// An object of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryItem {
    Record,
    /// The note of its last use.
    Used,
}

impl EntryItem {
    fn ending(self) -> &'static str {
        match self {
            EntryItem::Record => ".entry",
            EntryItem::Used => ".used",
        }
    }
}

impl EntryName {
    /// The name of the entry with this key; nothing if a part is empty, or space or version is no plain word.
    pub fn new(space: &str, version: &str, key: &str) -> Option<EntryName> {
        (is_word(space, SPACE_BYTES_MAX) && is_word(version, VERSION_BYTES_MAX) && !key.is_empty()).then_some(())?;
        let mut stem = escape(key.as_bytes());
        let hash = (stem.len() > STEM_BYTES_MAX).then(|| Digest::sha256(key.as_bytes()).hex());
        stem.truncate(STEM_BYTES_MAX);
        Some(EntryName { space: space.to_string(), version: version.to_string(), stem, hash })
    }

    pub fn space(&self) -> &str {
        &self.space
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether this is the name of the entry with this key.
    pub fn is_of(&self, key: &str) -> bool {
        EntryName::new(&self.space, &self.version, key).as_ref() == Some(self)
    }

    /// The key for display: the beginning of a long one.
    pub fn label(&self) -> String {
        match (unescape(&self.stem), &self.hash) {
            (Some(key), None) => key,
            _ => format!("{}…", self.stem),
        }
    }

    /// The path of an object of the entry below `entries/`.
    pub fn path(&self, item: EntryItem) -> String {
        let mut path = EntryName::prefix_of_stem(&self.space, &self.version, &self.stem);
        if let Some(hash) = &self.hash {
            path.push('/');
            path.push_str(hash);
        }
        path.push_str(item.ending());
        path
    }

    /// The beginning of the path of every entry whose key begins with `start`, and of some others if `start` is long.
    pub fn prefix(space: &str, version: &str, start: &str) -> String {
        let mut stem = escape(start.as_bytes());
        stem.truncate(STEM_BYTES_MAX);
        EntryName::prefix_of_stem(space, version, &stem)
    }

    fn prefix_of_stem(space: &str, version: &str, stem: &str) -> String {
        let (first, second) = stem.split_at(stem.len().min(PIECE_BYTES));
        let between = if second.is_empty() { "" } else { "/" };
        format!("{space}/{version}/{first}{between}{second}")
    }

    /// Reverses [`EntryName::path`].
    pub fn parse(path: &str) -> Option<(EntryName, EntryItem)> {
        let items = [EntryItem::Record, EntryItem::Used];
        let (path, item) = items.into_iter().find_map(|item| Some((path.strip_suffix(item.ending())?, item)))?;
        let (space, path) = path.split_once('/')?;
        let (version, path) = path.split_once('/')?;
        let (stem, hash) = match path.split('/').collect::<Vec<_>>()[..] {
            [first] if (1..=PIECE_BYTES).contains(&first.len()) => (first.to_string(), None),
            [first, second] if first.len() == PIECE_BYTES && (1..=PIECE_BYTES).contains(&second.len()) => {
                (format!("{first}{second}"), None)
            }
            [first, second, hash] if first.len() == PIECE_BYTES && second.len() == PIECE_BYTES => {
                Digest::from_hex(crate::digest::Algorithm::Sha256, hash).ok()?;
                (format!("{first}{second}"), Some(hash.to_string()))
            }
            _ => return None,
        };
        let is_escaped = match hash {
            None => unescape(&stem).is_some_and(|key| escape(key.as_bytes()) == stem),
            Some(_) => stem.bytes().all(|byte| is_plain(byte) || byte == b'='),
        };
        let is_name = is_escaped && is_word(space, SPACE_BYTES_MAX) && is_word(version, VERSION_BYTES_MAX);
        let (space, version) = (space.to_string(), version.to_string());
        is_name.then_some((EntryName { space, version, stem, hash }, item))
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn is_word(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(is_plain)
}

fn escape(key: &[u8]) -> String {
    let mut escaped = String::with_capacity(key.len());
    for byte in key {
        match is_plain(*byte) {
            true => escaped.push(char::from(*byte)),
            false => escaped.push_str(&format!("={byte:02X}")),
        }
    }
    escaped
}

fn unescape(escaped: &str) -> Option<String> {
    let (mut key, mut rest) = (Vec::new(), escaped.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        if *byte == b'=' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            key.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            key.push(*byte);
            rest = after;
        }
    }
    String::from_utf8(key).ok()
}
