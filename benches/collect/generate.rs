//! A store as years of builds leave it: small blobs, manifests that name 45 of them each, half of them images and half
//! caches, and one blob in ten that nothing names any more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder::buildkit::CONFIG_MEDIA_TYPE;
use larder::digest::Digest;
use larder::layout;
use larder::layout::PushId;
use larder::names::{RepoName, Tag, Tenant};
use larder::objects::Key;
use larder::oci::OCI_MANIFEST;
use larder::refs::pointer::Pointer;
use serde_json::{Value, json};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Manifests in one repository, each with a tag of its own.
const REPO_MANIFESTS: usize = 100;
/// Of so many blobs, one is garbage.
const GARBAGE: usize = 10;
/// How old everything is: past any time of grace.
const AGE: Duration = Duration::from_secs(60 * 24 * 3600);

/// Content of a blob, the same for the same number.
fn content(number: usize) -> Vec<u8> {
    let text = format!("blob {number:010} ");
    text.repeat(4 + number % 29).into_bytes()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len() })
}

/// Digests of some of the blobs that a generated store has and that are named.
pub fn sample(folder: &Path) -> Vec<Digest> {
    let exists = |digest: &Digest| folder.join(layout::blob(&Tenant::default_tenant(), digest).as_str()).exists();
    (0..1_000_000).step_by(997).map(|number| Digest::sha256(&content(number))).filter(exists).collect()
}

/// Writes the store. What is there already is left as it is.
pub fn store(folder: &Path, blobs: usize, manifests: usize) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let created = jiff::Timestamp::now().to_string();
    let format = json!({ "format": 1, "oldest_reader": 1, "created": created });
    write(folder, &layout::format(), format.to_string().as_bytes())?;
    for shard in 0..=255 {
        fs::create_dir_all(folder.join(format!("t/default/blobs/sha256/{shard:02x}")))?;
    }
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || -> io::Result<()> {
                    (thread..blobs).step_by(threads).try_for_each(|number| blob(folder, &content(number)).map(drop))?;
                    let named = blobs - blobs / GARBAGE;
                    let each = (named / manifests.max(1)).max(2);
                    (thread..manifests).step_by(threads).try_for_each(|number| manifest(folder, number, each))
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer panicked"))
    })?;
    rustix::fs::syncfs(File::open(folder)?)?;
    Ok(())
}

fn write(folder: &Path, key: &Key, bytes: &[u8]) -> io::Result<()> {
    let path = folder.join(key.as_str());
    let open = || File::create(&path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            open()?
        }
        opened => opened?,
    };
    file.write_all(bytes)?;
    file.set_modified(SystemTime::now() - AGE)
}

fn blob(folder: &Path, bytes: &[u8]) -> io::Result<Digest> {
    let digest = Digest::sha256(bytes);
    write(folder, &layout::blob(&Tenant::default_tenant(), &digest), bytes)?;
    Ok(digest)
}

fn manifest(folder: &Path, number: usize, each: usize) -> io::Result<()> {
    let is_cache = number.is_multiple_of(2);
    let repo = format!(
        "team{}/{}{}",
        number / REPO_MANIFESTS % 10,
        if is_cache { "cache" } else { "app" },
        number / REPO_MANIFESTS
    );
    let repo: RepoName = repo.parse().expect("a name");
    let (tenant, tag) = (Tenant::default_tenant(), format!("t{number}").parse::<Tag>().expect("a tag"));
    let contents: Vec<Vec<u8>> = (number * each..(number + 1) * each).map(content).collect();
    let (config, layers) = contents.split_first().expect("at least two");
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
    let config = if is_cache {
        let records = cache_config(number, &layers);
        blob(folder, records.as_bytes())?;
        descriptor(CONFIG_MEDIA_TYPE, records.as_bytes())
    } else {
        descriptor(CONFIG, config)
    };
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers }).to_string();
    let digest = Digest::sha256(manifest.as_bytes());
    write(folder, &layout::manifest(&tenant, &repo, &digest), manifest.as_bytes())?;
    let mut pointer = Pointer::new(digest, OCI_MANIFEST, manifest.len() as u64);
    if is_cache {
        let id = PushId { identity: Digest::sha256(format!("identity {number}").as_bytes()), manifest: digest };
        write(folder, &layout::push(&tenant, &repo, &tag, &id), br#"{"family":null}"#)?;
        pointer.push = Some(id);
    }
    write(folder, &layout::tag(&tenant, &repo, &tag), &serde_json::to_vec(&pointer)?)
}

/// A chain of steps, one for each layer.
fn cache_config(number: usize, layers: &[Value]) -> String {
    let step = |at: usize| Digest::sha256(format!("step {number} {at}").as_bytes()).to_string();
    let created = "2026-01-02T03:04:05Z";
    let chain: Vec<Value> = layers
        .iter()
        .enumerate()
        .map(|(at, layer)| json!({ "blob": layer["digest"], "parent": at as i64 - 1 }))
        .collect();
    let records = (1..=layers.len()).map(|at| {
        json!({ "digest": step(at), "inputs": [[{ "link": at - 1 }]], "layers": [{ "layer": at - 1, "createdAt": created }] })
    });
    let records: Vec<Value> = std::iter::once(json!({ "digest": step(0) })).chain(records).collect();
    json!({ "layers": chain, "records": records }).to_string()
}
