//! The properties that a bucket must have, proved at the start.

use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt;

use super::multipart::PartsUpload;
use super::{Error, Key, PRIVATE, S3Objects, list, mark};
use crate::config::S3Config;
use crate::objects::{Objects, Read, When};

/// The reason why a bucket cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenBucketError {
    #[error("cannot use {0}: {1}")]
    CaFile(PathBuf, String),
    #[error("cannot use TLS: {0}")]
    Tls(String),
    #[error("cannot read the credentials: {0}")]
    Credentials(String),
    #[error("no region is configured: set [store.s3] region, or AWS_REGION")]
    Region,
    #[error(
        "{store} at {endpoint}: the bucket does not exist: create it, or correct [store.s3] bucket, region or endpoint"
    )]
    NoBucket { store: String, endpoint: String },
    #[error("cannot {wish} in {store} at {endpoint}: {why}")]
    Refused {
        /// The step that failed, in words.
        wish: &'static str,
        store: String,
        endpoint: String,
        why: String,
    },
    #[error("{store} at {endpoint} cannot be used: {lack}")]
    Lacking { store: String, endpoint: String, lack: &'static str },
}

/// The key that [`Objects::probe`] writes, always the same.
pub(super) fn key() -> Key {
    Key::new(format!("{PRIVATE}probe"))
}

/// The words of the endpoint. At the start it does not matter whether the error is temporary.
fn reason(error: &Error) -> String {
    match error {
        Error::Busy(why) | Error::Backend(why) => why.to_string(),
        error => error.to_string(),
    }
}

/// Proves that objects can be written, read back, listed in order and deleted, each visible at once, and that multipart
/// uploads can be begun and aborted. Returns whether a conditional create is refused when the object exists.
pub(super) async fn bucket(objects: &S3Objects, config: &S3Config) -> Result<bool, OpenBucketError> {
    let (store, endpoint) = (config.address(), config.endpoint.clone().unwrap_or_else(|| "Amazon S3".to_string()));
    let refused = |wish: &'static str| {
        let (store, endpoint) = (store.clone(), endpoint.clone());
        move |error: Error| OpenBucketError::Refused { wish, store, endpoint, why: reason(&error) }
    };
    let lacking = |lack| OpenBucketError::Lacking { store: store.clone(), endpoint: endpoint.clone(), lack };
    let mark = mark();
    // Several servers may start at once.
    let prefix = format!("{PRIVATE}probes/{mark}");
    // In the order of bytes, not of letters.
    let keys = ["B", "a"].map(|name| Key::new(format!("{prefix}-{name}")));
    let [second, key] = &keys;
    let body = Bytes::from(mark);
    let written = match objects.inner.put(key, body.clone(), When::Absent).await {
        Err(error) if error.is_unsupported() => objects.inner.put(key, body.clone(), When::Always).await,
        written => written,
    };
    let written = written.map_err(|error| match error.has_code("NoSuchBucket") {
        true => OpenBucketError::NoBucket { store: store.clone(), endpoint: endpoint.clone() },
        false => refused("write an object")(error.meaning),
    })?;
    match objects.read(key, None).await.map_err(refused("read an object"))? {
        Read::Fresh(meta, bytes) if bytes == body && meta.version == written.version => {}
        Read::Fresh(_, bytes) if bytes == body => return Err(lacking("it does not keep the metadata of objects")),
        _ => return Err(lacking("a read does not return the object just written")),
    }
    let conditional = match objects.put(key, body.clone(), When::Absent).await {
        Err(Error::Exists) => true,
        Ok(_) => false,
        Err(Error::Backend(_)) => false,
        Err(error) => return Err(refused("write an object")(error)),
    };
    if !conditional {
        tracing::warn!(
            "the bucket does not honour If-None-Match on writes: two servers that start at once on an empty bucket may conflict"
        );
    }
    objects.put(second, body, When::Always).await.map_err(refused("write an object"))?;
    let listed = list::list(objects.clone(), &prefix, None).map_ok(|found| found.key).try_collect::<Vec<_>>().await;
    let listed = listed.map_err(refused("list objects"))?;
    if !keys.iter().all(|key| listed.contains(key)) {
        return Err(lacking("a list does not contain the object just written"));
    }
    if listed != keys {
        return Err(lacking("keys are not listed in the order of their bytes"));
    }
    let upload = PartsUpload::begin(objects, key).await.map_err(refused("begin an upload of parts"))?;
    upload.undo().await.map_err(refused("give up an upload of parts"))?;
    objects.delete(&keys).await.map_err(refused("delete an object"))?;
    match objects.head(key).await {
        Err(Error::NotFound) => Ok(conditional),
        Ok(_) => Err(lacking("an object just deleted is still readable")),
        Err(error) => Err(refused("look for an object")(error)),
    }
}
