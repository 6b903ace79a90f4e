//! A lock goes from its holder to another owner.

use std::sync::Arc;

use super::afloat::Afloat;
use super::books::Ended;
use super::{Asker, Coordinator, LockReply, integer};
use crate::commands::lock_args::TransferArgs;
use crate::domain::{CallId, LockKey, Replicas};
use crate::events::What;
use crate::locks::{Event, Grant};
use crate::store::value::Fields;
use crate::store::{Moved, StoreError, Transfer};
use crate::upstream::call::{CallError, Caller};

impl Coordinator {
    /// `LOCK.TRANSFER`
    pub(super) async fn transfer<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: LockKey,
        args: TransferArgs,
    ) -> LockReply {
        let (coordinator, caller, service) = (self.clone(), asker.caller.clone(), asker.service.clone());
        let (lock, from, to, call) = (key.clone(), args.from.clone(), args.to.clone(), self.next_call());
        let lease_ms = args.ttl_ms.map(|ttl_ms| self.settings.lease_ms_at(&key, &asker.user, Some(ttl_ms)));
        let work = async move {
            let TransferArgs { from, to, fence, .. } = args;
            let (from, to) = (from.as_bytes(), to.as_bytes());
            let transfer =
                Transfer { from, fence, to, lease_ms, call, now_ms: coordinator.unix_us_at(coordinator.now()) / 1000 };
            let is_rule_key = coordinator.settings.lock_keys.matches(&lock.name);
            let moved = match coordinator.store.transfer(&caller, &lock, &transfer, is_rule_key).await {
                Err(StoreError::Call(error @ CallError::Lost(_))) => {
                    coordinator.moved_after_all(&caller, &lock, call).await.ok_or(StoreError::Call(error))
                }
                moved => moved,
            };
            if let (Ok(Some(_)), Some(lease_ms)) = (&moved, lease_ms) {
                coordinator.fed(&lock, Event::Extended { lease_ms }, &service);
            }
            moved
        };
        match Afloat::new(&self.errands, work).await {
            Ok(Some(Moved { grant, left_ms, since_ms })) => {
                let was_tied_here = asker.bound.untie(&key, &from);
                if !was_tied_here && self.tied.is_tied(&key, &from) {
                    // Its holder asked for renewals over another connection, and has to hear of it from somebody.
                    let (from, to) = (from.as_bytes().escape_ascii(), to.as_bytes().escape_ascii());
                    let (fence, by, user) = (grant.fence.0, asker.session, asker.user.escape_ascii());
                    tracing::info!(%key, %from, %to, fence, by, %user, "a kept lock was transferred over another connection");
                }
                self.tied.lets_go(&key, &from);
                let held_us = self.hold_ends(&key, from.as_bytes(), Ended::Upstream { since_ms });
                let what = What::Transferred { to: to.as_bytes(), held_us };
                self.happens_by(Some(&asker.by()), what, &key, from.as_bytes(), Some(grant.fence), self.now());
                self.deadlocks.let_go(&key, &from);
                if let Some(left_ms) = left_ms {
                    self.deadlocks.granted(&key, &to, left_ms, self.now());
                    self.hold_begins(&key, grant.fence, Some(left_ms), self.now());
                }
                match self.transfer_replicated(&key, &grant, &asker.service).await {
                    Ok(()) => integer(grant.fence.0),
                    Err(line) => LockReply::Error(line),
                }
            }
            Ok(None) => LockReply::Nil,
            // Never sent again blindly: the new holder may have given it back by then.
            Err(StoreError::Call(CallError::Lost(why))) => LockReply::Error(format!(
                "UNAVAILABLE the link to the upstream was lost before the reply: {why}; whether the lock was transferred is \
                 unknown, ask LOCK.INFO"
            )),
            Err(error) => LockReply::Error(error.into_line()),
        }
    }

    /// A lock cannot be given back to who has given it away: fences would fall. So the answer says what is.
    async fn transfer_replicated<C: Caller>(&self, key: &LockKey, grant: &Grant, service: &C) -> Result<(), String> {
        if self.settings.replicas == Replicas::NotAsked {
            return Ok(());
        }
        self.replicas_have(key, &grant.value, service).await.map_err(|why| {
            format!("NOREPLICAS '{key}' was transferred, but {why}: a failover would undo it; ask LOCK.INFO, and look into INFO replication and wait_replicas")
        })
    }

    /// The reply was lost: a value that names the call shows that it went through. Anything else shows nothing.
    async fn moved_after_all<C: Caller>(&self, caller: &C, key: &LockKey, call: CallId) -> Option<Option<Moved>> {
        let held = self.store.look(caller, key, true).await.ok()??;
        let fields = Fields::read(&held.value)?;
        let is_ours = fields.call_of(self.store.node()) == Some(call);
        let grant = Grant { fence: fields.fence, value: held.value.clone() };
        is_ours.then_some(Some(Moved { grant, left_ms: held.left_ms, since_ms: None }))
    }
}
