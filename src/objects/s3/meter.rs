//! Counts the requests to the bucket.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use crate::metrics::Metrics;

/// Counts each attempt of a request just before it is sent: attempts are what is paid for.
pub(super) struct Meter(pub Arc<Metrics>);

/// [`Metrics`] have no use for `Debug`, which interceptors must have.
impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("meter")
    }
}

/// Maps an operation to one of [`crate::metrics::S3_KINDS`].
fn kind(operation: &str) -> &'static str {
    match operation {
        "GetObject" => "get",
        "HeadObject" | "HeadBucket" => "head",
        "ListObjectsV2" | "ListMultipartUploads" | "ListParts" => "list",
        "PutObject" => "put",
        "UploadPart" => "part",
        "CreateMultipartUpload" | "CompleteMultipartUpload" => "multipart",
        "CopyObject" | "UploadPartCopy" => "copy",
        "DeleteObject" | "DeleteObjects" | "AbortMultipartUpload" => "delete",
        _ => "other",
    }
}

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "meter"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let kind = kind(config.load::<Metadata>().map_or("", Metadata::name));
        self.0.s3_calls.with_label_values(&[kind]).inc();
        Ok(())
    }
}

/// Counts the requests of one call, or of several calls that share the counter: the SDK repeats calls by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct SentCount(Arc<AtomicUsize>);

impl SentCount {
    /// Number of requests that were sent.
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for SentCount {
    fn name(&self) -> &'static str {
        "sent count"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::S3_KINDS;

    #[test]
    fn every_request_has_a_kind() {
        for operation in ["GetObject", "UploadPart", "ListObjectsV2", "DeleteObjects", "SomethingNew"] {
            assert!(S3_KINDS.contains(&kind(operation)), "{operation}");
        }
    }
}
