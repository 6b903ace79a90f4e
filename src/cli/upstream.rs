//! A connection to the upstream of the configuration, for the commands that speak to it around Lockgate.

use std::cell::RefCell;
use std::future::ready;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::{Client, Place};
use super::{FAILURE, refuse};
use crate::config::{self, Config, Sources};
use crate::domain::Db;
use crate::tls::ClientTls;
use crate::upstream::call::{CallError, Caller};
use crate::upstream::dial::Connector;
use crate::upstream::url::{Address, Endpoint, Upstream};
use crate::upstream::{embedded, sentinel};

/// Connecting, and each answer, may take so long.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// One connection, used by one command after the other.
#[derive(Clone)]
pub(super) struct Direct {
    client: Rc<RefCell<Client>>,
    /// The database of the URL.
    pub db: Db,
}

impl Direct {
    /// Reads the configuration and connects to its upstream; says on standard error why where it cannot.
    pub(super) fn open(sources: &Sources) -> Result<(Config, Direct), ExitCode> {
        let config = config::load(sources).map_err(|problems| refuse(&problems))?.config;
        let opened = master_of(&config)
            .and_then(|place| Direct::connect(&place, ANSWER_MAX).map_err(|error| format!("{place}: {error}")));
        match opened {
            Ok(direct) => Ok((config, direct)),
            Err(why) => {
                eprintln!("lockgate: the upstream cannot be asked: {why}");
                Err(ExitCode::from(FAILURE))
            }
        }
    }

    /// Connects within `limit`.
    pub(super) fn connect(place: &Place, limit: Duration) -> io::Result<Direct> {
        let client = place.connect(limit)?;
        Ok(Direct { client: Rc::new(RefCell::new(client)), db: place.endpoint.db })
    }

    /// Sends all of these commands at once; their replies as they came, in that order.
    pub(super) fn ask_all<W: AsRef<[u8]>>(&self, commands: &[Vec<W>]) -> io::Result<Vec<Vec<u8>>> {
        let mut client = self.client.borrow_mut();
        for words in commands {
            let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
            client.send(&words)?;
        }
        commands.iter().map(|_| client.reply(Instant::now() + ANSWER_MAX)).collect()
    }

    /// Subscribes to a channel and lets go of it again; the confirmation, or the error.
    pub(super) fn subscribes(&self, channel: &str) -> io::Result<Vec<u8>> {
        let mut client = self.client.borrow_mut();
        client.send(&[b"SUBSCRIBE", channel.as_bytes()])?;
        let told = client.frame(Instant::now() + ANSWER_MAX)?;
        if told.first() == Some(&b'>') {
            client.send(&[b"UNSUBSCRIBE", channel.as_bytes()])?;
            client.frame(Instant::now() + ANSWER_MAX)?;
        }
        Ok(told)
    }

    /// Sends one command; its reply as it came.
    pub(super) fn ask<W: AsRef<[u8]>>(&self, words: &[W]) -> io::Result<Vec<u8>> {
        let mut client = self.client.borrow_mut();
        let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
        client.send(&words)?;
        client.reply(Instant::now() + ANSWER_MAX)
    }
}

/// It waits where it is called: there is nothing else to do.
impl Caller for Direct {
    fn call(&self, request: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, CallError>> + 'static {
        let mut client = self.client.borrow_mut();
        ready(match client.send_raw(&request) {
            Err(error) => Err(CallError::Unavailable(error.to_string())),
            Ok(()) => client.reply(Instant::now() + ANSWER_MAX).map_err(|error| CallError::Lost(error.to_string())),
        })
    }
}

/// Runs what asks by [`Direct`] only, and thus never waits.
pub(super) fn run<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

/// Where the master of this configuration is; else why that is not known.
pub(super) fn master_of(config: &Config) -> Result<Place, String> {
    let tls = ClientTls::for_upstream(config).map_err(|error| error.to_string())?;
    let endpoint = match &config.upstream {
        Upstream::Standalone(endpoint) => endpoint.clone(),
        Upstream::Embedded => {
            let socket = embedded::running(config.data_dir.as_deref()).ok_or(
                "no Lockgate with an embedded upstream runs on this data folder; name an upstream with --upstream",
            )?;
            Endpoint::at(Address::Unix(socket))
        }
        Upstream::Sentinel(sentinels) => {
            let connector = Connector::with_tls(tls.clone());
            run(sentinel::find(sentinels, &connector, ANSWER_MAX)).map_err(|error| error.to_string())??
        }
    };
    Ok(Place { endpoint, tls })
}
