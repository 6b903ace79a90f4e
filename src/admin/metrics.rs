//! `/metrics` in Prometheus' text form. No label has a key, an owner or anything else that a client chooses.

use std::collections::HashSet;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::coordinator::{Buckets, Figures};

/// What a scrape shows.
#[derive(Debug)]
pub(super) struct Scrape {
    pub figures: Figures,
    pub clients: u64,
    pub own_links: u64,
    pub own_links_taken: Vec<(&'static str, u64)>,
    pub commands: [(&'static str, u64); 3],
    pub is_ready: bool,
}

impl Scrape {
    /// The whole answer.
    pub(super) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("lockgate");
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

/// OpenMetrics' text as the older text form has it: a counter is described by the name that its samples have, and there is no end mark.
pub(super) fn plain(open: &str) -> String {
    let of_counter = |line: &str| line.strip_prefix("# TYPE ")?.strip_suffix(" counter").map(str::to_owned);
    let counters: HashSet<String> = open.lines().filter_map(of_counter).collect();
    let mut plain = String::with_capacity(open.len());
    for line in open.lines().filter(|line| *line != "# EOF") {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let name = described.and_then(|rest| rest.split(' ').next()).filter(|name| counters.contains(*name));
        match name {
            // "# HELP " and "# TYPE " are as long as each other.
            Some(name) => {
                let (kind, rest) = line.split_at("# HELP ".len());
                plain.extend([kind, name, "_total", &rest[name.len()..]]);
            }
            None => plain.push_str(line),
        }
        plain.push('\n');
    }
    plain
}

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = &self.figures;
        for (name, help, value) in [
            ("lock_requests", "Calls for a lock", figures.requests),
            ("locks_expired", "Leases that were found to be over", figures.expired),
            ("locks_released", "Locks that somebody let go of", figures.released),
            (
                "fallback_events",
                "SET NX that passed as they were, because their queue could not be kept",
                figures.fallbacks,
            ),
            ("deadlocks_detected", "Deadlocks that were broken", figures.deadlocks),
            ("events_dropped", "Events that came faster than they could be told", figures.events_dropped),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(to.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        for (name, help, value) in [
            ("lock_queue_depth", "Calls that wait now", figures.queue_depth),
            (
                "locks_active",
                "Locks that this node has granted and that stand, as far as it knows",
                figures.active_locks,
            ),
            ("locks_bound", "Locks that are renewed for a connection", figures.bound_locks),
            ("nodes", "Nodes that are there, with this one", figures.nodes),
            ("health_score", "How the upstream is, from 0 to 100", figures.health_score),
            ("clients_connected", "Client connections", self.clients),
            ("redis_connections_active", "Upstream links that serve one client alone", self.own_links),
            ("backend_health_status", "1 while the upstream answers, else 0", u64::from(self.is_ready)),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(to.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let ends = figures.ends.iter().map(|(end, count)| (*end, *count));
        family(&mut to, "lock_results", "How calls for a lock ended", "result", ends)?;
        let commands = self.commands.iter().copied();
        family(&mut to, "commands", "Commands of clients, by the way that they went", "path", commands)?;
        let taken = self.own_links_taken.iter().copied();
        family(&mut to, "sessions_own_link", "Why clients needed an upstream link of their own", "reason", taken)?;
        for (name, help, buckets) in [
            ("lock_acquisition_duration_seconds", "From a call's arrival to its grant", &figures.acquisition),
            ("lock_wait_seconds", "How long calls waited that may wait, granted or not", &figures.wait),
            ("lock_hold_seconds", "From a grant to its release", &figures.hold),
            ("lock_hand_over_seconds", "From a release to the next waiter's grant", &figures.hand_over),
        ] {
            histogram(to.encode_descriptor(name, help, None, MetricType::Histogram)?, buckets)?;
        }
        Ok(())
    }
}

fn family(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    counts: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in counts {
        ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

fn histogram(mut to: MetricEncoder<'_>, buckets: &Buckets) -> fmt::Result {
    let Buckets { sum_seconds, count, buckets } = buckets;
    to.encode_histogram::<NoLabelSet>(*sum_seconds, *count, buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_names_of_their_samples() {
        let open = "# HELP a_waits Waits.\n# TYPE a_waits counter\na_waits_total 3\n# HELP a_depth Depth.\n# TYPE a_depth gauge\na_depth 1\n# EOF\n";
        assert_eq!(
            plain(open),
            "# HELP a_waits_total Waits.\n# TYPE a_waits_total counter\na_waits_total 3\n# HELP a_depth Depth.\n# TYPE a_depth gauge\na_depth 1\n"
        );
    }
}
