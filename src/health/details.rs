//! What a server tells of itself in `INFO`.

/// The fields that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Its name and version.
    pub server: String,
    /// Memory in use, in bytes.
    pub memory_used: u64,
    /// `maxmemory`; 0 is none.
    pub memory_max: u64,
    /// `maxmemory-policy`
    pub policy: String,
    /// `master` or `slave`.
    pub role: String,
    /// Connected replicas.
    pub replicas: u64,
    /// It still reads its data.
    pub loading: bool,
    /// Its last snapshot was written, as far as it tried.
    pub snapshot_ok: bool,
    /// Changes since its last snapshot.
    pub unsaved_changes: u64,
    /// It keeps an append-only file …
    pub appends: bool,
    /// … and could write to it.
    pub append_ok: bool,
    /// Clients that are connected …
    pub clients: u64,
    /// … and may be, 0 where it does not tell.
    pub clients_max: u64,
}

impl Details {
    /// Reads the reply to `INFO`.
    pub fn read(info: &str) -> Self {
        let mut told = Details { snapshot_ok: true, append_ok: true, ..Details::default() };
        let (mut product, mut version) = ("Redis", "");
        for (name, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
            let number = || value.parse().unwrap_or(0);
            match name {
                "redis_version" if version.is_empty() => version = value,
                "valkey_version" => (product, version) = ("Valkey", value),
                "used_memory" => told.memory_used = number(),
                "maxmemory" => told.memory_max = number(),
                "maxmemory_policy" => value.clone_into(&mut told.policy),
                "role" => value.clone_into(&mut told.role),
                "connected_slaves" => told.replicas = number(),
                "loading" => told.loading = value == "1",
                "rdb_last_bgsave_status" => told.snapshot_ok = value == "ok",
                "rdb_changes_since_last_save" => told.unsaved_changes = number(),
                "aof_enabled" => told.appends = value == "1",
                "aof_last_write_status" => told.append_ok = value == "ok",
                "connected_clients" => told.clients = number(),
                "maxclients" => told.clients_max = number(),
                _ => {}
            }
        }
        if !version.is_empty() {
            told.server = format!("{product} {version}");
        }
        told
    }

    /// In a word: `ok`, `failing` or `off`.
    pub fn append_only_file(&self) -> &'static str {
        match (self.appends, self.append_ok) {
            (_, false) => "failing",
            (true, true) => "ok",
            (false, true) => "off",
        }
    }

    /// In a word: `ok` or `failing`.
    pub fn snapshot(&self) -> &'static str {
        if self.snapshot_ok { "ok" } else { "failing" }
    }

    /// How much of the memory that it may take is in use, from 0 to 1; `None` where it may take all.
    pub fn memory_share(&self) -> Option<f64> {
        (self.memory_max > 0).then(|| self.memory_used as f64 / self.memory_max as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_matter_are_read() {
        let told = Details::read(
            "# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.1.0\r\n# Clients\r\nconnected_clients:7\r\nmaxclients:10000\r\n\
             used_memory:900\r\nmaxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\nloading:0\r\nrdb_last_bgsave_status:err\r\n\
             aof_enabled:1\r\naof_last_write_status:ok\r\nrole:master\r\nconnected_slaves:2\r\n",
        );
        assert_eq!((told.server.as_str(), told.role.as_str(), told.replicas), ("Valkey 9.1.0", "master", 2));
        assert_eq!(
            (told.memory_share(), told.snapshot_ok, told.append_ok, told.appends),
            (Some(0.9), false, true, true)
        );
        assert_eq!(Details::read("").memory_share(), None);
    }
}
