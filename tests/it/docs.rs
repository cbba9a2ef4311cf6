//! What is written for people holds together.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Markdown file for people, below a folder.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && !matches!(name.to_str(), Some(".git" | "target" | "dist" | "larder-data")) {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let mut found = Vec::new();
    pages(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
    let mut links = 0;
    for page in found {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '#']).next()) {
            let local = !link.is_empty() && !link.contains("://");
            links += usize::from(local);
            assert!(!local || page.parent().unwrap().join(link).exists(), "{} links to {link}", page.display());
        }
    }
    assert!(links > 50, "only {links} links were looked at");
}

/// A proxy that waits for less than the server does ends uploads of builders that open them before they have the bytes.
#[test]
fn the_proxy_that_is_documented_waits_as_long_as_the_server() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx.conf")).unwrap();
    let idle = larder::config::Config::default().limits.body_idle.get();
    for name in ["client_body_timeout", "send_timeout", "proxy_read_timeout", "proxy_send_timeout"] {
        let lines = text.lines().map(str::trim).filter_map(|line| line.strip_prefix(name)?.strip_suffix("m;"));
        let minutes: Vec<u64> = lines.map(|minutes| minutes.trim().parse().unwrap()).collect();
        assert!(matches!(minutes[..], [minutes] if minutes * 60 >= idle.as_secs()), "{name}: {minutes:?}");
    }
}
