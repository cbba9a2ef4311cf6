//! The SDK's client: its connections, trust, credentials and time-outs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Credentials, ProvideCredentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::OpenBucketError;
use super::meter::Meter;
use crate::config::{Checksum, S3Config, Secret};
use crate::metrics::Metrics;

/// Time-out of a connection attempt.
const CONNECT: Duration = Duration::from_secs(3);
/// Time-out of one attempt of a call that moves no bytes, to the head of its answer.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Time-out of all attempts of a call that moves no bytes. A caller that waits 45 s for a busy store then ends below
/// the usual 60 s of proxies.
const CALL: Duration = Duration::from_secs(12);
/// An answer whose bytes stop coming is given up after this time, if a caller is waiting for them.
const STALLED: Duration = Duration::from_secs(10);
/// The slowest connection on which an upload still succeeds, in bytes per second.
const SLOWEST: u64 = 1 << 20;
const ATTEMPTS_MAX: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Idle connections are closed after this time. S3 itself closes them somewhat earlier or later.
const IDLE: Duration = Duration::from_secs(20);
/// Age at which keys from files are read again.
const KEYS_AGE_MAX: Duration = Duration::from_secs(300);

/// Time-outs of a call that makes the bucket take or copy `bytes`.
pub(super) fn patience(bytes: u64) -> aws_sdk_s3::config::Builder {
    let moving = Duration::from_secs(bytes / SLOWEST);
    let times = TimeoutConfig::builder().connect_timeout(CONNECT);
    let times = times.operation_attempt_timeout(ATTEMPT + moving).operation_timeout(CALL + moving * 2);
    aws_sdk_s3::Config::builder().timeout_config(times.build())
}

/// The configuration of a call that is sent once, even if its answer is lost.
pub(super) fn once(call: aws_sdk_s3::config::Builder) -> aws_sdk_s3::config::Builder {
    call.retry_config(RetryConfig::disabled())
}

pub(super) async fn connect(config: &S3Config, metrics: Arc<Metrics>) -> Result<Client, OpenBucketError> {
    let times = TimeoutConfig::builder().connect_timeout(CONNECT);
    let times = times.operation_attempt_timeout(ATTEMPT).operation_timeout(CALL);
    let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX);
    let retries = retries.with_initial_backoff(BACKOFF).with_max_backoff(BACKOFF_MAX);
    // Pinned: a newer one changes what is sent.
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client(config.ca_file.as_deref())?)
        .timeout_config(times.build())
        .retry_config(retries)
        // Uploads are bounded by time-outs, which know the number of bytes.
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(STALLED).upload_enabled(false).build(),
        )
        .request_checksum_calculation(match config.checksum {
            Checksum::Crc32c => RequestChecksumCalculation::WhenSupported,
            Checksum::None => RequestChecksumCalculation::WhenRequired,
        })
        // Only on request: blobs are checked by their digest.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    match (&config.region, &config.endpoint) {
        (Some(region), _) => loader = loader.region(Region::new(region.clone())),
        (None, Some(_)) => loader = loader.region(Region::from_static("us-east-1")),
        (None, None) => {}
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(keys) = AccessKeys::of(config) {
        keys.read().await.map_err(OpenBucketError::Credentials)?;
        loader = loader.credentials_provider(keys);
    }
    let path_style = config.path_style.unwrap_or(config.endpoint.is_some());
    let loaded = loader.load().await;
    if loaded.region().is_none() {
        return Err(OpenBucketError::Region);
    }
    let built =
        aws_sdk_s3::config::Builder::from(&loaded).force_path_style(path_style).retry_classifier(PassingConflicts);
    let built = built.interceptor(Meter(metrics));
    Ok(Client::from_conf(built.build()))
}

/// Classifies answers that pass with time, beside those that the SDK knows: a conflict on the same key, or too many
/// requests.
#[derive(Debug)]
struct PassingConflicts;

impl ClassifyRetry for PassingConflicts {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|response| response.status().as_u16()) {
            Some(409 | 429) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "passing conflicts"
    }
}

/// Builds one client with one TLS stack for all calls of the SDK, credentials included. It uses `HTTPS_PROXY` and
/// `NO_PROXY`.
fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient, OpenBucketError> {
    let mut trusted = TrustStore::default();
    if let Some(path) = ca_file {
        let failed = |reason: String| OpenBucketError::CaFile(path.to_path_buf(), reason);
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        // Parsed here: the client would panic at its first connection.
        let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        if found.map_err(|error| failed(error.to_string()))?.is_empty() {
            return Err(failed("there is no certificate in it".to_string()));
        }
        trusted = trusted.with_pem_certificate(pem);
    }
    let tls = TlsContext::builder().with_trust_store(trusted).build();
    let tls = tls.map_err(|error| OpenBucketError::Tls(error.to_string()))?;
    let mut connector = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(tls);
    connector.set_pool_idle_timeout(Some(Some(IDLE)));
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT).build();
    let connector = connector.connector_settings(settings).proxy_config(ProxyConfig::from_env()).build();
    let connector = SharedHttpConnector::new(connector);
    Ok(http_client_fn(move |_, _| connector.clone()))
}

/// Access keys from the configuration.
#[derive(Clone, Debug)]
struct AccessKeys {
    id: KeySource,
    secret: KeySource,
}

#[derive(Clone, Debug)]
enum KeySource {
    Given(Secret),
    File(PathBuf),
}

impl KeySource {
    fn of(given: Option<Secret>, file: &Option<PathBuf>) -> Option<KeySource> {
        given.map(KeySource::Given).or_else(|| file.clone().map(KeySource::File))
    }

    async fn read(&self) -> Result<String, String> {
        match self {
            KeySource::Given(secret) => Ok(secret.expose().to_string()),
            KeySource::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(text.trim().to_string()),
                Err(error) => Err(format!("{}: {error}", path.display())),
            },
        }
    }
}

impl AccessKeys {
    fn of(config: &S3Config) -> Option<AccessKeys> {
        let id = KeySource::of(config.access_key_id.as_ref().map(Secret::new), &config.access_key_id_file)?;
        let secret = KeySource::of(config.secret_access_key.clone(), &config.secret_access_key_file)?;
        Some(AccessKeys { id, secret })
    }

    async fn read(&self) -> Result<Credentials, String> {
        let (id, secret) = (self.id.read().await?, self.secret.read().await?);
        let given = matches!((&self.id, &self.secret), (KeySource::Given(_), KeySource::Given(_)));
        let until = if given { None } else { Some(SystemTime::now() + KEYS_AGE_MAX) };
        Ok(Credentials::new(id, secret, None, until, "the configuration"))
    }
}

impl ProvideCredentials for AccessKeys {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        use aws_credential_types::provider::{error::CredentialsError, future};
        future::ProvideCredentials::new(async { self.read().await.map_err(CredentialsError::provider_error) })
    }
}
