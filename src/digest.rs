//! Content digests: parsing, printing, and hashing that can be saved and resumed.
//!
//! Grammar and registered algorithms: OCI image spec, `descriptor.md`, "Digests".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::digest::Digest as _;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Sha256, Sha512};

/// A hash algorithm of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name in digests, keys and query parameters.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }
}

impl FromStr for Algorithm {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        match text {
            "sha256" => Ok(Algorithm::Sha256),
            "sha512" => Ok(Algorithm::Sha512),
            _ => Err(InvalidDigest::Algorithm),
        }
    }
}

/// The identity of immutable content: an algorithm and the hash of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// The reason why a text is not a digest that is accepted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    #[error("digest algorithm must be sha256 or sha512")]
    Algorithm,
    #[error("digest must be <algorithm>:<lowercase hex of the full length>")]
    Encoding,
}

impl Digest {
    /// Hashes `bytes` at once. For content of more than a few hundred kilobytes use [`Hasher`] off the async threads.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn sha256(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hash in lowercase hexadecimal: 64 or 128 characters.
    pub fn hex(&self) -> String {
        encode(self.bytes(), &mut [0; 128]).to_string()
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) => bytes,
            Digest::Sha512(bytes) => bytes,
        }
    }

    /// Makes the digest of this algorithm with this hash in lowercase hexadecimal.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Digest, InvalidDigest> {
        match algorithm {
            Algorithm::Sha256 => decode(hex).map(Digest::Sha256),
            Algorithm::Sha512 => decode(hex).map(Digest::Sha512),
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn push_hex(text: &mut String, byte: u8) {
    text.push(HEX[usize::from(byte >> 4)] as char);
    text.push(HEX[usize::from(byte & 15)] as char);
}

/// Encodes `bytes` in lowercase hexadecimal, in the first part of `text`.
fn encode<'a>(bytes: &[u8], text: &'a mut [u8; 128]) -> &'a str {
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    std::str::from_utf8(&text[..bytes.len() * 2]).unwrap_or_default()
}

fn decode<const N: usize>(hex: &str) -> Result<[u8; N], InvalidDigest> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(InvalidDigest::Encoding),
    };
    let hex = hex.as_bytes();
    if hex.len() != N * 2 {
        return Err(InvalidDigest::Encoding);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(bytes)
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (algorithm, hex) = text.split_once(':').ok_or(InvalidDigest::Encoding)?;
        Digest::from_hex(algorithm.parse()?, hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece and on the stack: each answer prints a digest several times.
        let mut hex = [0; 128];
        f.write_str(self.algorithm().as_str())?;
        f.write_str(":")?;
        f.write_str(encode(self.bytes(), &mut hex))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A running hash. Its state can be saved, so that an upload survives a restart and resumes at another replica.
#[derive(Clone, Debug)]
pub enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        match self {
            Hasher::Sha256(_) => Algorithm::Sha256,
            Hasher::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(state) => state.update(bytes),
            Hasher::Sha512(state) => state.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(state) => Digest::Sha256(state.finalize().into()),
            Hasher::Sha512(state) => Digest::Sha512(state.finalize().into()),
        }
    }

    /// The state of the hash so far, in hexadecimal, for [`Hasher::restore`].
    pub fn save(&self) -> String {
        let mut text = String::new();
        match self {
            Hasher::Sha256(state) => state.serialize().iter().for_each(|byte| push_hex(&mut text, *byte)),
            Hasher::Sha512(state) => state.serialize().iter().for_each(|byte| push_hex(&mut text, *byte)),
        }
        text
    }

    /// Resumes from a state that [`Hasher::save`] wrote.
    pub fn restore(algorithm: Algorithm, saved: &str) -> Result<Hasher, InvalidHasherState> {
        match algorithm {
            Algorithm::Sha256 => restore(saved).map(Hasher::Sha256),
            Algorithm::Sha512 => restore(saved).map(Hasher::Sha512),
        }
    }
}

/// A saved hash state that cannot be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("saved hash state is damaged")]
pub struct InvalidHasherState;

fn restore<H: SerializableState>(saved: &str) -> Result<H, InvalidHasherState> {
    let mut state = SerializedState::<H>::default();
    if saved.len() != state.len() * 2 || !saved.is_ascii() {
        return Err(InvalidHasherState);
    }
    for (i, byte) in state.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&saved[i * 2..i * 2 + 2], 16).map_err(|_| InvalidHasherState)?;
    }
    H::deserialize(&state).map_err(|_| InvalidHasherState)
}

/// Hashes bytes, off the async threads if it would block them.
///
/// # Errors
///
/// Fails when the runtime is ending.
pub async fn hash(algorithm: Algorithm, bytes: bytes::Bytes) -> Result<Digest, tokio::task::JoinError> {
    const INLINE_BYTES_MAX: usize = 64 << 10;
    if bytes.len() <= INLINE_BYTES_MAX {
        return Ok(Digest::of(algorithm, &bytes));
    }
    tokio::task::spawn_blocking(move || Digest::of(algorithm, &bytes)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_full_lowercase_digests_of_known_algorithms_parse() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let parsed: Digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(parsed, Digest::sha256(b""));
        for bad in [
            "",
            "sha256",
            "sha256:",
            &format!("sha256:{}", &hex[1..]),
            &format!("sha256:{hex}0"),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("SHA256:{hex}"),
            &format!("sha512:{hex}"),
            &format!("md5:{hex}"),
            &format!("sha256:{}é", &hex[2..]),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad} parsed");
        }
    }

    proptest! {
        #[test]
        fn a_saved_hash_goes_on_where_it_stopped(a: Vec<u8>, b: Vec<u8>, wide: bool) {
            let algorithm = if wide { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let mut first = Hasher::new(algorithm);
            first.update(&a);
            let mut second = Hasher::restore(algorithm, &first.save()).unwrap();
            second.update(&b);
            prop_assert_eq!(second.finish(), Digest::of(algorithm, &[a, b].concat()));
        }

        #[test]
        fn printing_and_parsing_round_trip(bytes: Vec<u8>, wide: bool) {
            let digest = Digest::of(if wide { Algorithm::Sha512 } else { Algorithm::Sha256 }, &bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn a_damaged_hash_state_is_refused_not_a_panic(saved in ".*") {
            let _ = Hasher::restore(Algorithm::Sha256, &saved);
        }
    }
}
