//! `LOCK.HEALTH`: how the upstream is, and who is told when it is not well.

use std::sync::Arc;
use std::time::Duration;

use super::{Coordinator, LockReply, integer};
use crate::health::webhook::{self, Webhook};
use crate::health::{Alerts, Health, Reason, Report};
use crate::observe::seldom::Seldom;

impl Coordinator {
    /// What is seen of the upstream.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// How the upstream is, by what is known now. What it tells of itself is asked for from then on, for a minute.
    pub fn health_report(&self) -> Report {
        let now = self.now();
        self.health.is_asked_for(now);
        self.health.report(self.misfit(), now)
    }

    /// The same, with what the upstream tells of itself as new as `health.check_interval` asks for.
    pub async fn fresh_health_report(&self) -> Report {
        self.health.is_fresh(self.now()).await;
        self.health_report()
    }

    /// `LOCK.HEALTH`
    pub(super) async fn tell_health(&self) -> LockReply {
        let report = self.fresh_health_report().await;
        let text = |text: &str| LockReply::Bulk(text.as_bytes().to_vec());
        let reasons = report.reasons.iter().map(|Reason { code, costs, says }| {
            LockReply::Map(vec![("code", text(code)), ("costs", integer(u64::from(*costs))), ("says", text(says))])
        });
        let (told_ago, details) = match &report.details {
            Some((ago_ms, details)) => (integer(*ago_ms), Some(details)),
            None => (LockReply::Nil, None),
        };
        let number = |number: Option<u64>| number.map_or(LockReply::Nil, integer);
        let word = |word: Option<&str>| word.map_or(LockReply::Nil, text);
        LockReply::Map(vec![
            ("status", text(report.status.name())),
            ("health_score", integer(u64::from(report.score))),
            ("reasons", LockReply::Array(reasons.collect())),
            ("mode", text("on")),
            ("node", text(self.store.node())),
            ("round_trip_ms", report.round_trip_ms.map_or(LockReply::Nil, LockReply::Double)),
            ("told_ago", told_ago),
            ("server", word(details.map(|details| details.server.as_str()))),
            ("role", word(details.map(|details| details.role.as_str()))),
            ("replicas", number(details.map(|details| details.replicas))),
            ("memory_used", number(details.map(|details| details.memory_used))),
            ("memory_max", number(details.map(|details| details.memory_max))),
            ("append_only_file", word(details.map(|details| details.append_only_file()))),
            ("snapshot", word(details.map(|details| details.snapshot()))),
            ("slow_commands", number(report.slow_commands)),
        ])
    }

    /// Tells `webhook` when the upstream's health changes for longer than a moment, for as long as the node is there.
    pub(super) async fn tell_of_health(self: Arc<Self>, webhook: Webhook) {
        static UNTOLD: Seldom = Seldom::new();
        self.health.is_always_wanted();
        let every = Duration::from_millis(self.health.limits().check_interval_ms.max(1));
        let mut alerts = Alerts::default();
        loop {
            tokio::time::sleep(every).await;
            let Some(alert) = alerts.look(&self.health_report(), self.health.limits()) else { continue };
            let at_ms = self.unix_us_at(self.now()) / 1000;
            if let Err(why) = webhook.send(&webhook::told(&alert, self.store.node(), at_ms)).await {
                alerts.was_not_told(&alert);
                if let Some(times) = UNTOLD.happened() {
                    tracing::warn!(%why, times, "the webhook (health.webhook) could not be told of an alert; it is tried again");
                }
            }
        }
    }
}
