//! Certificates made by `configs/make-certs.sh`, and a client of the tests' own that speaks TLS.

use super::reply::frame_len;
use super::tools;
use super::wait::PATIENCE;
use super::wire::command;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A folder with a set of certificates.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// For servers on this machine and for these users.
    pub fn make(users: &[&str]) -> Self {
        let made = Self { folder: tempfile::Builder::new().prefix("lockgate-test-").tempdir().unwrap() };
        made.make_again(users);
        made
    }

    /// The same authority vouches for new ones.
    pub fn make_again(&self, users: &[&str]) {
        let mut script = Command::new(tools::source_dir().join("configs/make-certs.sh"));
        script.arg(self.folder.path());
        for user in users {
            script.args(["--user", user]);
        }
        let output = script.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lines of a configuration that has Lockgate serve TLS, and further ones of its `[tls]`.
    pub fn tls_table(&self, more: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "listen_tls = '127.0.0.1:0'\n[tls]\ncert = '{folder}/server.crt'\nkey = '{folder}/server.key'\n{}\n",
            more.replace("{folder}", &folder.to_string())
        )
    }

    /// What a client of these needs; `user` names its certificate.
    pub fn client(&self, user: Option<&str>) -> Arc<ClientConfig> {
        self.client_of(user, rustls::ALL_VERSIONS)
    }

    pub fn client_of(&self, user: Option<&str>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        Arc::new(match user {
            None => builder.with_no_client_auth(),
            Some(user) => {
                let cert = CertificateDer::from_pem_file(self.path(&format!("{user}.crt"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{user}.key"))).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        })
    }
}

/// A connection over TLS.
pub struct TlsWire {
    stream: StreamOwned<ClientConnection, TcpStream>,
    came: Vec<u8>,
}

impl TlsWire {
    /// Shakes hands at once.
    pub fn connect(addr: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<TlsWire> {
        Self::connect_behind(addr, config, b"")
    }

    /// The same behind `first`, which goes in the clear.
    pub fn connect_behind(addr: SocketAddr, config: &Arc<ClientConfig>, first: &[u8]) -> io::Result<TlsWire> {
        let mut socket = TcpStream::connect_timeout(&addr, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.write_all(first)?;
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(TlsWire { stream, came: Vec::new() })
    }

    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn version(&self) -> Option<rustls::ProtocolVersion> {
        self.stream.conn.protocol_version()
    }

    /// The certificate of the other side.
    pub fn server_certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next whole frame.
    pub fn frame(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(len) = frame_len(&self.came) {
                return Ok(self.came.drain(..len).collect());
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.came.extend_from_slice(&chunk[..n]),
            }
        }
    }

    pub fn call(&mut self, words: &[&str]) -> io::Result<Vec<u8>> {
        self.send(&command(words))?;
        self.frame()
    }

    /// The socket below, for what no client does.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.stream.sock
    }

    /// Reads to the end; whether the other side has said that it is one.
    pub fn ends_in_order(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }
}
