//! The direction of imports, as `docs/architecture.md` draws it: who may know whom.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const LEAVES: &[&str] = &[
    "digest", "names", "human", "access", "stream", "sync", "config", "events", "metrics", "operator", "systemd",
    "trace",
];

/// The doors. The kit may be used by each of them, and uses none; all else below `doors/` puts them together.
const DOORS: &[&str] = &["admin", "pages", "registry", "token"];

/// What a module may import besides the leaves and itself.
fn allowed(module: &str) -> &'static [&'static str] {
    const STORE: &[&str] = &[
        "buildkit", "objects", "error", "deadline", "calls", "layout", "meta", "hot", "capacity", "content", "refs",
        "cache", "account", "lifetime", "check", "store",
    ];
    match module {
        "main" => &["app", "doors", "cli"],
        "app" => &[
            "jobs", "capacity", "refs", "doors", "auth", "store", "objects", "error", "deadline", "meta", "check",
            "lifetime",
        ],
        "doors" => {
            &["jobs", "auth", "store", "error", "deadline", "content", "refs", "cache", "account", "lifetime", "check"]
        }
        "error" | "layout" | "hot" => &["objects"],
        "deadline" => &["objects", "error"],
        "calls" => &["objects", "error", "deadline"],
        "store" | "meta" | "capacity" | "content" | "refs" | "cache" | "account" | "lifetime" | "check" => STORE,
        "cli" => &["app", "auth", "jobs", "check", "lifetime", "cache", "buildkit"],
        "auth" | "buildkit" | "objects" | "jobs" => &[],
        leaf if LEAVES.contains(&leaf) => &[],
        other => panic!("say in this test what {other} may import"),
    }
}

/// What is wrong with a file of `src/`, by line.
fn faults(path: &str, text: &str) -> Vec<String> {
    let module = path.split(['/', '.']).next().unwrap();
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        let mut fault = |what: &str| faults.push(format!("src/{path}:{}: {what}: {}", number + 1, line.trim()));
        // The binary sees the library from outside.
        let root = if matches!(module, "main" | "cli") { "larder::" } else { "crate::" };
        for import in imports(code, root) {
            if import != module && !LEAVES.contains(&&*import) && !allowed(module).contains(&&*import) {
                fault(&format!("{module} must not import {import}"));
            }
        }
        let http = names(code, "axum") || names(code, "http") || names(code, "hyper") || names(code, "hyper_util");
        if http && !matches!(module, "doors" | "main" | "cli") {
            fault("HTTP stays in src/doors");
        }
        if code.contains("Permit::issue(") && module != "auth" {
            fault("only src/auth issues permits");
        }
        // The cryptography of TLS is of the same house, and is no client of it.
        if code.replace("aws_lc_rs", "").contains("aws_")
            && !matches!(path.strip_prefix("objects/s3"), Some(rest) if rest.starts_with(['.', '/']))
        {
            fault("AWS types stay in src/objects/s3");
        }
        if let Some(part) = path.strip_prefix("doors/").and_then(|rest| rest.split(['/', '.']).next()) {
            let others = doors_named(code, path).into_iter().filter(|door| door != part);
            others.filter(|_| part == "kit" || DOORS.contains(&part)).for_each(|other| {
                fault(&format!("{part} must not import the door {other}: what doors share is in the kit"));
            });
        }
    }
    faults
}

/// The doors that a line of a file below `doors/` names: by a path from the root of the crate, or by one of `super`.
fn doors_named(code: &str, path: &str) -> BTreeSet<String> {
    let depth = path.matches('/').count() - usize::from(path.ends_with("/mod.rs"));
    let above = "super::".repeat(depth);
    let mut named = imports(code, "crate::doors::");
    if !above.is_empty() && !code.contains(&format!("super::{above}")) {
        named.extend(imports(code, &above));
    }
    named.retain(|name| DOORS.contains(&&**name));
    named
}

/// The modules of this crate that a line names: `crate::store::Repo`, `crate::{app, config::Config}`.
fn imports(code: &str, root: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        let word: String = text.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        Some(word).filter(|word| !word.is_empty())
    };
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let rest = &code[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(word(rest));
            continue;
        };
        let mut depth = 0;
        let top = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        };
        found.extend(group.split(top).filter_map(word));
    }
    found
}

/// Whether a line uses a crate: its name, as the first of a path.
fn names(code: &str, krate: &str) -> bool {
    code.match_indices(&format!("{krate}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
    })
}

fn sources(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn imports_go_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &root, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    // The map of the crate names every module.
    files.retain(|(path, _)| path != "lib.rs");
    let faults: Vec<String> = files.iter().flat_map(|(path, text)| faults(path, text)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_forbidden_line_is_found() {
    for (path, line) in [
        ("digest.rs", "use crate::store::Repo;"),
        ("config.rs", "    use crate::objects::Key;"),
        ("hot.rs", "use crate::store::Store;"),
        ("objects/fs.rs", "use crate::hot::Hot;"),
        ("buildkit/view.rs", "use crate::objects::Objects;"),
        ("content/blobs.rs", "use crate::{digest::Digest, doors::listen};"),
        ("content/blobs.rs", "fn f() -> crate::auth::Gate {"),
        ("doors/registry/blob.rs", "use crate::objects::ByteStream;"),
        ("doors/admin/mod.rs", "use crate::app::App;"),
        ("doors/admin/mod.rs", "use crate::doors::registry::route::Route;"),
        ("doors/registry/mod.rs", "use crate::doors::admin::jobs;"),
        ("doors/registry/blob.rs", "use crate::doors::{kit::etag::EntityTag, pages};"),
        ("doors/registry/blob.rs", "    let page = super::super::pages::page();"),
        ("doors/pages/mod.rs", "    true => super::admin::refuse(status),"),
        ("doors/token.rs", "use super::registry::error::OciError;"),
        ("doors/kit/body.rs", "use crate::doors::registry::error::OciError;"),
        ("auth/mod.rs", "use crate::store::Store;"),
        ("app.rs", "use crate::hot::Hot;"),
        ("main.rs", "use larder::{app::App, store::Store};"),
        ("content/mod.rs", "use http::StatusCode;"),
        ("content/mod.rs", "    let x: axum::body::Body = y;"),
        ("app.rs", "use axum::response::Response;"),
        ("app.rs", "use hyper_util::rt::TokioIo;"),
        ("doors/mod.rs", "let permit = Permit::issue(tenant, parents, access);"),
        ("objects/fs.rs", "use aws_sdk_s3::Client;"),
    ] {
        assert_eq!(faults(path, line).len(), 1, "{path}: {line}");
    }
}

#[test]
fn allowed_lines_are_not_found() {
    for (path, line) in [
        ("main.rs", "use larder::app::{self, App};"),
        ("app.rs", "    pub fn front(&self) -> Front {"),
        ("content/blobs.rs", "use crate::digest::{Digest, Hasher};"),
        ("content/blobs.rs", "use crate::{digest::{Digest, Hasher}, objects::Key};"),
        ("content/blobs.rs", "/// As crate::doors does; see http::StatusCode."),
        ("content/mod.rs", "    let url = \"http://example.com\"; // and axum::Router"),
        ("names.rs", "use crate::digest::Digest;"),
        ("auth/mod.rs", "Ok(Permit::issue(tenant, parents, access))"),
        ("access.rs", "    pub fn issue(tenant: Tenant, parents: Vec<Tenant>, access: Access) -> Permit {"),
        ("objects/s3.rs", "use aws_sdk_s3::Client;"),
        ("doors/registry/blob.rs", "use super::error::OciError;"),
        ("doors/registry/error.rs", "use crate::doors::kit::refusal::{Kind, Refusal};"),
        ("doors/registry/mod.rs", "use crate::doors::registry::route::Route;"),
        ("doors/pages/tag.rs", "use super::registry;"),
        ("doors/mod.rs", "use crate::doors::{admin, registry};"),
    ] {
        assert_eq!(faults(path, line), [""; 0], "{path}: {line}");
    }
}
