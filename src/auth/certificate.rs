//! Identity of a client certificate. The handshake has verified the certificate before.

use aws_lc_rs::digest;
use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, SliceReader, Tag, Tagged};
use rustls::pki_types::CertificateDer;

use super::identity::{Identity, IdentitySource};

/// A client certificate that the handshake has accepted.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub identity: Identity,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
}

impl Certificate {
    /// Reads a certificate. Its name is the common name of the subject, else the first DNS name, else the first URI;
    /// without any the result is nothing. All of them are claims: `cn`, `dns`, `uri`. Several common names count as
    /// none.
    pub fn read(der: &CertificateDer<'_>) -> Option<Certificate> {
        let certificate = webpki::EndEntityCert::try_from(der).ok()?;
        let common: Vec<String> = common_name(certificate.subject()).into_iter().collect();
        let dns: Vec<String> = certificate.valid_dns_names().map(str::to_string).collect();
        let uri: Vec<String> = certificate.valid_uri_names().map(str::to_string).collect();
        let name = [&common, &dns, &uri].into_iter().find_map(|names| names.first())?;
        let mut identity = Identity::new(IdentitySource::Cert, name.clone());
        let claims = [("cn", common), ("dns", dns), ("uri", uri)].into_iter().filter(|(_, values)| !values.is_empty());
        identity.claims = claims.map(|(name, values)| (name.to_string(), values)).collect();
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Some(Certificate { identity, fingerprint })
    }
}

/// `commonName` (X.520).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The common name of a subject: a sequence of sets of sequences of an identifier and a text (RFC 5280, section
/// 4.1.2.4).
///
/// Nothing if there are several. Programs differ in which one counts, and a CA that lets its clients choose parts of a
/// subject may have checked another one.
fn common_name(subject: &[u8]) -> Option<String> {
    let mut found = None;
    let mut sets = SliceReader::new(subject).ok()?;
    while let Ok(set) = AnyRef::decode(&mut sets) {
        let mut pairs = SliceReader::new(set.value()).ok()?;
        while let Ok(pair) = AnyRef::decode(&mut pairs) {
            let mut pair = SliceReader::new(pair.value()).ok()?;
            if ObjectIdentifier::decode(&mut pair) != Ok(COMMON_NAME) {
                continue;
            }
            if found.is_some() {
                return None;
            }
            found = Some(AnyRef::decode(&mut pair).ok().and_then(text_of));
        }
    }
    found.flatten()
}

fn text_of(value: AnyRef<'_>) -> Option<String> {
    let is_text = matches!(value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
    let text = std::str::from_utf8(value.value()).ok().filter(|text| is_text && !text.is_empty());
    text.map(str::to_string)
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

    /// A subject as OpenSSL writes it; rcgen keeps one common name only.
    fn subject(names: &[(u8, &str)]) -> Vec<u8> {
        let tlv = |tag: u8, value: &[u8]| [&[tag, u8::try_from(value.len()).unwrap()], value].concat();
        let id = [0x06, 3, 0x55, 4, 3];
        let set = |(tag, text): &(u8, &str)| tlv(0x31, &tlv(0x30, &[&id[..], &tlv(*tag, text.as_bytes())].concat()));
        names.iter().flat_map(set).collect()
    }

    #[test]
    fn several_common_names_are_none() {
        const UTF8: u8 = 0x0c;
        const PRINTABLE: u8 = 0x13;
        const BMP: u8 = 0x1e;
        let of = |names: &[(u8, &str)]| common_name(&subject(names));
        let builder = (UTF8, "builder-1");
        assert_eq!(of(&[builder]).as_deref(), Some("builder-1"));
        for other in [(UTF8, "evil"), (PRINTABLE, "builder-1"), (BMP, "evil")] {
            assert_eq!(of(&[other, builder]), None, "{other:?}");
            assert_eq!(of(&[builder, other]), None, "{other:?}");
        }
        assert_eq!(of(&[(BMP, "x")]), None);
    }

    proptest! {
        #[test]
        fn no_subject_is_too_strange(der in prop::collection::vec(any::<u8>(), 0..64)) {
            common_name(&der);
        }
    }
}
