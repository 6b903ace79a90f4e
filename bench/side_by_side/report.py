"""The report: what a run found, as Markdown."""

from pathlib import Path

from . import targets as judged
from .figures import Cells, OTHERS_CORES_MAX, disturbed
from .memory import MIB
from .noise import NEVER_READS
from .pause import DISTURBANCES
from .servers import KINDS

BEGIN = "<!-- figures: begin (written by bench/run; what stands outside these two marks is kept) -->"
END = "<!-- figures: end -->"

LABELS = {kind.name: kind.label for kind in KINDS}


def write_between_marks(page: Path, text: str, begins: str = BEGIN, ends: str = END) -> None:
    """Replaces what stands between the marks and leaves the rest of the page as it is."""
    old = page.read_text()
    before, begin, rest = old.partition(begins)
    _, end, after = rest.partition(ends)
    if not begin or not end:
        raise ValueError(f"{page} has lost the marks between which figures are written; put these two lines back:\n{begins}\n{ends}")
    page.write_text(before + begins + "\n\n" + text.strip() + "\n\n" + ends + after)


def markdown(results: dict) -> str:
    """All tables of a run; a part that was not measured is left out."""
    parts = [_header(results), _verdicts(results)]
    cells = Cells(results.get("throughput", []))
    names = [name for name in LABELS if name in results["targets"]]
    proxies = [name for name in names if name != "direct"]
    if results.get("throughput"):
        parts += [
            _grid("CPU of the proxy itself, µs per request", cells, proxies, "proxy_cpu_us", _short, "proxy_cpu_us"),
            _grid("Requests per second", cells, names, "requests_per_s", lambda value: f"{value:,.0f}", "requests_per_s"),
            _grid("CPU of Redis behind it, µs per request", cells, names, "redis_cpu_us", _short, None),
            _latency_grid(cells, names),
        ]
    parts += [_one_connection(results, names), _memory(results, proxies), _pauses(results, names), _calls(results, names)]
    return "\n\n".join(part for part in parts if part)


def _header(results: dict) -> str:
    about, samples = results["about"], results.get("throughput", [])
    lines = [
        f"{about['date']}, {about['cpu']}, {about['memory']}, {about['system']}.",
        "; ".join([f"Lockgate at commit {about['commit']}"] * ("lockgate" in results["targets"]) + about["versions"]) + ".",
    ]
    if samples:
        lines.append(
            f"{about['rounds']} rounds of {about['seconds']:g} s for each load and each target, medians of the rounds. "
            f"Between the rounds of one load the requests/s differ by {Cells(samples).spread('requests_per_s'):.0%} and the proxy's "
            f"CPU per request by {Cells([s for s in samples if s['target'] != 'direct']).spread('proxy_cpu_us'):.0%} "
            "(highest − lowest, median over all loads)."
        )
        loud = sum(map(disturbed, samples))
        if loud:
            lines.append(
                f"**{loud} of {len(samples)} measurements were taken while other processes used more than {OTHERS_CORES_MAX:g} of a "
                "core**; they count only where a load had too few others."
            )
    return "\n".join(lines)


def _verdicts(results: dict) -> str:
    verdicts = judged.judge(results)
    if not verdicts:
        return ""
    return "### Figures to reach\n\n" + _table(
        ["figure", "to reach", "measured", "reached"],
        [[verdict.figure, verdict.reach, verdict.measured, "yes" if verdict.met else "**no**"] for verdict in verdicts],
    )


def _grid(title: str, cells: Cells, names: list[str], figure: str, show, ratio_of: str | None) -> str:
    with_ratio = ratio_of and "lockgate" in names and "twemproxy" in names
    heads = ["load", *(LABELS[name] for name in names)] + (["Lockgate ÷ twemproxy"] if with_ratio else [])
    rows = []
    for cell in cells:
        row = [_load(cell)] + [_shown(cells.value(cell, name, figure), show) for name in names]
        if with_ratio:
            row.append(_shown(cells.ratio(cell, "lockgate", "twemproxy", ratio_of), lambda value: f"{value:.2f}"))
        rows.append(row)
    return f"### {title}\n\n" + _table(heads, rows)


def _latency_grid(cells: Cells, names: list[str]) -> str:
    rows = []
    for cell in cells:
        row = [_load(cell)]
        for name in names:
            p50, p99 = cells.value(cell, name, "p50_ms"), cells.value(cell, name, "p99_ms")
            row.append("–" if p50 is None else f"{_short(p50)} / {_short(p99)}")
        rows.append(row)
    return "### Latency under that load, p50 / p99 in ms\n\n" + _table(["load", *(LABELS[name] for name in names)], rows)


def _one_connection(results: dict, names: list[str]) -> str:
    rows = [
        [LABELS[name], f"{row['median_us']:.1f}", f"{row['added_us']:+.1f}" if name != "direct" else "", f"{row['p99_us']:.0f}"]
        for name, row in sorted(results.get("latency", {}).items(), key=lambda item: names.index(item[0]))
    ]
    return rows and "### Latency of one calm connection, µs\n\n" + _table(["", "median", "added to direct", "p99"], rows)


def _memory(results: dict, names: list[str]) -> str:
    found = results.get("memory", {})
    rows = [
        [LABELS[name], *(f"{found[name][figure] / MIB:.1f}" for figure in
                         ("fresh", "after_pipelines", "after_big_values", "settled", "peak", "idle_total")),
         f"{found[name]['per_idle_connection'] / 1024:.2f} ({found[name]['idle_connections']:,})"]
        for name in names if name in found
    ]
    if not rows:
        return ""
    settle_s = next(iter(found.values()))["settled_after_s"]
    return "### Memory in RAM, MiB\n\n" + _table(
        ["", "started", "right after `-c 500 -P 64`", "and 20 clients × 10 MB", f"{settle_s:.0f} s later", "peak",
         "fresh, with idle connections", "KiB per idle connection (how many)"], rows)


def _pauses(results: dict, names: list[str]) -> str:
    found = {(row["target"], row["disturbance"]): row for row in results.get("pauses", [])}
    if not found:
        return ""
    rows = []
    for disturbance in DISTURBANCES:
        row = [disturbance]
        for name in names:
            one = found.get((name, disturbance))
            row.append("–" if one is None else one["stuck"] or " / ".join(_short(one[figure]) for figure in ("p50_ms", "p99_ms", "max_ms")))
        rows.append(row)
    unread = [found.get((name, NEVER_READS)) for name in names]
    rows.append([f"(most memory beside {NEVER_READS})", *("–" if one is None else f"{one['peak_bytes'] / MIB:.0f} MiB" for one in unread)])
    return ("### What calm clients wait while another misbehaves, p50 / p99 / longest in ms\n\n"
            + _table(["beside", *(LABELS[name] for name in names)], rows))


def _calls(results: dict, names: list[str]) -> str:
    found: dict[tuple, dict[str, dict]] = {}
    for row in results.get("calls", []):
        found.setdefault((row["command"], row["connections"], row["depth"]), {})[row["target"]] = row
    if not found:
        return ""
    rows = [
        [_load(cell), *(f"{of[name].get('proxy_calls', 0):.2f} + {of[name]['redis_calls']:.2f}" if name in of else "–" for name in names)]
        for cell, of in found.items()
    ]
    return "### System calls per request, proxy + Redis\n\n" + _table(["load", *(LABELS[name] for name in names)], rows)


def _load(cell: tuple) -> str:
    command, connections, depth = cell
    return f"{command.upper()} {connections} × `-P {depth}`"


def _short(value: float) -> str:
    """Three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _shown(value: float | None, show) -> str:
    return "–" if value is None else show(value)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
