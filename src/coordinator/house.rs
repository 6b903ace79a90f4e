//! Housekeeping among nodes: one leads, by a lock like any other, and removes what a dead node has left in queues. LOCK.NODES tells
//! who is there, LOCK.CLEANUP cleans at once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::peers::Question;
use super::presence::{FORMAT, Load, Peer};
use super::{Asker, Coordinator, LockReply, integer};
use crate::domain::{Db, LockKey, Moment};
use crate::observe::fault::{Fault, caught};
use crate::observe::seldom::Seldom;
use crate::store::{StoreError, companion};
use crate::upstream::call::{CallError, Caller};
use crate::upstream::router::Router;

/// A pause after each step of a scan for leftovers: nobody waits for it, and large data is not gone through in a rush.
const SCAN_PAUSE: Duration = Duration::from_millis(2);
/// How often is looked whether another node leads by now.
const ELECTION_LOOK: Duration = Duration::from_millis(20);

impl Coordinator {
    /// Leads and cleans up when it is this node's turn, for as long as the node is there.
    pub(super) async fn keep_house(self: Arc<Self>, router: Rc<Router>) {
        let nodes = &self.nodes;
        // Whoever has ceded the lead leaves it to the others for a while.
        let mut abstains_until = self.now();
        loop {
            let next_beat = self.now().plus_ms(nodes.me.heartbeat_ms);
            // A first look around is due as soon as it is known who is there.
            let dues = [nodes.knows_all_at(), Some(abstains_until)].into_iter().flatten().filter(|at| *at > self.now());
            let wake_at = dues.fold(next_beat, Moment::min);
            tokio::select! {
                biased;
                () = nodes.duty.notified() => {}
                () = self.sleep_until(wake_at) => {}
            }
            #[cfg(test)]
            crate::observe::fault::failpoint::pass("housekeeping among the nodes");
            if nodes.take_election() {
                self.lays_down_lead(&router).await;
                abstains_until = self.now().plus_ms(nodes.me.timeout_ms);
                nodes.speaks_up();
            }
            if abstains_until <= self.now() {
                self.lead_if_need_be(&router).await;
            }
            let duty = nodes.duties(self.now());
            let is_my_turn = duty.leads || !duty.has_peers;
            let asked_for = nodes.take_clean_ups();
            let must_clean = duty.must_clean && is_my_turn && nodes.knows_all(self.now());
            if must_clean || !asked_for.is_empty() {
                nodes.begins_to_clean();
                // On its own: meanwhile the lead has to be kept.
                let (coordinator, router) = (self.clone(), router.clone());
                tokio::task::spawn_local(async move {
                    let removed = caught(coordinator.clean_up(&router)).await.unwrap_or_else(|Fault| {
                        Err(StoreError::Call(CallError::Lost("a fault of Lockgate ended the clean-up".to_owned())))
                    });
                    match &removed {
                        Ok(0) => {}
                        Ok(removed) => tracing::info!(removed, "removed what nodes that are gone had left in queues"),
                        Err(error) => {
                            static TOLD: Seldom = Seldom::new();
                            if coordinator.fit.is_good()
                                && let Some(times) = TOLD.happened()
                            {
                                tracing::warn!(%error, times, "could not remove what nodes that are gone have left in queues");
                            }
                            coordinator.nodes.must_clean_again();
                        }
                    }
                    for asker in asked_for {
                        let _ = asker.send(removed.as_ref().copied().map_err(ToString::to_string));
                    }
                });
            }
        }
    }

    /// A node alone needs no key to know that it leads. Among several the one leads who has the lock.
    async fn lead_if_need_be(&self, router: &Rc<Router>) {
        let begun = self.now();
        let duty = self.nodes.duties(begun);
        let service = router.service(router.default_db());
        let takes = duty.has_peers && (duty.leads || !duty.is_led) && self.nodes.can_talk(begun);
        if takes {
            let lease_ms = self.nodes.me.timeout_ms;
            let until = match self.store.lead(&service, &self.leader_value(), lease_ms).await {
                // Counted from before the question, so that this node never leads for longer than the upstream says.
                Ok(leads) => leads.then(|| begun.plus_ms(lease_ms)),
                Err(error) => {
                    tracing::debug!(%error, "whether this node leads is not known");
                    return;
                }
            };
            if self.nodes.leads_until(until, self.now()) {
                let has_begun = until.is_some();
                tracing::info!(has_begun, "this node begins or ceases to lead the nodes of its upstream");
                self.nodes.speaks_up();
            }
        } else if duty.leads && !duty.has_peers {
            self.lays_down_lead(router).await;
        }
    }

    /// The node that leads is to let another one do so. Resolves to who led and who leads, when another one does, or when there was time
    /// enough for it.
    pub async fn elects(&self) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let before = self.nodes.leader(self.now());
        if self.nodes.is_alone() {
            return (before.clone(), before);
        }
        if !self.nodes.is_to_cede(self.now()) {
            self.ask_others(&LockKey::new(0, b""), &Question::Cede, &[]).await;
        }
        let until = self.now().plus_ms(self.nodes.me.timeout_ms.saturating_mul(2));
        loop {
            let leader = self.nodes.leader(self.now());
            if (leader.is_some() && leader != before) || self.now() >= until {
                return (before, leader);
            }
            tokio::time::sleep(ELECTION_LOOK).await;
        }
    }

    /// Nobody needs to wait for the end of the lead's lease.
    pub(super) async fn lays_down_lead(&self, router: &Rc<Router>) {
        if self.nodes.duties(self.now()).leads {
            self.nodes.leads_until(None, self.now());
            let service = router.service(router.default_db());
            if let Err(error) = self.store.lead(&service, &self.leader_value(), 0).await {
                tracing::debug!(%error, "the lead was not laid down; its lease ends it");
            }
        }
    }

    fn leader_value(&self) -> String {
        format!("{}:{}", self.nodes.me.id, self.nodes.me.instance)
    }

    /// Removes the registrations of nodes that are gone, and those of this node that nobody is behind, from all queues.
    async fn clean_up(&self, router: &Rc<Router>) -> Result<u64, StoreError> {
        let service = |db: Db| router.service(db);
        let mut removed = 0;
        for db in self.store.databases(&service(router.default_db())).await? {
            let service = service(db);
            let mut cursor = Some(b"0".to_vec());
            while let Some(at) = cursor {
                let scanned = self.store.scan_queues(&service, &at).await?;
                for queue in scanned.queues {
                    removed += self.clean_queue(&service, db, &queue).await?;
                }
                cursor = scanned.cursor;
                if cursor.is_some() {
                    tokio::time::sleep(SCAN_PAUSE).await;
                }
            }
        }
        Ok(removed)
    }

    async fn clean_queue<C: Caller>(&self, service: &C, db: Db, queue: &[u8]) -> Result<u64, StoreError> {
        let Some(name) = companion::queued_name(queue) else { return Ok(0) };
        let key = LockKey::new(db, name);
        let mut left_over = self.store.registrations(service, queue).await?;
        left_over.retain(|(node, _)| match **node == *self.nodes.me.id.as_bytes() {
            true => self.shards.read(&key, |line| line.waiting()).unwrap_or(0) == 0,
            false => !self.nodes.is_there(node),
        });
        if left_over.is_empty() {
            return Ok(0);
        }
        self.store.clean(service, queue, &left_over).await
    }

    /// `LOCK.CLEANUP`: how many leftovers were removed.
    pub async fn cleanup<C: Caller>(&self, asker: &Asker<C>) -> LockReply {
        // Lockgate's own links do the work; whether the client may see queues at all, the upstream's ACL decides.
        if let Err(error) = self.store.scan_queues(&asker.caller, b"0").await {
            return LockReply::Error(error.into_line());
        }
        // Whoever has just begun does not know yet who is there.
        self.sleep_till(self.nodes.knows_all_at()).await;
        if !self.nodes.knows_all(self.now()) {
            return LockReply::Error(
                "UNAVAILABLE this node does not hear the others, so it cannot tell who is gone; see its log, try again"
                    .into(),
            );
        }
        match self.nodes.asks_to_clean().await {
            Ok(Ok(removed)) => integer(removed),
            Ok(Err(error)) => LockReply::Error(format!("UNAVAILABLE {error}; not all was removed, try again")),
            Err(_) => LockReply::Error("UNAVAILABLE shutting down".into()),
        }
    }

    /// `LOCK.NODES`: an entry for each node that is there, this one included.
    pub fn nodes(&self) -> LockReply {
        let now = self.now();
        let me = &self.nodes.me;
        let leader = self.nodes.leader(now);
        let mut entries: Vec<(Arc<str>, LockReply)> = Vec::new();
        let mut tell = |id: &Arc<str>, facts: &Facts<'_>| {
            entries.push((id.clone(), entry(id, leader.as_ref() == Some(id), facts)));
        };
        for (id, peer) in self.nodes.peers() {
            let silent_ms = now.since_us(peer.heard) / 1000;
            let Peer { address, version, format, started_at_ms, load, .. } = &peer;
            let (format, started_at_ms, load) = (*format, *started_at_ms, *load);
            tell(&id, &Facts { address, version, format, is_self: false, started_at_ms, silent_ms, load });
        }
        let facts = Facts {
            address: &me.address,
            version: env!("CARGO_PKG_VERSION"),
            format: FORMAT,
            is_self: true,
            started_at_ms: me.started_at_ms,
            silent_ms: 0,
            load: self.load(),
        };
        tell(&me.id, &facts);
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        LockReply::Array(entries.into_iter().map(|(_, entry)| entry).collect())
    }
}

struct Facts<'a> {
    address: &'a str,
    version: &'a str,
    format: u64,
    is_self: bool,
    started_at_ms: u64,
    silent_ms: u64,
    load: Load,
}

fn entry(id: &str, is_leader: bool, facts: &Facts<'_>) -> LockReply {
    let text = |text: &str| LockReply::Bulk(text.as_bytes().to_vec());
    let flag = |is_so: bool| LockReply::Integer(i64::from(is_so));
    LockReply::Map(vec![
        ("id", text(id)),
        ("address", text(facts.address)),
        ("version", text(facts.version)),
        ("format", integer(facts.format)),
        ("is_leader", flag(is_leader)),
        ("is_self", flag(facts.is_self)),
        ("started_at", integer(facts.started_at_ms)),
        ("last_seen", integer(facts.silent_ms)),
        ("waiters", integer(facts.load.waiters)),
        ("locks", integer(facts.load.locks)),
    ])
}
