//! Follows the master that Sentinels name. One worker of the process talks to each of them: it asks now and then, at once when one tells
//! of a switch, and many times a second while the master is in doubt. What they say together is handed on as it changes.

mod answer;
mod council;
mod verdict;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::answer::Answer;
use self::council::{Council, Seat};
use super::dial::{Connector, DialError, DialTerms, Greet, Identity, LinkKey, dial};
use super::links::LinkSettings;
use super::topology::Master;
use super::url::{Endpoint, Sentinels};
use super::watch::{Heard, WatchLink};
use crate::domain::Resp;
use crate::observe::fault::kept_up;

/// How often a Sentinel is asked where nothing seems to be wrong.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// And where the master may have changed.
const ASK_IN_DOUBT_EVERY: Duration = Duration::from_millis(100);
/// A Sentinel that has not answered for so long says nothing.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longest pause before a Sentinel that is gone is tried again.
const REDIAL_MAX: Duration = Duration::from_secs(1);

/// What they publish when a master changes, the first of them already at the promotion.
const CHANNELS: [&[u8]; 2] = [b"+switch-master", b"+promoted-slave"];

/// Tells `master` of whom the Sentinels name, for as long as it is awaited. `doubt` rings when the links have reason to believe that
/// it is another one. To be awaited within a `LocalSet`.
pub async fn follow(sentinels: Sentinels, settings: LinkSettings, master: watch::Sender<Master>, doubt: Arc<Notify>) {
    let council = Rc::new(Council::new(sentinels, master));
    let mut talks = JoinSet::new();
    loop {
        while let Some(seat) = council.take_new_seat() {
            let (council, settings) = (council.clone(), settings.clone());
            talks.spawn_local(kept_up("talking to a Sentinel", async move || {
                talk(&council, &seat, &settings).await;
            }));
        }
        tokio::select! {
            () = doubt.notified() => council.is_in_doubt(),
            () = council.has_new_seats() => {}
        }
    }
}

/// Asks the Sentinels once, within `limit`; the error tells what each of them answered.
pub async fn find(sentinels: &Sentinels, connector: &Connector, limit: Duration) -> Result<Endpoint, String> {
    let (tell, mut told) = watch::channel(sentinels.nobody_yet());
    let settings = LinkSettings { connector: connector.clone(), ..LinkSettings::for_questions(limit) };
    let tasks = tokio::task::LocalSet::new();
    let doubt = Arc::new(Notify::new());
    let found = tasks.run_until(async {
        tokio::task::spawn_local(follow(sentinels.clone(), settings, tell, doubt));
        loop {
            if let Master::At(address) = &*told.borrow_and_update() {
                return Some(Endpoint { address: address.clone(), ..sentinels.master.clone() });
            }
            told.changed().await.ok()?;
        }
    });
    match tokio::time::timeout(limit, found).await {
        Ok(Some(endpoint)) => Ok(endpoint),
        _ => match &*told.borrow() {
            Master::Unknown(why) => Err(why.to_string()),
            Master::At(address) => Ok(Endpoint { address: address.clone(), ..sentinels.master.clone() }),
        },
    }
}

/// What a reply on a Sentinel's link is about.
enum About {
    Subscription,
    Address,
    State,
    Others,
}

async fn talk(council: &Rc<Council>, seat: &Seat, settings: &LinkSettings) {
    let mut pause = settings.retry_base;
    loop {
        let begun = Instant::now();
        let why = match connect(council.sentinels(), seat, settings).await {
            Ok(link) => converse(council, seat, link).await,
            Err(why) => why.to_string(),
        };
        council.is_silent(seat, &why);
        if begun.elapsed() > REDIAL_MAX {
            pause = settings.retry_base;
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(if council.doubts() { ASK_IN_DOUBT_EVERY } else { REDIAL_MAX });
    }
}

async fn connect(sentinels: &Sentinels, seat: &Seat, settings: &LinkSettings) -> Result<WatchLink<About>, DialError> {
    let endpoint = Endpoint {
        address: seat.address.clone(),
        user: sentinels.user.clone(),
        password: sentinels.password.as_ref().map(|secret| secret.0.clone()),
        db: 0,
        is_tls: sentinels.is_tls,
    };
    let identity = if endpoint.password.is_some() { Identity::Service } else { Identity::Anonymous };
    let key = LinkKey { identity, db: 0, resp: Resp::V3 };
    let limit = settings.connect_timeout.min(ANSWER_MAX);
    let terms = DialTerms { connect: limit, answer: limit, masters_only: false };
    let dialled = dial(&endpoint, &key, Greet::Barely, &settings.connector, terms, settings.keepalive).await?;
    Ok(WatchLink::new(dialled))
}

/// Asks over `link` until it is lost; returns why.
async fn converse(council: &Rc<Council>, seat: &Seat, mut link: WatchLink<About>) -> String {
    let name = council.sentinels().name.clone();
    link.subscribe(&CHANNELS, About::Subscription);
    loop {
        let asked = Instant::now();
        match tokio::time::timeout(ANSWER_MAX, ask(&mut link, &name)).await {
            Ok(Ok(answer)) => council.has_answered(seat, answer),
            Ok(Err(why)) => return why,
            Err(_) => return format!("no answer within {ANSWER_MAX:?}"),
        }
        loop {
            let every = if council.doubts() { ASK_IN_DOUBT_EVERY } else { ASK_EVERY };
            tokio::select! {
                heard = link.hear() => match heard {
                    Ok(Heard::Message { payload, .. }) if is_about(&payload, &name) => break,
                    Ok(_) => {}
                    Err(why) => return why,
                },
                () = tokio::time::sleep_until(asked + every) => break,
                () = council.has_doubts() => {}
            }
        }
    }
}

async fn ask(link: &mut WatchLink<About>, name: &str) -> Result<Answer, String> {
    let name_bytes = name.as_bytes();
    link.send(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name_bytes], About::Address);
    link.send(&[b"SENTINEL", b"MASTER", name_bytes], About::State);
    link.send(&[b"SENTINEL", b"SENTINELS", name_bytes], About::Others);
    let (mut address, mut state) = (Vec::new(), Vec::new());
    loop {
        match link.hear().await? {
            Heard::Reply(About::Address, reply) => address = reply.unwrap_or_default(),
            Heard::Reply(About::State, reply) => state = reply.unwrap_or_default(),
            Heard::Reply(About::Others, reply) => {
                return answer::read(&address, &state, &reply.unwrap_or_default(), name);
            }
            // Told in the meantime, and asked already.
            _ => {}
        }
    }
}

/// `+switch-master` begins with the master's name, `+promoted-slave` names it as `@ name ip port`.
fn is_about(payload: &[u8], name: &str) -> bool {
    payload.split(|byte| *byte == b' ').any(|word| word == name.as_bytes())
}

impl Sentinels {
    /// What is known before any of them has answered.
    pub fn nobody_yet(&self) -> Master {
        Master::Unknown(format!("no Sentinel has named the master '{}' yet", self.name).into())
    }
}
