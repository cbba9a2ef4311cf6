//! Counts what is sent to the bucket, and what that costs.

use std::sync::Arc;

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use crate::config::S3Config;
use crate::metrics::Metrics;

/// Prices are per so many requests.
const PRICED: f64 = 1000.0;

/// Sees every request just before it is sent, each attempt of it by itself: attempts are what is paid for.
#[derive(Debug)]
pub(super) struct Bill {
    metrics: Meter,
    price_of_writes: f64,
    price_of_reads: f64,
}

/// [`Metrics`] have no use for `Debug`, which interceptors must have.
struct Meter(Arc<Metrics>);

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("metrics")
    }
}

impl Bill {
    pub fn new(config: &S3Config, metrics: Arc<Metrics>) -> Bill {
        let metrics = Meter(metrics);
        Bill { metrics, price_of_writes: config.price_of_writes, price_of_reads: config.price_of_reads }
    }

    fn price(&self, kind: &str) -> f64 {
        match kind {
            "delete" => 0.0,
            "get" | "head" | "other" => self.price_of_reads,
            _ => self.price_of_writes,
        }
    }
}

/// One of [`crate::metrics::S3_KINDS`].
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

impl Intercept for Bill {
    fn name(&self) -> &'static str {
        "bill"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let kind = kind(config.load::<Metadata>().map_or("", Metadata::name));
        let metrics = &self.metrics.0;
        metrics.s3_calls.with_label_values(&[kind]).inc();
        metrics.s3_cost.inc_by(self.price(kind) / PRICED);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::S3_KINDS;

    #[test]
    fn every_request_has_a_kind_and_a_price() {
        let bill = Bill::new(&S3Config::default(), Arc::new(Metrics::default()));
        let prices: Vec<f64> = S3_KINDS.map(|kind| bill.price(kind)).into();
        assert_eq!(prices, [0.0004, 0.0004, 0.005, 0.005, 0.005, 0.005, 0.005, 0.0, 0.0004]);
        for operation in ["GetObject", "UploadPart", "ListObjectsV2", "DeleteObjects", "SomethingNew"] {
            assert!(S3_KINDS.contains(&kind(operation)), "{operation}");
        }
    }
}
