//! The texts for people hold together, and use the words of `docs/glossary.md`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::tempdir;

/// More terms than this are not learned.
const TERMS_MAX: usize = 40;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files with an extension, below a folder.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && !matches!(name.to_str(), Some(".git" | "target" | "dist" | "larder-data")) {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
}

/// The anchors of a page's headings, as hosts of Markdown make them.
fn anchors(page: &str) -> HashSet<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|line| {
            let kept = line.trim_start_matches('#').trim().to_lowercase();
            kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect::<String>()
        })
        .map(|heading| heading.replace(' ', "-"))
        .collect()
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let mut found = Vec::new();
    files(root(), "md", &mut found);
    let mut links = 0;
    for page in found {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.contains("://") {
                continue;
            }
            links += 1;
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{} links to {link}", page.display());
            let is_known = anchor.is_empty() || anchors(&fs::read_to_string(&target).unwrap()).contains(anchor);
            assert!(is_known, "{} links to {link}, which has no such heading", page.display());
        }
    }
    assert!(links > 50, "only {links} links were looked at");
}

/// The rows of the glossary: a term, and the phrases that must not be used for it.
fn glossary() -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).skip(1);
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (term, meaning, instead) = (cells.next().unwrap(), cells.next().unwrap(), cells.next().unwrap());
        assert!(!meaning.is_empty() && cells.next().is_none(), "{row}");
        (term.to_string(), instead.split('"').skip(1).step_by(2).map(str::to_string).collect())
    })
    .collect()
}

/// A text as its lower-case words, so that a phrase is found across line breaks and as whole words only. The end of a
/// sentence or a clause is a word of its own: phrases do not reach across it.
fn words(text: &str) -> String {
    let mut words = String::from(" ");
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, '_' | '\'' | '-') {
            words.extend(c.to_lowercase());
        } else {
            let mark = if c.is_whitespace() { "" } else { "." };
            words.push_str(&format!(" {mark} "));
        }
    }
    let words: Vec<&str> = words.split_whitespace().collect();
    format!(" {} ", words.join(" "))
}

/// The string literals of a Rust source, with their lines: the texts of the program's logs, output and answers.
fn literals(source: &str) -> Vec<(usize, String)> {
    let (mut found, mut rest, mut line) = (Vec::new(), source, 1);
    while !rest.is_empty() {
        let raw = rest.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
        let raw = raw.filter(|hashes| rest[1 + hashes..].starts_with('"'));
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = raw {
            let end = format!("\"{}", "#".repeat(hashes));
            let length = rest[hashes + 2..].find(&end).unwrap();
            found.push((line, rest[hashes + 2..][..length].to_string()));
            hashes + 2 + length + end.len()
        } else if let Some(inner) = rest.strip_prefix('"') {
            let mut is_escaped = false;
            let end = |c| {
                let ends = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                ends
            };
            let length = inner.find(end).unwrap();
            found.push((line, inner[..length].replace("\\\n", " ").replace("\\n", "\n")));
            length + 2
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            // A quote, or an escaped character, as a character.
            3
        } else {
            // An `r` at the end of a name begins no raw string.
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            name.max(rest.chars().next().unwrap().len_utf8())
        };
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    found
}

#[test]
fn texts_for_people_use_the_words_of_the_glossary() {
    let glossary = glossary();
    assert!(glossary.len() <= TERMS_MAX, "{} terms in docs/glossary.md", glossary.len());
    let sorted = glossary.windows(2).all(|pair| pair[0].0.to_lowercase() <= pair[1].0.to_lowercase());
    assert!(sorted, "the terms of docs/glossary.md are not in order");
    let phrases: Vec<(&str, &str, String)> = glossary
        .iter()
        .flat_map(|(term, phrases)| phrases.iter().map(move |phrase| (term.as_str(), phrase.as_str(), words(phrase))))
        .collect();
    assert!(phrases.len() > 30, "only {} phrases were read", phrases.len());

    let mut faults = Vec::new();
    let mut look = |place: String, text: &str| {
        let text = words(text);
        for (term, phrase, wanted) in &phrases {
            if text.contains(wanted.as_str()) {
                faults.push(format!("{place}: \"{phrase}\": the glossary says \"{term}\""));
            }
        }
    };
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    files(&root().join("docs"), "md", &mut pages);
    for page in pages.iter().filter(|page| !page.ends_with("docs/glossary.md")) {
        let (name, text) = (page.strip_prefix(root()).unwrap().display(), fs::read_to_string(page).unwrap());
        // Paragraphs, list items and rows are one line each.
        text.lines().enumerate().for_each(|(at, line)| look(format!("{name}:{}", at + 1), line));
    }
    let mut sources = Vec::new();
    files(&root().join("src"), "rs", &mut sources);
    let sources = sources.iter().map(|source| source.strip_prefix(root()).unwrap());
    for source in sources.filter(|source| !source.iter().any(|part| part == "tests")) {
        let (name, text) = (source.display(), fs::read_to_string(root().join(source)).unwrap());
        let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        literals(shipped).iter().for_each(|(line, text)| look(format!("{name}:{line}"), text));
    }
    // The help of the commands is made of doc comments: as the program prints it.
    let manual = tempdir().unwrap();
    let printed = Command::new(env!("CARGO_BIN_EXE_larder")).arg("man").arg(manual.path()).status().unwrap();
    assert!(printed.success());
    let mut manuals = 0;
    for page in fs::read_dir(manual.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let (name, text) = (page.file_name().unwrap().display().to_string(), fs::read_to_string(&page).unwrap());
        text.lines().for_each(|line| look(format!("{name}: {line}"), &line.replace("\\-", "-").replace("\\fR", " ")));
        manuals += 1;
    }
    assert!(manuals > 10, "only {manuals} manual pages were looked at");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_test_of_words_sees_texts_and_nothing_else() {
    let source =
        "// his\nlet a = r#\"raw \"his\"\"#; let b = 'r'; let c = '\"'; f(\"two \\\"words\\\" \\\n  here\", bar\"x\");";
    let found: Vec<String> = literals(source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(found, ["raw \"his\"", "two \\\"words\\\"    here", "x"]);
    let is_found = |text: &str, phrase: &str| words(text).contains(&words(phrase));
    assert!(is_found("It Goes\n on.", "goes on"));
    assert!(!is_found("this goes. On", "goes on") && !is_found("ergoes on", "goes on"));
}

/// A proxy that waits for less than the server does ends uploads of builders that open them before they have the bytes.
#[test]
fn the_proxy_that_is_documented_waits_as_long_as_the_server() {
    let text = fs::read_to_string(root().join("deploy/nginx.conf")).unwrap();
    let idle = larder::config::Config::default().limits.body_idle.get();
    for name in ["client_body_timeout", "send_timeout", "proxy_read_timeout", "proxy_send_timeout"] {
        let lines = text.lines().map(str::trim).filter_map(|line| line.strip_prefix(name)?.strip_suffix("m;"));
        let minutes: Vec<u64> = lines.map(|minutes| minutes.trim().parse().unwrap()).collect();
        assert!(matches!(minutes[..], [minutes] if minutes * 60 >= idle.as_secs()), "{name}: {minutes:?}");
    }
}

/// Every line that tells a builder to export a cache keeps the build when the cache cannot be written.
#[test]
fn every_documented_export_has_ignore_error() {
    let mut pages = vec![root().join("README.md"), root().join("docker-compose.yml")];
    files(&root().join("docs"), "md", &mut pages);
    files(&root().join("deploy"), "txt", &mut pages);
    files(&root().join("deploy"), "yaml", &mut pages);
    let mut exports = 0;
    for page in pages.iter().filter(|page| !page.ends_with("docs/measurements.md")) {
        let text = fs::read_to_string(page).unwrap();
        let lines = text.lines().enumerate().filter(|(_, line)| {
            // Those of a diff's old side speak to other caches.
            let export = line.contains("cache-to") || line.contains("cache_to");
            export && line.contains("type=registry,ref=") && !line.starts_with('-')
        });
        for (at, line) in lines {
            exports += 1;
            assert!(line.contains("ignore-error=true"), "{}:{}: {line}", page.display(), at + 1);
        }
    }
    assert!(exports >= 10, "only {exports} exports were found");
}
