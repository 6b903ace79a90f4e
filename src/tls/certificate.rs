//! Who a client is by its certificate.

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longer names are nobody's.
const NAME_MAX: usize = 256;

/// What in a certificate is the name of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateUser {
    /// Nothing: a certificate opens the door and says no more.
    Nobody,
    /// The common name (CN) of its subject.
    CommonName,
    /// The first DNS name, else the first e-mail address, of its alternative names (SAN).
    AlternativeName,
}

impl CertificateUser {
    /// The user that the holder of this certificate is, after the certificate was verified. `None` where it names nobody, or more than
    /// one: a name that can be read in two ways is nobody's.
    pub fn of(self, certificate: &[u8]) -> Option<String> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let name = match self {
            CertificateUser::Nobody => return None,
            CertificateUser::CommonName => {
                let mut names = certificate.subject().iter_common_name();
                let name = names.next()?.as_str().ok()?.to_owned();
                if names.next().is_some() {
                    return None;
                }
                name
            }
            CertificateUser::AlternativeName => alternative_name(&certificate)?,
        };
        is_user(&name).then_some(name)
    }
}

fn alternative_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let dns = names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let mail = || {
        names.iter().find_map(|name| match name {
            GeneralName::RFC822Name(name) => Some(*name),
            _ => None,
        })
    };
    dns.or_else(mail).map(str::to_owned)
}

/// What an ACL takes for the name of a user: neither spaces nor zeros.
fn is_user(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && !name.bytes().any(|byte| byte == 0 || byte.is_ascii_whitespace())
}
