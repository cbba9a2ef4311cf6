//! Users and passwords from an htpasswd file. Bcrypt is slow on purpose: passwords are checked a few at a time, off the
//! threads that answer requests.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::Semaphore;

use super::seal::fingerprint;

/// Passwords being checked at once. Each takes a core for as long as its cost says.
const CHECKS_MAX: usize = 2;
/// Longest password that is looked at, in bytes.
const PASSWORD_BYTES_MAX: usize = 1 << 10;

/// The users of one htpasswd file.
pub struct Users {
    hashes: HashMap<String, Arc<str>>,
    checking: Arc<Semaphore>,
}

impl Users {
    pub fn none() -> Users {
        Users { hashes: HashMap::new(), checking: Arc::new(Semaphore::new(CHECKS_MAX)) }
    }

    pub fn load(path: &Path) -> anyhow::Result<Users> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Users::parse(&text).with_context(|| format!("{} is not valid", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Users> {
        let mut users = Users::none();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The message must not show what the line holds.
            match line.split_once(':') {
                Some((name, hash)) if !name.is_empty() && is_bcrypt(hash) => {
                    users.hashes.insert(name.to_string(), hash.into());
                }
                _ => bail!("line {} is not <user>:<bcrypt hash>, as `htpasswd -B` writes it", number + 1),
            }
        }
        Ok(users)
    }

    /// Names the present password of a user without telling it; nothing when there is no such user.
    pub fn proof(&self, name: &str) -> Option<String> {
        Some(fingerprint(self.hashes.get(name)?.as_bytes()))
    }

    /// Whether the password is that of the user. An unknown user takes as long as a known one.
    ///
    /// `anew` is asked again when it is this password's turn: of many requests with one password, one checks it.
    pub async fn check<T>(&self, name: &str, password: &str, anew: impl Fn() -> Option<T>) -> CheckedPassword<T> {
        let known = self.hashes.get(name);
        let Some(hash) = known.or_else(|| self.hashes.values().next()).cloned() else { return CheckedPassword::Wrong };
        if password.len() > PASSWORD_BYTES_MAX {
            return CheckedPassword::Wrong;
        }
        let Ok(_turn) = self.checking.acquire().await else { return CheckedPassword::Wrong };
        if let Some(found) = anew() {
            return CheckedPassword::Already(found);
        }
        let (known, password) = (known.is_some(), password.to_string());
        let right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        if known && right.unwrap_or(false) { CheckedPassword::Right } else { CheckedPassword::Wrong }
    }
}

/// What came of a password.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckedPassword<T> {
    Right,
    Wrong,
    Already(T),
}

fn is_bcrypt(hash: &str) -> bool {
    hash.len() == 60 && ["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passwords_are_checked_against_their_own_user() {
        let hash = bcrypt::hash("right", 4).unwrap();
        let other = bcrypt::hash("other", 4).unwrap();
        let users = Users::parse(&format!("# users\n\nalice:{hash}\nbob:{other}\n")).unwrap();
        let check = async |name: &str, password: &str| users.check(name, password, || None::<()>).await;
        assert_eq!(check("alice", "right").await, CheckedPassword::Right);
        assert_eq!(check("alice", "other").await, CheckedPassword::Wrong);
        assert_eq!(check("carol", "right").await, CheckedPassword::Wrong);
        assert_eq!(check("carol", "other").await, CheckedPassword::Wrong);
        assert_eq!(users.check("alice", "right", || Some(7)).await, CheckedPassword::Already(7));
        assert_ne!(users.proof("alice"), users.proof("bob"));
    }

    #[test]
    fn a_bad_line_is_named_and_not_shown() {
        for line in ["alice:secret", "alice:$apr1$x$secret", "secret", ":$2y$05$"] {
            let error = format!("{:#}", Users::parse(&format!("#\n{line}\n")).err().unwrap());
            assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        }
    }
}
