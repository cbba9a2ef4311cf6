//! Two errors: [`FormatError`] for one push that cannot be read, [`NoView`] for a view that cannot be made.

/// The reason why the bytes of a push are not a cache that BuildKit would import.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("not the JSON of a {what}: {error}")]
    Json { what: &'static str, error: String },
    #[error("{what} of {bytes} bytes, more than {max}")]
    TooLarge { what: &'static str, bytes: usize, max: usize },
    #[error("more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
    #[error("manifest has both layers and manifests")]
    Ambiguous,
    #[error("cacheconfig has {found} bytes, its descriptor says {expected}")]
    ConfigSize { found: usize, expected: u64 },
    #[error("record {record}: input {input} is empty")]
    EmptyInput { record: usize, input: usize },
    #[error("record {record} links to record {link}, which does not exist")]
    NoSuchRecord { record: usize, link: i64 },
    #[error("record {record} links to itself through others")]
    RecordLoop { record: usize },
    #[error("layer {layer} does not exist")]
    NoSuchLayer { layer: i64 },
    #[error("layer {layer} is among its own parents")]
    LayerLoop { layer: usize },
}

/// The reason why there is no view. The caller serves the newest push as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoView {
    #[error("no push can be read")]
    NoValidPush,
    #[error("the newest push has more records, links and layers than the limit of a view")]
    TooLarge,
    #[error("merging the pushes takes more work than the limit of a view")]
    TooMuchWork,
    #[error("the view would be larger than BuildKit imports")]
    Oversize,
}
