//! What goes wrong: the network, the nodes, their clocks, the server and its data.

use std::rc::Rc;
use std::time::Duration;

use super::World;

/// Which faults a day has.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Connections break, messages stand still.
    network: bool,
    /// Nodes are killed and begin anew.
    crashes: bool,
    /// Nodes and the server stand still; clocks step.
    pauses: bool,
    /// The upstream loses data: a stale replica takes over, everything is flushed, it begins anew.
    pub disasters: bool,
}

impl Faults {
    /// A third of all days has none.
    pub fn draw(dice: &mut fastrand::Rng) -> Faults {
        let has_any = dice.u8(..3) > 0;
        let mut draw = |of: u8| has_any && dice.u8(..of) == 0;
        Faults { network: draw(2), crashes: draw(3), pauses: draw(3), disasters: draw(4) }
    }

    /// The clock of a node may be off by anything.
    pub fn steps_clocks(&self) -> bool {
        self.pauses
    }

    fn are_there(&self) -> bool {
        self.network || self.crashes || self.pauses || self.disasters
    }
}

/// The last part of each day is calm.
const CALM_MS: u64 = 5000;
/// Two disasters are so far apart at least, in ms.
const DISASTERS_APART_MS: u64 = 6000;

async fn ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Lets faults happen, one after the other, until the calm end of the day.
pub async fn happen(world: Rc<World>, seed: u64) {
    let (faults, mut dice) = (world.plan.faults, fastrand::Rng::with_seed(seed));
    if !faults.are_there() {
        return;
    }
    let ends_us = world.net.unix_us() + world.plan.day_ms.saturating_sub(CALM_MS) * 1000;
    let mut disaster_us = world.net.unix_us();
    loop {
        ms(dice.u64(50..2500)).await;
        let now_us = world.net.unix_us();
        if now_us >= ends_us {
            return;
        }
        let place = dice.usize(..world.plan.nodes);
        match dice.u8(..10) {
            0..2 if faults.network => {
                let who = dice.bool().then_some(place);
                world.judge(|judge| judge.trouble(true, &format!("connections of {who:?} break")));
                let percent = dice.u8(20..=100);
                world.net.cuts(who, percent);
            }
            2 if faults.network => replies_are_lost(&world, &mut dice).await,
            3 if faults.network => {
                let (long_ms, cuts) = (dice.u64(10..6000), dice.bool());
                world
                    .judge(|judge| judge.trouble(true, &format!("nothing moves from and to {place} for {long_ms} ms")));
                world.net.holds(place, true);
                ms(long_ms).await;
                if cuts {
                    world.net.cuts(Some(place), 100);
                }
                world.net.holds(place, false);
            }
            4..6 if faults.crashes => crashes(&world, place, &mut dice).await,
            6 if faults.pauses => {
                let long_ms = dice.u64(10..5000);
                world.judge(|judge| judge.trouble(true, &format!("node {place} stands still for {long_ms} ms")));
                if let Some(process) = &world.processes.borrow()[place] {
                    process.stands_still(long_ms);
                }
                ms(long_ms).await;
            }
            7 if faults.pauses => {
                let long_ms = dice.u64(10..2500);
                world.judge(|judge| judge.trouble(true, &format!("the server stands still for {long_ms} ms")));
                world.net.stops(true);
                ms(long_ms).await;
                world.net.stops(false);
            }
            8 if faults.pauses => {
                let step_us = dice.i64(-5_000_000..5_000_000);
                world.judge(|judge| judge.trouble(true, &format!("the clock of {place} steps by {step_us} µs")));
                if let Some(process) = &world.processes.borrow()[place] {
                    process.steps(step_us);
                }
                world.net.serve(|server| server.forgets_scripts());
            }
            9 if faults.disasters && now_us > disaster_us + DISASTERS_APART_MS * 1000 => {
                disaster(&world, &mut dice).await;
                disaster_us = world.net.unix_us();
            }
            _ => continue,
        }
        world.judge(|judge| judge.trouble(false, "that is over"));
    }
}

/// What the nodes are to be told of the next changes never reaches them: of one key, or of several that one step has taken.
async fn replies_are_lost(world: &Rc<World>, dice: &mut fastrand::Rng) {
    world.judge(|judge| judge.trouble(true, "replies are lost on their way"));
    for _ in 0..dice.u8(1..4) {
        let change = if dice.bool() { world.taken_together.notified() } else { world.changes.notified() };
        if tokio::time::timeout(Duration::from_millis(1500), change).await.is_ok() {
            world.net.cuts(None, 100);
        }
    }
}

async fn crashes(world: &Rc<World>, place: usize, dice: &mut fastrand::Rng) {
    let is_asked = dice.u8(..3) == 0;
    let how = if is_asked { "leaves" } else { "is killed" };
    world.judge(|judge| judge.trouble(true, &format!("node {place} {how}")));
    let gone = world.processes.borrow_mut()[place].take();
    if let Some(process) = gone {
        if is_asked {
            process.leaves().await;
        }
        world.net.cuts(Some(place), 100);
        process.kill();
    }
    ms(dice.u64(..4000)).await;
    let name = if dice.bool() { format!("n{place}") } else { format!("n{place}-{}", world.lives.get()) };
    world.judge(|judge| judge.say(|| format!("---- {name} begins at {place}")));
    world.begins(place, name, dice.i64(-2_000_000..2_000_000));
}

async fn disaster(world: &Rc<World>, dice: &mut fastrand::Rng) {
    world.judge(|judge| judge.had_disaster = true);
    match dice.u8(..4) {
        0 => {
            world.judge(|judge| judge.trouble(true, "FLUSHALL"));
            world.net.serve(|server| server.flush());
        }
        kind => {
            let (lag_ms, away_ms) = (dice.u64(..400), dice.u64(..1500));
            let what = ["", "a stale replica takes over", "the server begins anew", "the server begins anew, empty"];
            world.judge(|judge| judge.trouble(true, &format!("{}, {lag_ms} ms behind", what[usize::from(kind)])));
            let had = world.net.serve(|server| server.snapshot());
            if kind == 1 {
                ms(lag_ms).await;
            }
            world.net.closes(true);
            world.net.cuts(None, 100);
            let now_had = world.net.serve(|server| server.snapshot());
            world.net.serve(|server| {
                server.is_replaced(match kind {
                    1 => had,
                    2 => now_had,
                    _ => Default::default(),
                });
            });
            ms(away_ms).await;
            world.net.closes(false);
            // What has just been lost by the one is lost by the other as well: the counter of fences twice in a row.
            if dice.u8(..3) == 0 {
                ms(dice.u64(..1500)).await;
                world.judge(|judge| judge.trouble(true, "FLUSHALL, too"));
                world.net.serve(|server| server.flush());
            }
        }
    }
}
