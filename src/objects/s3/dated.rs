//! Deletes that cannot be executed late: signed with a date in the past, which the endpoint compares with its own
//! clock.
//!
//! S3 refuses a request whose signature is more than 15 minutes old. A delete that is dated when its right was
//! obtained, and sent once, is therefore executed soon after that or never, however long it was held up in this process
//! or on the network.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use aws_smithy_async::time::StaticTimeSource;
use futures::{StreamExt, TryStreamExt, stream};

use super::again::again;
use super::error::{self, S3Error};
use super::{Error, Key, PRIVATE, Result, S3Objects, mark};

/// Age at which S3 refuses a request.
pub(super) const AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// Age of the request that is sent to see whether it is refused.
const PROBE_AGE: Duration = Duration::from_secs(20 * 60);
/// Error codes for a request that is refused for its age: of S3, MinIO, Ceph and versitygw, and of S3 for some kinds of
/// requests.
const TOO_OLD: [&str; 2] = ["RequestTimeTooSkewed", "RequestExpired"];
/// Keys in one request.
const KEYS_MAX: usize = 1000;
/// Requests in flight, when each has only one key.
const SINGLE: usize = 16;

/// A client whose requests are all dated `at` and sent once. It is separate, and does not correct its clock: the SDK
/// takes the age of an answer for an error of its clock, and would date all further requests as the endpoint does.
fn dated(objects: &S3Objects, at: SystemTime) -> Client {
    let config = objects.inner.client.config().to_builder();
    let config = config.time_source(StaticTimeSource::new(at)).retry_config(RetryConfig::disabled());
    let config = config.disable_clock_skew_correction(true);
    Client::from_conf(config.build())
}

/// The deletes that an endpoint refuses when they arrive late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusesLate {
    /// Only deletes of one key: the endpoint does not check the date of those with many. So objects are deleted one by
    /// one.
    Single,
    All,
}

pub(super) async fn delete(objects: &S3Objects, keys: &[Key], at: SystemTime) -> Result<()> {
    let client = dated(objects, at);
    if objects.inner.refuses_late == Some(RefusesLate::Single) {
        return Ok(singly(objects, &client, keys).await?);
    }
    for keys in keys.chunks(KEYS_MAX) {
        many(objects, &client, keys).await?;
    }
    Ok(())
}

async fn many(objects: &S3Objects, client: &Client, keys: &[Key]) -> Result<(), S3Error> {
    let inner = &*objects.inner;
    let named = keys.iter().map(|key| ObjectIdentifier::builder().key(inner.full(key)).build());
    let delete = Delete::builder().set_objects(Some(named.collect::<std::result::Result<_, _>>().map_err(unbuilt)?));
    let delete = delete.quiet(true).build().map_err(unbuilt)?;
    let sent = client.delete_objects().bucket(&inner.bucket).delete(delete).send().await;
    match sent.map_err(|error| error::from_sdk("DELETE", "of a batch", error)) {
        Ok(answer) => match answer.errors().first() {
            None => Ok(()),
            Some(failed) => {
                let (key, code) = (failed.key().unwrap_or_default(), failed.code().unwrap_or_default());
                Err(Error::Busy(format!("DELETE {key}: {code}").into()).into())
            }
        },
        // An endpoint that supports only deletes of one key.
        Err(error) if error.is_unsupported() => singly(objects, client, keys).await,
        Err(error) => Err(error),
    }
}

async fn singly(objects: &S3Objects, client: &Client, keys: &[Key]) -> Result<(), S3Error> {
    let singles = keys.iter().map(|key| one(objects, client, key)).collect::<Vec<_>>();
    stream::iter(singles).buffer_unordered(SINGLE).try_collect().await
}

async fn one(objects: &S3Objects, client: &Client, key: &Key) -> Result<(), S3Error> {
    let sent = client.delete_object().bucket(&objects.inner.bucket).key(objects.inner.full(key)).send().await;
    match sent.map_err(|error| error::from_sdk("DELETE", key, error)) {
        Ok(_) | Err(S3Error { meaning: Error::NotFound, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn unbuilt(error: aws_sdk_s3::error::BuildError) -> Error {
    Error::Backend(error.to_string().into())
}

/// Tests whether the endpoint refuses deletes dated 20 minutes ago, of keys that never existed. Only a refusal that
/// gives this reason proves it: an endpoint that is overloaded, or whose policy forbids the call, may execute such a
/// request on another day.
pub(super) async fn refuses_late(objects: &S3Objects) -> Option<RefusesLate> {
    let late = dated(objects, SystemTime::now() - PROBE_AGE);
    let key = Key::new(format!("{PRIVATE}late/{}", mark()));
    if !is_too_old(again(|| one(objects, &late, &key)).await) {
        return None;
    }
    let all = is_too_old(again(|| many(objects, &late, std::slice::from_ref(&key))).await);
    Some(if all { RefusesLate::All } else { RefusesLate::Single })
}

fn is_too_old(answer: Result<(), S3Error>) -> bool {
    match answer {
        Ok(()) => false,
        Err(error) if TOO_OLD.iter().any(|code| error.has_code(code)) => true,
        Err(S3Error { meaning: error, .. }) => {
            tracing::warn!(%error, "cannot find out whether the bucket refuses late requests: assuming that it does not");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_refused_for_its_age_is_too_old() {
        let refused = |code: &str| {
            Err(S3Error { meaning: Error::Backend("DELETE x".into()), status: Some(403), code: Some(code.into()) })
        };
        assert!(is_too_old(refused("RequestTimeTooSkewed")));
        assert!(!is_too_old(refused("AccessDenied")));
        assert!(!is_too_old(Err(Error::Busy("DELETE x: 503 RequestTimeTooSkewed".into()).into())));
        assert!(!is_too_old(Ok(())));
    }
}
