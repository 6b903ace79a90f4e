//! Certificates and keys in PEM files, and whether these have changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};

use super::TlsError;

/// A longer file holds no certificates.
const FILE_MAX: u64 = 1 << 20;

/// The ciphers and key exchanges of TLS 1.2 and 1.3 that are taken.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How files look from outside: where that has not changed, they have not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looks(Vec<Option<[i64; 4]>>);

impl Looks {
    /// Links are followed, so that a folder that is swapped by a link counts as changed.
    pub(super) fn of(files: &[&PathBuf]) -> Looks {
        let look = |path: &&PathBuf| {
            let meta = fs::metadata(path).ok()?;
            Some([meta.mtime(), meta.mtime_nsec(), meta.size().cast_signed(), meta.ino().cast_signed()])
        };
        Looks(files.iter().map(look).collect())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_MAX {
        return Err(TlsError::Broken { path: path.to_owned(), why: format!("it has {length} bytes") });
    }
    fs::read(path).map_err(unreadable)
}

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| TlsError::Broken { path: path.to_owned(), why: error.to_string() })?;
    if all.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), what: "certificate" });
    }
    Ok(all)
}

/// The private key of a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::Empty { path: path.to_owned(), what: "private key without a passphrase" },
        error => TlsError::Broken { path: path.to_owned(), why: error.to_string() },
    })
}

/// The authorities of a file.
pub(super) fn authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Broken { path: path.to_owned(), why: error.to_string() })?;
    }
    Ok(Arc::new(roots))
}
