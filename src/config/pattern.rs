//! Patterns: `*` stands for any characters but `/`, `**` for any characters.

use serde::Deserialize;

use crate::names::{RepoName, ScopeName};

/// A pattern of repository names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Pattern, Self::Error> {
        if !text.is_empty() && text.bytes().all(in_a_pattern) && !text.contains("***") {
            Ok(Pattern(text))
        } else {
            Err("a pattern is a repository name in which `*` and `**` stand for other characters")
        }
    }
}

impl Pattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

/// A pattern of any text: a tag, a claim, an identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Glob(String);

impl Glob {
    pub fn matches(&self, text: &str) -> bool {
        matches(self.0.as_bytes(), text.as_bytes())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Glob {
    fn from(text: String) -> Glob {
        Glob(text)
    }
}

/// A pattern of repository names with claims in it: `{repository}/**`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template {
    pieces: Vec<PatternPiece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PatternPiece {
    Text(String),
    Claim(String),
}

impl TryFrom<String> for Template {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Template, Self::Error> {
        let template = Template { pieces: pieces(&text)? };
        // Shows a bad pattern when the configuration is read, whatever the claims will be.
        template.expand(|_| Some("x")).ok_or("a pattern is a repository name with `*`, `**` and {claim} in it")?;
        Ok(template)
    }
}

impl Template {
    /// The pattern for a caller with these claims: nothing when one is missing or could not be part of a name. Upper case
    /// becomes lower case, since names have no other; so a claim never brings in a star. Of ASCII alone: other letters
    /// become what belongs to somebody else, as the sign for kelvin (U+212A) becomes `k`.
    pub fn expand<'c>(&self, claim: impl Fn(&str) -> Option<&'c str>) -> Option<Pattern> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                PatternPiece::Text(literal) => text.push_str(literal),
                PatternPiece::Claim(name) => {
                    text.push_str(&claim(name)?.to_ascii_lowercase().parse::<RepoName>().ok()?)
                }
            }
        }
        Pattern::try_from(text).ok()
    }

    /// The claims that it looks at.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        claims(&self.pieces)
    }
}

fn pieces(text: &str) -> Result<Vec<PatternPiece>, &'static str> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, behind)) = rest.split_once('{') {
        let (claim, after) = behind.split_once('}').ok_or("a claim is written {claim}")?;
        if claim.is_empty() {
            return Err("a claim is written {claim}");
        }
        pieces.extend([PatternPiece::Text(before.into()), PatternPiece::Claim(claim.into())]);
        rest = after;
    }
    pieces.push(PatternPiece::Text(rest.into()));
    Ok(pieces)
}

fn claims(pieces: &[PatternPiece]) -> impl Iterator<Item = &str> {
    pieces.iter().filter_map(|piece| match piece {
        PatternPiece::Claim(name) => Some(&**name),
        PatternPiece::Text(_) => None,
    })
}

/// What a scope is called, with claims in it: `{repository}@{ref}`. Callers for whom it comes to the same text share the
/// scope, whichever rule sends them there.
///
/// Invariant: from the text that one template comes to, the claims can be read back, so other claims are another scope.
/// Whatever of a claim is neither a letter nor a digit nor one of `._/-` is written in percent, and something else than
/// those stands between two claims.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ScopeTemplate {
    pieces: Vec<PatternPiece>,
}

/// Characters of a claim that stay as they are.
fn in_a_claim(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._/-".contains(&byte)
}

impl TryFrom<String> for ScopeTemplate {
    type Error = &'static str;

    fn try_from(text: String) -> Result<ScopeTemplate, Self::Error> {
        let pieces = pieces(&text)?;
        let literal = |byte: u8| in_a_claim(byte) || b"@:+=,".contains(&byte);
        let (mut seen, mut apart) = (false, true);
        for piece in &pieces {
            match piece {
                PatternPiece::Text(text) if !text.bytes().all(literal) => {
                    return Err("a scope is letters, digits, any of ._/-@:+=, and {claim}");
                }
                PatternPiece::Text(text) => apart |= !seen || text.bytes().any(|byte| !in_a_claim(byte)),
                PatternPiece::Claim(_) if !apart => {
                    return Err("a scope has one of @:+=, between two claims: {repository}@{ref}");
                }
                PatternPiece::Claim(_) => (seen, apart) = (true, false),
            }
        }
        if text.is_empty() { Err("a scope must not be empty") } else { Ok(ScopeTemplate { pieces }) }
    }
}

impl ScopeTemplate {
    /// The scope of a caller with these claims. The name of one that is missing or empty, where one is.
    pub fn fill<'t, 'c>(&'t self, claim: impl Fn(&str) -> Option<&'c str>) -> Result<ScopeName, &'t str> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                PatternPiece::Text(literal) => text.push_str(literal),
                PatternPiece::Claim(name) => {
                    for byte in claim(name).filter(|value| !value.is_empty()).ok_or(&**name)?.bytes() {
                        if in_a_claim(byte) {
                            text.push(char::from(byte));
                        } else {
                            text.push_str(&format!("%{byte:02X}"));
                        }
                    }
                }
            }
        }
        Ok(ScopeName::of(&text))
    }

    /// The claims that it looks at.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        claims(&self.pieces)
    }
}

fn in_a_pattern(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"*/._-".contains(&byte)
}

/// Matches the whole of `text`. The last star of each kind is where to go on after a mismatch: an earlier one of the same
/// kind need not be tried again, for the later one can take whatever it would have left.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // What follows the star in the pattern, and where it goes on in the text.
    let mut one: Option<(usize, usize)> = None;
    let mut any: Option<(usize, usize)> = None;
    let (mut p, mut t) = (0, 0);
    loop {
        if pattern[p..].starts_with(b"**") {
            p += 2;
            (one, any) = (None, Some((p, t)));
        } else if pattern.get(p) == Some(&b'*') {
            p += 1;
            one = Some((p, t));
        } else if p < pattern.len() && pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if p == pattern.len() && t == text.len() {
            return true;
        } else if let Some((behind, at)) = one.filter(|(_, at)| text.get(*at).is_some_and(|byte| *byte != b'/')) {
            (p, t) = (behind, at + 1);
            one = Some((behind, t));
        } else if let Some((behind, at)) = any.filter(|(_, at)| *at < text.len()) {
            (p, t) = (behind, at + 1);
            (one, any) = (None, Some((behind, t)));
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_whole_names() {
        let matches = |pattern: &str, name: &str| Pattern::try_from(pattern.to_string()).unwrap().matches(name);
        assert!(matches("team/*", "team/app"));
        assert!(!matches("team/*", "team/app/cache"));
        assert!(matches("team/**", "team/app/cache"));
        assert!(matches("**/cache", "a/b/cache"));
        assert!(matches("**", "a"));
        assert!(matches("a*c", "abc") && matches("a*c", "ac") && !matches("a*c", "ab"));
        assert!(!matches("app", "app2") && matches("app", "app"));
    }

    #[test]
    fn a_template_takes_one_claim_and_no_star_from_it() {
        let template = Template::try_from("{repository}/**".to_string()).unwrap();
        let expand = |value: &'static str| template.expand(|name| (name == "repository").then_some(value));
        let pattern = expand("Org/App").unwrap();
        assert!(pattern.matches("org/app/cache") && !pattern.matches("org/app2/cache") && !pattern.matches("org/app"));
        for bad in ["**", "org/*", "../x", "", "org/app/", "é", "org/\u{212a}ernel", "org/\u{130}"] {
            assert_eq!(expand(bad), None, "{bad}");
        }
        assert_eq!(template.expand(|_| None), None);
        for bad in ["{", "{}", "a{b", "A/**", "{a}***"] {
            assert!(Template::try_from(bad.to_string()).is_err(), "{bad}");
        }
    }

    /// Says the same by trying everything.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=text.len()).any(|at| slowly(rest, &text[at..])),
            [b'*', rest @ ..] => {
                let reach = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
                (0..=reach).any(|at| slowly(rest, &text[at..]))
            }
            [first, rest @ ..] => text.first() == Some(first) && slowly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_match_is_what_trying_everything_finds(pattern in r"(a|b|/|\*|\*\*){0,8}", text in "[ab/]{0,10}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), slowly(pattern.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn other_claims_are_another_scope() {
        let template = ScopeTemplate::try_from("{a}@x:{b}".to_string()).unwrap();
        let fill = |a: &'static str, b: &'static str| {
            template.fill(move |name| Some(if name == "a" { a } else { b })).unwrap()
        };
        let values = ["x", "x@x:y", "y", "x%40x", "x:", ":x", "@x:", "X", "refs/pull/1", "refs-pull-1", "é"];
        let mut seen = Vec::new();
        for a in values {
            for b in values {
                let name = fill(a, b);
                assert!(!seen.contains(&name), "{a} {b}");
                seen.push(name);
            }
        }
        assert_eq!(template.fill(|name| (name == "a").then_some("x")), Err("b"));
        assert_eq!(template.fill(|_| Some("")), Err("a"));
        for bad in ["", "{a}{b}", "{a}-x/{b}", "pr-{a}-{b}", "a b", "{a", "{}", "a%"] {
            assert!(ScopeTemplate::try_from(bad.to_string()).is_err(), "{bad}");
        }
        for good in ["prs", "pr-{a}", "{a}@{b}", "{a}:x={b}/y"] {
            assert!(ScopeTemplate::try_from(good.to_string()).is_ok(), "{good}");
        }
    }
}
