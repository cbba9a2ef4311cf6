//! Spans, as a collector gets them from the real program.

use std::net::TcpListener as Silent;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use bytes::Bytes;
use larder::digest::Digest;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::server::binary::Process;
use crate::world::{CONFIG, descriptor, image, noise};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A receiver of OTLP over HTTP.
#[derive(Clone, Default)]
struct Collector {
    /// The type and body of each request.
    got: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl Collector {
    /// Listens; returns its address.
    async fn start(&self) -> String {
        let take = |State(collector): State<Collector>, headers: HeaderMap, body: Bytes| async move {
            let kind = headers["content-type"].to_str().unwrap().to_string();
            collector.got.lock().unwrap().push((kind, body));
            "{}"
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().route("/v1/traces", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for (kind, body) in &*self.got.lock().unwrap() {
            assert_eq!(kind, "application/json");
            let body: Value = serde_json::from_slice(body).unwrap();
            for resource in body["resourceSpans"].as_array().unwrap() {
                let service = attribute(&resource["resource"], "service.name");
                for span in
                    resource["scopeSpans"].as_array().unwrap().iter().flat_map(|s| s["spans"].as_array().unwrap())
                {
                    spans.push(Span { service: service.clone(), said: span.clone() });
                }
            }
        }
        spans
    }
}

/// The value of an attribute, as text.
fn attribute(of: &Value, key: &str) -> String {
    let attributes = of["attributes"].as_array().unwrap();
    let value = attributes.iter().find(|attribute| attribute["key"] == key).map(|attribute| &attribute["value"]);
    match value.and_then(|value| value.as_object()?.values().next()) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

#[derive(Debug)]
struct Span {
    service: String,
    said: Value,
}

impl Span {
    fn text(&self, key: &str) -> &str {
        self.said[key].as_str().unwrap_or_default()
    }

    fn of(&self, key: &str) -> String {
        attribute(&self.said, key)
    }

    fn has_failed(&self) -> bool {
        self.said["status"]["code"] == 2
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.text("name") == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

/// The program with a collector that takes JSON.
fn larder(collector: &str, more: &[(&str, &str)]) -> (TempDir, Process) {
    let folder = tempdir().unwrap();
    let json = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")];
    let larder = Process::start_in(folder.path(), &["serve", "--listen", "127.0.0.1:0"], &[&json, more].concat());
    (folder, larder)
}

async fn status(request: RequestBuilder) -> StatusCode {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    answer.bytes().await.unwrap();
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_and_a_pull_are_children_of_the_builder() {
    let collector = Collector::default();
    let (_folder, mut larder) = larder(&collector.start().await, &[]);
    let client = Client::new();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let of_build = |request: RequestBuilder| status(request.header("traceparent", &parent).header("tracestate", "a=b"));
    let (repo, config, layer) = (format!("{}/v2/team/app", larder.url), Digest::sha256(b"{}"), noise(2_000_000, 1));
    let digest = Digest::sha256(&layer);
    assert_eq!(of_build(client.post(format!("{repo}/blobs/uploads/?digest={config}")).body("{}")).await, 201);
    let upload = client.put(format!("{repo}/blobs/uploads/{TRACE}?digest={digest}"));
    assert_eq!(of_build(upload.body(layer)).await, 201);
    let manifest = image(descriptor(CONFIG, b"{}"), vec![]).to_string();
    assert_eq!(of_build(client.put(format!("{repo}/manifests/v1")).body(manifest)).await, 201);
    assert_eq!(of_build(client.get(format!("{repo}/blobs/{digest}"))).await, 200);
    assert_eq!(of_build(client.get(format!("{repo}/manifests/none"))).await, 404);
    // The process sends the remaining spans before it ends.
    assert!(larder.terminate().success());

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.service == "larder" && span.text("traceId") == TRACE), "{spans:#?}");
    for (name, status, sent, received) in [
        ("POST upload", "201", "0", "2"),
        ("PUT upload", "201", "0", "2000000"),
        ("GET blob", "200", "2000000", "0"),
        ("PUT manifest", "201", "0", ""),
        ("GET manifest", "404", "", "0"),
    ] {
        let span = named(&spans, name);
        assert_eq!((span.text("parentSpanId"), &span.said["kind"]), (PARENT, &Value::from(2)), "{name}");
        assert_eq!(span.text("traceState"), "a=b");
        assert_eq!(span.of("http.response.status_code"), status, "{name}");
        assert_eq!(span.of("http.request.method"), name.split(' ').next().unwrap());
        assert_eq!(span.of("http.route"), name.split(' ').nth(1).unwrap());
        assert!(span.of("url.path").starts_with("/v2/team/app/"), "{span:#?}");
        assert_eq!((&*span.of("larder.tenant"), &*span.of("larder.repository")), ("default", "team/app"), "{name}");
        assert_eq!(span.of("larder.complete"), "true", "{name}");
        assert!(sent.is_empty() || span.of("http.response.body.size") == sent, "{span:#?}");
        assert!(received.is_empty() || span.of("http.request.body.size") == received, "{span:#?}");
        assert!(!span.has_failed(), "{span:#?}");
    }
    // Writes, and reads shared by several requests, run in tasks of their own, which still belong to the request.
    for (name, of) in [("objects write", "PUT upload"), ("objects read", "GET blob")] {
        let is_it = |span: &&Span| span.text("name") == name && span.of("larder.key").ends_with(&digest.hex());
        let call = spans.iter().find(is_it).unwrap_or_else(|| panic!("{name}: {spans:#?}"));
        assert_eq!(call.said["parentSpanId"], named(&spans, of).said["spanId"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_no_parent_or_none_that_is_valid_gets_a_trace_of_his_own() {
    let collector = Collector::default();
    let (_folder, mut larder) = larder(&collector.start().await, &[("OTEL_SERVICE_NAME", "cache")]);
    let client = Client::new();
    let ping = || client.get(format!("{}/v2/", larder.url));
    let invalid = [
        "nonsense".to_string(),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("00-{}-{PARENT}-01", "0".repeat(32)),
        format!("00-{TRACE}-f067-01"),
        format!("00-{TRACE}-{PARENT}-01-more"),
    ];
    assert_eq!(status(ping()).await, 200);
    for parent in &invalid {
        assert_eq!(status(ping().header("traceparent", parent)).await, 200);
    }
    let twice = format!("00-{TRACE}-{PARENT}-01");
    assert_eq!(status(ping().header("traceparent", &twice).header("traceparent", &twice)).await, 200);
    assert!(larder.terminate().success());
    let spans = collector.spans();
    assert_eq!(spans.len(), invalid.len() + 2, "{spans:#?}");
    for span in &spans {
        assert_eq!((span.text("name"), span.text("parentSpanId"), &*span.service), ("GET base", "", "cache"));
        assert_ne!(span.text("traceId"), TRACE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_here_is_an_error_and_what_is_not_there_is_none() {
    let collector = Collector::default();
    let (folder, mut larder) = larder(&collector.start().await, &[]);
    let client = Client::new();
    std::fs::remove_dir(folder.path().join("larder-data/.larder/tmp")).unwrap();
    assert_eq!(status(client.get(format!("{}/readyz", larder.url))).await, 503);
    assert_eq!(status(client.get(format!("{}/v2/app/tags/list", larder.url))).await, 404);
    assert!(larder.terminate().success());
    let spans = collector.spans();
    let failed = named(&spans, "GET admin");
    assert!(failed.has_failed() && failed.of("error.type") == "503", "{failed:#?}");
    assert_ne!(named(&spans, "objects probe").of("error.type"), "", "{spans:#?}");
    assert!(!named(&spans, "GET tags").has_failed(), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_builder_does_not_sample_is_not_sent() {
    let collector = Collector::default();
    let (_folder, mut larder) = larder(&collector.start().await, &[]);
    let client = Client::new();
    for (path, flags) in [("readyz", "00"), ("v2/", "01")] {
        let request = client.get(format!("{}/{path}", larder.url));
        let parent = format!("00-{TRACE}-{PARENT}-{flags}");
        assert_eq!(status(request.header("traceparent", parent)).await, 200);
    }
    assert!(larder.terminate().success());
    let spans = collector.spans();
    assert!(spans.len() == 1 && spans[0].text("name") == "GET base", "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_says_how_and_whether() {
    for (variable, value, sent) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "", true),
        ("OTEL_SDK_DISABLED", "true", false),
        ("OTEL_TRACES_EXPORTER", "none", false),
        ("OTEL_TRACES_SAMPLER", "always_off", false),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "", false),
    ] {
        let collector = Collector::default();
        let (_folder, mut larder) = larder(&collector.start().await, &[(variable, value)]);
        assert_eq!(status(Client::new().get(format!("{}/v2/", larder.url))).await, 200);
        assert!(larder.terminate().success());
        let got = collector.got.lock().unwrap();
        assert_eq!(got.len(), usize::from(sent), "{variable}={value}");
        assert!(got.iter().all(|(kind, _)| kind == "application/x-protobuf"), "{got:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_or_silent_is_nobodys_trouble() {
    let away = Silent::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Takes connections, and never says a word.
    let silent = Silent::bind("127.0.0.1:0").unwrap();
    for address in [away, silent.local_addr().unwrap()] {
        let address = format!("http://{address}");
        // Few places, and batches all the time: most spans find no place, and many batches fail.
        let more = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
            ("OTEL_BSP_SCHEDULE_DELAY", "1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
            ("LARDER_SERVER_DRAIN", "10s"),
        ];
        let (_folder, mut larder) = larder(&address, &more);
        let client = Client::new();
        for _ in 0..200 {
            assert_eq!(status(client.get(format!("{}/v2/", larder.url))).await, 200);
        }
        assert!(larder.terminate().success());
        let errors = larder.errors();
        assert_eq!(errors.matches("cannot export traces").count(), 1, "{errors}");
    }
}
