//! A parsed push of a cache manifest.

use super::config::CacheConfig;
use super::error::FormatError;
use super::manifest::CacheManifest;

/// A cache manifest and its cacheconfig. A config that cannot be read is kept as its error: the view leaves the push
/// out and says why.
#[derive(Clone, Debug)]
pub struct Push {
    pub manifest: CacheManifest,
    pub config: Result<CacheConfig, FormatError>,
}

impl Push {
    /// Joins a manifest and the bytes of its config.
    pub fn new(manifest: CacheManifest, config: &[u8]) -> Push {
        let config = if config.len() as u64 == manifest.config.size {
            CacheConfig::parse(config)
        } else {
            Err(FormatError::ConfigSize { found: config.len(), expected: manifest.config.size })
        };
        Push { manifest, config }
    }
}
