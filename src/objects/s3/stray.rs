//! Uploads that no client will complete: of servers that were killed in the middle of one. No list of objects shows
//! them, and S3 keeps and bills their parts.

use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Error, Result, S3Objects, Unfinished, error, time};

/// Uploads whose parts are listed at the same time.
const LOOKS_AT_ONCE: usize = 8;

/// An upload that was begun and not completed.
struct Begun {
    /// The key with the prefix of the store.
    key: String,
    id: String,
    since: SystemTime,
}

/// The position at which a list of uploads continues.
enum NextUploads {
    Page(Option<String>, Option<String>),
    End,
}

/// Aborts the uploads below Larder's prefix to which no part has come since `before`. The parts decide, not the age of
/// the upload: one of hundreds of gigabytes may take days.
pub(super) async fn sweep(objects: &S3Objects, before: SystemTime) -> Result<usize> {
    let (mut swept, mut next) = (0, NextUploads::Page(None, None));
    while let Some((begun, behind)) = page(objects, next, before).await? {
        let looks = begun.into_iter().map(|begun| sweep_one(objects.clone(), begun, before)).collect::<Vec<_>>();
        let swept_here: Vec<bool> = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE).try_collect().await?;
        swept += swept_here.into_iter().filter(|swept| *swept).count();
        next = behind;
    }
    Ok(swept)
}

/// Lists all uploads below Larder's prefix that are not completed, those in flight included.
pub(super) async fn unfinished(objects: &S3Objects) -> Result<Vec<Unfinished>> {
    let (mut found, mut next) = (Vec::new(), NextUploads::Page(None, None));
    while let Some((begun, behind)) = page(objects, next, SystemTime::now()).await? {
        found.extend(begun.into_iter().map(|begun| {
            let key = begun.key.strip_prefix(&objects.inner.prefix).unwrap_or(&begun.key);
            Unfinished { name: format!("{key} (upload {})", begun.id), since: begun.since }
        }));
        next = behind;
    }
    Ok(found)
}

async fn sweep_one(objects: S3Objects, begun: Begun, before: SystemTime) -> Result<bool> {
    let stray = last_part(&objects, &begun).await?.is_some_and(|at| at < before);
    if stray {
        abort(&objects, &begun).await?;
    }
    Ok(stray)
}

/// Returns a page of the uploads that were begun before `before`. Nothing after the last page, or if the endpoint has
/// no such list: then only the bucket's lifecycle rule removes them.
async fn page(objects: &S3Objects, next: NextUploads, before: SystemTime) -> Result<Option<(Vec<Begun>, NextUploads)>> {
    let NextUploads::Page(key, id) = next else { return Ok(None) };
    let inner = &*objects.inner;
    let request = inner.client.list_multipart_uploads().bucket(&inner.bucket).prefix(&inner.prefix);
    let request = request.set_key_marker(key).set_upload_id_marker(id);
    let sent = request.send().await.map_err(|error| error::from_sdk("list uploads below", &inner.prefix, error));
    let listed = match sent {
        Ok(listed) => listed,
        Err(error) if error.is_unsupported() => {
            tracing::debug!(error = %error.meaning, "cannot list abandoned uploads");
            return Ok(None);
        }
        Err(error) => return Err(error.meaning),
    };
    let next = match (listed.is_truncated, listed.next_key_marker) {
        (Some(true), Some(key)) => NextUploads::Page(Some(key), listed.next_upload_id_marker),
        _ => NextUploads::End,
    };
    let old = listed.uploads.into_iter().flatten().filter(|upload| time(upload.initiated) < before);
    let begun =
        old.filter_map(|upload| Some(Begun { key: upload.key?, id: upload.upload_id?, since: time(upload.initiated) }));
    // Not every endpoint respects the prefix.
    Ok(Some((begun.filter(|begun| begun.key.starts_with(&inner.prefix)).collect(), next)))
}

/// Time of the last part, or the beginning of time if there is none; nothing if the upload is gone.
async fn last_part(objects: &S3Objects, begun: &Begun) -> Result<Option<SystemTime>> {
    let inner = &*objects.inner;
    let (mut newest, mut marker) = (SystemTime::UNIX_EPOCH, None);
    loop {
        let request = inner.client.list_parts().bucket(&inner.bucket).key(&begun.key).upload_id(&begun.id);
        let sent = request.set_part_number_marker(marker).send().await;
        let listed = match sent.map_err(|error| error::from_sdk("list parts of", &begun.key, error).meaning) {
            Ok(listed) => listed,
            // Completed or aborted meanwhile.
            Err(Error::NotFound | Error::Busy(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        for part in listed.parts.into_iter().flatten() {
            newest = newest.max(time(part.last_modified));
        }
        marker = listed.next_part_number_marker.filter(|_| listed.is_truncated == Some(true));
        if marker.is_none() {
            return Ok(Some(newest));
        }
    }
}

async fn abort(objects: &S3Objects, begun: &Begun) -> Result<()> {
    let inner = &*objects.inner;
    let request = inner.client.abort_multipart_upload().bucket(&inner.bucket).key(&begun.key).upload_id(&begun.id);
    match request.send().await.map_err(|error| error::from_sdk("abort upload of", &begun.key, error).meaning) {
        Ok(_) | Err(Error::NotFound | Error::Busy(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
