//! What a history was made of.

/// What a history was made of.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Calls that were asked.
    pub calls: u64,
    /// Grants that were told.
    pub grants: u64,
    /// Grants told after a wait.
    pub waits: u64,
    /// Calls ended as victims.
    pub victims: u64,
    /// Guarded writes.
    pub writes: u64,
    /// Changes of locks upstream.
    pub changes: u64,
    /// EXTEND answered 1.
    pub extensions: u64,
    /// RELEASE answered 1.
    pub releases: u64,
    /// Looks that were compared with what stood upstream.
    pub looks: u64,
    /// Faults.
    pub faults: u64,
}

impl Counts {
    /// Adds those of another history.
    pub fn add(&mut self, other: Counts) {
        self.calls += other.calls;
        self.grants += other.grants;
        self.waits += other.waits;
        self.victims += other.victims;
        self.writes += other.writes;
        self.changes += other.changes;
        self.faults += other.faults;
        self.extensions += other.extensions;
        self.releases += other.releases;
        self.looks += other.looks;
    }
}
