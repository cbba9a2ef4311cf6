//! What of a request goes into a log line: one line stays one line, and is of bounded length, whatever a client sends.

use std::borrow::Cow;

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::names::without_upload_id;

/// Longest path in a log line, in bytes: names are bounded, but what is no name is not.
const PATH_BYTES_MAX: usize = 512;
/// Stands for the rest of a text that is too long.
const REST: &str = "...";

/// At most `bytes_max` bytes of a text and a mark for the rest, without anything that ends a line, steers a terminal or
/// turns the direction of writing: such characters are escaped as in Rust, `\n` or `\u{202e}`.
pub fn text(text: &str, bytes_max: usize) -> Cow<'_, str> {
    // Every byte is looked at, also behind one that is not plain: so many can be at once, and almost all texts are plain.
    let is_plain = || text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'));
    if text.len() <= bytes_max && is_plain() {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().min(bytes_max));
    for char in text.chars() {
        let length = shown.len();
        match char {
            ' '..='~' => shown.push(char),
            _ => shown.extend(char.escape_debug()),
        }
        if shown.len() > bytes_max {
            shown.truncate(length);
            shown.push_str(REST);
            break;
        }
    }
    Cow::Owned(shown)
}

/// The methods that a client may ask by. Of others, which may be as long as a head, there is only said that it is one.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::PUT,
    Method::POST,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];

/// A method; `_OTHER` for what is none of HTTP.
pub fn method(method: &Method) -> &str {
    if METHODS.contains(method) { method.as_str() } else { "_OTHER" }
}

/// A path, without the id of an upload.
pub fn path(uri: &Uri) -> Cow<'_, str> {
    let path = uri.path();
    // A client may have escaped what the registry decodes.
    let decoded = match path.contains('%') {
        true => percent_decode_str(path).decode_utf8_lossy(),
        false => Cow::Borrowed(path),
    };
    match without_upload_id(&decoded) {
        Cow::Owned(shown) => Cow::Owned(text(&shown, PATH_BYTES_MAX).into_owned()),
        Cow::Borrowed(_) => text(path, PATH_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_ends_a_line_or_steers_a_terminal_is_escaped() {
        for (sent, shown) in [
            ("plain \"text\" \\", "plain \"text\" \\"),
            ("a\nb\r\u{1b}[31m\u{7}\0", "a\\nb\\r\\u{1b}[31m\\u{7}\\0"),
            ("\u{85}\u{2028}\u{2029}", "\\u{85}\\u{2028}\\u{2029}"),
            ("\u{202e}\u{2066}\u{feff}\u{7f}", "\\u{202e}\\u{2066}\\u{feff}\\u{7f}"),
            ("café", "café"),
        ] {
            assert_eq!(text(sent, 100), shown);
        }
        assert_eq!(text("123456", 5), "12345...");
        assert_eq!(text("1234\n", 5), "1234...");
    }

    #[test]
    fn the_id_of_an_upload_is_not_shown_whole() {
        let id = "0123456789abcdef0123456789abcdef";
        for (path_sent, shown) in [
            (format!("/v2/a/blobs/uploads/{id}"), "/v2/a/blobs/uploads/01234567..."),
            (format!("/v2/a%2Fblobs/%75ploads%2f{id}"), "/v2/a/blobs/uploads/01234567..."),
            (format!("/v2/a/blobs/uploads/{id}/state"), "/v2/a/blobs/uploads/01234567.../state"),
            ("/v2/a/blobs/uploads/".to_string(), "/v2/a/blobs/uploads/"),
            (format!("/v2/a/manifests/{id}"), "/v2/a/manifests/0123456789abcdef0123456789abcdef"),
            ("/v2/uploads/manifests/latest%21".to_string(), "/v2/uploads/manifests/latest%21"),
        ] {
            assert_eq!(path(&path_sent.parse().unwrap()), shown, "{path_sent}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_line_or_its_bound(sent in "(\\PC|\\pC|[a-z\u{2028}\u{202e}\u{1b}\n]){0,40}", max in 1usize..60) {
            let shown = text(&sent, max);
            prop_assert!(shown.len() <= max + REST.len());
            let steers = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            prop_assert!(!shown.chars().any(steers), "{shown:?}");
        }
    }
}
