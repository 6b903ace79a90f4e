//! Wrong passwords, by the address that they come from: each further one makes the next try wait longer. A try waits before it is judged,
//! so that whoever gives up and comes again gains nothing.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many wrong passwords of an address cost nothing: people mistype.
const FREE: u32 = 3;
/// What the first one beyond these costs; each further one costs twice as much.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// A try that would have to wait so many times the longest delay, behind others of its address, is refused.
const LINE_MAX: u32 = 5;
/// A wrong password is forgotten after so long, one after the other.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// So many addresses are kept in mind; the one that was quiet for longest is forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// So many credentials that were right are kept in mind; then it begins anew.
const RIGHT_MAX: usize = 4096;

/// Shared by all workers.
#[derive(Debug, Default)]
pub struct Knocks {
    /// The longest delay; zero is none at all.
    delay_max: Duration,
    /// As many as there are entries: where there are none, nothing is locked.
    count: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, Address>>,
    /// What was right, as hashes that nobody else can make.
    right: Mutex<HashSet<u64>>,
    hash: RandomState,
}

#[derive(Debug)]
struct Address {
    wrong: u32,
    /// When it last gave a wrong password, or one of them was forgotten.
    since: Instant,
    /// The next try is judged no earlier than this.
    next: Instant,
}

/// Too many are waiting to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// When it may be tried again.
    pub wait: Duration,
}

impl Knocks {
    /// Nobody waits longer than `delay_max` because of the try before; zero is not at all.
    pub fn new(delay_max: Duration) -> Knocks {
        Knocks { delay_max, ..Knocks::default() }
    }

    /// This machine's own processes do not guess, or could do worse; and a relay on it would make one of all its clients.
    fn guarded(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        address.filter(|address| !address.is_loopback() && !self.delay_max.is_zero())
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Address>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These were taken: whoever brings them again does not wait for what others of the address get wrong.
    pub fn was_right(&self, credentials: &impl Hash) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= RIGHT_MAX {
            right.clear();
        }
        right.insert(self.hash.hash_one(credentials));
    }

    /// Whether these were taken before. They are still to be judged.
    pub fn were_right(&self, credentials: &impl Hash) -> bool {
        // Where nobody waits it does not matter.
        self.count.load(Ordering::Acquire) > 0
            && self.right.lock().unwrap_or_else(PoisonError::into_inner).contains(&self.hash.hash_one(credentials))
    }

    /// How long a try from `address` has to wait. It has its turn then, and whoever comes after it waits for the turn behind.
    pub fn wait(&self, address: Option<IpAddr>, now: Instant) -> Result<Duration, TooMany> {
        let Some(address) = self.guarded(address).filter(|_| self.count.load(Ordering::Acquire) > 0) else {
            return Ok(Duration::ZERO);
        };
        let mut addresses = self.addresses();
        let Some(known) = addresses.get_mut(&address) else { return Ok(Duration::ZERO) };
        known.forgets(now);
        if known.wrong == 0 {
            addresses.remove(&address);
            self.count.store(addresses.len(), Ordering::Release);
            return Ok(Duration::ZERO);
        }
        let delay = delay(known.wrong).min(self.delay_max);
        if delay.is_zero() {
            return Ok(Duration::ZERO);
        }
        let turn = known.next.max(now);
        let wait = turn - now;
        if wait > self.delay_max * LINE_MAX {
            return Err(TooMany { wait });
        }
        known.next = turn + delay;
        Ok(wait)
    }

    /// A try from `address` was wrong.
    pub fn was_wrong(&self, address: Option<IpAddr>, now: Instant) {
        let Some(address) = self.guarded(address) else { return };
        let mut addresses = self.addresses();
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            let quietest = addresses.iter().min_by_key(|(_, known)| known.since).map(|(address, _)| *address);
            quietest.map(|address| addresses.remove(&address));
        }
        let known = addresses.entry(address).or_insert(Address { wrong: 0, since: now, next: now });
        known.forgets(now);
        known.wrong = known.wrong.saturating_add(1).min(FREE + 10);
        known.since = now;
        known.next = known.next.max(now + delay(known.wrong).min(self.delay_max));
        self.count.store(addresses.len(), Ordering::Release);
    }
}

impl Address {
    fn forgets(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs() / FORGET_AFTER.as_secs();
        let forgotten = u32::try_from(passed).unwrap_or(u32::MAX).min(self.wrong);
        self.wrong -= forgotten;
        self.since += FORGET_AFTER * forgotten;
    }
}

fn delay(wrong: u32) -> Duration {
    match wrong.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(further) => FIRST_DELAY.saturating_mul(1 << further.min(16)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)));
    const MS: Duration = Duration::from_millis(1);

    fn try_in_vain(knocks: &Knocks, now: &mut Instant) -> Duration {
        let wait = knocks.wait(HERE, *now).expect("a turn");
        *now += wait;
        knocks.was_wrong(HERE, *now);
        wait
    }

    #[test]
    fn each_further_wrong_password_makes_the_next_one_wait_longer_up_to_a_bound() {
        let (knocks, mut now) = (Knocks::new(2000 * MS), Instant::now());
        let waits: Vec<u128> = (0..14).map(|_| try_in_vain(&knocks, &mut now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 50, 100, 200, 400, 800, 1600, 2000, 2000, 2000, 2000]);
        let elsewhere = Some("192.0.2.1".parse().expect("an address"));
        assert_eq!(knocks.wait(elsewhere, now), Ok(Duration::ZERO), "nobody else waits");
        assert_eq!(knocks.wait(None, now), Ok(Duration::ZERO), "nor whoever comes over a unix socket");
        let (unguarded, local) = (Knocks::new(Duration::ZERO), Some(std::net::Ipv4Addr::LOCALHOST.into()));
        for _ in 0..20 {
            assert_eq!(try_in_vain(&unguarded, &mut now), Duration::ZERO, "where it is turned off");
            knocks.was_wrong(local, now);
            assert_eq!(knocks.wait(local, now), Ok(Duration::ZERO), "nor whoever is on this machine");
        }
    }

    #[test]
    fn many_connections_gain_nothing() {
        let (knocks, mut now) = (Knocks::new(2000 * MS), Instant::now());
        for _ in 0..20 {
            try_in_vain(&knocks, &mut now);
        }
        let turns: Vec<_> = (0..20).map(|_| knocks.wait(HERE, now)).collect();
        assert_eq!(turns[..3], [Ok(2000 * MS), Ok(4000 * MS), Ok(6000 * MS)]);
        assert_eq!(turns[5], Err(TooMany { wait: 12_000 * MS }));
        assert_eq!(turns[19], Err(TooMany { wait: 12_000 * MS }), "the refused ones take no turn");
    }

    #[test]
    fn what_was_wrong_is_forgotten() {
        let (knocks, mut now) = (Knocks::new(2000 * MS), Instant::now());
        for _ in 0..40 {
            try_in_vain(&knocks, &mut now);
        }
        now += FORGET_AFTER * 10 + MS;
        assert_eq!(knocks.wait(HERE, now), Ok(Duration::ZERO));
        now += FORGET_AFTER * 4;
        assert_eq!(knocks.wait(HERE, now), Ok(Duration::ZERO));
        assert_eq!(knocks.count.load(Ordering::Relaxed), 0, "and nothing is left of it");
    }

    #[test]
    fn what_was_right_is_known_again() {
        let knocks = Knocks::new(2000 * MS);
        knocks.was_right(&("ann", "secret"));
        knocks.was_wrong(HERE, Instant::now());
        assert!(knocks.were_right(&("ann", "secret")) && !knocks.were_right(&("ann", "secrets")));
        (0..RIGHT_MAX).for_each(|number| knocks.was_right(&number));
        assert!(knocks.right.lock().expect("not poisoned").len() <= RIGHT_MAX);
    }

    #[test]
    fn so_many_addresses_are_kept_in_mind() {
        let (knocks, now) = (Knocks::new(2000 * MS), Instant::now());
        for number in 0..u32::try_from(ADDRESSES_MAX + 10).expect("small") {
            knocks.was_wrong(Some(IpAddr::V4(number.into())), now + MS * number);
        }
        assert_eq!(knocks.count.load(Ordering::Relaxed), ADDRESSES_MAX);
        assert!(!knocks.addresses().contains_key(&IpAddr::V4(0.into())), "the quietest is forgotten");
    }
}
