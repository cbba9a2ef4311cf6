//! TLS of the server: its certificate, and the CA of its clients.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::config::{ClientAuth, TlsConfig};

/// Reads all files again.
pub fn load(config: &TlsConfig) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&config.cert).context("[tls] cert")?;
    let pem = std::fs::read(&config.key).with_context(|| format!("[tls] key: cannot read {}", config.key.display()))?;
    // The parser's error could quote the key.
    let key = PrivateKeyDer::from_pem_slice(&pem).ok();
    let key = key.with_context(|| format!("[tls] key: {} has no private key (PEM)", config.key.display()))?;
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path).context("[tls] client_ca")? {
                roots.add(certificate).with_context(|| format!("[tls] {} is no CA", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match config.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().context("[tls] client_ca cannot be used")?)
        }
    };
    let mut server = builder.with_single_cert(chain, key).context("[tls] cert and key do not fit")?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

/// All certificates of a file, of which there must be one at least.
pub fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.with_context(|| format!("{} has no certificates", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "{} has no certificates", path.display());
    Ok(found)
}
