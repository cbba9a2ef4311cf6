//! Certificates of the server and of its clients.

use std::path::Path;

use larder::config::Config;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::configure;
use crate::world::World;

pub type Ca = CertifiedIssuer<'static, KeyPair>;

pub fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, as PEM.
fn signed(ca: &Ca, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_string(), "127.0.0.1".to_string()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

/// Writes a certificate of the server, and returns the configuration that uses it.
pub fn write(folder: &Path, ca: &Ca) -> String {
    let (cert, key) = signed(ca, "server");
    for (name, text) in [("cert.pem", &cert), ("key.pem", &key), ("ca.pem", &ca.pem())] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let file = |name: &str| folder.join(name).display().to_string();
    format!(
        "[tls]\ncert = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
        file("cert.pem"),
        file("key.pem"),
        file("ca.pem")
    )
}

const RULES: &str = "[[rules]]\nidentity = \"cert:builder-*\"\nmay = [\"pull\", \"push\"]\n";

fn client(trusted: &[&Ca], identity: Option<(String, String)>) -> reqwest::ClientBuilder {
    let mut builder = reqwest::Client::builder();
    for ca in trusted {
        builder = builder.add_root_certificate(reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap());
    }
    match identity {
        Some((cert, key)) => builder.identity(reqwest::Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap()),
        None => builder,
    }
}

#[tokio::test]
async fn a_client_certificate_is_an_identity() {
    let (folder, ca, other) = (tempfile::tempdir().unwrap(), ca("larder"), ca("other"));
    let world = World::with(|config| configure(config, &(write(folder.path(), &ca) + RULES))).await;
    let server = world.serve().await;
    let url = server.url("/v2/a/blobs/uploads/").replace("http://", "https://");
    let post = async |client: reqwest::ClientBuilder| client.build().unwrap().post(&url).send().await;
    let status = async |client| post(client).await.unwrap().status().as_u16();
    assert_eq!(status(client(&[&ca], Some(signed(&ca, "builder-1")))).await, 202);
    assert_eq!(status(client(&[&ca], Some(signed(&ca, "laptop")))).await, 403);
    assert_eq!(status(client(&[&ca], None)).await, 401);
    assert!(post(client(&[&ca], Some(signed(&other, "builder-1")))).await.is_err());
    // Both versions of HTTP, as the client likes.
    let answer = post(client(&[&ca], Some(signed(&ca, "builder-1")))).await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    let first = post(client(&[&ca], Some(signed(&ca, "builder-1"))).http1_only()).await.unwrap();
    assert_eq!((first.version(), first.status().as_u16()), (http::Version::HTTP_11, 202));
    server.stopped().await;
}

#[tokio::test]
async fn who_speaks_http_on_the_port_of_tls_is_told() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), ca("larder"));
    let world = World::with(|config| configure(config, &(write(folder.path(), &ca) + RULES))).await;
    let server = world.serve().await;
    let refused = reqwest::get(server.url("/v2/")).await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().starts_with("this port speaks TLS: use https://"));
    // With a body larger than the server reads ahead, as that of an upload.
    let client = reqwest::Client::new();
    let refused = client.put(server.url("/v2/a/manifests/b")).body(vec![b'x'; 1 << 20]).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    // HTTP/2 without TLS: an answer in HTTP/1 would not be understood.
    let address = server.url("").strip_prefix("http://").unwrap().to_string();
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
    // Bytes of neither are left to TLS, which refuses them.
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    stream.write_all(&[0; 64]).await.unwrap();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_replaced_under_load() {
    let (folder, old, new) = (tempfile::tempdir().unwrap(), ca("old"), ca("new"));
    let text = write(folder.path(), &old);
    let world = World::with(|config| configure(config, &text)).await;
    let server = world.serve().await;
    let url = server.url("/healthz").replace("http://", "https://");
    // New connections all the time, and one of each version that stays.
    let fresh = || client(&[&old, &new], None).pool_max_idle_per_host(0).build().unwrap();
    let kept = [client(&[&old], None), client(&[&old], None).http1_only()].map(|c| c.build().unwrap());
    for client in &kept {
        assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = (0..4).map(|_| {
        let (client, url, stopped) = (fresh(), url.clone(), stopped.clone());
        tokio::spawn(async move {
            let mut answers = 0;
            while !*stopped.borrow() {
                assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
                answers += 1;
            }
            answers
        })
    });
    let load: Vec<_> = load.collect();
    let mut config = Config::default();
    for round in 0..20 {
        configure(&mut config, &write(folder.path(), if round % 2 == 0 { &new } else { &old }));
        world.app().gate.reload(&config, None).unwrap();
        for client in &kept {
            assert_eq!(client.get(&url).send().await.unwrap().status(), 200, "a connection was dropped");
        }
    }
    configure(&mut config, &write(folder.path(), &new));
    world.app().gate.reload(&config, None).unwrap();
    // Half of a pair does not fit, and changes nothing.
    std::fs::write(folder.path().join("key.pem"), signed(&old, "server").1).unwrap();
    assert!(world.app().gate.reload(&config, None).is_err());
    assert_eq!(client(&[&new], None).build().unwrap().get(&url).send().await.unwrap().status(), 200);
    assert!(client(&[&old], None).build().unwrap().get(&url).send().await.is_err());
    stop.send_replace(true);
    for worker in load {
        assert!(worker.await.unwrap() > 0);
    }
    drop(kept);
    server.stopped().await;
}

/// The first message of a client (RFC 5246, section 7.4.1.2), with signatures by ECDSA and RSA and three curves.
fn hello(version: [u8; 2], suites: &[u16], compression: u8) -> Vec<u8> {
    let long = |bytes: &[u8]| [(bytes.len() as u16).to_be_bytes().as_slice(), bytes].concat();
    let extension = |kind: u16, body: &[u8]| [kind.to_be_bytes().as_slice(), &long(body)].concat();
    let extensions = [
        extension(10, &long(&[0, 29, 0, 23, 0, 24])),
        extension(11, &[1, 0]),
        extension(13, &long(&[4, 3, 8, 4, 4, 1, 2, 3, 2, 1])),
        extension(23, &[]),
    ];
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let body = [&version, [7; 32].as_slice(), &[0], &long(&suites), &[1, compression], &long(&extensions.concat())];
    let body = body.concat();
    let message = [&[1, 0], long(&body).as_slice()].concat();
    [&[22, 3, 1], long(&message).as_slice()].concat()
}

#[tokio::test]
async fn old_versions_and_weak_suites_get_no_handshake() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), ca("larder"));
    let text = write(folder.path(), &ca);
    let world = World::with(|config| configure(config, &text)).await;
    let server = world.serve().await;
    // The kind of the server's first record: 22 continues the handshake, 21 is an alert.
    let told = async |hello: Vec<u8>| {
        let mut stream = server.connect().await;
        stream.write_all(&hello).await.unwrap();
        stream.read_u8().await.ok()
    };
    const TLS_1_2: [u8; 2] = [3, 3];
    // ECDHE with AES-GCM or ChaCha20.
    for good in [0xc02b, 0xc02c, 0xcca9] {
        assert_eq!(told(hello(TLS_1_2, &[good], 0)).await, Some(22), "{good:x}");
    }
    for (what, hello) in [
        ("SSL 3.0", hello([3, 0], &[0xc02b, 0xc009, 0x2f], 0)),
        ("TLS 1.0", hello([3, 1], &[0xc02b, 0xc009, 0x2f], 0)),
        ("TLS 1.1", hello([3, 2], &[0xc02b, 0xc009, 0x2f], 0)),
        ("ECDHE with CBC", hello(TLS_1_2, &[0xc009, 0xc00a, 0xc023, 0xc013, 0xc027], 0)),
        ("DHE", hello(TLS_1_2, &[0x9e, 0x33], 0)),
        ("static RSA", hello(TLS_1_2, &[0x9c, 0x9d, 0x2f, 0x35], 0)),
        ("3DES", hello(TLS_1_2, &[0xc008, 0xc012, 0x0a], 0)),
        ("RC4", hello(TLS_1_2, &[0xc007, 0xc011, 0x05], 0)),
        ("no encryption", hello(TLS_1_2, &[0xc006, 0xc010, 0x3b, 0x01], 0)),
        ("nobody known", hello(TLS_1_2, &[0xc018, 0x34, 0x18], 0)),
        ("compression alone", hello(TLS_1_2, &[0xc02b], 1)),
    ] {
        assert_eq!(told(hello).await, Some(21), "{what}");
    }
    server.stopped().await;
}
