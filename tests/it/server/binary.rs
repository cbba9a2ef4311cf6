//! The program itself: its command line, its words, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use larder::digest::Digest;
use tempfile::tempdir;

use serde_json::Value;

use crate::world::{CONFIG, descriptor, image};

/// The program in a folder, with nothing from outside that would configure it.
pub fn larder(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LARDER_") || name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn run(folder: &Path, arguments: &[&str]) -> (Output, String) {
    let output = larder(folder, arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, errors)
}

/// A running program, killed when its test fails.
pub struct Process {
    child: Child,
    /// What it has printed, up to the line that says how to reach it from elsewhere.
    banner: String,
    pub url: String,
}

impl Process {
    pub fn start(folder: &Path, arguments: &[&str]) -> Process {
        Process::start_in(folder, arguments, &[])
    }

    /// With variables in its environment.
    pub fn start_in(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Process {
        let mut child = larder(folder, arguments).envs(variables.iter().copied()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner = String::new();
        while !banner.contains("A builder on another host") && !banner.contains("A builder on any host") {
            let line = lines.next().map(Result::unwrap).unwrap_or_else(|| {
                let mut errors = String::new();
                child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
                panic!("it ended after {banner:?}: {errors}");
            });
            banner.push_str(&line);
            banner.push('\n');
        }
        // The rest of what it prints, for it must not fail at a closed pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let address = banner.lines().find_map(|line| line.trim().strip_prefix("address")).unwrap().trim();
        let url = address.split(' ').next().unwrap().to_string();
        Process { child, banner, url }
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends SIGTERM; returns the exit status.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap()
    }

    /// What it has written to standard error. It must have ended.
    pub fn errors(&mut self) -> String {
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        errors
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn it_serves_without_any_configuration_and_ends_when_told_to() {
    let folder = tempdir().unwrap();
    let mut larder = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert!(larder.url.starts_with("http://127.0.0.1:"), "{}", larder.banner);
    let port = larder.url.rsplit(':').next().unwrap();
    assert_ne!(port, "0");
    for promised in ["larder-data", "hot layer", "docker buildx create", &format!("ref=127.0.0.1:{port}/app:cache")] {
        assert!(larder.banner.contains(promised), "{promised} is not in\n{}", larder.banner);
    }
    let got = reqwest::get(format!("{}/v2/", larder.url)).await.unwrap();
    assert_eq!(got.status(), 200);
    assert!(folder.path().join("larder-data/meta/format").exists());
    assert!(larder.terminate().success());
    // And again, on what it left.
    let mut larder = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(reqwest::get(format!("{}/readyz", larder.url)).await.unwrap().status(), 200);
    assert!(larder.terminate().success());
}

#[tokio::test]
async fn a_start_names_repositories_whose_names_are_reserved() {
    let folder = tempdir().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    assert!(Process::start(folder.path(), &serve).terminate().success());
    let tags = folder.path().join("larder-data/t/default/repos/larder/dockerfile/!/tags");
    std::fs::create_dir_all(&tags).unwrap();
    std::fs::write(tags.join("1"), "{}").unwrap();
    let mut larder = Process::start(folder.path(), &serve);
    let mut lines = BufReader::new(larder.child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let warning = lines.find(|line| line.contains("reserved")).unwrap();
    for part in ["WARN", "larder/dockerfile", "default", "not served", "docs/operation.md"] {
        assert!(warning.contains(part), "{part} is not in {warning}");
    }
    assert!(larder.terminate().success());
}

#[tokio::test]
async fn a_second_server_on_the_same_store_says_why_it_cannot() {
    let folder = tempdir().unwrap();
    let mut first = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let (refused, errors) = run(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert!(!refused.status.success());
    assert!(errors.contains("is in use by another larder") && errors.contains("LARDER_STORE_PATH"), "{errors}");
    assert_eq!(reqwest::get(format!("{}/v2/", first.url)).await.unwrap().status(), 200);
    // With a folder of its own it may.
    let mut second = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--store", "other"]);
    assert!(second.terminate().success() && first.terminate().success());
    // The lock went with its owner, also when that had no time for it.
    let mut third = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    third.child.kill().unwrap();
    third.child.wait().unwrap();
    assert!(Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]).terminate().success());
}

#[test]
fn a_taken_port_ends_it_with_the_way_out() {
    let folder = tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (refused, errors) = run(folder.path(), &["serve", "--listen", &address]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors.contains(&address) && errors.contains("--listen"), "{errors}");
}

#[test]
fn a_configuration_is_checked_by_file_and_line() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("larder.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(folder.path(), &["config", "check", "--config", "larder.toml"])
    };
    let (valid, errors) = check("[server]\nlisten = [\"127.0.0.1:0\"]\n");
    assert!(valid.status.success(), "{errors}");
    assert_eq!(valid.stdout, b"valid\n");
    for (text, line, what) in [
        ("[server]\nlisten = []\n\n[limits]\nconections = 7\n", "line 5", "conections"),
        ("[limits]\nblob = \"a lot\"\n", "line 2", "blob"),
        ("[serve]\n", "line 1", "serve"),
        ("[limits\n", "line 1", "limits"),
    ] {
        let (refused, errors) = check(text);
        assert_eq!(refused.status.code(), Some(1), "{text}");
        for part in ["larder.toml", line, what] {
            assert!(errors.contains(part), "{part} is not in {errors}");
        }
        let (served, _) = run(folder.path(), &["serve", "--config", "larder.toml"]);
        assert_eq!(served.status.code(), Some(1), "it serves with {text}");
    }
    std::fs::remove_file(&file).unwrap();
    let (missing, errors) = run(folder.path(), &["config", "check", "--config", "larder.toml"]);
    assert!(!missing.status.success() && errors.contains("larder.toml"), "{errors}");
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let folder = tempdir().unwrap();
    let format = folder.path().join("larder-data/meta/format");
    std::fs::create_dir_all(format.parent().unwrap()).unwrap();
    let newer = r#"{"format":99,"oldest_reader":99,"created":"2030-01-01T00:00:00Z"}"#;
    std::fs::write(&format, newer).unwrap();
    let (refused, errors) = run(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors.contains("format 99") && errors.contains("newer version"), "{errors}");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), newer);
}

#[test]
fn it_tells_its_version() {
    let (output, _) = run(Path::new("."), &["--version"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("larder {}\n", env!("CARGO_PKG_VERSION")));
}

#[cfg(not(feature = "otel"))]
#[test]
fn a_collector_that_it_cannot_send_traces_to_is_mentioned() {
    let folder = tempdir().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    for (variable, mentioned) in [("OTEL_EXPORTER_OTLP_ENDPOINT", true), ("OTEL_SERVICE_NAME", false)] {
        let mut larder = Process::start_in(folder.path(), &serve, &[(variable, "http://127.0.0.1:4318")]);
        assert!(larder.terminate().success());
        let errors = larder.errors();
        assert_eq!(errors.contains("without the feature `otel`"), mentioned, "{errors}");
    }
}

#[tokio::test]
async fn inspect_asks_a_running_server_for_people_and_for_programs() {
    let folder = tempdir().unwrap();
    let mut larder = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let client = reqwest::Client::new();
    let config = Digest::sha256(b"{}");
    let upload = format!("{}/v2/app/blobs/uploads/?digest={config}", larder.url);
    assert_eq!(client.post(upload).body("{}").send().await.unwrap().status(), 201);
    let manifest = image(descriptor(CONFIG, b"{}"), vec![]).to_string();
    let digest = Digest::sha256(manifest.as_bytes()).to_string();
    let put = client.put(format!("{}/v2/app/manifests/v1", larder.url)).body(manifest);
    assert_eq!(put.send().await.unwrap().status(), 201);

    let host = larder.url.trim_start_matches("http://").to_string();
    let (shown, _) = run(folder.path(), &["inspect", &format!("{host}/app:v1")]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.contains("app:v1") && text.contains(&digest), "{text}");
    let (json, _) = run(folder.path(), &["inspect", "--json", &format!("{host}/app:v1")]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["served"]["digest"], digest);

    let (unknown, errors) = run(folder.path(), &["inspect", &format!("{host}/app:v2")]);
    assert!(!unknown.status.success() && errors == "larder: app has no tag v2; it has: v1\n", "{errors}");
    assert!(larder.terminate().success());
    let (silent, errors) = run(folder.path(), &["inspect", &format!("{host}/app:v1")]);
    assert!(!silent.status.success() && errors == format!("larder: nothing listens at {host}\n"), "{errors}");
}

#[tokio::test]
async fn status_ls_and_bench_ask_a_running_server() {
    let folder = tempdir().unwrap();
    let mut larder = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let host = larder.url.trim_start_matches("http://").to_string();
    let (empty, said) = run(folder.path(), &["ls", &host]);
    assert_eq!((empty.status.success(), &*empty.stdout, &*said), (true, &b""[..], "no repositories yet\n"));
    let (empty, said) = run(folder.path(), &["ls", "--search", "web", &host]);
    assert_eq!((&*empty.stdout, &*said), (&b""[..], "no repository and no tag has web in its name\n"));
    let bench = ["bench", "--layers", "3", "--size", "100kB", "--asks", "2", "--json", &host];
    let (measured, errors) = run(folder.path(), &bench);
    assert!(measured.status.success(), "{errors}");
    let measured: Value = serde_json::from_slice(&measured.stdout).unwrap();
    let counts: Vec<(&str, u64, u64)> = measured["measured"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["what"].as_str().unwrap(), one["requests"].as_u64().unwrap(), one["bytes"].as_u64().unwrap()))
        .collect();
    assert_eq!(counts, [("push", 3, 300_000), ("ask", 6, 0), ("pull", 3, 300_000), ("pull again", 3, 300_000)]);

    let client = reqwest::Client::new();
    let config = Digest::sha256(b"{}");
    let upload = format!("{}/v2/team/app/blobs/uploads/?digest={config}", larder.url);
    assert_eq!(client.post(upload).body("{}").send().await.unwrap().status(), 201);
    let manifest = image(descriptor(CONFIG, b"{}"), vec![]).to_string();
    let put = client.put(format!("{}/v2/team/app/manifests/v1", larder.url)).body(manifest);
    assert_eq!(put.send().await.unwrap().status(), 201);
    let shown = |arguments: &[&str]| {
        let (shown, errors) = run(folder.path(), arguments);
        assert!(shown.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(shown.stdout).unwrap()
    };
    assert!(shown(&["ls", &host]).contains("team/app"));
    assert!(shown(&["ls", &format!("{host}/team/app")]).contains("team/app:v1"));
    assert!(shown(&["ls", "--search", "v1", &host]).contains("team/app:v1"));
    let lines = shown(&["ls", "--json", &format!("{host}/team/app")]);
    let tags: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((tags.len(), &tags[0]["tag"]), (1, &Value::from("v1")));
    let status = shown(&["status", &host]);
    for part in ["ready", "JOB", "reload", "sweep", "count", "pending-deletions", "collection", "revoked-sessions"] {
        assert!(status.contains(part), "{part} in {status}");
    }
    let told: Value = serde_json::from_str(&shown(&["status", "--json", &host])).unwrap();
    assert_eq!((told["ready"].as_bool(), told["tenants"][0]["tags"].as_u64()), (Some(true), Some(1)));
    assert_eq!((told["jobs"][0]["name"].as_str(), told["jobs"].as_array().unwrap().len()), (Some("reload"), 7));

    let (unknown, errors) = run(folder.path(), &["ls", &format!("{host}/none")]);
    assert!(unknown.status.code() == Some(1) && errors.contains("nothing was pushed to none"), "{errors}");
    assert!(larder.terminate().success());
    for command in ["status", "ls", "bench"] {
        let (silent, errors) = run(folder.path(), &[command, &host]);
        assert_eq!(silent.status.code(), Some(1));
        assert_eq!(errors, format!("larder: nothing listens at {host}\n"), "{command}");
    }
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    let folder = tempdir().unwrap();
    let commands = ["serve", "status", "ls", "inspect", "bench", "gc", "check", "completions", "man"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (printed, _) = run(folder.path(), &["completions", shell]);
        let text = String::from_utf8(printed.stdout).unwrap();
        commands.iter().for_each(|command| assert!(text.contains(command), "{command} of {shell}"));
    }
    let (page, _) = run(folder.path(), &["man"]);
    assert!(String::from_utf8(page.stdout).unwrap().contains(".TH larder 1"));
    let pages = folder.path().join("man1");
    run(folder.path(), &["man", pages.to_str().unwrap()]);
    commands.iter().for_each(|command| assert!(pages.join(format!("larder-{command}.1")).exists(), "{command}"));
    let cli = include_str!("../../../docs/cli.md");
    commands.iter().for_each(|command| assert!(cli.contains(&format!("`{command}")), "{command} in docs/cli.md"));
    let (misused, _) = run(folder.path(), &["ls", "--nothing"]);
    assert_eq!(misused.status.code(), Some(2));
}

/// What a check prints, and its exit status.
fn check(folder: &Path, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let (output, errors) = run(folder, &[&["check", "--json"], arguments].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}: {errors}")));
    (output.status.code(), lines.collect())
}

fn problems(told: &[Value]) -> Vec<(&str, bool)> {
    let findings = told.iter().map(|told| &told["finding"]).filter(|finding| finding.is_object());
    findings.map(|finding| (finding["problem"].as_str().unwrap(), finding["repaired"].is_string())).collect()
}

#[tokio::test]
async fn a_check_asks_the_server_that_has_the_store_or_opens_it_itself() {
    let folder = tempdir().unwrap();
    let (nothing, errors) = run(folder.path(), &["check"]);
    assert!(
        nothing.status.code() == Some(1) && errors.contains("there is no store in /") && errors.contains("larder-data"),
        "{errors}"
    );
    assert!(!folder.path().join("larder-data").exists());

    let mut larder = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let client = reqwest::Client::new();
    let digest = Digest::sha256(b"layer");
    let upload = format!("{}/v2/app/blobs/uploads/?digest={digest}", larder.url);
    assert_eq!(client.post(&upload).body("layer").send().await.unwrap().status(), 201);
    let (status, told) = check(folder.path(), &["--read-data"]);
    assert_eq!((status, problems(&told)), (Some(0), vec![]));
    let done = &told.last().unwrap()["done"];
    assert_eq!((&done["objects"], &done["bytes"]), (&Value::from(2), &Value::from(5)));

    // Whoever reaches the port gives no orders.
    let ordered = client.post(format!("{}/api/check?repair=true", larder.url));
    assert_eq!(ordered.try_clone().unwrap().send().await.unwrap().status(), 403);
    assert_eq!(ordered.bearer_auth("0".repeat(32)).send().await.unwrap().status(), 403);

    let hex = digest.hex();
    let file = folder.path().join(format!("larder-data/t/default/blobs/sha256/{}/{hex}", &hex[..2]));
    std::fs::write(&file, "lawyer").unwrap();
    let (status, told) = check(folder.path(), &["--read-data"]);
    assert_eq!((status, problems(&told)), (Some(3), vec![("wrong_bytes", false)]));
    let (status, told) = check(folder.path(), &["--read-data", "--repair"]);
    assert_eq!((status, problems(&told)), (Some(4), vec![("wrong_bytes", true)]));
    let blob = format!("{}/v2/app/blobs/{digest}", larder.url);
    assert_eq!(client.head(&blob).send().await.unwrap().status(), 404, "the running server does not know");
    let (human, _) = run(folder.path(), &["check"]);
    let text = String::from_utf8(human.stdout).unwrap();
    assert!(human.status.code() == Some(3) && text.contains("BROKEN t/default/blobs"), "{text}");
    assert!(text.contains("in quarantine") && text.ends_with("1 broken (0 repaired), 0 notes\n"), "{text}");

    // At rest it is the same store.
    assert!(larder.terminate().success());
    let (status, told) = check(folder.path(), &["--read-data"]);
    assert_eq!((status, problems(&told)), (Some(3), vec![("quarantined", false)]));
    let mut larder = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let upload = format!("{}/v2/app/blobs/uploads/?digest={digest}", larder.url);
    assert_eq!(client.post(&upload).body("layer").send().await.unwrap().status(), 201);
    assert!(larder.terminate().success());
    assert_eq!(check(folder.path(), &["--read-data"]).0, Some(0));
}

/// What a server that drains does, seen by a client that sends an upload by halves.
#[tokio::test]
async fn a_successor_takes_the_sockets_of_a_server_that_drains_and_no_connection_is_refused() {
    let folder = tempdir().unwrap();
    let mut first = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let host = first.url.trim_start_matches("http://").to_string();
    let mut upload = TcpStream::connect(&host).unwrap();
    let digest = Digest::sha256(b"0123456789");
    write!(
        upload,
        "POST /v2/app/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\n01234"
    )
    .unwrap();
    let url = first.url.clone();
    let get = async |path: &str| {
        let answer = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap().get(format!("{url}{path}"));
        let answer = answer.send().await.expect("no connection is refused");
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    while !get("/metrics").await.1.lines().any(|line| line == "larder_requests_in_flight 2") {}
    first.signal(rustix::process::Signal::TERM);
    while get("/readyz").await.0 != 503 {}
    assert_eq!(get("/v2/").await.0, 200, "a new connection is served while the server drains");

    let successor = std::thread::spawn({
        let (folder, host) = (folder.path().to_path_buf(), host.clone());
        move || Process::start(&folder, &["serve", "--listen", &host])
    });
    let mut log = BufReader::new(first.child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("a successor has taken the listening sockets")));
    // Nobody accepts it before the successor has the store, and that is in use until the upload is through.
    let mut waiting = TcpStream::connect(&host).unwrap();
    write!(waiting, "GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    upload.write_all(b"56789").unwrap();
    let mut status = String::new();
    BufReader::new(&upload).read_line(&mut status).unwrap();
    assert!(status.starts_with("HTTP/1.1 201"), "{status}");
    std::thread::spawn(move || log.for_each(drop));
    assert!(first.child.wait().unwrap().success());
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut second = successor.join().unwrap();
    assert_eq!(get(&format!("/v2/app/blobs/{digest}")).await.1, "0123456789");
    assert!(second.terminate().success());
}

#[test]
fn a_server_tells_once_that_it_has_started_and_in_json_writes_nothing_else() {
    let folder = tempdir().unwrap();
    let mut child =
        larder(folder.path(), &["serve", "--listen", "127.0.0.1:0"]).env("LARDER_LOG_FORMAT", "json").spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let started: Value = serde_json::from_str(&log.next().unwrap()).unwrap();
    assert_eq!(started["message"], "started");
    assert_eq!((&started["tls"], &started["authentication"]), (&Value::from(false), &Value::from(false)));
    assert!(started["addresses"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{started}");
    let store = format!("files in {}", folder.path().canonicalize().unwrap().join("larder-data").display());
    assert_eq!(started["store"], store);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    log.for_each(|line| drop(serde_json::from_str::<Value>(&line).unwrap()));
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "");
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn quotas_and_retention_are_reloaded_and_can_be_tried_before() {
    let folder = tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    const QUOTA: &str = "[[tenants]]\nname = \"default\"\nquota = { max = \"100kB\" }\n";
    write("larder.toml", QUOTA);
    let mut larder = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--config", "larder.toml"]);
    let client = reqwest::Client::new();
    let push = async |bytes: Vec<u8>| {
        let upload = format!("{}/v2/app/blobs/uploads/?digest={}", larder.url, Digest::sha256(&bytes));
        client.post(upload).body(bytes).send().await.unwrap().status().as_u16()
    };
    assert_eq!(push(b"{}".to_vec()).await, 201);
    for tag in ["a", "b"] {
        let mut manifest = image(descriptor(CONFIG, b"{}"), vec![]);
        manifest["annotations"] = serde_json::json!({ "tag": tag });
        let put = client.put(format!("{}/v2/app/manifests/{tag}", larder.url)).body(manifest.to_string());
        assert_eq!(put.send().await.unwrap().status(), 201);
    }
    assert_eq!(push(vec![7; 200_000]).await, 403);

    // Tried first: a running server is asked, and changes nothing.
    write("new.toml", "[[repositories]]\npattern = \"app\"\nretain = [{ tags = \"*\", newest = 1 }]\n");
    let dry = |config: &str| {
        let (tried, errors) = run(folder.path(), &["gc", "--dry-run", "--store", "larder-data", "--config", config]);
        (String::from_utf8(tried.stdout).unwrap(), errors)
    };
    let (shown, errors) = dry("new.toml");
    assert!(shown.contains("app:a would be condemned") && shown.contains("not among the newest 1"), "{shown}{errors}");
    assert!(errors.contains("with the policies of new.toml"), "{errors}");
    let (shown, _) = dry("larder.toml");
    assert!(!shown.contains("would be condemned, "), "{shown}");
    write("wrong.toml", "[[repositories]]\npattern = \"app\"\nretain = [{ tags = 7 }]\n");
    let (_, errors) = dry("wrong.toml");
    assert!(errors.contains("wrong.toml"), "{errors}");

    let moved = "[[tenants]]\nname = \"red\"\nrepositories = [\"red/**\"]\n";
    write("larder.toml", &format!("{QUOTA}{moved}").replace("100kB", "1MB"));
    larder.hang_up();
    while push(vec![7; 200_000]).await != 201 {}
    assert!(larder.terminate().success());
    let errors = larder.errors();
    assert!(errors.contains("quotas and policies"), "{errors}");
    assert!(errors.contains("needs a restart") && errors.contains("red"), "{errors}");
}
