//! A Lockgate node inside the test's own process: the lock engine with its watch link, on a thread of its own, without a door for
//! clients. It can be made never to look at a key by itself, stopped in its tracks, or dropped as by a crash.

use super::server::RedisServer;
use super::wait::PATIENCE;
use lockgate::commands::lock_args::LockCommand;
use lockgate::coordinator::seal::Seal;
use lockgate::coordinator::{Asker, BoundLocks, Coordinator, LockReply, LockSettings};
use lockgate::domain::LockKey;
use lockgate::upstream::caller::LinkCaller;
use lockgate::upstream::dial::Connector;
use lockgate::upstream::links::LinkSettings;
use lockgate::upstream::router::{Common, Router};
use lockgate::upstream::url::Upstream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

type Work = Pin<Box<dyn Future<Output = ()>>>;
type Job = Box<dyn FnOnce(Arc<Coordinator>, Rc<Router>) -> Work + Send>;

pub struct Node {
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// A command under way.
pub struct Call(Receiver<LockReply>);

impl Call {
    #[track_caller]
    pub fn reply(&self) -> LockReply {
        self.0.recv_timeout(PATIENCE).expect("a reply was expected")
    }

    #[track_caller]
    pub fn is_granted(&self) -> i64 {
        match self.reply() {
            LockReply::Integer(fence) if fence > 0 => fence,
            other => panic!("a grant was expected, not {other:?}"),
        }
    }

    #[track_caller]
    pub fn still_waits(&self) {
        let came = self.0.recv_timeout(Duration::from_millis(30));
        assert_eq!(came, Err(RecvTimeoutError::Timeout), "it no longer waits");
    }
}

/// Settings of a node of that name, which never looks at a key by itself.
pub fn never_looking(name: &str) -> LockSettings {
    LockSettings { node: name.into(), look_every_ms: 0, ..LockSettings::default() }
}

impl Node {
    pub fn before(server: &RedisServer, settings: LockSettings) -> Self {
        Self::at(&server.url(), settings)
    }

    pub fn at(url: &str, settings: LockSettings) -> Self {
        let Ok(Upstream::Standalone(endpoint)) = Upstream::parse(url) else { panic!("no upstream: {url}") };
        let seal = endpoint.password.as_ref().map_or_else(Seal::default, |password| Seal::of(password.as_bytes()));
        let settings = LockSettings { seal, ..settings };
        let (jobs, mut todo) = unbounded_channel::<Job>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tasks = tokio::task::LocalSet::new();
            tasks.block_on(&runtime, async move {
                let router = Router::to_one(Common::of_one(endpoint, link_settings()));
                let coordinator = Coordinator::new(settings);
                tokio::task::spawn_local(coordinator.clone().keep_watch(router.clone()));
                while let Some(job) = todo.recv().await {
                    tokio::task::spawn_local(job(coordinator.clone(), router.clone()));
                }
            });
        });
        Node { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Asks `LOCK.*` on a connection of its own in database `db`; the reply comes later.
    pub fn ask_in(&self, db: u32, line: &str) -> Call {
        let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        self.job(async move |coordinator, router| {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let command = LockCommand::parse(&words).expect("a LOCK command");
            coordinator.run(&asker(&router, db), command).await
        })
    }

    pub fn ask(&self, line: &str) -> Call {
        self.ask_in(0, line)
    }

    #[track_caller]
    pub fn run(&self, line: &str) -> LockReply {
        self.ask(line).reply()
    }

    #[track_caller]
    pub fn nodes(&self) -> Vec<LockReply> {
        items(self.job(async move |coordinator, _| coordinator.nodes()).reply())
    }

    /// How often its watch link has looked at a key, ever.
    #[track_caller]
    pub fn looks(&self) -> i64 {
        match self.job(async move |coordinator, _| LockReply::Integer(coordinator.looks() as i64)).reply() {
            LockReply::Integer(looks) => looks,
            other => panic!("a number was expected, not {other:?}"),
        }
    }

    #[track_caller]
    pub fn cleanup(&self) -> LockReply {
        self.job(async move |coordinator, router| coordinator.cleanup(&asker(&router, 0)).await).reply()
    }

    #[track_caller]
    pub fn queue(&self, key: &str, count: Option<u64>) -> Vec<LockReply> {
        let key = LockKey::new(0, key.as_bytes());
        let reply = self.job(async move |coordinator, router| coordinator.queue(&asker(&router, 0), key, count).await);
        items(reply.reply())
    }

    #[track_caller]
    pub fn promote(&self, key: &str, owner: &str, level: &str) -> LockReply {
        use lockgate::domain::{Level, OwnerId};
        let key = LockKey::new(0, key.as_bytes());
        let (owner, level) = (OwnerId::new(owner.as_bytes()).unwrap(), Level::parse(level.as_bytes()).unwrap());
        self.job(async move |coordinator, router| coordinator.promote(&asker(&router, 0), key, owner, level).await)
            .reply()
    }

    /// Stands still, as a process that is stopped, until the sender is dropped.
    pub fn freeze(&self) -> Sender<()> {
        let (thaws, thawed) = channel::<()>();
        let (stands, standing) = channel();
        let jobs = self.jobs.as_ref().unwrap();
        let stand = move |_, _| -> Work {
            Box::pin(async move {
                stands.send(()).unwrap();
                let _ = thawed.recv();
            })
        };
        jobs.send(Box::new(stand)).expect("the node lives");
        standing.recv_timeout(PATIENCE).expect("it comes to a stand");
        thaws
    }

    /// Ends it as a crash would: nothing more is said to anybody.
    pub fn kill(mut self) {
        self.stop();
    }

    fn job<F>(&self, work: impl FnOnce(Arc<Coordinator>, Rc<Router>) -> F + Send + 'static) -> Call
    where
        F: Future<Output = LockReply> + 'static,
    {
        let (reply, call) = channel();
        let job = move |coordinator, router| -> Work {
            let work = work(coordinator, router);
            Box::pin(async move { drop(reply.send(work.await)) })
        };
        self.jobs.as_ref().unwrap().send(Box::new(job)).expect("the node lives");
        Call(call)
    }

    fn stop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A field of a map.
#[track_caller]
pub fn field(map: &LockReply, name: &str) -> LockReply {
    let LockReply::Map(fields) = map else { panic!("a map was expected, not {map:?}") };
    fields.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}")).1.clone()
}

/// A field that is text.
#[track_caller]
pub fn text(map: &LockReply, name: &str) -> String {
    match field(map, name) {
        LockReply::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
        LockReply::Nil => "nil".into(),
        other => panic!("text was expected, not {other:?}"),
    }
}

#[track_caller]
fn items(reply: LockReply) -> Vec<LockReply> {
    match reply {
        LockReply::Array(items) => items,
        other => panic!("an array was expected, not {other:?}"),
    }
}

fn asker(router: &Rc<Router>, db: u32) -> Asker<LinkCaller> {
    let caller = router.service(db);
    Asker {
        db,
        session: 1,
        user: b"default".to_vec().into(),
        caller: caller.clone(),
        service: caller,
        bound: BoundLocks::default(),
    }
}

fn link_settings() -> LinkSettings {
    LinkSettings {
        shared: 2,
        own_max: 10,
        connect_timeout: Duration::from_secs(5),
        reply_timeout: Duration::from_secs(3),
        idle_timeout: Duration::ZERO,
        keepalive: Duration::ZERO,
        hold: Duration::ZERO,
        retry_base: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        is_followed: false,
        replicas_seen: Default::default(),
        connector: Connector::default(),
    }
}
