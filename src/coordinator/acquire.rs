//! The life of one `LOCK.ACQUIRE`: it enters its line, sends its try, waits for a word, and is answered once. Dropping it at any
//! moment leaves the line, and what is on its way then goes on to the next.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::Notify;

use super::afloat::Afloat;
use super::bound::Granted;
use super::deadlock::Waiting;
use super::hand_over::Fault;
use super::hurry::Hurry;
use super::shards::{Entered, Fed, Next, Word};
use super::{Asker, Coordinator, LockReply, seen};
use crate::commands::lock_args::{AcquireArgs, Bond};
use crate::domain::{LockKey, Moment};
use crate::events::What;
use crate::locks::{Actor, Answer, AskedFor, Event, Form, Standing, Tried, Turn};
use crate::store::value::Fields;
use crate::store::{Acquired, Ask, StoreError};
use crate::upstream::call::{CallError, Caller};

/// What a call is told that may not wait, because too much is kept for those who do.
const CROWDED_OUT: &str = "QUEUEFULL the calls that wait keep as many bytes of keys, owners and meta as limits.waiting_bytes \
                           allows; raise it, shorten them, or lower the load";

/// What a call is told whose lock cannot be renewed, because too many are.
const TOO_MANY_RENEWED: &str = "LIMIT the locks that are renewed (KEEPALIVE, EPHEMERAL) keep sixteen times limits.waiting_bytes, \
                                which is all they may; raise it, or take the lock without";

/// What a try came to.
struct Came {
    /// What the call does next.
    next: Option<Next>,
    /// It has not got the lock.
    refusal: Option<Refusal>,
}

/// Why not, and when.
struct Refusal {
    /// What the key held; `None` where somebody else was just given it.
    value: Option<Arc<[u8]>>,
    /// The upstream's clock, Unix time in µs.
    arrival_us: u64,
}

/// A call's presence in its line.
struct Stay<C: Caller> {
    coordinator: Arc<Coordinator>,
    key: LockKey,
    asked: AskedFor,
    service: C,
    bell: Arc<Notify>,
    is_answered: bool,
    /// While it is known to wait.
    waiting: Option<Waiting>,
}

impl<C: Caller> Drop for Stay<C> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let now = self.coordinator.now();
        if let Some(fed) = self.coordinator.shards.leave(&self.key, self.asked.call, kept_ms(&self.asked.form), now) {
            self.coordinator.carry_out(fed, &self.key, &self.service);
        }
    }
}

impl<C: Caller> Stay<C> {
    /// Feeds an event of this call; what concerns others is carried out, what concerns the call returned.
    fn feed(&self, event: Event) -> Option<Next> {
        let fed = self.coordinator.shards.feed(&self.key, event, Some(self.asked.call), self.coordinator.now())?;
        self.sort_out(fed)
    }

    fn sort_out(&self, mut fed: Fed) -> Option<Next> {
        let next = fed.next.take();
        self.coordinator.carry_out(fed, &self.key, &self.service);
        next
    }

    /// Its try has come back without the lock, and without an answer.
    fn waits(&mut self, connection: u64, refusal: &Refusal) {
        let Refusal { value, arrival_us } = refusal;
        if self.waiting.is_some() {
            self.coordinator.saw_holder(&self.key, value.as_deref());
        } else if self.asked.may_wait {
            let (asked, key) = (&self.asked, &self.key);
            let what = What::Queued { level: asked.level };
            self.coordinator.happens(what, key, asked.form.shown_owner(), None, self.coordinator.now());
            self.waiting = self.coordinator.begins_to_wait(asked, key, connection, value.as_deref(), *arrival_us);
        }
    }

    /// The next word that anybody has for this call.
    async fn word(&self) -> Word {
        loop {
            if let Some(word) = self.coordinator.shards.take_word(&self.key, self.asked.call) {
                return word;
            }
            self.bell.notified().await;
        }
    }
}

impl Coordinator {
    pub(super) async fn acquire<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: LockKey,
        args: AcquireArgs,
        is_there: impl Fn() -> bool,
    ) -> LockReply {
        if args.bond != Bond::None && !self.tied.has_room(&key, &args.owner) {
            return LockReply::Error(TOO_MANY_RENEWED.into());
        }
        let (asked, deadline) = self.asked_for(&args, &key, &asker.user);
        let (asked, answer) = match self.wait_for(asker, &key, asked, deadline, None, is_there).await {
            Some(answered) => answered,
            None => return LockReply::Nil,
        };
        self.acquire_reply(asker, &key, &args, &asked, answer)
    }

    /// Takes a call through its line to its one answer; `None` where it was granted and its client had gone.
    pub(super) async fn wait_for<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: &LockKey,
        asked: AskedFor,
        mut deadline: Option<Moment>,
        hurry: Option<&Hurry>,
        is_there: impl Fn() -> bool,
    ) -> Option<(AskedFor, Answer)> {
        let Entered { bell, fed, is_crowded_out } = self.shards.enter(key, asked.clone(), self.now());
        let (key, service) = (key.clone(), asker.service.clone());
        let mut stay = Stay { coordinator: self.clone(), key, asked, service, bell, is_answered: false, waiting: None };
        let mut next = stay.sort_out(fed);
        let mut attempt: Option<Afloat<Came>> = None;
        let mut retry_at: Option<Moment> = None;
        let mut hurry = hurry;
        let answer = loop {
            match next.take() {
                Some(Next::Answer(answer)) => break answer,
                Some(Next::Try(standing, turn)) => {
                    let work =
                        attempt_once(self.clone(), stay.key.clone(), stay.asked.clone(), (standing, turn), asker);
                    attempt = Some(Afloat::new(&self.errands, work));
                }
                Some(Next::Later(after_ms)) => retry_at = Some(self.now().plus_ms(after_ms)),
                None => {}
            }
            tokio::select! {
                biased;
                came = finished(&mut attempt), if attempt.is_some() => {
                    attempt = None;
                    next = came.next;
                    if let Some(refusal) = came.refusal.filter(|_| !matches!(next, Some(Next::Answer(_)))) {
                        stay.waits(asker.session, &refusal);
                    }
                }
                word = stay.word() => match word {
                    Word::Answer(answer) => break answer,
                    Word::GoOn => next = stay.feed(Event::TriesAgain(stay.asked.call)),
                },
                () = self.sleep_till(retry_at), if retry_at.is_some() => {
                    retry_at = None;
                    next = stay.feed(Event::TriesAgain(stay.asked.call));
                }
                () = hurries(hurry), if hurry.is_some() => {
                    (hurry, deadline) = (None, None);
                    next = stay.feed(Event::Yields(stay.asked.call));
                }
                () = self.sleep_till(deadline), if deadline.is_some() => {
                    deadline = None;
                    next = stay.feed(Event::TimesOut(stay.asked.call));
                }
            }
        };
        stay.is_answered = true;
        stay.waiting = None;
        let answer = match answer {
            Answer::Granted { grant, is_new } => {
                let told = (&grant, is_new);
                match self.confirmed_by_replicas(&stay.key, told, &stay.asked.form, &stay.service).await {
                    Ok(()) => Answer::Granted { grant, is_new },
                    Err(line) => Answer::Failed(line.into()),
                }
            }
            answer => answer,
        };
        if let Answer::Granted { grant, is_new } = &answer
            && !is_there()
        {
            if *is_new && grant.fence.0 > 0 {
                let event = Event::GivesBack { value: grant.value.clone(), lease_ms: kept_ms(&stay.asked.form) };
                let fed = self.shards.feed_always(&stay.key, event, self.now());
                self.carry_out(fed, &stay.key, &stay.service);
            }
            return None;
        }
        if is_crowded_out && stay.asked.may_wait && answer == Answer::NotGranted {
            return Some((stay.asked.clone(), Answer::Failed(CROWDED_OUT.into())));
        }
        Some((stay.asked.clone(), answer))
    }

    /// The call as its line takes it, and when its wait ends.
    pub(super) fn asked_for(&self, args: &AcquireArgs, key: &LockKey, user: &[u8]) -> (AskedFor, Option<Moment>) {
        let wait_ms = args.wait_ms.min(self.settings.max_wait_ms.get());
        let deadline = (wait_ms > 0).then(|| self.now().plus_ms(wait_ms));
        let (level, lease_ms, queue_max) = self.settings.lock_keys.read(|rules| {
            let rule = rules.acting(&key.name, user);
            let level = args.level.or(rule.and_then(|rule| rule.level)).unwrap_or_default();
            (level, self.settings.lease_ms_under(rule, args.ttl_ms), rule.and_then(|rule| rule.queue_max))
        });
        let asked = AskedFor {
            call: self.next_call(),
            actor: Actor::Owner(args.owner.clone()),
            form: Form::Lock { owner: args.owner.clone(), lease_ms, meta: args.meta.clone() },
            level,
            may_wait: wait_ms > 0,
            ticket_ms: 0,
            queue_max,
            place: None,
            deadline,
        };
        (asked, deadline)
    }

    pub(super) fn acquire_reply<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: &LockKey,
        args: &AcquireArgs,
        asked: &AskedFor,
        answer: Answer,
    ) -> LockReply {
        match answer {
            Answer::Granted { grant, .. } => {
                self.got_over(key, &args.owner, grant.fence, asker.session, kept_ms(&asked.form));
                let fence = grant.fence.0;
                if args.bond == Bond::None {
                    asker.bound.untie(key, &args.owner);
                } else {
                    let (key, owner, service) = (key.clone(), args.owner.clone(), asker.service.clone());
                    let (value, lease_ms, bond) = (grant.value, kept_ms(&asked.form), args.bond);
                    asker.bound.tie(self, Granted { key, owner, value, lease_ms, bond, service });
                }
                LockReply::Integer(i64::try_from(fence).unwrap_or(i64::MAX))
            }
            // It could not wait as it wished to.
            Answer::NotGranted if args.wait_ms > 0 && self.shards.is_closing() => shutting_down(),
            Answer::NotGranted => LockReply::Nil,
            Answer::QueueFull { waiting } => LockReply::Error(format!(
                "QUEUEFULL '{key}' already has {waiting} waiters; raise max_queue or lower the load"
            )),
            Answer::Failed(line) => LockReply::Error(line.to_string()),
            Answer::Unreached(why) | Answer::Unavailable(why) => {
                LockReply::Error(format!("UNAVAILABLE {why}; not granted, try again"))
            }
            Answer::ShuttingDown => shutting_down(),
        }
    }
}

fn shutting_down() -> LockReply {
    LockReply::Error("UNAVAILABLE shutting down".into())
}

async fn hurries(hurry: Option<&Hurry>) {
    match hurry {
        Some(hurry) => hurry.comes().await,
        None => pending().await,
    }
}

async fn finished(attempt: &mut Option<Afloat<Came>>) -> Came {
    match attempt {
        Some(attempt) => attempt.await,
        None => pending().await,
    }
}

/// How long a grant of this form stands at most where nobody renews it, in ms; 0 where that is not known.
fn kept_ms(form: &Form) -> u64 {
    form.lease_ms().unwrap_or(0)
}

/// Sends the call's own try once, and tells its line what came of it.
fn attempt_once<C: Caller>(
    coordinator: Arc<Coordinator>,
    key: LockKey,
    asked: AskedFor,
    (standing, turn): (Standing, Turn),
    asker: &Asker<C>,
) -> impl Future<Output = Came> + 'static {
    let (caller, service) = (asker.caller.clone(), asker.service.clone());
    async move {
        let store = &coordinator.store;
        let _fault = Fault::watch(&coordinator, &key, turn.line);
        let (call, sent, times, offers) = (asked.call, turn.sent(), coordinator.times(&turn), turn.offers);
        let ask = Ask { call, form: asked.form, level: asked.level, standing };
        let is_rule_key = coordinator.settings.lock_keys.matches(&key.name);
        let outcome = match store.acquire(&caller, &key, &ask, &offers, times, is_rule_key).await {
            Ok(Acquired::Granted(grant, registered)) => Tried::Granted { grant, registered },
            Ok(Acquired::Repeated(grant, before)) => {
                let was_claim = Fields::read(&before).is_some_and(|fields| fields.is_claim);
                Tried::Repeated { grant, was_claim, ours: store.names_call(&before), before }
            }
            Ok(Acquired::HandedOver(handed, registered, arrival_us)) => {
                Tried::HandedOver { handed, registered, arrival_us }
            }
            Ok(Acquired::Refused(held, registered, arrival_us)) => {
                Tried::Refused { seen: seen(store, held), registered, arrival_us }
            }
            Ok(Acquired::NotSet) => Tried::NotSet,
            Err(StoreError::Call(error @ CallError::Unavailable(_))) => Tried::NotReached(error.to_string().into()),
            Err(StoreError::Call(error @ CallError::Lost(_))) => Tried::Lost(error.to_string().into()),
            Err(error) => Tried::Failed { passes: error.passes(), line: error.to_string().into() },
        };
        let refusal = match &outcome {
            Tried::Refused { seen, arrival_us, .. } => {
                Some(Refusal { value: Some(seen.value.clone()), arrival_us: *arrival_us })
            }
            Tried::HandedOver { arrival_us, .. } => Some(Refusal { value: None, arrival_us: *arrival_us }),
            _ => None,
        };
        let event = Event::Tried { call, sent, outcome };
        let Some(mut fed) = coordinator.shards.feed(&key, event, Some(call), coordinator.now()) else {
            // A fault has ended the line meanwhile, and told the call.
            return Came { next: None, refusal: None };
        };
        let next = fed.next.take();
        coordinator.carry_out(fed, &key, &service);
        Came { next, refusal }
    }
}
