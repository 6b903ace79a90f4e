//! TLS towards the upstream: what `[upstream_tls]` names, read anew when its files change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::files::{Looks, authorities, certificates, private_key, provider};
use super::{Handshake, TlsError};
use crate::config::{Config, UpstreamTls};

/// Shared by all that connects to the upstream.
pub struct ClientTls {
    wanted: UpstreamTls,
    server_name: Option<ServerName<'static>>,
    in_force: Mutex<InForce>,
}

struct InForce {
    config: Arc<ClientConfig>,
    looks: Looks,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientTls({:?})", self.wanted.ca)
    }
}

impl ClientTls {
    /// Reads the files that `wanted` names; without `ca`, the system's authorities.
    pub fn load(wanted: &UpstreamTls) -> Result<Arc<ClientTls>, TlsError> {
        let server_name = wanted
            .server_name
            .as_ref()
            .map(|name| ServerName::try_from(name.clone()).map_err(|_| TlsError::ServerName(name.clone())));
        let looks = Looks::of(&files(wanted));
        let in_force = Mutex::new(InForce { config: read(wanted)?, looks });
        Ok(Arc::new(ClientTls { wanted: wanted.clone(), server_name: server_name.transpose()?, in_force }))
    }

    /// What `config` asks for: `None` where its upstream is reached in the clear.
    pub fn for_upstream(config: &Config) -> Result<Option<Arc<ClientTls>>, TlsError> {
        config.upstream.speaks_tls().then(|| ClientTls::load(&config.upstream_tls)).transpose()
    }

    /// The beginning of a connection to `host`, or to what is set as the upstream's name.
    pub fn begin(&self, stream: tokio::net::TcpStream, host: &str) -> Result<Handshake, TlsError> {
        Ok(Handshake::new(stream, self.session(host)?))
    }

    /// The same without a socket, for those who block.
    pub fn session(&self, host: &str) -> Result<ClientConnection, TlsError> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))?,
        };
        Ok(ClientConnection::new(self.config(), name)?)
    }

    /// What is in force, read anew where the files have changed: links are dialled seldom.
    fn config(&self) -> Arc<ClientConfig> {
        let looks = Looks::of(&files(&self.wanted));
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if in_force.looks != looks {
            in_force.looks = looks;
            match read(&self.wanted) {
                Ok(config) => {
                    in_force.config = config;
                    tracing::info!("the certificates for the upstream have changed; new links use the new ones");
                }
                Err(error) => {
                    tracing::error!(
                        "the certificates for the upstream have changed and the old ones stay in force: {error}"
                    );
                }
            }
        }
        in_force.config.clone()
    }
}

fn files(wanted: &UpstreamTls) -> Vec<&PathBuf> {
    [&wanted.cert, &wanted.key, &wanted.ca].into_iter().flatten().collect()
}

fn read(wanted: &UpstreamTls) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &wanted.ca {
        Some(path) => authorities(path)?,
        None => system_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let config = match (&wanted.cert, &wanted.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let pair = |source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source };
            builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(pair)?
        }
        (Some(_), None) => {
            return Err(TlsError::Half { given: "upstream_tls.cert", missing: "upstream_tls.key" });
        }
        (None, Some(_)) => {
            return Err(TlsError::Half { given: "upstream_tls.key", missing: "upstream_tls.cert" });
        }
    };
    Ok(Arc::new(config))
}

fn system_authorities() -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    Ok(Arc::new(roots))
}
