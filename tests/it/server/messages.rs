//! What commands say when they cannot do what they were told: one sentence, with what to do.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tempfile::{TempDir, tempdir};

use super::binary::{Process, larder, run};
use crate::auth::tls::{ca, write};
use crate::auth::{basic, static_token, token_entry};

/// What a command writes to standard error, with docker's configuration in the same folder, and variables.
fn errors_of(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = larder(folder, arguments);
    command.env("DOCKER_CONFIG", folder).envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?} {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_reload_takes_up_quotas_and_names_what_needs_a_restart() {
    let (folder, mut larder, _) = serving("");
    let tenant = "[[tenants]]\nname = \"default\"\nquota = { max = \"5GiB\" }\n";
    let moved = "[[tenants]]\nname = \"mobile\"\nrepositories = \"mobile/**\"\n";
    let text = format!("[hot]\nsize = \"64MiB\"\n{tenant}{moved}");
    std::fs::write(folder.path().join("larder.toml"), text).unwrap();
    larder.hang_up();
    let digest = larder::digest::Digest::sha256(b"layer");
    let upload = format!("{}/v2/app/blobs/uploads/?digest={digest}", larder.url);
    assert_eq!(reqwest::Client::new().post(upload).body("layer").send().await.unwrap().status(), 201);
    let usage = format!("{}/api/usage", larder.url);
    let quota = async || {
        let told: serde_json::Value = reqwest::get(&usage).await.unwrap().json().await.unwrap();
        let tenants = told["tenants"].as_array().unwrap().clone();
        tenants.iter().find(|tenant| tenant["tenant"] == "default").map(|tenant| tenant["quota"]["max"].as_u64())
    };
    while quota().await != Some(Some(5 << 30)) {
        tokio::task::yield_now().await;
    }
    let (collected, whose) = run(folder.path(), &["gc", "--dry-run", "--config", "larder.toml"]);
    assert!(collected.status.success() && whose.contains("with the policies of larder.toml"), "{whose}");
    assert!(larder.terminate().success());
    let errors = larder.errors();
    for what in ["[hot]", "repositories of [[tenants]] (of mobile; "] {
        let is_told = |line: &str| line.contains("WARN") && line.contains(what) && line.contains("needs a restart");
        assert!(errors.lines().any(is_told), "{what} is not in {errors}");
    }
    assert!(errors.contains("quotas and policies"), "{errors}");
}

/// Credentials for a server, where docker keeps them.
fn log_in(folder: &Path, host: &str, password: &str) {
    let auth = basic("any", password).trim_start_matches("Basic ").to_string();
    std::fs::write(folder.join("config.json"), json!({ "auths": { host: { "auth": auth } } }).to_string()).unwrap();
}

/// A server with a configuration, and the folder of both.
fn serving(text: &str) -> (TempDir, Process, String) {
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("larder.toml"), text).unwrap();
    let larder = Process::start(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--config", "larder.toml"]);
    let host = larder.url.split_once("://").unwrap().1.to_string();
    (folder, larder, host)
}

#[test]
fn a_server_with_tls_is_asked_by_tls_and_named_where_http_was_written() {
    let (certificates, authority) = (tempdir().unwrap(), ca("larder"));
    let tls = write(certificates.path(), &authority);
    let rules = "[[rules]]\nidentity = \"cert:builder\"\nmay = [\"pull\"]\n";
    let (folder, _larder, host) = serving(&(tls + rules));
    let file = certificates.path().join("ca.pem").display().to_string();
    for command in ["ls", "status", "bench"] {
        let told = errors_of(folder.path(), &[command, "--ca", &file, &format!("http://{host}")], &[]);
        let expected = format!("larder: {host} speaks TLS: write https://{host} (--ca FILE trusts a CA of your own)\n");
        assert_eq!(told, expected, "{command}");
    }
    let untrusted = errors_of(folder.path(), &["ls", &host], &[]);
    let expected =
        format!("larder: the certificate of {host} is not trusted here (--ca FILE trusts a CA of your own): ");
    assert!(untrusted.starts_with(&expected) && untrusted.lines().count() == 1, "{untrusted}");
    // Without a scheme, TLS is found out, also at an address of this machine.
    let wants = errors_of(folder.path(), &["ls", "--ca", &file, &host], &[]);
    assert!(wants.contains(&format!("{host} wants credentials: docker login {host}")), "{wants}");
}

#[test]
fn a_server_without_tls_is_named_where_https_was_written() {
    let (folder, _larder, host) = serving("");
    for command in ["ls", "bench"] {
        let told = errors_of(folder.path(), &[command, &format!("https://{host}")], &[]);
        assert_eq!(told, format!("larder: {host} speaks plain HTTP: write http://{host}\n"), "{command}");
    }
    assert!(run(folder.path(), &["ls", &host]).0.status.success());
    assert!(run(folder.path(), &["ls", &format!("http://{host}/")]).0.status.success());
    let strange = errors_of(folder.path(), &["ls", "ftp://127.0.0.1"], &[]);
    assert!(strange.contains("write HOST:PORT"), "{strange}");
}

#[test]
fn missing_and_wrong_credentials_are_told_with_the_file_that_was_looked_at() {
    let rules = "[[rules]]\nidentity = \"token:ci\"\nmay = [\"pull\", \"push\", \"delete\"]\n";
    let (folder, _larder, host) = serving(&format!("{}{rules}", token_entry("ci")));
    let file = folder.path().join("config.json").display().to_string();
    for command in ["ls", "bench"] {
        let told = errors_of(folder.path(), &[command, &host], &[]);
        assert_eq!(told, format!("larder: {host} wants credentials: docker login {host} (looked in {file})\n"));
    }
    log_in(folder.path(), &host, "larder_wrong");
    let told = errors_of(folder.path(), &["ls", &host], &[]);
    assert!(told.starts_with(&format!("larder: {host} does not accept the credentials of {file}: ")), "{told}");
    log_in(folder.path(), &host, &static_token("ci"));
    let done = larder(folder.path(), &["ls", &host]).env("DOCKER_CONFIG", folder.path()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn credentials_cross_a_network_in_the_clear_only_where_http_was_written() {
    let rules = "[[rules]]\nidentity = \"token:ci\"\nmay = [\"pull\"]\n";
    let (folder, larder_server, _) = serving(&format!("{}{rules}", token_entry("ci")));
    // The server stands for a proxy to another host: it answers whatever host is asked for.
    let proxy = [("http_proxy", &*larder_server.url), ("https_proxy", &*larder_server.url), ("no_proxy", "")];
    let host = "cache.example.com:5000";
    log_in(folder.path(), host, &static_token("ci"));
    std::fs::write(folder.path().join("jwt"), "x").unwrap();
    let refusal = format!("larder: {host} speaks plain HTTP: write http://{host} to send credentials without TLS\n");
    assert_eq!(errors_of(folder.path(), &["ls", host], &proxy), refusal);
    assert_eq!(errors_of(folder.path(), &["login", "--jwt-file", "jwt", "--print", host], &proxy), refusal);
    assert_eq!(errors_of(folder.path(), &["token", "revoke", "--token-file", "jwt", host], &proxy), refusal);
    let written = format!("http://{host}");
    let mut asked = larder(folder.path(), &["ls", &written]);
    let asked = asked.env("DOCKER_CONFIG", folder.path()).envs(proxy).output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
}

#[test]
fn an_address_may_be_a_name_or_a_port_and_says_how_it_is_written_where_it_is_neither() {
    let folder = tempdir().unwrap();
    let named = Process::start(folder.path(), &["serve", "--listen", "localhost:0"]);
    assert!(named.url.starts_with("http://127.0.0.1:") || named.url.starts_with("http://[::1]:"), "{}", named.url);
    for bad in ["127.0.0.1", "5000"] {
        let (refused, errors) = run(folder.path(), &["serve", "--listen", bad]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(errors.contains("write ADDRESS:PORT, for example 0.0.0.0:5000"), "{errors}");
    }
}

#[test]
fn a_configuration_is_checked_with_the_files_that_it_names() {
    let folder = tempdir().unwrap();
    let (nothing, _) = run(folder.path(), &["config", "check"]);
    assert_eq!(nothing.stdout, b"no file: defaults and environment are valid\n");
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    std::fs::write(folder.path().join("users"), "alice:secret\n").unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let rule = "[[rules]]\nidentity = \"token:nobody\"\nmay = \"pull\"\n";
    for (text, told) in [
        ("[auth]\nhtpasswd = \"none\"".to_string(), format!("larder: cannot read {}: ", at("none"))),
        ("[auth]\nhtpasswd = \"users\"".to_string(), format!("larder: {} is not valid: ", at("users"))),
        ("[tls]\ncert = \"c.pem\"\nkey = \"k.pem\"".to_string(), format!("larder: cannot read {}: ", at("c.pem"))),
        (
            "[tls]\ncert = \"empty.pem\"\nkey = \"empty.pem\"".to_string(),
            format!("larder: [tls] cert: {} has no certificates\n", at("empty.pem")),
        ),
        (
            "[store.s3]\nbucket = \"b\"\nca_file = \"s3.pem\"".to_string(),
            format!("larder: cannot read {}: ", at("s3.pem")),
        ),
        (rule.replace("token:nobody", "ci"), "larder: [[rules]] number 1: an identity begins with its kind: ".into()),
    ] {
        std::fs::write(folder.path().join("larder.toml"), &text).unwrap();
        let (refused, errors) = run(folder.path(), &["config", "check", "--config", "larder.toml"]);
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(errors.starts_with(&told), "{text}: {errors}");
    }
    std::fs::write(folder.path().join("larder.toml"), rule).unwrap();
    let (valid, doubts) = run(folder.path(), &["config", "check", "--config", "larder.toml"]);
    assert_eq!(valid.stdout, b"valid\n");
    let doubt = "[[rules]] number 1: its identity is that of a token, and [[tokens]] has none of that name\n";
    assert_eq!(doubts, doubt);
}

#[test]
fn rules_are_tried_by_their_lines_and_unknown_callers_are_named() {
    let folder = tempdir().unwrap();
    let rules = "[[rules]]\nidentity = \"token:ci\"\nmay = \"pull\"\n\n[[rules]]\nidentity = \"*\"\nmay = \"push\"\n";
    std::fs::write(folder.path().join("larder.toml"), format!("{}{rules}", token_entry("ci"))).unwrap();
    let test = |who: &str, verb: &str| {
        let arguments = ["policy", "test", "--config", "larder.toml", "--as", who, verb, "app"];
        let (output, errors) = run(folder.path(), &arguments);
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &errors)
    };
    let (code, told) = test("token:ci", "push");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("rule 1, line 4:") && told.contains("rule 2, line 8:"), "{told}");
    assert!(told.contains("writes to default") && !told.contains("there is no"), "{told}");
    let (code, told) = test("token:x", "delete");
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("there is no token x in the configuration") && !told.contains("writes to"), "{told}");
}

#[test]
fn a_store_that_only_the_working_directory_has_is_not_left_behind() {
    let folder = tempdir().unwrap();
    let (etc, work) = (folder.path().join("etc"), folder.path().join("work"));
    for folder in [&etc, &work] {
        std::fs::create_dir(folder).unwrap();
    }
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    assert!(Process::start(&work, &[&serve[..], &["--store", "cache"]].concat()).terminate().success());
    std::fs::write(etc.join("larder.toml"), "[store]\npath = \"cache\"\n").unwrap();
    let configured = [&serve[..], &["--config", "../etc/larder.toml"]].concat();
    let (refused, errors) = run(&work, &configured);
    assert_eq!(refused.status.code(), Some(1));
    for place in [etc.join("cache"), work.join("cache")] {
        // As the program sees its working directory, through no links.
        let place = place.strip_prefix(folder.path()).unwrap().display().to_string();
        assert!(errors.contains(&place) && errors.contains("[store] path"), "{place} is not in {errors}");
    }
    assert!(!etc.join("cache").exists());
    // Moved, it is found, from wherever the server is started.
    std::fs::rename(work.join("cache"), etc.join("cache")).unwrap();
    let mut moved = Process::start(&work, &configured);
    assert!(moved.terminate().success());
    assert!(!work.join("cache").exists());
}

#[test]
fn a_bucket_that_cannot_be_used_is_told_in_one_sentence() {
    let folder = tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let s3 = format!("[store.s3]\nbucket = \"larder\"\nendpoint = \"http://{nobody}\"\n");
    let keys = "access_key_id = \"a\"\nsecret_access_key = \"b\"\n";
    for (text, told) in [
        (format!("{s3}{keys}"), "refused: nothing listens there (correct [store.s3] endpoint)\n"),
        (s3, "no credentials: set [store.s3] access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and"),
    ] {
        std::fs::write(folder.path().join("larder.toml"), text).unwrap();
        let home = folder.path().display().to_string();
        let variables = [("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", &*home)];
        let errors = errors_of(folder.path(), &["serve", "--config", "larder.toml"], &variables);
        let last = errors.lines().last().unwrap().to_string() + "\n";
        let begun = format!("larder: cannot write an object in s3://larder at http://{nobody}: PUT ");
        assert!(last.starts_with(&begun) && last.contains(told), "{errors}");
        assert!(!errors.contains("busy") && !errors.contains("ProviderError"), "{errors}");
    }
}
