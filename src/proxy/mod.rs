//! A stand-in until the proxy itself is merged: one relay per connection, bytes as they are.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::upstream::url::{Address, Endpoint};

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {error}")]
pub struct StartError {
    listen: Address,
    error: io::Error,
}

/// The running proxy.
pub struct Running {
    address: String,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Ends it.
    pub fn drain(self, _limit: Duration) {}
}

/// Starts it.
pub fn start(config: Arc<Config>, endpoint: Endpoint) -> Result<Running, StartError> {
    let fail = |error| StartError { listen: config.listen.clone(), error };
    match &config.listen {
        Address::Tcp { host, port } => {
            let listener = TcpListener::bind((host.as_str(), *port)).map_err(fail)?;
            let address = listener.local_addr().map_err(fail)?.to_string();
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let endpoint = endpoint.clone();
                    std::thread::spawn(move || {
                        let (a, b) = (client.try_clone(), client);
                        if let Ok(a) = a {
                            relay(a, b, &endpoint, |s| drop(s.shutdown(Shutdown::Both)))
                        }
                    });
                }
            });
            Ok(Running { address })
        }
        Address::Unix(path) => {
            let listener = UnixListener::bind(path).map_err(fail)?;
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let endpoint = endpoint.clone();
                    std::thread::spawn(move || {
                        let (a, b) = (client.try_clone(), client);
                        if let Ok(a) = a {
                            relay(a, b, &endpoint, |s| drop(s.shutdown(Shutdown::Both)))
                        }
                    });
                }
            });
            Ok(Running { address: format!("unix://{}", path.display()) })
        }
    }
}

fn relay<C: io::Read + io::Write + Send + 'static>(mut from: C, mut to: C, endpoint: &Endpoint, close: fn(&C)) {
    match &endpoint.address {
        Address::Tcp { host, port } => {
            let Ok(mut up) = TcpStream::connect((host.as_str(), *port)) else { return close(&to) };
            let Ok(mut down) = up.try_clone() else { return close(&to) };
            std::thread::spawn(move || {
                let _ = io::copy(&mut down, &mut to);
                close(&to)
            });
            let _ = io::copy(&mut from, &mut up);
            let _ = up.shutdown(Shutdown::Both);
        }
        Address::Unix(path) => {
            let Ok(mut up) = UnixStream::connect(path) else { return close(&to) };
            let Ok(mut down) = up.try_clone() else { return close(&to) };
            std::thread::spawn(move || {
                let _ = io::copy(&mut down, &mut to);
                close(&to)
            });
            let _ = io::copy(&mut from, &mut up);
            let _ = up.shutdown(Shutdown::Both);
        }
    }
}
