"""The tables of a run, and which figures were to be reached."""

from side_by_side.figures import median
from side_by_side.memory import MIB
from side_by_side.targets import Verdict

from .cost import DEPTHS

BEGIN = "<!-- locks: begin (written by bench/locks; what stands outside these two marks is kept) -->"
END = "<!-- locks: end -->"

# With so many requests under way.
JUDGED = str(DEPTHS[0])
# What redis-benchmark -c 1 -P 16 makes of a SET NX PX on the machine where the figures to reach were set.
PLAIN_US = 3.5
ACQUIRE_FACTOR_MAX, RELEASE_FACTOR_MAX = 3.0, 2.0
SAME_NODE_MS_MAX, ACROSS_NODES_MS_MAX = 2.0, 5.0
GROWTH_MIB_MAX, EXTRA_BYTES_MAX = 30.0, 64.0
# A neighbour's latency is the same when it differs by no more than this; a line a thousand times as long may cost a turn as much more
# as its depth grows: log2(10,000) / log2(10) is 4.
NEIGHBOUR_FACTOR_MAX, TURN_FACTOR_MAX = 1.25, 4.0


def of(samples: list[dict], figure: str) -> float:
    return median(sample[figure] for sample in samples)


def ratio(samples: list[dict], what: str, figure: str) -> float:
    """The median of the ratios within each round."""
    return median(sample[f"lock_{what}_{figure}"] / sample[f"plain_{what}_{figure}"] for sample in samples)


def judge(results: dict) -> list[Verdict]:
    verdicts = []

    def add(figure: str, reach: str, measured: str, met: bool) -> None:
        verdicts.append(Verdict(figure, reach, measured, met))

    if cost := results.get("cost", {}).get(JUDGED):
        for what, against, most in (("acquire", "pipelined SET NX PX", ACQUIRE_FACTOR_MAX), ("release", "compare-and-delete EVALSHA", RELEASE_FACTOR_MAX)):
            factor, trips = ratio(cost, what, "cpu_us"), of(cost, f"lock_{what}_round_trips")
            add(f"Redis' CPU for LOCK.{what.upper()}, {JUDGED} under way", f"≤ {most:.0f} × {against}", f"{factor:.2f}", factor <= most)
            if what == "acquire":
                taken_us = of(cost, "lock_acquire_cpu_us")
                add("the same in µs", f"≤ 3 × {PLAIN_US} µs", f"{taken_us:.1f} µs", taken_us <= 3 * PLAIN_US)
            add(f"upstream round trips of LOCK.{what.upper()}", "1", f"{trips:.3f}", trips < 1.005)
    if hand_over := results.get("hand_over"):
        for way, most in (("same node", SAME_NODE_MS_MAX), ("across nodes", ACROSS_NODES_MS_MAX)):
            p99 = hand_over[way]["p99_ms"]
            add(f"release to the next one's answer, {way}, p99", f"< {most:g} ms", f"{p99:.2f} ms", p99 < most)
        called = hand_over["same node"]["commands"].get("evalsha", 0)
        add("upstream round trips from release to answer, same node", "1", f"{called:.2f}", called < 1.1)
    if memory := results.get("memory"):
        count = f"{memory['count']:,} held locks"
        growth, extra = memory["proxy_growth"] / MIB, memory["lock_bytes"] - memory["plain_bytes"]
        add(f"memory of the proxy for {count}", f"≤ {GROWTH_MIB_MAX:.0f} MB", f"{growth:.1f} MiB", growth <= GROWTH_MIB_MAX)
        add("memory of Redis for each", f"≤ plain ({memory['plain_bytes']:.0f} B) + {EXTRA_BYTES_MAX:.0f} B", f"+ {extra:.1f} B", extra < EXTRA_BYTES_MAX + 1)
    if crowd := results.get("crowd"):
        factor = crowd["beside_us"]["p50"] / crowd["without_us"]["p50"]
        add(f"another key's latency beside {crowd['waiters']:,} waiters", f"≤ {NEIGHBOUR_FACTOR_MAX:g} × without", f"{factor:.2f}", factor <= NEIGHBOUR_FACTOR_MAX)
        short, long = (sum(crowd["turns"][name][f"{part}_us"] for part in ("proxy", "redis")) for name in ("short", "long"))
        add(f"CPU of a turn in a line of {crowd['waiters']:,}", f"≤ {TURN_FACTOR_MAX:.0f} × a line of 10", f"{long / short:.2f}", long <= TURN_FACTOR_MAX * short)
    return verdicts


def markdown(results: dict) -> str:
    about = results["about"]
    parts = [
        f"{about['date']}, {about['cpu']}, {about['memory']}, {about['system']}.\nLockgate at commit {about['commit']}; "
        + "; ".join(about["versions"]) + f". {about['rounds']} rounds, medians.",
        _table("Figures to reach", ("figure", "to reach", "measured", "reached"), [
            (verdict.figure, verdict.reach, verdict.measured, "yes" if verdict.met else "**no**") for verdict in judge(results)
        ]),
    ]
    if depths := results.get("cost"):
        names = ("SET NX PX", "plain_acquire"), ("LOCK.ACQUIRE", "lock_acquire"), ("compare-and-delete EVALSHA", "plain_release"), ("LOCK.RELEASE", "lock_release")
        rows = []
        for depth, cost in sorted(depths.items(), key=lambda item: int(item[0])):
            for label, name in names:
                times = f"{ratio(cost, name.partition('_')[2], 'cpu_us'):.2f}" if name.startswith("lock") else ""
                proxy = f"{of(cost, f'{name}_proxy_us'):.2f}" if times else ""
                rows.append((f"{label}, {depth} under way", f"{of(cost, f'{name}_cpu_us'):.2f}", times, f"{of(cost, f'{name}_command_us'):.2f}", proxy))
        parts.append(_table("CPU of one uncontended operation, µs", ("", "Redis' process", "times the plain one", "time within the command", "the proxy"), rows))
        samples = [sample for cost in depths.values() for sample in cost]
        loud = sum(max(value for name, value in sample.items() if name.endswith("_others_s")) > 0.3 for sample in samples)
        if loud:
            parts.append(f"In {loud} of {len(samples)} rounds other processes were at work as well.")
    if hand_over := results.get("hand_over"):
        labels = {"same node": "Lockgate, same node", "across nodes": "Lockgate, across two nodes", "direct": "LPUSH to BLPOP on Redis, no lock", "polling": "redis-py's Lock on Redis, polling"}
        parts.append(_table("From a release to the next one's answer, ms", ("", "p50", "p99", "longest", "upstream commands"), [
            (labels[way], f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['longest_ms']:.2f}",
             ", ".join(f"{calls:.0f} {name}" for name, calls in sorted(row.get("commands", {}).items())))
            for way, row in hand_over.items()
        ]))
    if memory := results.get("memory"):
        parts.append(_table(f"{memory['count']:,} held locks", ("", "plain SET NX PX", "LOCK.ACQUIRE", "EPHEMERAL"), [
            ("Redis, bytes each", f"{memory['plain_bytes']:.0f}", f"{memory['lock_bytes']:.0f}", ""),
            ("the proxy's growth, MiB", "", f"{memory['proxy_growth'] / MIB:.1f}", f"{memory['ephemeral_growth'] / MIB:.1f}"),
        ]))
    if crowd := results.get("crowd"):
        parts.append(_table(f"Beside and among {crowd['waiters']:,} waiters for one key, µs", ("", "p50", "p99", "CPU of the proxy", "CPU of Redis"), [
            ("take and release another key where nobody waits", f"{crowd['without_us']['p50']:.0f}", f"{crowd['without_us']['p99']:.0f}", "", ""),
            ("take and release another key beside them", f"{crowd['beside_us']['p50']:.0f}", f"{crowd['beside_us']['p99']:.0f}", "", ""),
            *((f"a turn (release, hand-over, stand in line again) among {name}", f"{row['p50_us']:.0f}", f"{row['p99_us']:.0f}",
               f"{row['proxy_us']:.0f}", f"{row['redis_us']:.0f}")
              for name, row in (("10", crowd["turns"]["short"]), (f"{crowd['waiters']:,}", crowd["turns"]["long"]))),
        ]))
        parts.append(f"All {crowd['waiters']:,} stood in line {crowd['joined_s']:.1f} s after the first asked; the proxy had grown by {crowd['growth'] / MIB:.0f} MiB.")
    return "\n\n".join(parts)


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
