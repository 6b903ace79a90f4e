//! TLS for clients: what `[tls]` names, read anew when its files change. Connections that stand keep what they began with.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection};

use super::certificate::CertificateUser;
use super::files::{Looks, authorities, certificates, private_key, provider};
use super::{Handshake, TlsError};
use crate::config::{ClientAuth, ClientUser, Tls};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shared by all workers.
pub struct ServerTls {
    wanted: Tls,
    in_force: Mutex<InForce>,
}

struct InForce {
    config: Arc<ServerConfig>,
    /// How the files looked when they were last read, whatever came of it.
    looks: Looks,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerTls({:?})", self.wanted.cert)
    }
}

impl ServerTls {
    /// Reads the files that `wanted` names.
    pub fn load(wanted: &Tls) -> Result<Arc<ServerTls>, TlsError> {
        // Looked at first: what changes while they are read is read again.
        let looks = Looks::of(&files(wanted));
        let in_force = Mutex::new(InForce { config: read(wanted)?, looks });
        Ok(Arc::new(ServerTls { wanted: wanted.clone(), in_force }))
    }

    /// The beginning of a client's connection.
    pub fn begin(&self, stream: tokio::net::TcpStream) -> Result<Handshake, TlsError> {
        let config = self.in_force.lock().unwrap_or_else(PoisonError::into_inner).config.clone();
        Ok(Handshake::new(stream, ServerConnection::new(config)?))
    }

    /// How a client's certificate says who the client is.
    pub fn user_is(&self) -> CertificateUser {
        match self.wanted.client_user {
            ClientUser::None => CertificateUser::Nobody,
            ClientUser::Cn => CertificateUser::CommonName,
            ClientUser::San => CertificateUser::AlternativeName,
        }
    }

    /// Reads the files where they have changed. What is wrong with them is told once, and what was in force stays so.
    pub fn look_again(&self) {
        let looks = Looks::of(&files(&self.wanted));
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if in_force.looks == looks {
            return;
        }
        in_force.looks = looks;
        match read(&self.wanted) {
            Ok(config) => {
                in_force.config = config;
                tracing::info!("the certificates for clients have changed; new connections get the new ones");
            }
            Err(error) => {
                tracing::error!("the certificates for clients have changed and the old ones stay in force: {error}");
            }
        }
    }
}

/// Looks at the files again and again, for as long as the process lives.
pub fn follow(tls: &Arc<ServerTls>) -> std::io::Result<()> {
    let tls = Arc::downgrade(tls);
    std::thread::Builder::new().name("certificates".to_owned()).spawn(move || {
        while let Some(tls) = tls.upgrade() {
            tls.look_again();
            drop(tls);
            std::thread::sleep(LOOK_EVERY);
        }
    })?;
    Ok(())
}

fn files(wanted: &Tls) -> Vec<&PathBuf> {
    [&wanted.cert, &wanted.key, &wanted.client_ca].into_iter().flatten().collect()
}

fn read(wanted: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert, key) = match (&wanted.cert, &wanted.key) {
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => return Err(TlsError::Half { given: "tls.cert", missing: "tls.key" }),
        (None, _) => return Err(TlsError::Half { given: "listen_tls", missing: "tls.cert" }),
    };
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match &wanted.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut verifier = WebPkiClientVerifier::builder_with_provider(authorities(path)?, provider());
            if wanted.client_auth == ClientAuth::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier =
                verifier.build().map_err(|error| TlsError::Broken { path: path.clone(), why: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let pair = |source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source };
    let mut config = builder.with_single_cert(certificates(cert)?, private_key(key)?).map_err(pair)?;
    // Of its own for each reading: nobody resumes a session that other authorities let in.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}
