//! Input that no client of HTTP/2 sends (RFC 9113): a flood ends its connection, a malformed request fails alone, and
//! all others are served.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::auth::configure;
use crate::auth::tls::{self, Ca};
use crate::world::{Server, World};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET / HTTP/2` of `localhost`, and a POST, as HPACK has them (RFC 7541).
const GET: &[u8] = b"\x82\x87\x84\x41\x09localhost";
const POST: &[u8] = b"\x83\x87\x41\x09localhost\x04\x16/v2/a/blobs/uploads/?x";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The complete frames in `bytes`: the kind of each, and its payload.
fn frames_of(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(head) = bytes.first_chunk::<9>() {
        let end = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some(payload) = bytes.get(9..end) else { break };
        found.push((head[3], payload.to_vec()));
        bytes = &bytes[end..];
    }
    found
}

/// The frames that a server sends until it closes the connection, or until one of the kinds `until`.
async fn told(server: &Server, ca: &Ca, frames: Vec<Vec<u8>>, until: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, server.connect().await).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async move {
        let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        all.extend(frame(SETTINGS, 0, 0, b""));
        frames.into_iter().for_each(|frame| all.extend(frame));
        // A server that has had enough does not read the rest.
        let _ = writer.write_all(&all).await;
        writer
    };
    let read = async move {
        let mut bytes = Vec::new();
        while reader.read_buf(&mut bytes).await.is_ok_and(|read| read > 0)
            && !frames_of(&bytes).iter().any(|(kind, _)| until.contains(kind))
        {}
        frames_of(&bytes)
    };
    let (_writer, told) = tokio::join!(write, read);
    told
}

async fn world(folder: &std::path::Path) -> (World, Ca) {
    let ca = tls::ca("larder");
    let text = tls::write(folder, &ca);
    (World::with(|config| configure(config, &text)).await, ca)
}

async fn is_served(server: &Server, ca: &Ca) {
    let trusted = reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().add_root_certificate(trusted).build().unwrap();
    let url = server.url("/healthz").replace("http://", "https://");
    let answer = client.get(url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_frames_ends_its_own_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (world, ca) = world(folder.path()).await;
    let server = world.serve().await;
    let streams = |count: u32| (0..count).map(|n| 2 * n + 1);
    let both = END_STREAM | END_HEADERS;
    let begun = |stream: u32, flags: u8, block: &[u8]| frame(HEADERS, flags, stream, block);
    let flood = |first: Vec<u8>, count: usize, next: Vec<u8>| [first].into_iter().chain(vec![next; count]).collect();
    let reset =
        streams(20_000).flat_map(|id| [begun(id, both, GET), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])]).collect();
    // Requests that the server itself has to reset: a window that grows by nothing is an error of its stream.
    let made =
        streams(20_000).flat_map(|id| [begun(id, END_HEADERS, POST), frame(WINDOW_UPDATE, 0, id, &[0; 4])]).collect();
    let full = flood(begun(1, 0, GET), 2_000, frame(CONTINUATION, 0, 1, &b"\x00\x01a\x7f\x00".repeat(200)));
    let empty = flood(begun(1, 0, GET), 20_000, frame(CONTINUATION, 0, 1, b""));
    let data = flood(begun(1, END_HEADERS, POST), 100_000, frame(DATA, 0, 1, b""));
    let cases: [(&str, Vec<Vec<u8>>); 5] = [
        ("requests that are reset at once", reset),
        ("requests that the server must reset", made),
        ("a head that never ends", full),
        ("a head that never ends and does not grow", empty),
        ("data of no bytes", data),
    ];
    for (what, frames) in cases {
        let told = told(&server, &ca, frames, &[]).await;
        let error = told.iter().rev().find(|(kind, _)| *kind == GOAWAY).map(|(_, payload)| payload[4..8].to_vec());
        assert!(error.is_some_and(|error| error != [0; 4]), "{what}: {} frames", told.len());
        is_served(&server, &ca).await;
    }
    // Frames that are answered one by one, or ignored, and cost nothing.
    let after = frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 7]);
    for next in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, b""), after] {
        let then = frame(HEADERS, both, 1, GET);
        let told = told(&server, &ca, vec![next; 5_000].into_iter().chain([then]).collect(), &[HEADERS, GOAWAY]).await;
        assert!(told.iter().any(|(kind, _)| *kind == HEADERS), "{} frames", told.len());
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_request_is_reset_and_never_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (world, ca) = world(folder.path()).await;
    let server = world.serve().await;
    let header = |name: &str, value: &str| {
        let mut field = vec![0, name.len() as u8];
        field.extend(name.bytes());
        field.push(value.len() as u8);
        field.extend(value.bytes());
        [GET, &field].concat()
    };
    for (what, block) in [
        ("a field in upper case", header("X-Upper", "a")),
        ("Connection", header("connection", "close")),
        ("Transfer-Encoding", header("transfer-encoding", "chunked")),
        ("TE", header("te", "gzip")),
        ("a line break in a value", header("x", "a\r\nb: c")),
        ("a body that is announced and does not come", header("content-length", "5")),
        ("two paths", [GET, b"\x84"].concat()),
        ("no method", GET[1..].to_vec()),
    ] {
        let frames = vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)];
        let told = told(&server, &ca, frames, &[HEADERS, RST_STREAM, GOAWAY]).await;
        assert!(!told.iter().any(|(kind, _)| *kind == HEADERS), "{what} was answered: {told:?}");
        assert!(told.iter().any(|(kind, _)| matches!(*kind, RST_STREAM | GOAWAY)), "{what}: {told:?}");
        is_served(&server, &ca).await;
    }
    server.stopped().await;
}

/// A head of some kilobytes that names one long field over and over: with its names written out, it has megabytes
/// (RFC 7541, section 7.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_small_only_on_its_way_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (world, ca) = world(folder.path()).await;
    let server = world.serve().await;
    // Remembered under the first number that is free, 62; its value has 3,900 bytes.
    let long = [b"\x40\x01x\x7f\xbd\x1d".as_slice(), &[b'a'; 3_900]].concat();
    let block = [GET, &long, &[0xbe; 12_000]].concat();
    let frames = vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)];
    let told = told(&server, &ca, frames, &[HEADERS, RST_STREAM, GOAWAY]).await;
    let is_good = |(kind, payload): &(u8, Vec<u8>)| *kind == HEADERS && payload.first() == Some(&0x88);
    assert!(!told.is_empty() && !told.iter().any(is_good), "{told:?}");
    is_served(&server, &ca).await;
    server.stopped().await;
}
