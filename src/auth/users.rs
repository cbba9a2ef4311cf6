//! Users and passwords from an htpasswd file. Bcrypt is slow on purpose: passwords are checked in turn, on blocking
//! threads.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use super::attempts::{Attempt, Attempts, household};
use super::seal::fingerprint;

/// Longest accepted password, in bytes.
const PASSWORD_BYTES_MAX: usize = 1 << 10;

/// The users of one htpasswd file.
pub struct Users {
    hashes: HashMap<String, Arc<str>>,
    /// Running checks: the same password from the same address is checked once, however often it is sent meanwhile.
    checks: Mutex<HashMap<CheckKey, WeakShared<PasswordCheck>>>,
}

type PasswordCheck = BoxFuture<'static, CheckedPassword>;
/// Address, and HMAC of name and password.
type CheckKey = (IpAddr, [u8; 32]);

/// A password as received.
pub struct SentPassword<'r> {
    pub name: &'r str,
    pub password: &'r str,
    pub address: Option<IpAddr>,
    /// HMAC of name and password.
    pub key: [u8; 32],
}

impl Users {
    pub fn none() -> Users {
        Users { hashes: HashMap::new(), checks: Mutex::default() }
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
            // The message must not contain the content of the line.
            match line.split_once(':') {
                Some((name, hash)) if !name.is_empty() && is_bcrypt(hash) => {
                    users.hashes.insert(name.to_string(), hash.into());
                }
                _ => bail!("line {} is not <user>:<bcrypt hash>, as `htpasswd -B` writes it", number + 1),
            }
        }
        Ok(users)
    }

    /// A name of the user's present password that does not reveal it; nothing if there is no such user.
    pub fn proof(&self, name: &str) -> Option<String> {
        Some(fingerprint(self.hashes.get(name)?.as_bytes()))
    }

    /// Checks whether the password is that of the user. An unknown user takes as long as a known one. An address may
    /// send `limit` wrong ones a minute.
    pub async fn check(&self, sent: &SentPassword<'_>, attempts: &Arc<Attempts>, limit: u32) -> CheckedPassword {
        self.check_of(sent, || {
            let known = self.hashes.get(sent.name);
            let hash = known.or_else(|| self.hashes.values().next()).cloned();
            let hash = hash.filter(|_| sent.password.len() <= PASSWORD_BYTES_MAX);
            let (known, password) = (known.is_some(), sent.password.to_string());
            let begun = attempts.clone().begin(sent.address, limit);
            let check = async move {
                match begun.await {
                    Ok(attempt) => compare(known, hash, password, attempt).await,
                    Err(wait) => CheckedPassword::TurnedAway(wait),
                }
            };
            check.boxed()
        })
        .await
    }

    /// The running check of this password, or a new one. It is cancelled when no request waits for it.
    fn check_of(&self, sent: &SentPassword<'_>, start: impl FnOnce() -> PasswordCheck) -> Shared<PasswordCheck> {
        let key = (household(sent.address), sent.key);
        let mut checks = self.checks.lock();
        if let Some(check) = checks.get(&key).and_then(WeakShared::upgrade) {
            return check;
        }
        checks.retain(|_, check| check.upgrade().is_some());
        let check = start().shared();
        checks.extend(check.downgrade().map(|check| (key, check)));
        check
    }
}

/// The attempt belongs to the work: a client that disconnects early neither gets another turn nor avoids the count.
async fn compare(known: bool, hash: Option<Arc<str>>, password: String, attempt: Attempt) -> CheckedPassword {
    let work = move || {
        let fits = hash.is_some_and(|hash| bcrypt::verify(password, &hash).unwrap_or(false));
        if known && fits {
            attempt.right();
        }
        known && fits
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(true) => CheckedPassword::Right,
        Ok(false) | Err(_) => CheckedPassword::Wrong,
    }
}

/// Result of a password check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckedPassword {
    Right,
    Wrong,
    /// Not checked; the client may try again after this time.
    TurnedAway(Duration),
}

fn is_bcrypt(hash: &str) -> bool {
    hash.len() == 60 && ["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn passwords_are_checked_against_their_own_user() {
        let hash = bcrypt::hash("right", 4).unwrap();
        let other = bcrypt::hash("other", 4).unwrap();
        let users = Users::parse(&format!("# users\n\nalice:{hash}\nbob:{other}\n")).unwrap();
        let attempts = Arc::default();
        let check = async |name: &str, password: &str| {
            users.check(&SentPassword { name, password, address: None, key: rand::random() }, &attempts, 9).await
        };
        assert_eq!(check("alice", "right").await, CheckedPassword::Right);
        assert_eq!(check("alice", "other").await, CheckedPassword::Wrong);
        assert_eq!(check("carol", "right").await, CheckedPassword::Wrong);
        assert_eq!(check("carol", "other").await, CheckedPassword::Wrong);
        assert_ne!(users.proof("alice"), users.proof("bob"));
    }

    #[test]
    fn one_password_that_comes_often_is_checked_once() {
        let users = Users::parse(&format!("alice:{}\n", bcrypt::hash("right", 4).unwrap())).unwrap();
        let attempts = Arc::default();
        let sent = |password| SentPassword { name: "alice", password, address: None, key: [password.len() as u8; 32] };
        // Its one thread is taken, so no check ends before all have arrived.
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            // More than one address may have pending, since a builder opens many connections at once.
            for (password, expected) in [("right", CheckedPassword::Right), ("not right", CheckedPassword::Wrong)] {
                let (release, held) = std::sync::mpsc::channel::<()>();
                tokio::task::spawn_blocking(move || held.recv());
                let sent = sent(password);
                let mut all: Vec<_> = (0..50).map(|_| users.check(&sent, &attempts, 2).boxed_local()).collect();
                for check in &mut all {
                    assert!(futures::poll!(check).is_pending());
                }
                drop(release);
                assert_eq!(join_all(all).await, [expected; 50]);
            }
            // All 50 wrong ones counted as one: the limit of two leaves another.
            assert_eq!(users.check(&sent("?"), &attempts, 2).await, CheckedPassword::Wrong);
            assert!(matches!(users.check(&sent("??"), &attempts, 2).await, CheckedPassword::TurnedAway(_)));
        });
    }

    #[test]
    fn a_bad_line_is_named_and_not_shown() {
        for line in ["alice:secret", "alice:$apr1$x$secret", "secret", ":$2y$05$"] {
            let error = format!("{:#}", Users::parse(&format!("#\n{line}\n")).err().unwrap());
            assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        }
    }
}
