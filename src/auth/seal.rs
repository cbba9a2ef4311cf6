//! Tokens that the server issues and verifies without storing them: a payload and its HMAC.
//!
//! `larder-access.<key>.<payload>.<mac>`: the kind is part of the signed text, so one kind never passes for another.
//! Every server that has the key accepts them.

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::access::Verb;
use crate::config::Secret;
use crate::names::RepoName;

/// Longest accepted token, in bytes. Those of CI systems have one or two thousand.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Sent with requests; issued by `/token` for the rights that a client requested.
    Access,
    /// Used as a password during a build; issued by `/token/exchange`.
    Session,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            TokenKind::Access => "larder-access",
            TokenKind::Session => "larder-session",
        }
    }
}

/// Payload of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    pub who: Identity,
    /// Name of the secret or session for which the token was issued. The token ends when that is replaced, withdrawn or
    /// revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Limits of the token within the rights of its caller; nothing means no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<Scope>>,
    /// Seconds since 1970.
    pub expires: u64,
}

/// A right that a client requested: `repository:<name>:pull,push`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub name: String,
    pub may: Vec<Verb>,
}

/// The scope of the whole installation, as in clients of other registries.
pub const CATALOG: &str = "registry:catalog:*";

/// The keys: the first signs, all verify.
pub struct Sealer {
    keys: Vec<SealKey>,
}

struct SealKey {
    id: String,
    key: hmac::Key,
}

impl Sealer {
    pub fn new(secrets: &[Secret]) -> Sealer {
        let key = |secret: &Secret| {
            let bytes = secret.expose().as_bytes();
            // Identifies the key without revealing it.
            let id = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), b"larder key id");
            SealKey { id: BASE64.encode(&id.as_ref()[..6]), key: hmac::Key::new(hmac::HMAC_SHA256, bytes) }
        };
        Sealer { keys: secrets.iter().map(key).collect() }
    }

    /// Signs a payload; nothing without a key.
    pub fn seal(&self, kind: TokenKind, payload: &Payload) -> Option<String> {
        let key = self.keys.first()?;
        let payload = BASE64.encode(serde_json::to_vec(payload).ok()?);
        let signed = format!("{}.{}.{payload}", kind.prefix(), key.id);
        let mac = BASE64.encode(hmac::sign(&key.key, signed.as_bytes()));
        Some(format!("{signed}.{mac}"))
    }

    /// Payload of a token of this kind; nothing if it was not issued here or was changed. The caller checks whether it
    /// has expired.
    pub fn open(&self, kind: TokenKind, token: &str) -> Option<Payload> {
        let (signed, mac) = token.rsplit_once('.')?;
        let mut parts = signed.split('.');
        let (prefix, id, payload) = (parts.next()?, parts.next()?, parts.next()?);
        if prefix != kind.prefix() || parts.next().is_some() {
            return None;
        }
        let key = self.keys.iter().find(|key| key.id == id)?;
        // Compares in constant time.
        hmac::verify(&key.key, signed.as_bytes(), &BASE64.decode(mac).ok()?).ok()?;
        parse(payload)
    }
}

fn parse<T: DeserializeOwned>(base64: &str) -> Option<T> {
    serde_json::from_slice(&BASE64.decode(base64).ok()?).ok()
}

/// Tells whether the text has the form of a token of this server, whatever its signature.
pub fn is_ours(token: &str) -> bool {
    [TokenKind::Access, TokenKind::Session]
        .iter()
        .any(|kind| token.strip_prefix(kind.prefix()).is_some_and(|rest| rest.starts_with('.')))
}

/// A number derived from a text.
pub fn number_of(text: &[u8]) -> u64 {
    let hash = digest::digest(&digest::SHA256, text);
    hash.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A short name of a secret that does not reveal it.
pub fn fingerprint(of: &[u8]) -> String {
    BASE64.encode(&digest::digest(&digest::SHA256, of).as_ref()[..9])
}

impl Scope {
    /// Parses `repository:<name>:<actions>`. Other resources and unknown actions, which clients of other registries
    /// request, are left out.
    pub fn parse(text: &str) -> Option<Scope> {
        if text == CATALOG {
            return Some(Scope { name: String::new(), may: vec![Verb::Admin] });
        }
        let rest = text.strip_prefix("repository:")?;
        let (name, actions) = rest.rsplit_once(':')?;
        name.parse::<RepoName>().ok()?;
        let known = [Verb::Pull, Verb::Push, Verb::Delete];
        let mut may: Vec<Verb> = Vec::new();
        for action in actions.split(',') {
            match action {
                "*" => may = known.to_vec(),
                _ => match known.into_iter().find(|verb| verb.as_str() == action) {
                    Some(verb) if !may.contains(&verb) => may.push(verb),
                    _ => {}
                },
            }
        }
        Some(Scope { name: name.to_string(), may })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::IdentitySource;
    use proptest::prelude::*;

    fn sealer(keys: &[&str]) -> Sealer {
        Sealer::new(&keys.iter().map(|key| Secret::new(*key)).collect::<Vec<_>>())
    }

    fn payload() -> Payload {
        let scope = Scope::parse("repository:a/b:pull,push,fly").unwrap();
        Payload {
            who: Identity::new(IdentitySource::Token, "ci"),
            proof: Some("x".into()),
            scope: Some(vec![scope]),
            expires: 7,
        }
    }

    #[test]
    fn a_token_is_known_again_by_whoever_has_the_key() {
        let token = sealer(&["old"]).seal(TokenKind::Access, &payload()).unwrap();
        assert!(is_ours(&token));
        assert_eq!(sealer(&["new", "old"]).open(TokenKind::Access, &token), Some(payload()));
        assert_eq!(sealer(&["new"]).open(TokenKind::Access, &token), None);
        assert_eq!(sealer(&[]).seal(TokenKind::Access, &payload()), None);
    }

    #[test]
    fn one_kind_does_not_pass_for_another() {
        let sealer = sealer(&["key"]);
        let token = sealer.seal(TokenKind::Access, &payload()).unwrap();
        assert_eq!(sealer.open(TokenKind::Session, &token), None);
        let renamed = token.replace("larder-access", "larder-session");
        assert_eq!(sealer.open(TokenKind::Session, &renamed), None);
    }

    #[test]
    fn scopes_of_other_registries_are_left_out() {
        let scope = |text| Scope::parse(text);
        assert_eq!(scope("repository:a:pull").unwrap().may, [Verb::Pull]);
        assert_eq!(scope("repository:a:*").unwrap().may, [Verb::Pull, Verb::Push, Verb::Delete]);
        assert_eq!(scope("repository:a:pull,pull,admin").unwrap().may, [Verb::Pull]);
        for other in ["registry:other:*", "repository:**:pull", "repository:A:pull", "repository:a", "", "x"] {
            assert_eq!(scope(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_token_is_not_taken(at: prop::sample::Index, by in 1u8..128) {
            let sealer = sealer(&["key"]);
            let mut bytes = sealer.seal(TokenKind::Access, &payload()).unwrap().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = (bytes[at] ^ by) & 0x7f;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(sealer.open(TokenKind::Access, &changed), None);
        }
    }
}
