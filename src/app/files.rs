//! Open files: every connection is one, and many systems allow only 1,024 until asked for more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;
use crate::upstream::pools::Lane;

/// Files beside connections: listeners, logs, the runtime's own.
const RESERVE: usize = 128;

/// The most links that this configuration can open to its upstream, for one identity and database.
pub(super) fn upstream_links_max(config: &Config) -> usize {
    let of_clients = if config.links.shared == 0 { config.limits.connections } else { 0 };
    let shared = Lane::COUNT * config.links.shared.max(1) * config.worker_count();
    of_clients + config.links.own_max + shared + RESERVE
}

/// Raises the soft limit to the hard one, and says so when that is still too little.
pub(super) fn raise_limit(config: &Config) {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, "cannot read the limit on open files");
            return;
        }
    };
    let mut limit = soft;
    if soft < hard {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => limit = hard,
            Err(error) => tracing::warn!(%error, soft, hard, "cannot raise the limit on open files"),
        }
    }
    let wanted = (config.limits.connections + upstream_links_max(config) + RESERVE) as u64;
    if limit < wanted {
        tracing::warn!(
            limit,
            wanted,
            "the limit on open files is too low for limits.connections = {}: raise it (`ulimit -n {wanted}`, or \
             LimitNOFILE={wanted} in the systemd unit), or lower limits.connections",
            config.limits.connections
        );
    }
}
