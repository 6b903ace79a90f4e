//! The network between Lockgate and the simulated upstream: bytes take their time, arrive late or not at all, and connections break.
//!
//! What is sent on one connection arrives in order. Between connections anything goes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::server::{Change, Server};
use crate::upstream::pipe::{End, pipe};
use crate::upstream::socket::Socket;

/// From where somebody connects: a node of its own number, or a client that goes around all nodes.
pub type Place = usize;

/// What listens to every change of the data.
type Listener = Box<dyn FnMut(&[Change], &Server)>;

thread_local! {
    static NET: RefCell<Option<Rc<Net>>> = const { RefCell::new(None) };
}

/// How the network is between one place and the server.
#[derive(Default)]
struct Weather {
    /// Nothing moves.
    is_held: Cell<bool>,
    change: Notify,
    /// The longest way of a message, in ms.
    longest_ms: Cell<u64>,
}

/// One connection, seen from the server.
struct Line {
    place: Place,
    client: u64,
    far: End,
    news: Notify,
    is_cut: Cell<bool>,
}

/// A server, and all ways to it.
pub struct Net {
    tasks: Rc<LocalSet>,
    server: RefCell<Server>,
    dice: RefCell<fastrand::Rng>,
    lines: RefCell<BTreeMap<u64, Rc<Line>>>,
    weather: RefCell<BTreeMap<Place, Rc<Weather>>>,
    listener: RefCell<Option<Listener>>,
    /// The server stands still.
    is_stopped: Cell<bool>,
    /// Nobody listens at its door.
    is_closed: Cell<bool>,
    goes_on: Notify,
    origin: Instant,
    origin_us: u64,
    last_us: Cell<u64>,
}

/// Connects from `place` through this thread's network.
pub async fn dial(place: Place) -> io::Result<Socket> {
    match NET.with_borrow(|net| net.clone()) {
        Some(net) => net.connect(place).await.map(Socket::Pipe),
        None => Err(io::ErrorKind::NotConnected.into()),
    }
}

impl Net {
    /// The network of this thread from now on; the server's clock says `now_us` (Unix µs). What it does runs in `tasks`.
    pub fn install(tasks: Rc<LocalSet>, seed: u64, now_us: u64) -> Rc<Net> {
        let net = Rc::new(Net {
            tasks,
            server: RefCell::default(),
            dice: RefCell::new(fastrand::Rng::with_seed(seed)),
            lines: RefCell::default(),
            weather: RefCell::default(),
            listener: RefCell::default(),
            is_stopped: Cell::new(false),
            is_closed: Cell::new(false),
            goes_on: Notify::new(),
            origin: Instant::now(),
            origin_us: now_us,
            last_us: Cell::new(0),
        });
        NET.set(Some(net.clone()));
        net
    }

    /// This thread has no network any more.
    pub fn remove() {
        NET.set(None);
    }

    /// Tells `listen` of every change.
    pub fn on_changes(&self, listen: impl FnMut(&[Change], &Server) + 'static) {
        *self.listener.borrow_mut() = Some(Box::new(listen));
    }

    /// The true time, Unix µs.
    pub fn unix_us(&self) -> u64 {
        self.origin_us + u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Does something with the server, at once, and hands on what it then has to say.
    pub fn serve<T>(&self, work: impl FnOnce(&mut Server) -> T) -> T {
        let mut server = self.server.borrow_mut();
        // No two things happen in the same microsecond.
        let now_us = self.unix_us().max(self.last_us.get() + 1);
        self.last_us.set(now_us);
        server.set_time(now_us);
        server.expires();
        let outcome = work(&mut server);
        let changes = server.take_changes();
        if !changes.is_empty()
            && let Some(listen) = &mut *self.listener.borrow_mut()
        {
            listen(&changes, &server);
        }
        for line in self.lines.borrow().values() {
            if !server.has_client(line.client) || server.have_output_for(line.client) {
                line.news.notify_one();
            }
        }
        outcome
    }

    /// How long messages take between `place` and the server, at most, in ms.
    pub fn takes_up_to(&self, place: Place, longest_ms: u64) {
        self.weather(place).longest_ms.set(longest_ms);
    }

    /// Nothing moves between `place` and the server, or it does again.
    pub fn holds(&self, place: Place, is_held: bool) {
        let weather = self.weather(place);
        weather.is_held.set(is_held);
        weather.change.notify_waiters();
    }

    /// The server stands still, or goes on.
    pub fn stops(&self, is_stopped: bool) {
        self.is_stopped.set(is_stopped);
        self.goes_on.notify_waiters();
    }

    /// Nobody can connect, or somebody can again.
    pub fn closes(&self, is_closed: bool) {
        self.is_closed.set(is_closed);
    }

    /// Breaks connections of `place` (of all for `None`), each with a chance of `percent`; what is on its way on them may still be heard by the
    /// server, but not its replies.
    pub fn cuts(&self, place: Option<Place>, percent: u8) {
        for line in self.lines.borrow().values() {
            if place.is_none_or(|place| place == line.place) && self.dice.borrow_mut().u8(..100) < percent {
                line.is_cut.set(true);
                line.far.close();
                line.news.notify_one();
            }
        }
    }

    fn weather(&self, place: Place) -> Rc<Weather> {
        self.weather.borrow_mut().entry(place).or_default().clone()
    }

    /// The way of a message in one direction.
    async fn travel(&self, place: Place) {
        let weather = self.weather(place);
        let (turns, ms) = {
            let (mut dice, longest) = (self.dice.borrow_mut(), weather.longest_ms.get());
            let ms = match dice.u8(..20) {
                0..12 => 0,
                12..17 => dice.u64(0..=longest.min(3)),
                _ => dice.u64(0..=longest),
            };
            (dice.u8(..4), ms)
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        while weather.is_held.get() {
            weather.change.notified().await;
        }
    }

    async fn server_goes_on(&self) {
        while self.is_stopped.get() {
            self.goes_on.notified().await;
        }
    }

    async fn connect(self: Rc<Self>, place: Place) -> io::Result<End> {
        self.travel(place).await;
        if self.is_closed.get() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = pipe();
        let client = self.serve(Server::connects);
        let line = Rc::new(Line { place, client, far, news: Notify::new(), is_cut: Cell::new(false) });
        self.lines.borrow_mut().insert(client, line.clone());
        self.tasks.spawn_local(self.clone().carry_up(line.clone()));
        self.tasks.spawn_local(self.clone().carry_down(line));
        Ok(near)
    }

    /// To the server.
    async fn carry_up(self: Rc<Self>, line: Rc<Line>) {
        while let Some(bytes) = line.far.incoming.take().await {
            self.travel(line.place).await;
            if line.is_cut.get() && self.dice.borrow_mut().bool() {
                break;
            }
            self.server_goes_on().await;
            if !self.serve(|server| server.hears(line.client, &bytes)) {
                break;
            }
        }
        self.travel(line.place).await;
        self.server_goes_on().await;
        self.serve(|server| server.disconnects(line.client));
    }

    /// From the server.
    async fn carry_down(self: Rc<Self>, line: Rc<Line>) {
        loop {
            let (bytes, is_there) = {
                let mut server = self.server.borrow_mut();
                (server.take_output(line.client), server.has_client(line.client))
            };
            if !bytes.is_empty() {
                self.travel(line.place).await;
                let is_over = line.is_cut.get() || line.far.outgoing.try_write(&bytes).is_err();
                if is_over {
                    break;
                }
            } else if !is_there || line.is_cut.get() {
                break;
            } else {
                line.news.notified().await;
            }
        }
        self.lines.borrow_mut().remove(&line.client);
        line.far.close();
    }
}
