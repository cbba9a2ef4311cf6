//! Texts of the errors of a configuration, without its values.
//!
//! Invariant: no value of a key that may be secret is in an error of the configuration. The parser quotes the line that
//! it stumbles over, and the value that is of another type than it should be: either may be a token that was put where
//! its hash belongs, or a key without its quotes.

use toml::de::Error;

/// Longest name of a key that is shown, in bytes. The shortest secrets that this server makes are longer.
const KEY_BYTES_MAX: usize = 32;

/// Says where in `text` an error is, where that is known, and what it is.
pub fn complaint(error: &Error, text: &str) -> String {
    let message = without_values(error.message());
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return message };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let key = text.lines().nth(line - 1).and_then(key_of).map(|key| format!(" ({key})")).unwrap_or_default();
    format!("line {line}, column {column}{key}: {message}")
}

/// The lines of a text that hold a heading, beginning with 1.
pub fn lines_of(text: &str, heading: &str) -> Vec<usize> {
    let is_heading = |line: &str| line.split('#').next().is_some_and(|line| line.trim() == heading);
    text.lines().enumerate().filter(|(_, line)| is_heading(line)).map(|(at, _)| at + 1).collect()
}

/// The key that a line sets, or the section that it begins.
fn key_of(line: &str) -> Option<&str> {
    let line = line.trim();
    let key = match line.strip_prefix('[') {
        Some(section) => section.trim_matches(['[', ']']),
        None => line.split_once('=')?.0.trim(),
    };
    (!key.is_empty() && key.split('.').all(is_key)).then_some(key)
}

/// Text of an error whose place is not known.
pub fn complaint_of_value(error: &Error) -> String {
    without_values(error.message())
}

/// The words of serde and of our own types, without the values that serde quotes. What it expected never has a value in
/// it. Spans, sizes, addresses and choices are quoted by their own types: these are no secrets.
fn without_values(message: &str) -> String {
    for of in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) = message.strip_prefix(of).and_then(|rest| rest.rsplit_once(", expected ")) {
            // "string \"…\"", "integer `5`": a kind, and the value in quotes.
            let kind = found.split(['"', '`', '\'']).next().unwrap_or_default().trim_end();
            return format!("{of}{kind}, expected {}", in_words(expected));
        }
    }
    match message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        Some((key, rest)) if !is_key(key) => format!("unknown field{rest}"),
        _ => message.to_string(),
    }
}

/// The value that serde expected, without names of Rust types.
fn in_words(expected: &str) -> &str {
    match expected {
        "a sequence" => "a list",
        "a map" => "a table",
        "usize" | "u64" | "u32" | "u16" | "i64" => "a whole number",
        "f64" => "a number",
        _ if expected.starts_with("struct ") => "a section with keys",
        _ => expected,
    }
}

/// Whether a text can be meant as the name of a key, and not as a secret.
fn is_key(text: &str) -> bool {
    let in_a_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    text.len() <= KEY_BYTES_MAX && text.bytes().all(in_a_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_known_by_its_key() {
        for (line, key) in [
            ("  hash = \"S\"", Some("hash")),
            ("s3.bucket=1 # x", Some("s3.bucket")),
            ("[[tokens]]", Some("tokens")),
            ("[limits", Some("limits")),
            ("\"Secret\" = 1", None),
            ("[\"Secret\"]", None),
            ("  \"Secret\",", None),
            ("a secret = 1", None),
            ("Secret", None),
            ("= 1", None),
            ("", None),
        ] {
            assert_eq!(key_of(line), key, "{line}");
        }
    }

    #[test]
    fn a_message_keeps_its_words_and_loses_its_values() {
        for (message, told) in [
            ("invalid type: string \"S\", expected a sequence", "invalid type: string, expected a list"),
            ("invalid type: string \"S, expected x\", expected a map", "invalid type: string, expected a table"),
            ("invalid type: integer `5`, expected a string", "invalid type: integer, expected a string"),
            (
                "invalid type: floating point `1.5`, expected u32",
                "invalid type: floating point, expected a whole number",
            ),
            ("invalid value: string \"S`\", expected a path", "invalid value: string, expected a path"),
            (
                "invalid type: string \"S\", expected struct HotConfig",
                "invalid type: string, expected a section with keys",
            ),
            ("invalid type: map, expected a string", "invalid type: map, expected a string"),
            ("unknown field `conections`, expected `x`", "unknown field `conections`, expected `x`"),
            ("unknown field `Skey+/=`, expected `x`", "unknown field, expected `x`"),
            ("missing field `name`", "missing field `name`"),
        ] {
            assert_eq!(without_values(message), told);
        }
    }
}
