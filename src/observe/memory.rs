//! Memory that was needed and is no more goes back to the system. The allocator gives pages back only while it is asked for others, and
//! a worker that falls quiet after a storm asks for nothing.

// Links the allocator that declares what is called below.
use libmimalloc_sys as _;

#[allow(unsafe_code, reason = "the binding for it costs another dependency")]
unsafe extern "C" {
    /// Any thread may call it at any time; it frees only what nobody holds.
    safe fn mi_collect(force: bool);
}

/// Gives back what this thread has freed. Costs a walk over the thread's pages.
pub fn give_back() {
    mi_collect(true);
}
