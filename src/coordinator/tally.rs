//! What this node has counted and measured since it began. Each worker writes a page of its own, so that counting waits for nobody;
//! whoever reads merges the pages.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;

/// Pages; more workers than that share some.
const PAGES: usize = 64;
/// Rules and users counted by name; the others are counted together, so that nobody fills the memory with names.
const NAMES_MAX: usize = 1000;
/// The name under which the others are counted.
const OTHERS: &[u8] = b"(others)";
/// Longest time that is told apart, in µs: two hours, the longest lease by default.
const LONGEST_US: u64 = 2 * 60 * 60 * 1_000_000;
/// Times are told apart to two digits, which costs 24 KB a histogram.
const DIGITS: u8 = 2;

/// How a call for a lock ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With the lock.
    Granted,
    /// At once, without it: another holds it, or the line is full.
    Refused,
    /// Its wait was over.
    TimedOut,
    /// Cancelled, released, unblocked, taken over by the owner's newer call, or its client left.
    Cancelled,
    /// With an error.
    Failed,
}

/// A time that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// From a call's arrival to its end, of calls that may wait.
    Wait,
    /// From a grant to its release.
    Hold,
    /// From a release (or a look that finds the key free) to the next waiter's grant.
    HandOver,
    /// From a call's arrival to its grant, waited or not.
    Acquisition,
}

impl Span {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// A time that is measured, in buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// All of it together, in seconds.
    pub sum_seconds: f64,
    /// How often it was measured.
    pub count: u64,
    /// Upper bounds in seconds, and how many lie between each and the one before; the last is without bound.
    pub buckets: Vec<(f64, u64)>,
}

/// Upper bounds of buckets, in µs: from a grant without a wait to the longest wait.
const BOUNDS_US: [u64; 14] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    30_000_000,
    120_000_000,
    600_000_000,
];

/// How often something was asked for, and how often granted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Calls.
    pub requests: u64,
    /// Those of them that got the lock.
    pub granted: u64,
}

impl Share {
    fn add(&mut self, other: Share) {
        self.requests += other.requests;
        self.granted += other.granted;
    }
}

/// Counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Calls for a lock.
    pub requests: u64,
    /// How they ended, by [`End`].
    pub ends: [u64; 5],
    /// Leases that were found to be over.
    pub expired: u64,
    /// Holds that began on this node, or that it has only heard of at their end.
    pub holds: u64,
    /// Those of them that somebody let go of, or gave away.
    pub released: u64,
}

/// One worker's page.
#[derive(Debug, Default)]
struct Page {
    counts: Counts,
    /// Made when first needed.
    spans: [Option<Box<Histogram<u64>>>; Span::COUNT],
    rules: Shares,
    roles: Shares,
}

type Shares = HashMap<Box<[u8]>, Share>;

/// All pages.
#[derive(Debug)]
pub struct Tally(Vec<Mutex<Page>>);

/// Everything that was counted, at one moment.
#[derive(Debug)]
pub struct Sum {
    /// Counts.
    pub counts: Counts,
    /// By [`Span`].
    pub spans: [Spread; Span::COUNT],
    /// By the rule's glob, in the order of those.
    pub rules: Vec<(Box<[u8]>, Share)>,
    /// By user, in the order of their names.
    pub roles: Vec<(Box<[u8]>, Share)>,
}

/// How a measured time is spread, in µs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// How often it was measured.
    pub count: u64,
    /// On the average.
    pub average_us: f64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 95 of 100 took no longer.
    pub p95_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Tally((0..PAGES).map(|_| Mutex::default()).collect())
    }
}

impl Tally {
    /// A call for a lock has come; `rule` is the one that its key matches.
    pub fn asked(&self, rule: Option<&str>) {
        let mut page = self.page();
        page.counts.requests += 1;
        if let Some(rule) = rule {
            count(&mut page.rules, rule.as_bytes(), Share { requests: 1, granted: 0 });
        }
    }

    /// It has ended.
    pub fn ended(&self, rule: Option<&str>, end: End) {
        let mut page = self.page();
        page.counts.ends[end as usize] += 1;
        if let Some(rule) = rule.filter(|_| end == End::Granted) {
            count(&mut page.rules, rule.as_bytes(), Share { requests: 0, granted: 1 });
        }
    }

    /// Whose call it was.
    pub fn by_role(&self, role: &[u8], is_granted: bool) {
        count(&mut self.page().roles, role, Share { requests: 1, granted: u64::from(is_granted) });
    }

    /// A lease was found to be over.
    pub fn expired(&self) {
        self.page().counts.expired += 1;
    }

    /// A hold has begun, or is told of for the first time.
    pub fn held(&self) {
        self.page().counts.holds += 1;
    }

    /// One that was counted was let go of.
    pub fn released(&self) {
        self.page().counts.released += 1;
    }

    /// Something took so long.
    pub fn took(&self, span: Span, us: u64) {
        let mut page = self.page();
        page.spans[span as usize].get_or_insert_with(new_histogram).saturating_record(us.clamp(1, LONGEST_US));
    }

    /// All of it together.
    pub fn sum(&self) -> Sum {
        let mut counts = Counts::default();
        let mut spans = [(); Span::COUNT].map(|()| new_histogram());
        let (mut rules, mut roles) = (Shares::new(), Shares::new());
        for page in &self.0 {
            let page = open(page);
            counts.requests += page.counts.requests;
            counts.expired += page.counts.expired;
            counts.holds += page.counts.holds;
            counts.released += page.counts.released;
            for (sum, count) in counts.ends.iter_mut().zip(page.counts.ends) {
                *sum += count;
            }
            for (sum, span) in spans.iter_mut().zip(&page.spans) {
                if let Some(span) = span {
                    // Of the same bounds, so that all of it fits.
                    let _ = sum.add(&**span);
                }
            }
            for (sum, shares) in [(&mut rules, &page.rules), (&mut roles, &page.roles)] {
                for (name, share) in shares {
                    sum.entry(name.clone()).or_default().add(*share);
                }
            }
        }
        let sorted = |shares: Shares| {
            let mut shares: Vec<_> = shares.into_iter().collect();
            shares.sort_by(|(a, _), (b, _)| a.cmp(b));
            shares
        };
        Sum { counts, spans: spans.map(|span| spread(&span)), rules: sorted(rules), roles: sorted(roles) }
    }

    /// A measured time in buckets.
    pub fn buckets(&self, span: Span) -> Buckets {
        let mut sum = new_histogram();
        for page in &self.0 {
            if let Some(histogram) = &open(page).spans[span as usize] {
                // Of the same bounds, so that all of it fits.
                let _ = sum.add(&**histogram);
            }
        }
        let (mut buckets, mut below) = (Vec::with_capacity(BOUNDS_US.len() + 1), 0);
        for bound_us in BOUNDS_US {
            let up_to = sum.count_between(0, bound_us);
            buckets.push((bound_us as f64 / 1e6, up_to.saturating_sub(below)));
            below = up_to;
        }
        buckets.push((f64::MAX, sum.len().saturating_sub(below)));
        let sum_seconds = if sum.is_empty() { 0.0 } else { sum.mean() * sum.len() as f64 / 1e6 };
        Buckets { sum_seconds, count: sum.len(), buckets }
    }

    /// The page of this thread.
    fn page(&self) -> MutexGuard<'_, Page> {
        open(&self.0[page_number() % PAGES])
    }
}

fn count(shares: &mut Shares, name: &[u8], more: Share) {
    let name = if shares.len() < NAMES_MAX || shares.contains_key(name) { name } else { OTHERS };
    match shares.get_mut(name) {
        Some(share) => share.add(more),
        None => drop(shares.insert(name.into(), more)),
    }
}

/// What a panic left half-counted is as good as any other count.
fn open(page: &Mutex<Page>) -> MutexGuard<'_, Page> {
    page.lock().unwrap_or_else(PoisonError::into_inner)
}

fn page_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<Option<usize>> = const { Cell::new(None) });
    MINE.with(|mine| {
        mine.get().unwrap_or_else(|| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            mine.set(Some(number));
            number
        })
    })
}

fn new_histogram() -> Box<Histogram<u64>> {
    // Bounds and digits are constants that fit one another.
    Box::new(Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("bounds that fit"))
}

fn spread(span: &Histogram<u64>) -> Spread {
    if span.is_empty() {
        return Spread::default();
    }
    Spread {
        count: span.len(),
        average_us: span.mean(),
        p50_us: span.value_at_quantile(0.5),
        p95_us: span.value_at_quantile(0.95),
        p99_us: span.value_at_quantile(0.99),
        max_us: span.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_threads_counted_is_told_as_one() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for us in 1..=100 {
                        tally.asked(Some("lock:*"));
                        tally.ended(Some("lock:*"), End::Granted);
                        tally.took(Span::Wait, us * 1000);
                        tally.by_role(b"app", us % 2 == 0);
                    }
                    tally.asked(None);
                    tally.ended(None, End::Refused);
                    tally.expired();
                });
            }
        });
        let sum = tally.sum();
        assert_eq!((sum.counts.requests, sum.counts.expired), (404, 4));
        assert_eq!(sum.counts.ends, [400, 4, 0, 0, 0]);
        assert_eq!(sum.rules, [(b"lock:*"[..].into(), Share { requests: 400, granted: 400 })]);
        assert_eq!(sum.roles, [(b"app"[..].into(), Share { requests: 400, granted: 200 })]);
        let wait = sum.spans[Span::Wait as usize];
        assert_eq!(wait.count, 400);
        for (told, right) in
            [(wait.p50_us, 50_000), (wait.p95_us, 95_000), (wait.p99_us, 99_000), (wait.max_us, 100_000)]
        {
            assert!(told.abs_diff(right) <= right / 50, "{told} for {right}");
        }
        assert_eq!(sum.spans[Span::Hold as usize], Spread::default());
        let buckets = tally.buckets(Span::Wait);
        assert_eq!((buckets.count, buckets.buckets.iter().map(|(_, count)| count).sum::<u64>()), (400, 400));
        assert!((buckets.sum_seconds - 20.2).abs() < 0.5, "{}", buckets.sum_seconds);
        let up_to_10_ms: u64 = buckets.buckets.iter().filter(|(bound, _)| *bound <= 0.01).map(|(_, count)| count).sum();
        assert!(up_to_10_ms.abs_diff(40) <= 4, "{up_to_10_ms}");
    }

    #[test]
    fn nobody_fills_the_memory_with_names() {
        let tally = Tally::default();
        for number in 0..NAMES_MAX * 3 {
            tally.by_role(format!("user-{number}").as_bytes(), true);
        }
        let sum = tally.sum();
        assert_eq!(sum.roles.len(), NAMES_MAX + 1);
        assert_eq!(sum.roles.iter().map(|(_, share)| share.requests).sum::<u64>(), NAMES_MAX as u64 * 3);
    }
}
