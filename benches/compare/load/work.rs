//! What clients of a registry do, with blobs whose bytes follow from size and number.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use larder::digest::{Algorithm, Digest, Hasher};

use crate::http::Connection;

const REPO: &str = "/v2/bench/app";
const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Bytes that repeat in a blob.
const BLOCK_BYTES: usize = 1 << 20;
/// Bytes at the end of a blob that tell it from others.
const TAIL_BYTES: u64 = 8;

/// Blobs of one size. They share all but their last bytes, so that many large ones are quickly made and take no memory.
pub struct Blobs {
    size: u64,
    block: Vec<u8>,
    /// Fed with all but the tail.
    hasher: Hasher,
}

impl Blobs {
    pub fn new(size: u64) -> Blobs {
        let mut state = size | 1;
        let words = (0..BLOCK_BYTES / 8).flat_map(|_| {
            // Xorshift: nothing that a filesystem or a network could compress.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let mut blobs = Blobs { size, block: words.collect(), hasher: Hasher::new(Algorithm::Sha256) };
        let mut hasher = blobs.hasher.clone();
        blobs
            .pieces(|piece| {
                hasher.update(piece);
                Ok(())
            })
            .unwrap_or_default();
        blobs.hasher = hasher;
        blobs
    }

    fn pieces(&self, mut each: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        let mut left = self.size - TAIL_BYTES;
        while left > 0 {
            let piece = &self.block[..BLOCK_BYTES.min(left as usize)];
            each(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    pub fn write(&self, number: u64, to: &mut impl Write) -> std::io::Result<()> {
        self.pieces(|piece| to.write_all(piece))?;
        to.write_all(&number.to_le_bytes())
    }

    pub fn digest(&self, number: u64) -> Digest {
        let mut hasher = self.hasher.clone();
        hasher.update(&number.to_le_bytes());
        hasher.finish()
    }

    pub fn push(&self, connection: &mut Connection, number: u64) -> Result<u64> {
        push(connection, &self.digest(number), self.size, |to| self.write(number, to))?;
        Ok(self.size)
    }

    pub fn pull(&self, connection: &mut Connection, number: u64) -> Result<u64> {
        let digest = self.digest(number);
        let answer = connection.ask("GET", &format!("{REPO}/blobs/{digest}"), "")?;
        ensure!(answer.status == 200 && answer.length == self.size, "GET {digest}: {}", answer.status);
        Ok(self.size)
    }
}

fn push(
    connection: &mut Connection,
    digest: &Digest,
    size: u64,
    body: impl FnOnce(&mut std::net::TcpStream) -> std::io::Result<()>,
) -> Result<()> {
    let begun = connection.send("POST", &format!("{REPO}/blobs/uploads/"), "", Some(0), |_| Ok(()))?;
    let location = begun.location.filter(|_| begun.status == 202);
    let location = location.ok_or_else(|| anyhow::anyhow!("POST: {}", begun.status))?;
    // A server may send it with a scheme and a host.
    let path = location.split_once("://").map_or(location.as_str(), |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
    let mark = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{mark}digest={digest}");
    let answer = connection.send("PUT", &path, "Content-Type: application/octet-stream\r\n", Some(size), body)?;
    ensure!(answer.status == 201, "PUT {path}: {}", answer.status);
    Ok(())
}

pub fn head(connection: &mut Connection, digest: &Digest) -> Result<u64> {
    let answer = connection.ask("HEAD", &format!("{REPO}/blobs/{digest}"), "")?;
    ensure!(answer.status == 200, "HEAD {digest}: {}", answer.status);
    Ok(0)
}

pub fn manifest(connection: &mut Connection) -> Result<u64> {
    let accept = format!("Accept: {MEDIA_TYPE}\r\n");
    let answer = connection.ask("GET", &format!("{REPO}/manifests/latest"), &accept)?;
    ensure!(answer.status == 200, "GET manifest: {}", answer.status);
    Ok(answer.length)
}

pub fn push_image(connection: &mut Connection) -> Result<()> {
    push(connection, &Digest::sha256(b"{}"), 2, |to| to.write_all(b"{}"))?;
    let manifest = image();
    let kind = format!("Content-Type: {MEDIA_TYPE}\r\n");
    let length = Some(manifest.len() as u64);
    let path = format!("{REPO}/manifests/latest");
    let answer = connection.send("PUT", &path, &kind, length, |to| to.write_all(manifest.as_bytes()))?;
    ensure!(answer.status == 201, "PUT manifest: {}", answer.status);
    Ok(())
}

/// A manifest of the size that images have.
fn image() -> String {
    let config = Digest::sha256(b"{}");
    let layer =
        format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{config}","size":2}}"#);
    let layers = vec![layer; 10].join(",");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MEDIA_TYPE}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{layers}]}}"#
    )
}

pub fn write_files(folder: &Path, count: u64, size: u64) -> Result<()> {
    let at = folder.join(&REPO[1..]);
    fs::create_dir_all(at.join("blobs"))?;
    fs::create_dir_all(at.join("manifests"))?;
    fs::write(at.join("manifests/latest"), image())?;
    let blobs = Blobs::new(size);
    for number in 0..count {
        blobs.write(number, &mut File::create(at.join("blobs").join(blobs.digest(number).to_string()))?)?;
    }
    Ok(())
}

/// The digest that the blob of this number has in a store that was filled behind the server's back.
pub fn seeded(number: u64) -> Digest {
    Digest::sha256(&number.to_le_bytes())
}
