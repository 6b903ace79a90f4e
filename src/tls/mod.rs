//! TLS: what is read from files, and a connection that is encrypted by it. Clients and upstreams use the same kind of connection.

mod certificate;
mod client;
mod files;
mod server;
mod stream;

pub use certificate::CertificateUser;
pub use client::ClientTls;
pub use server::{ServerTls, follow};
pub use stream::{Handshake, Secured};

use std::path::PathBuf;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {path} ({source}); check the path and its permissions", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file without what it should hold.
    #[error("{path} holds no {what} in PEM form; configs/make-certs.sh makes a set that works", path = .path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A file with something in it that makes no sense.
    #[error("{path} is no good: {why}", path = .path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Certificate and key that do not belong together, or that cannot be used.
    #[error("{cert} and {key} cannot be used together: {source}", cert = .cert.display(), key = .key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// One of two files that go together.
    #[error("{given} is set, and {missing} is not; set both, or none")]
    Half {
        /// The key that is set.
        given: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// No authority that could vouch for anybody.
    #[error("this system has no certificate authorities that could vouch for the upstream; set upstream_tls.ca")]
    NoAuthorities,
    /// What is set as the name of the upstream is no name.
    #[error("'{0}' is no host name and no address; correct upstream_tls.server_name")]
    ServerName(String),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] rustls::Error),
}
