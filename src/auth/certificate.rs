//! Who a client certificate says its bearer is. The handshake has checked it before.

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;

use super::identity::{Identity, Source};

/// A client certificate that the handshake has accepted.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub identity: Identity,
    /// SHA-256 of the whole.
    pub fingerprint: [u8; 32],
}

impl Certificate {
    /// The name is the common name of the subject, else the first DNS name, else the first URI. Nothing without any.
    /// All of them are claims: `cn`, `dns`, `uri`.
    pub fn read(der: &CertificateDer<'_>) -> Option<Certificate> {
        let certificate = webpki::EndEntityCert::try_from(der).ok()?;
        let common: Vec<String> = common_name(certificate.subject()).into_iter().collect();
        let dns: Vec<String> = certificate.valid_dns_names().map(str::to_string).collect();
        let uri: Vec<String> = certificate.valid_uri_names().map(str::to_string).collect();
        let name = [&common, &dns, &uri].into_iter().find_map(|names| names.first())?;
        let mut identity = Identity::new(Source::Cert, name.clone());
        let claims = [("cn", common), ("dns", dns), ("uri", uri)].into_iter().filter(|(_, values)| !values.is_empty());
        identity.claims = claims.map(|(name, values)| (name.to_string(), values)).collect();
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Some(Certificate { identity, fingerprint })
    }
}

/// DER of the object identifier 2.5.4.3, `commonName` (X.520).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const TAG_OID: u8 = 0x06;
const TAG_UTF8: u8 = 0x0c;
const TAG_PRINTABLE: u8 = 0x13;
const TAG_IA5: u8 = 0x16;

/// The last common name of a subject: a sequence of sets of sequences of an identifier and a text (RFC 5280, section
/// 4.1.2.4).
fn common_name(subject: &[u8]) -> Option<String> {
    let mut found = None;
    let mut sets = subject;
    while let Some((_, set, rest)) = element(sets) {
        sets = rest;
        let mut pairs = set;
        while let Some((_, pair, rest)) = element(pairs) {
            pairs = rest;
            let Some((TAG_OID, COMMON_NAME, value)) = element(pair) else { continue };
            if let Some((TAG_UTF8 | TAG_PRINTABLE | TAG_IA5, text, _)) = element(value) {
                found = std::str::from_utf8(text).ok().filter(|text| !text.is_empty()).map(str::to_string);
            }
        }
    }
    found
}

/// The first element of some DER: its tag, its content, and what follows. Lengths of up to two bytes, which is more than a
/// name has.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = match rest {
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
        [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn read(cn: Option<&str>, dns: &[&str], uri: &[&str]) -> Option<Certificate> {
        let mut params = CertificateParams::new(dns.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Larder");
        if let Some(cn) = cn {
            params.distinguished_name.push(DnType::CommonName, cn);
        }
        params.subject_alt_names.extend(uri.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::read(certificate.der())
    }

    #[test]
    fn a_certificate_is_named_by_what_it_has() {
        let label = |cn, dns: &[&str], uri: &[&str]| read(cn, dns, uri).map(|read| read.identity.label());
        assert_eq!(label(Some("builder-1"), &["b.example"], &[]).as_deref(), Some("cert:builder-1"));
        assert_eq!(label(None, &["b.example"], &["spiffe://x/y"]).as_deref(), Some("cert:b.example"));
        assert_eq!(label(None, &[], &["spiffe://x/y"]).as_deref(), Some("cert:spiffe://x/y"));
        assert_eq!(label(None, &[], &[]), None);
        let all = read(Some("builder-1"), &["b.example"], &["spiffe://x/y"]).unwrap().identity;
        assert_eq!(all.claim("dns"), Some("b.example"));
        assert_eq!(all.claim("uri"), Some("spiffe://x/y"));
    }

    proptest! {
        #[test]
        fn no_subject_is_too_strange(der in prop::collection::vec(any::<u8>(), 0..64)) {
            common_name(&der);
        }
    }
}
