//! The direction of imports, as `docs/architecture.md` draws it: which module may import which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const LEAVES: &[&str] = &[
    "digest", "names", "human", "access", "stream", "sync", "turns", "config", "events", "metrics", "operator",
    "paste", "systemd", "trace",
];

/// The doors. The kit may be used by each of them, and uses none; all else below `doors/` puts them together.
const DOORS: &[&str] = &["admin", "pages", "registry", "token"];

/// The imports of a module besides the leaves and itself. The rooms of the house are in the order in which they stand
/// on each other: none imports one that comes after it, which `no_cycle_between_rooms` proves.
fn allowed(module: &str) -> &'static [&'static str] {
    match module {
        "oci" | "objects" | "auth" | "jobs" => &[],
        "buildkit" => &["oci"],
        "error" => &["objects", "oci"],
        "deadline" => &["objects", "error"],
        "calls" => &["objects", "error", "deadline"],
        "layout" | "hot" => &["objects"],
        "meta" => &["objects", "error", "calls", "layout"],
        "capacity" => &["objects", "error", "layout"],
        "content" => &["objects", "error", "deadline", "calls", "layout", "hot", "meta", "capacity"],
        "refs" => &["oci", "objects", "error", "deadline", "calls", "layout", "hot", "capacity", "content"],
        // A cache knows no key: it has no `layout`.
        "cache" => &["oci", "buildkit", "objects", "error", "calls", "content", "refs"],
        "account" => &["oci", "error", "layout", "capacity", "content", "refs"],
        "lifetime" => {
            &["oci", "buildkit", "objects", "error", "deadline", "calls", "layout", "capacity", "content", "refs"]
        }
        "check" => &["oci", "objects", "error", "deadline", "calls", "layout", "meta", "capacity", "content", "refs"],
        "store" => &[
            "objects", "error", "deadline", "meta", "capacity", "content", "refs", "cache", "account", "lifetime",
            "check",
        ],
        "doors" => {
            &["oci", "auth", "jobs", "error", "deadline", "content", "refs", "cache", "lifetime", "check", "store"]
        }
        "app" => &[
            "objects", "auth", "jobs", "error", "deadline", "meta", "capacity", "refs", "lifetime", "check", "store",
            "doors",
        ],
        "main" => &["app", "doors", "cli"],
        "cli" => &["buildkit", "auth", "jobs", "cache", "lifetime", "check", "app"],
        leaf if LEAVES.contains(&leaf) => &[],
        other => panic!("say in this test what {other} may import"),
    }
}

/// The faults of a file of `src/`, by line.
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

/// The doors in a line of a file below `doors/`: by a path from the root of the crate, or by one of `super`.
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

/// The modules of this crate in a line: `crate::store::Repo`, `crate::{app, config::Config}`.
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
    let files = all_sources();
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

/// The names that a line lists directly below a path: `content::{Pin, write::Written}` gives `Pin` and `write`.
fn listed(code: &str, path: &str) -> Vec<String> {
    let word = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices(path) {
        // A longer path that ends in the same words leads elsewhere: `super::super::`.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(group) => {
                let mut depth = 0;
                let top = |c: char| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                };
                found.extend(group.split(top).map(word));
            }
        }
    }
    found
}

/// The code of a file without its tests and comments, with each `use` on one line.
fn code_of(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    let lines: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap()).collect();
    let mut joined = String::new();
    let mut open = 0_i32;
    for line in lines {
        let starts_use = line.trim_start().starts_with("use ") || line.trim_start().starts_with("pub use ");
        joined.push_str(line);
        if open > 0 || starts_use {
            open += line.matches('{').count() as i32 - line.matches('}').count() as i32;
        }
        if open == 0 {
            joined.push('\n');
        }
    }
    joined
}

type Edges = BTreeMap<String, BTreeSet<String>>;

/// The imports between rooms, without leaves.
fn rooms(files: &[(String, String)]) -> Edges {
    let mut edges = Edges::new();
    for (path, text) in files {
        let room = path.split(['/', '.']).next().unwrap();
        let root = if matches!(room, "main" | "cli") { "larder::" } else { "crate::" };
        let named = code_of(text).lines().flat_map(|line| imports(line, root)).collect::<BTreeSet<_>>();
        let others = named.into_iter().filter(|name| name != room && !LEAVES.contains(&&**name));
        edges.entry(room.to_owned()).or_default().extend(others);
    }
    edges
}

/// The imports between the files of a room. An item that `mod.rs` re-exports counts as one of its own file.
fn files_of(room: &str, files: &[(String, String)]) -> Edges {
    let within = |path: &str| {
        let name = path.strip_prefix(room)?.strip_prefix('/')?.strip_suffix(".rs")?;
        Some(name.to_owned()).filter(|name| !name.contains('/'))
    };
    let own: BTreeMap<String, &str> = files.iter().filter_map(|(path, text)| Some((within(path)?, &**text))).collect();
    let mut passed_on = BTreeMap::new();
    for line in code_of(own["mod"]).lines() {
        let Some((file, types)) = line.strip_prefix("pub use ").and_then(|line| line.split_once("::")) else {
            continue;
        };
        passed_on.extend(listed(&format!("::{types}"), "::").into_iter().map(|name| (name, file.to_owned())));
    }
    let mut edges = Edges::new();
    for (file, text) in own.iter().filter(|(file, _)| *file != "mod") {
        for line in code_of(text).lines() {
            for name in listed(line, "super::").into_iter().chain(listed(line, &format!("crate::{room}::"))) {
                let target = passed_on.get(&name).unwrap_or(&name).clone();
                if target != *file && own.contains_key(&target) {
                    edges.entry(file.clone()).or_default().insert(target);
                }
            }
        }
    }
    edges
}

/// The rest after nodes without edges are removed, again and again: nothing, if there is no cycle.
fn cycles(mut edges: Edges) -> Edges {
    loop {
        let open: BTreeSet<String> =
            edges.iter().filter(|(_, named)| !named.is_empty()).map(|(from, _)| from.clone()).collect();
        let before = edges.len();
        edges.retain(|from, _| open.contains(from));
        edges.values_mut().for_each(|named| named.retain(|to| open.contains(to)));
        if edges.len() == before && edges.values().all(|named| !named.is_empty()) {
            return edges;
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &root, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    // The map of the crate lists every module.
    files.retain(|(path, _)| path != "lib.rs");
    files
}

#[test]
fn no_cycle_between_rooms() {
    let rooms = rooms(&all_sources());
    assert!(rooms["store"].contains("refs"), "the rooms were not read: {rooms:#?}");
    assert_eq!(cycles(rooms), Edges::new());
}

#[test]
fn no_cycle_inside_a_room() {
    let files = all_sources();
    for (room, from, to) in [("content", "write", "service"), ("refs", "tags", "repo"), ("cache", "push", "service")] {
        let edges = files_of(room, &files);
        assert!(edges.get(from).is_some_and(|named| named.contains(to)), "{room} was not read: {edges:#?}");
        assert_eq!(cycles(edges), Edges::new(), "{room}");
    }
}

#[test]
fn a_cycle_is_found() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file("refs/mod.rs", "pub use repo::{Repo, RepoWriter};\n"),
        file("refs/repo.rs", "use super::{\n    service::Refs,\n};\nuse crate::content::Content;\n"),
        file("refs/service.rs", "fn f() -> crate::refs::RepoWriter {\n"),
        file("content/mod.rs", "fn f(store: &crate::store::Store) {\n"),
        file("store.rs", "use crate::refs::Refs;\n"),
    ];
    assert_eq!(cycles(files_of("refs", &files)).into_keys().collect::<Vec<_>>(), ["repo", "service"]);
    assert_eq!(cycles(rooms(&files)).into_keys().collect::<Vec<_>>(), ["content", "refs", "store"]);
}

/// All types outside of functions, by name: where each is defined, and how many of its fields other files see.
fn types(files: &[(String, String)]) -> BTreeMap<String, Vec<(String, usize)>> {
    let mut found = BTreeMap::<String, Vec<(String, usize)>>::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.contains("/tests")) {
        let code = code_of(text);
        let mut lines = code.lines().peekable();
        while let Some(line) = lines.next() {
            let public = line.strip_prefix("pub").map(|rest| rest.trim_start_matches(|c| c != ' ').trim_start());
            let rest = public.unwrap_or(line);
            let Some((kind, rest)) = rest.split_once(' ') else { continue };
            if !["struct", "enum", "trait", "type"].contains(&kind) {
                continue;
            }
            let name = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            let mut fields = 0;
            if kind == "struct" && line.ends_with('{') {
                while let Some(field) = lines.next_if(|line| !line.starts_with('}')) {
                    fields += usize::from(field.starts_with("    pub") && field.contains(':'));
                }
            }
            found.entry(name).or_default().push((path.clone(), fields));
        }
    }
    found
}

/// Methods of each type, over all its `impl` blocks, without those of traits.
fn methods(files: &[(String, String)]) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::<String, usize>::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.contains("/tests")) {
        let room = path.split(['/', '.']).next().unwrap();
        let mut owner = None;
        for line in code_of(text).lines() {
            if let Some(rest) = line.strip_prefix("impl") {
                let mut depth = 0;
                let bare: String = rest
                    .chars()
                    .filter(|c| {
                        depth += i32::from(*c == '<') - i32::from(*c == '>');
                        depth == 0 && *c != '>'
                    })
                    .collect();
                let name: String = bare.trim().chars().take_while(|c| c.is_alphanumeric()).collect();
                owner = (!bare.contains(" for ")).then(|| format!("{room}::{name}"));
            } else if line.starts_with('}') {
                owner = None;
            } else if let Some(owner) = &owner
                && line.starts_with("    ")
                && !line.starts_with("     ")
                && line.split_whitespace().any(|word| word == "fn")
            {
                *found.entry(owner.clone()).or_default() += 1;
            }
        }
    }
    found
}

#[test]
fn no_type_is_a_house_of_its_own() {
    let files = all_sources();
    let methods = methods(&files);
    assert!(methods["content::Content"] > 20, "methods were not counted: {methods:#?}");
    let many: Vec<_> = methods.iter().filter(|(_, count)| **count > 40).collect();
    assert!(many.is_empty(), "more than 40 methods: {many:?}");
    // Types that are stored or displayed field by field are as long as their content.
    const DATA: &[(&str, &str)] = &[
        ("Config", "the file of the operator"),
        ("S3Config", "a section of that file"),
        ("Metrics", "one field for each metric"),
        ("Explanation", "the answer of `larder inspect`"),
        ("Report", "the answer of `larder gc`"),
        ("Status", "the line of a job that `larder status` shows"),
    ];
    let wide: BTreeSet<String> = types(&files)
        .into_iter()
        .filter(|(_, places)| places.iter().any(|(_, fields)| *fields > 10))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(wide, DATA.iter().map(|(name, _)| name.to_string()).collect());
}

#[test]
fn a_name_is_one_type() {
    const TWICE: &[(&str, &str)] = &[
        (
            "Error",
            "the error of the storage calls, and the error of the house: each room has one, as its language does",
        ),
        ("Result", "goes with each Error"),
        ("Push", "the right to push, and what is pushed: both are the field's word"),
        ("CallSpan", "traced or not: one of the two is compiled"),
        ("Entered", "traced or not: one of the two is compiled"),
        ("RequestSpan", "traced or not: one of the two is compiled"),
    ];
    let twice: BTreeSet<String> =
        types(&all_sources()).into_iter().filter(|(_, places)| places.len() > 1).map(|(name, _)| name).collect();
    assert_eq!(twice, TWICE.iter().map(|(name, _)| name.to_string()).collect());
}
