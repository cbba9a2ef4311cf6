//! Place of the store: a folder or a bucket.

use std::fmt;
use std::path::PathBuf;

use anyhow::bail;
use bytesize::ByteSize;
use serde::Deserialize;

use super::{Obsolete, Span};

/// Place of the store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "StoreSection")]
pub struct StoreConfig {
    /// Folder of the filesystem store, where there is no bucket.
    pub path: PathBuf,
    /// The bucket.
    pub s3: Option<S3Config>,
    /// Free bytes of the filesystem that blobs leave to others, and to what the store itself has to write to make room.
    /// By default 1 GiB, or a twentieth of a filesystem of less than 20 GiB.
    pub reserve: Option<ByteSize>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { path: "larder-data".into(), s3: None, reserve: None }
    }
}

/// The reserve when none is configured: bytes, and the part of the filesystem that it is at most.
const RESERVE: u64 = 1 << 30;
const RESERVE_PART: u64 = 20;

impl StoreConfig {
    /// Bytes to keep free on a filesystem of `total` bytes.
    pub fn reserve(&self, total: u64) -> u64 {
        self.reserve.map_or(RESERVE.min(total / RESERVE_PART), |reserve| reserve.as_u64())
    }
}

/// `[store]` as it is written: one of the two, or neither.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreSection {
    path: Option<PathBuf>,
    s3: Option<S3Config>,
    reserve: Option<ByteSize>,
}

impl TryFrom<StoreSection> for StoreConfig {
    type Error = &'static str;

    fn try_from(written: StoreSection) -> Result<StoreConfig, Self::Error> {
        match (written.path, written.s3) {
            (Some(_), Some(_)) => Err("a store is in a folder (path) or in a bucket (s3), not in both"),
            (None, Some(_)) if written.reserve.is_some() => Err("a bucket has no free space to reserve"),
            (path, s3) => {
                let path = path.unwrap_or(StoreConfig::default().path);
                Ok(StoreConfig { path, s3, reserve: written.reserve })
            }
        }
    }
}

/// A bucket of S3, or of anything that speaks its protocol.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    pub bucket: String,
    /// All keys begin with it and a slash. A bucket may hold several stores, and other things beside.
    pub prefix: String,
    /// As the SDK finds it (environment, profile, instance) when not given; `us-east-1` at an endpoint of one's own.
    pub region: Option<String>,
    /// Address of a server that is not Amazon's: `https://host:port`.
    pub endpoint: Option<String>,
    /// The bucket is the first part of the path, not of the host name. By default it is at an `endpoint`.
    pub path_style: Option<bool>,
    /// Keys. Without them the SDK looks where it always does: environment, profile, web identity, container, instance.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    /// Files with the keys, read again every few minutes: they may be replaced while the server runs.
    pub access_key_id_file: Option<PathBuf>,
    pub secret_access_key_file: Option<PathBuf>,
    /// Certificates (PEM) to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// Blobs up to this size are written in one request, larger ones in parts of it. Parts are larger where 10,000 of
    /// them would not suffice. At least 5 MiB.
    pub part_size: ByteSize,
    /// Memory for parts on their way to the bucket, of all uploads together. Uploads wait for it. When it is not set, see
    /// [`S3Config::upload_memory`].
    pub upload_memory: Option<ByteSize>,
    /// The checksum by which the bucket checks received bytes.
    pub checksum: Checksum,
    /// How long this server trusts what it knows of an object: that it is there, and its size. Deletes by other servers are
    /// seen this late.
    pub presence_max_age: Span,
    /// Whether clients are sent to the bucket for large blobs.
    pub redirect: Redirect,
    /// Blobs below this are never redirected.
    pub redirect_min: ByteSize,
    /// Id or ARN of the KMS key that new objects are encrypted with. Without it, what the bucket does by default.
    pub sse_kms_key: Option<String>,
    #[doc(hidden)]
    pub price_of_writes: Obsolete,
    #[doc(hidden)]
    pub price_of_reads: Obsolete,
}

impl Default for S3Config {
    fn default() -> Self {
        S3Config {
            bucket: String::new(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            path_style: None,
            access_key_id: None,
            secret_access_key: None,
            access_key_id_file: None,
            secret_access_key_file: None,
            ca_file: None,
            part_size: ByteSize::mib(8),
            upload_memory: None,
            checksum: Checksum::Crc32c,
            presence_max_age: Span::minutes(10),
            redirect: Redirect::Never,
            redirect_min: ByteSize::mib(64),
            sse_kms_key: None,
            price_of_writes: None,
            price_of_reads: None,
        }
    }
}

/// Smallest part that S3 takes, but for the last, and largest object of one request. Bytes.
const PART_SIZE: std::ops::RangeInclusive<u64> = (5 << 20)..=(5 << 30);
/// Default memory for parts in flight, in bytes.
const UPLOAD_MEMORY: u64 = 64 << 20;

impl S3Config {
    /// What only the whole can show: the parts of it may come from the file and from the environment.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.bucket.is_empty() {
            bail!("[store.s3] bucket is missing");
        }
        let text = self.prefix.trim_end_matches('/');
        if !text.is_empty() && text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            bail!("[store.s3] prefix must be parts joined by single slashes, without one at its head");
        }
        let id = self.access_key_id.is_some() || self.access_key_id_file.is_some();
        let secret = self.secret_access_key.is_some() || self.secret_access_key_file.is_some();
        if id != secret {
            bail!("[store.s3] needs both an access key id and a secret access key, or neither");
        }
        if self.access_key_id.is_some() && self.access_key_id_file.is_some() {
            bail!("[store.s3] has both access_key_id and access_key_id_file");
        }
        if self.secret_access_key.is_some() && self.secret_access_key_file.is_some() {
            bail!("[store.s3] has both secret_access_key and secret_access_key_file");
        }
        if !PART_SIZE.contains(&self.part_size.as_u64()) {
            bail!("[store.s3] part_size must be between 5 MiB and 5 GiB");
        }
        if self.upload_memory.is_some_and(|memory| memory < self.part_size) {
            bail!("[store.s3] upload_memory must hold one part at least");
        }
        Ok(())
    }

    /// Memory for parts on their way, in bytes: as configured, or 64 MiB, or a quarter of the hot layer where that is less.
    /// Always enough for one part.
    pub fn upload_memory(&self, hot: ByteSize) -> u64 {
        let usual = UPLOAD_MEMORY.min(hot.as_u64() / 4);
        self.upload_memory.map_or(usual, |memory| memory.as_u64()).max(self.part_size.as_u64())
    }

    /// `s3://bucket/prefix`, for people.
    pub fn address(&self) -> String {
        let prefix = self.prefix.trim_end_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{prefix}", self.bucket)
    }
}

/// The checksum by which the bucket checks received bytes, beside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    Crc32c,
    /// For endpoints that do not know checksums.
    None,
}

/// Whether clients fetch blobs from the bucket themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Redirect {
    Never,
    /// Large blobs that are not in the hot layer, by an address that is good for five minutes.
    ColdLarge,
}

/// A text that shows up nowhere. The comparison is for configurations, and takes a time that tells of the text: what a
/// caller has sent is compared in constant time.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
