//! The identity of a caller: its source, its name, and the claims that rules may match.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Maximum depth of nested objects that are read for claims.
const CLAIM_DEPTH_MAX: usize = 8;

/// The credentials that prove an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentitySource {
    /// No credentials.
    Anonymous,
    /// A static token of the configuration.
    Token,
    /// A password of the htpasswd file.
    User,
    /// A JWT of a configured issuer.
    Oidc,
    /// A client certificate.
    Cert,
}

impl IdentitySource {
    fn as_str(self) -> &'static str {
        match self {
            IdentitySource::Anonymous => "anonymous",
            IdentitySource::Token => "token",
            IdentitySource::User => "user",
            IdentitySource::Oidc => "oidc",
            IdentitySource::Cert => "cert",
        }
    }
}

/// Facts about a caller, by name; some have several values.
pub type Claims = BTreeMap<String, Vec<String>>;

/// The identity of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub source: IdentitySource,
    /// Name of the token, user, issuer or certificate.
    pub name: String,
    #[serde(default, skip_serializing_if = "Claims::is_empty")]
    pub claims: Claims,
}

impl Identity {
    pub fn new(source: IdentitySource, name: impl Into<String>) -> Identity {
        Identity { source, name: name.into(), claims: Claims::new() }
    }

    pub fn anonymous() -> Identity {
        Identity::new(IdentitySource::Anonymous, "")
    }

    pub fn is_anonymous(&self) -> bool {
        self.source == IdentitySource::Anonymous
    }

    /// The name in rules: `token:ci`, `oidc:github`, `anonymous`.
    pub fn label(&self) -> String {
        if self.is_anonymous() { "anonymous".into() } else { format!("{}:{}", self.source.as_str(), self.name) }
    }

    /// The value of a claim; nothing if it has several, of which none is the one that counts.
    pub fn claim(&self, name: &str) -> Option<&str> {
        match self.claims.get(name).map(Vec::as_slice) {
            Some([only]) => Some(only),
            _ => None,
        }
    }
}

/// For logs and refusals: the label, and the subject of a JWT.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())?;
        match self.claim("sub") {
            Some(subject) => write!(f, " ({subject})"),
            None => Ok(()),
        }
    }
}

/// Parses `token:ci` as written in a rule or on a command line.
pub fn parse_label(label: &str) -> Option<Identity> {
    if label == "anonymous" {
        return Some(Identity::anonymous());
    }
    let (source, name) = label.split_once(':')?;
    let sources = [IdentitySource::Token, IdentitySource::User, IdentitySource::Oidc, IdentitySource::Cert];
    let source = sources.into_iter().find(|known| known.as_str() == source)?;
    (!name.is_empty()).then(|| Identity::new(source, name))
}

/// The claims of a JWT as texts. A list gives several values; `{"kubernetes.io": {"namespace": "ci"}}` gives
/// `kubernetes.io.namespace`.
pub fn claims_of(payload: &serde_json::Map<String, Value>) -> Claims {
    let mut claims = Claims::new();
    for (name, value) in payload {
        flatten(name, value, &mut claims, CLAIM_DEPTH_MAX);
    }
    claims
}

fn flatten(name: &str, value: &Value, claims: &mut Claims, depth: usize) {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null => return,
        Value::Array(values) if depth > 0 => {
            return values.iter().for_each(|value| flatten(name, value, claims, depth - 1));
        }
        Value::Object(fields) if depth > 0 => {
            let inner =
                |(field, value): (&String, &Value)| flatten(&format!("{name}.{field}"), value, claims, depth - 1);
            return fields.iter().for_each(inner);
        }
        Value::Array(_) | Value::Object(_) => return,
    };
    claims.entry(name.to_string()).or_default().push(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_become_texts_whatever_their_shape() {
        let payload = serde_json::json!({
            "sub": "a", "n": 7, "yes": true, "none": null, "aud": ["x", "y"],
            "kubernetes.io": { "namespace": "ci", "pod": { "name": "p" } },
        });
        let claims = claims_of(payload.as_object().unwrap());
        let of = |name: &str| claims.get(name).map(|values| values.join(","));
        assert_eq!(of("sub").as_deref(), Some("a"));
        assert_eq!(of("n").as_deref(), Some("7"));
        assert_eq!(of("yes").as_deref(), Some("true"));
        assert_eq!(of("none"), None);
        assert_eq!(of("aud").as_deref(), Some("x,y"));
        assert_eq!(of("kubernetes.io.pod.name").as_deref(), Some("p"));
        let mut identity = Identity::new(IdentitySource::Oidc, "k8s");
        identity.claims = claims;
        assert_eq!(identity.claim("aud"), None);
        assert_eq!(identity.to_string(), "oidc:k8s (a)");
    }

    #[test]
    fn labels_read_back() {
        for label in ["anonymous", "token:ci", "user:alice", "oidc:github", "cert:a.example"] {
            assert_eq!(parse_label(label).unwrap().label(), label);
        }
        for bad in ["", "token:", "ci", "root:ci"] {
            assert_eq!(parse_label(bad), None, "{bad}");
        }
    }
}
