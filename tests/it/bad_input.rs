//! Malformed requests are refused with an exact status and code, never a 5xx, and the server keeps serving.

mod http2;
mod over_tcp;
mod random;

use larder::digest::Digest;
use serde_json::json;

use crate::world::{CONFIG, LAYER, World, descriptor, image};

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// One refusal: method and address, where `$D` is a digest, `$U` an unknown upload, `$S` one that has received five
/// bytes, `$B` a stored blob; then headers and body, status and code.
type Row = (&'static str, &'static [(&'static str, &'static str)], &'static str, u16, &'static str);

const ROWS: &[Row] = &[
    // Names.
    ("GET /v2/UPPER/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a//b/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a_/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/-a/manifests/v1", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a..b/manifests/v1", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a%00b/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/%FF/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/caf%C3%A9/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a%20b/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a/!/b/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/t~s/tags/list", &[], "", 400, "NAME_INVALID"),
    ("POST /v2/A/blobs/uploads/", &[], "", 400, "NAME_INVALID"),
    ("PUT /v2/A/manifests/v1", &[], "{}", 400, "NAME_INVALID"),
    ("POST /v2/a/blobs/uploads/?mount=$D&from=UPPER", &[], "", 400, "NAME_INVALID"),
    // Ways out of the folder.
    ("GET /v2/../tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/..%2f..%2fetc/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a/%2e%2e/b/tags/list", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a%2f..%2f..%2fb/manifests/v1", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a/manifests/..", &[], "", 400, "MANIFEST_INVALID"),
    ("GET /v2/a/manifests/%2e%2e", &[], "", 400, "MANIFEST_INVALID"),
    ("GET /v2/a/manifests/..%2f..%2fsecret", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2/a/blobs/..%2f..%2fmeta%2fformat", &[], "", 404, "NAME_UNKNOWN"),
    ("DELETE /v2/a/blobs/uploads/..", &[], "", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("GET /v2/a/tags/list?last=..%2f..%2f", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2/a/tags/list?last=%00", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2/../../meta/signing-key", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2/..%2f..%2fmeta/blobs/$D", &[], "", 400, "NAME_INVALID"),
    ("GET /v2/a/manifests/..%2f..%2f..%2fmeta%2fsigning-key", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2/meta/blobs/signing-key", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha256:..%2f..%2f..%2fmeta%2fsigning-key", &[], "", 404, "NAME_UNKNOWN"),
    ("PATCH /v2/a/blobs/uploads/..%2f..%2fmeta%2fsigning-key", &[], "x", 404, "NAME_UNKNOWN"),
    ("PATCH /v2/a/blobs/uploads/state", &[], "x", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("GET /v2/a/referrers/sha256:%2e%2e", &[], "", 400, "DIGEST_INVALID"),
    ("PUT /v2/a/manifests/$D?tag=..%2fx", &[], "{}", 400, "MANIFEST_INVALID"),
    // Tags.
    ("GET /v2/a/manifests/.hidden", &[], "", 400, "MANIFEST_INVALID"),
    ("GET /v2/a/manifests/-dash", &[], "", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/with%20space", &[], "{}", 400, "MANIFEST_INVALID"),
    ("DELETE /v2/a/manifests/caf%C3%A9", &[], "", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/$D?tag=bad%20tag", &[], "{}", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1?tag=v2", &[], "{}", 400, "MANIFEST_INVALID"),
    // Digests.
    ("GET /v2/a/blobs/latest", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha256:", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha256:abc", &[], "", 400, "DIGEST_INVALID"),
    ("HEAD /v2/a/blobs/sha256:$H0", &[], "", 400, ""),
    ("GET /v2/a/blobs/sha256:${H}0", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/SHA256:$H", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha512:$H", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", &[], "", 400, "DIGEST_INVALID"),
    (
        "GET /v2/a/blobs/sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
        &[],
        "",
        400,
        "DIGEST_INVALID",
    ),
    ("DELETE /v2/a/blobs/sha256:xyz", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha384:$H$H", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha256:$H$H", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/blobs/sha256+b64:aaaa", &[], "", 400, "DIGEST_INVALID"),
    ("PUT $U&digest=sha512:$H", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/manifests/sha256:abc", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/manifests/v1:v2", &[], "", 400, "DIGEST_INVALID"),
    ("GET /v2/a/referrers/latest", &[], "", 400, "DIGEST_INVALID"),
    ("POST /v2/a/blobs/uploads/?digest=sha256:abc", &[], "x", 400, "DIGEST_INVALID"),
    ("POST /v2/a/blobs/uploads/?digest=", &[], "x", 400, "DIGEST_INVALID"),
    ("POST /v2/a/blobs/uploads/?mount=nothing&from=b", &[], "", 400, "DIGEST_INVALID"),
    ("POST /v2/a/blobs/uploads/?digest-algorithm=md5", &[], "", 400, "DIGEST_INVALID"),
    ("PUT $S", &[], "", 400, "DIGEST_INVALID"),
    ("PUT $S&digest=sha256:abc", &[], "", 400, "DIGEST_INVALID"),
    ("PUT $S&digest=sha256:$H%00", &[], "", 400, "DIGEST_INVALID"),
    ("PUT $S&digest=$D", &[], "x", 400, "DIGEST_INVALID"),
    ("POST /v2/a/blobs/uploads/?digest=$D", &[], "not empty", 400, "DIGEST_INVALID"),
    ("PUT /v2/a/manifests/$D", &[], "{}", 400, "DIGEST_INVALID"),
    // Ranges and lengths.
    ("GET $B", &[("range", "bytes=5-")], "", 416, "SIZE_INVALID"),
    ("GET $B", &[("range", "bytes=3-1")], "", 416, "SIZE_INVALID"),
    ("GET $B", &[("range", "bytes=18446744073709551615-")], "", 416, "SIZE_INVALID"),
    ("PATCH $S", &[("content-range", "9-13")], "world", 416, "BLOB_UPLOAD_INVALID"),
    ("PATCH $S", &[("content-range", "0-4")], "world", 416, "BLOB_UPLOAD_INVALID"),
    ("PATCH $S", &[("content-range", "five-nine")], "world", 400, "BLOB_UPLOAD_INVALID"),
    ("PATCH $S", &[("content-range", "9-5")], "world", 400, "BLOB_UPLOAD_INVALID"),
    ("PATCH $S", &[("content-range", "bytes 5-9/10")], "world", 400, "BLOB_UPLOAD_INVALID"),
    ("PATCH $S", &[("content-range", "5-18446744073709551615")], "world", 400, "BLOB_UPLOAD_INVALID"),
    ("PATCH $S", &[("content-range", "-5-9")], "world", 400, "BLOB_UPLOAD_INVALID"),
    ("PATCH $S", &[("content-range", "5-8")], "world", 400, "SIZE_INVALID"),
    ("PUT $S&digest=$D", &[("content-range", "0-4")], "world", 416, "BLOB_UPLOAD_INVALID"),
    ("PUT $S&digest=$D", &[("content-range", "x")], "world", 400, "BLOB_UPLOAD_INVALID"),
    ("GET /v2/a/tags/list?n=many", &[], "", 400, "UNSUPPORTED"),
    ("GET /v2/a/tags/list?n=-1", &[], "", 400, "UNSUPPORTED"),
    ("GET /v2/_catalog?n=99999999999999999999", &[], "", 400, "UNSUPPORTED"),
    // Sessions.
    ("GET $U&staged=1", &[], "", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("PATCH $U&staged=1", &[], "x", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("DELETE $U&staged=1", &[], "", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("PATCH $U", &[("content-range", "5-9")], "world", 416, "BLOB_UPLOAD_INVALID"),
    ("GET /v2/a/blobs/uploads/not-an-id", &[], "", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("PATCH /v2/a/blobs/uploads/0123456789ABCDEF0123456789ABCDEF", &[], "x", 404, "BLOB_UPLOAD_UNKNOWN"),
    // Manifests.
    ("PUT /v2/a/manifests/v1", &[], "", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "not json", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "[]", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "{}", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "{\"schemaVersion\":2}", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "{\"schemaVersion\":\"2\",\"manifests\":[]}", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "{\"schemaVersion\":-2,\"manifests\":[]}", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "{\"schemaVersion\":2,\"manifests\":[]} trailing", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "{\"schemaVersion\":2,\"layers\":[]}", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "{\"schemaVersion\":2,\"manifests\":[{}]}", 400, "MANIFEST_INVALID"),
    (
        "PUT /v2/a/manifests/v1",
        &[],
        "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"a/b\",\"digest\":\"../../x\",\"size\":1}]}",
        400,
        "MANIFEST_INVALID",
    ),
    (
        "PUT /v2/a/manifests/v1",
        &[],
        "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"a/b\",\"digest\":\"$D\",\"size\":-1}]}",
        400,
        "MANIFEST_INVALID",
    ),
    (
        "PUT /v2/a/manifests/v1",
        &[],
        "{\"schemaVersion\":2,\"mediaType\":\"text/html\",\"manifests\":[]}",
        400,
        "MANIFEST_INVALID",
    ),
    (
        "PUT /v2/a/manifests/v1",
        &[("content-type", "application/vnd.oci.image.manifest.v1+json")],
        "{\"schemaVersion\":2,\"manifests\":[]}",
        400,
        "MANIFEST_INVALID",
    ),
    ("PUT /v2/a/manifests/v1", &[], "{\"schemaVersion\":1,\"fsLayers\":[]}", 400, "MANIFEST_INVALID"),
    ("PUT /v2/a/manifests/v1", &[], "\u{feff}{\"schemaVersion\":2,\"manifests\":[]}", 400, "MANIFEST_INVALID"),
    (
        "PUT /v2/a/manifests/v1",
        &[],
        "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"a/b\",\"digest\":\"$D\",\"size\":0}]}",
        404,
        "MANIFEST_BLOB_UNKNOWN",
    ),
    ("GET /v2/a/manifests/unknown", &[], "", 404, "MANIFEST_UNKNOWN"),
    ("DELETE /v2/a/manifests/$D", &[], "", 404, "MANIFEST_UNKNOWN"),
    ("DELETE /v2/a/blobs/$D", &[], "", 404, "BLOB_UNKNOWN"),
    // Methods and endpoints.
    ("POST /v2/", &[], "", 405, "UNSUPPORTED"),
    ("DELETE /v2/_catalog", &[], "", 405, "UNSUPPORTED"),
    ("PUT /v2/a/blobs/$D", &[], "x", 405, "UNSUPPORTED"),
    ("GET /v2/a/blobs/uploads/", &[], "", 405, "UNSUPPORTED"),
    ("POST $U", &[], "", 405, "UNSUPPORTED"),
    ("PATCH /v2/a/manifests/v1", &[], "{}", 405, "UNSUPPORTED"),
    ("BREW /v2/a/manifests/v1", &[], "", 405, "UNSUPPORTED"),
    ("OPTIONS /v2/a/tags/list", &[], "", 405, "UNSUPPORTED"),
    ("GET /v2/a", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2/tags/list", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2/blobs/$D", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2/a/b/c/d", &[], "", 404, "NAME_UNKNOWN"),
    ("GET /v2//", &[], "", 404, "NAME_UNKNOWN"),
];

#[tokio::test]
async fn every_malformed_request_has_its_answer() {
    let world = World::new().await;
    let blob = world.put_blob("a", "hello").await;
    let begun = world.begin("a").await;
    let session = world.patch(begun).body("hello").await.expect(202).header("location").to_string();
    let digest = Digest::sha256(b"").to_string();
    let unknown = format!("/v2/a/blobs/uploads/{}?x", "0123456789abcdef".repeat(2));
    let fill = |text: &str| {
        let text = text.replace("$B", &format!("/v2/a/blobs/{blob}")).replace("$D", &digest).replace("$S", &session);
        text.replace("$U", &unknown).replace("${H}", HEX).replace("$H", HEX)
    };
    let before = world.check().await.len();
    let mut wrong = Vec::new();
    for (line, headers, body, status, code) in ROWS {
        let line = fill(line);
        let (method, uri) = line.split_once(' ').unwrap();
        let mut call = world.call(method, uri).body(fill(body));
        for (name, value) in *headers {
            call = call.header(name, value);
        }
        let answer = call.await;
        let found = if code.is_empty() { String::new() } else { answer.code() };
        if (answer.status.as_u16(), &*found) != (*status, *code) {
            wrong.push(format!("{line} {body}: expected {status} {code}, got {} {}", answer.status, answer.text()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(ROWS.len() >= 60);
    // None of the requests has changed anything, and the session is where it was.
    assert_eq!(world.check().await.len(), before);
    assert_eq!(world.get(&session).await.expect(204).header("range"), "0-4");
    world.get("/v2/a/tags/list").await.expect(404);
    world.put_image("a", "v1", "seed").await;
    world.get("/v2/a/manifests/v1").await.expect(200);
}

#[tokio::test]
async fn names_may_be_long_but_not_endless() {
    let world = World::new().await;
    let (fits, too_long) = ("a".repeat(255), "a".repeat(256));
    world.put_image(&fits, &"t".repeat(128), "seed").await;
    assert_eq!(world.get(format!("/v2/{too_long}/tags/list")).await.expect(400).code(), "NAME_INVALID");
    let tag = format!("/v2/a/manifests/{}", "t".repeat(129));
    assert_eq!(world.get(tag).await.expect(400).code(), "MANIFEST_INVALID");
    // A name with as many components as fit, each a folder.
    let deep = vec!["a"; 128].join("/");
    world.put_image(&deep, "v1", "seed").await;
    world.get(format!("/v2/{deep}/manifests/v1")).await.expect(200);
}

#[tokio::test]
async fn a_push_sets_no_more_tags_than_a_client_would() {
    let world = World::new().await;
    world.put_blob("a", "{}").await;
    let text = image(descriptor(CONFIG, b"{}"), vec![]).to_string();
    let uri = |tags: usize| {
        let tags: Vec<String> = (0..tags).map(|i| format!("tag=t{i}")).collect();
        format!("/v2/a/manifests/{}?{}", Digest::sha256(text.as_bytes()), tags.join("&"))
    };
    assert_eq!(world.put(uri(65)).body(text.clone()).await.expect(400).code(), "MANIFEST_INVALID");
    world.put(uri(64)).body(text.clone()).await.expect(201);
}

#[tokio::test]
async fn hostile_manifests_are_only_refused() {
    let world = World::new().await;
    world.put_blob("a", "{}").await;
    let nested = format!("{{\"schemaVersion\":2,\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let twice = "{\"schemaVersion\":2,\"manifests\":[],\"schemaVersion\":1}".to_string();
    let mut not_text = b"{\"schemaVersion\":2,\"manifests\":[],\"x\":\"".to_vec();
    not_text.extend(b"\xff\"}");
    for body in [nested.into_bytes(), twice.into_bytes(), not_text] {
        let refused = world.put("/v2/a/manifests/v1").body(body).await.expect(400);
        assert_eq!(refused.code(), "MANIFEST_INVALID");
    }
    let with = |field: &str| format!("{{\"schemaVersion\":2,\"manifests\":[],{field}}}").into_bytes();
    let config = |fields: &str| format!("{{\"schemaVersion\":2,\"layers\":[],\"config\":{{{fields}}}}}").into_bytes();
    let digest = Digest::sha256(b"{}");
    let utf_16: Vec<u8> = "{\"schemaVersion\":2,\"manifests\":[]}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (what, body) in [
        ("a deep list without an end", "[".repeat(100_000).into_bytes()),
        ("a version beyond all numbers", b"{\"schemaVersion\":1e400,\"manifests\":[]}".to_vec()),
        ("a size below nothing", config(&format!("\"mediaType\":\"a/b\",\"digest\":\"{digest}\",\"size\":-1"))),
        (
            "a size beyond 64 bits",
            config(&format!("\"mediaType\":\"a/b\",\"digest\":\"{digest}\",\"size\":18446744073709551616")),
        ),
        ("UTF-16", utf_16),
    ] {
        let refused = world.put("/v2/a/manifests/v1").body(body).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "MANIFEST_INVALID"), "{what}");
    }
    // Unknown fields are ignored, however deep they are nested.
    for (what, body) in [
        ("a deep list beside", with(&format!("\"x\":{}{}", "[".repeat(200_000), "]".repeat(200_000)))),
        ("deep objects beside", with(&format!("\"x\":{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)))),
    ] {
        world.put("/v2/a/manifests/deep").body(body.clone()).await.expect(201);
        assert!(world.get("/v2/a/manifests/deep").await.expect(200).body == body, "{what}");
    }
    world.put("/v2/a/manifests/v1").body(vec![b' '; 5 << 20]).await.expect(413);
    // As many layers as a manifest can reference, all missing: one answer that names each once.
    let layers = (0..2_000).map(|i| descriptor(LAYER, format!("layer {}", i % 1_000).as_bytes())).collect();
    let many = image(descriptor(CONFIG, b"{}"), layers);
    let refused = world.put("/v2/a/manifests/v1").body(many.to_string()).await.expect(404);
    let named = refused.json()["errors"][0]["detail"]["digests"].as_array().unwrap().clone();
    assert_eq!(named.len(), named.iter().map(ToString::to_string).collect::<std::collections::HashSet<_>>().len());
    assert_ne!(named, [json!(null)]);
}

#[tokio::test]
async fn no_path_leads_to_what_the_store_keeps_for_itself() {
    let world = World::new().await;
    world.put_image("a", "v1", "seed").await;
    for path in [
        "/repo/..%2f..%2fmeta/signing-key",
        "/repo/..%2f..%2fmeta/signing-key:v1",
        "/repo/%3Cimg%20src=x%3E",
        "/style.css/../../meta/signing-key",
        "/meta/signing-key",
        "/meta/format",
        "/.larder/server",
        "/t/default/repos/a/!/tags/v1",
        "/api/inspect?ref=..%2f..%2fmeta:signing-key",
        "/api/inspect?ref=%3Cscript%3E",
        "/api/repo/%00",
    ] {
        let answer = world.get(path).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{path}: {}", answer.status);
        assert!(!answer.text().contains("<img") && !answer.text().contains("<script"), "{path}: {}", answer.text());
    }
    for last in ["..%2f..%2f..%2f..%2fetc%2fpasswd", "%2f", "%00", "..%2f"] {
        for list in ["/v2/_catalog?n=5&last=", "/v2/a/tags/list?last=", &format!("/v2/a/referrers/sha256:{HEX}?last=")]
        {
            let answer = world.get(format!("{list}{last}")).await.expect(200).text();
            assert!(!answer.contains("meta") && !answer.contains("passwd"), "{answer}");
        }
    }
    // A host name from a client appears only in the answer to this client: `Location` has none.
    let begun = world.post("/v2/a/blobs/uploads/").header("host", "evil.example").header("x-forwarded-host", "evil");
    assert!(begun.await.expect(202).header("location").starts_with("/v2/a/blobs/uploads/"));
    for method in ["TRACE", "CONNECT", "PROPFIND", "MKCOL", "COPY", "MOVE", "LOCK", "PURGE", "FOO"] {
        for path in ["/v2/", "/v2/a/manifests/v1", "/api/gc", "/repositories"] {
            world.call(method, path).await.expect(405);
        }
    }
}
