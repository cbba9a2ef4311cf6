//! The parts of its configuration that a server shows, and those that it keeps secret.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::server::binary::Process;

const SECRET: &str = "xQ7hushhush0123456789012345678901234567";
const SERVE: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--config", "larder.toml"];

fn write(folder: &Path, text: &str) {
    std::fs::write(folder.join("larder.toml"), text).unwrap();
}

fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(arguments).current_dir(folder).envs(variables.iter().copied());
    let output = command.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn a_slip_beside_a_secret_does_not_put_it_into_the_log() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &format!("[auth]\nsigning_keys = [\"{SECRET}\"]\n"));
    let mut larder = Process::start_in(folder.path(), &SERVE, &[]);
    let failures = async || {
        let metrics = reqwest::get(format!("{}/metrics", larder.url)).await.unwrap().text().await.unwrap();
        let failed = "larder_job_runs_total{name=\"reload\",result=\"failed\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(failed)).unwrap_or("0").parse::<u64>().unwrap()
    };
    for (reloads, slip) in [
        format!("[auth]\nsigning_keys = [\"{SECRET}\", 5]\n"),
        format!("[[tokens]]\nname = \"ci\"\nhash = \"{SECRET}\"\n"),
        format!("[store.s3]\nbucket = \"b\"\nsecret_acces_key = \"{SECRET}\"\n"),
    ]
    .iter()
    .enumerate()
    {
        write(folder.path(), slip);
        larder.hang_up();
        let mut looks = 0;
        while failures().await <= reloads as u64 {
            looks += 1;
            assert!(looks < 2_000, "the reload did not fail: {slip}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(larder.terminate().success());
    let errors = larder.errors();
    assert!(!errors.contains("hush"), "{errors}");
    for said in ["line 2, column", "line 3, column", "expected a string", "sha256:<64", "secret_acces_key"] {
        assert!(errors.contains(said), "{said} is not in {errors}");
    }
    // No command prints the values of the environment.
    let told = run(folder.path(), &["config", "check"], &[("LARDER_AUTH_SIGNING_KEYS", &format!("[\"{SECRET}\", 5]"))]);
    assert!(told.contains("LARDER_AUTH_SIGNING_KEYS") && !told.contains("hush"), "{told}");
}

#[test]
fn a_rule_whose_scope_some_callers_lack_is_mentioned() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "[[rules]]\nidentity = \"oidc:github\"\nmay = [\"pull\"]\nrepositories = \"{repository}/**\"\n\
         scope = \"{repository}@{head_ref}\"\n",
    );
    let doubt = "[[rules]] number 1: its scope needs the claim head_ref";
    let mut larder = Process::start_in(folder.path(), &SERVE, &[]);
    assert!(larder.terminate().success());
    let errors = larder.errors();
    assert!(errors.contains("WARN") && errors.contains(doubt), "{errors}");
    let checked = run(folder.path(), &["config", "check", "--config", "larder.toml"], &[]);
    assert!(checked.contains(doubt) && checked.contains("valid"), "{checked}");
    let policy = ["policy", "test", "--config", "larder.toml", "--as", "oidc:github", "--claim", "repository=a/b"];
    let told = run(folder.path(), &[&policy[..], &["pull", "a/b/c"]].concat(), &[]);
    assert!(told.contains(doubt) && told.contains("denied: ") && told.contains("has a scope"), "{told}");
    assert!(!told.contains("writes to"), "{told}");
}
