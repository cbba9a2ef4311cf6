//! Lists, a page at a time.

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::{S3Objects, error, size, time};
use crate::objects::{Error, Key, Meta, Result, Version};

/// The position at which a list continues.
enum NextPage {
    Begin(Option<String>),
    Page(String),
    End,
}

/// Lists all objects whose key begins with `prefix` and is greater than `after`, Larder's own included.
pub(super) fn list(objects: S3Objects, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
    let prefix = format!("{}{prefix}", objects.inner.prefix);
    let after = after.filter(|after| !after.is_empty()).map(|after| format!("{}{after}", objects.inner.prefix));
    let pages = stream::try_unfold(NextPage::Begin(after), move |next| {
        let (objects, prefix) = (objects.clone(), prefix.clone());
        async move { page(&objects, &prefix, next).await }
    });
    pages.map_ok(|page| stream::iter(page).map(Ok)).try_flatten().boxed()
}

async fn page(objects: &S3Objects, prefix: &str, next: NextPage) -> Result<Option<(Vec<Meta>, NextPage)>> {
    let inner = &*objects.inner;
    let request = inner.client.list_objects_v2().bucket(&inner.bucket).prefix(prefix);
    let request = match next {
        NextPage::Begin(after) => request.set_start_after(after),
        NextPage::Page(token) => request.continuation_token(token),
        NextPage::End => return Ok(None),
    };
    let listed = request.send().await.map_err(|error| error::from_sdk("LIST", prefix, error))?;
    let next = match (listed.is_truncated, listed.next_continuation_token) {
        (Some(true), Some(token)) => NextPage::Page(token),
        (Some(true), None) => return Err(Error::Backend("endpoint sends no continuation token".into())),
        _ => NextPage::End,
    };
    let mut page = Vec::new();
    for object in listed.contents.into_iter().flatten() {
        let Some(key) = object.key.as_deref().and_then(|key| key.strip_prefix(&inner.prefix)) else { continue };
        // Not a key of Larder: consoles write `a/b/` to show a folder.
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            continue;
        }
        page.push(Meta {
            key: Key::new(key),
            size: size(object.size)?,
            modified: time(object.last_modified),
            // Not all endpoints list the ETag: an empty one equals no version.
            version: Version(object.e_tag.unwrap_or_default().into()),
        });
    }
    Ok(Some((page, next)))
}
