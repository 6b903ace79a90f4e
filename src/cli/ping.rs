//! `lockgate ping`: whether a running Lockgate, and the upstream behind it, answer, and whether that upstream is of use to it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{FAILURE, refuse};
use crate::config::{self, Sources};
use crate::tls::ClientTls;
use crate::upstream::dial::Connector;
use crate::upstream::misfit::{Misfit, examine};
use crate::upstream::sentinel;
use crate::upstream::url::{Address, Upstream};

/// A reply to PING is a short line; a longer one is not looked at to its end.
const REPLY_MAX: usize = 512;

pub(super) fn ping(sources: &Sources, timeout: Duration) -> ExitCode {
    let config = match config::load(sources) {
        Ok(loaded) => loaded.config,
        Err(problems) => return refuse(&problems),
    };
    let tls = match ClientTls::for_upstream(&config) {
        Ok(tls) => tls,
        Err(error) => {
            eprintln!("lockgate: {error}");
            return ExitCode::from(FAILURE);
        }
    };
    let (address, upstream, connector) = (reachable(config.listen), config.upstream, Connector::with_tls(tls));
    match ask(&address, timeout) {
        Ok(reply) if is_alive(&reply) => match misfit_of(&upstream, &connector, timeout) {
            None => {
                println!("{reply}");
                ExitCode::SUCCESS
            }
            Some(misfit) => {
                eprintln!("lockgate: {address} answered: {reply}, but {misfit}");
                ExitCode::from(FAILURE)
            }
        },
        Ok(reply) => {
            eprintln!("lockgate: {address} answered: {reply}");
            ExitCode::from(FAILURE)
        }
        Err(error) => {
            let misfit =
                misfit_of(&upstream, &connector, timeout).map(|misfit| format!("; {misfit}")).unwrap_or_default();
            eprintln!("lockgate: {address} does not answer: {error}{misfit}");
            ExitCode::from(FAILURE)
        }
    }
}

/// A server that asks for a password first has answered; whether we know one is not the question.
fn is_alive(reply: &str) -> bool {
    reply == "+PONG" || reply.starts_with("-NOAUTH")
}

/// What is wrong with the upstream of this configuration, as Lockgate itself would find it.
fn misfit_of(upstream: &Upstream, connector: &Connector, timeout: Duration) -> Option<Misfit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        match upstream {
            Upstream::Embedded => None,
            Upstream::Standalone(endpoint) => examine(endpoint, connector, timeout).await,
            Upstream::Sentinel(sentinels) => match sentinel::find(sentinels, connector, timeout).await {
                Ok(endpoint) => examine(&endpoint, connector, timeout).await,
                Err(why) => Some(Misfit::Nobody(why)),
            },
        }
    })
}

/// "Every network" is an address to listen on, not one to connect to.
pub(super) fn reachable(listen: Address) -> Address {
    match listen {
        Address::Tcp { host, port } if host == "0.0.0.0" => Address::Tcp { host: "127.0.0.1".to_owned(), port },
        Address::Tcp { host, port } if host == "::" => Address::Tcp { host: "::1".to_owned(), port },
        other => other,
    }
}

fn ask(address: &Address, timeout: Duration) -> io::Result<String> {
    let deadline = Instant::now() + timeout;
    match address {
        Address::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for place in (host.as_str(), *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&place, left(deadline)?) {
                    Ok(stream) => return converse(stream, deadline, TcpStream::set_read_timeout),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        Address::Nowhere(why) => Err(io::Error::other(why.to_string())),
        Address::Unix(path) => converse(UnixStream::connect(path)?, deadline, UnixStream::set_read_timeout),
    }
}

/// Sends PING and reads one line. Each read gets what is left of the time, so that a server that sends byte by byte cannot
/// hold a health check for ever.
fn converse<S: Read + Write>(
    mut stream: S,
    deadline: Instant,
    set_timeout: fn(&S, Option<Duration>) -> io::Result<()>,
) -> io::Result<String> {
    stream.write_all(b"PING\r\n")?;
    let mut reply = Vec::new();
    let mut chunk = [0; REPLY_MAX];
    while !reply.contains(&b'\n') && reply.len() < REPLY_MAX {
        set_timeout(&stream, Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(length) => reply.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(too_late()),
            Err(error) => return Err(error),
        }
    }
    let line = reply.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or_else(too_late)
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the time is up")
}
