"""Sums over samples: medians of the rounds, ratios within a round."""

import statistics
from collections.abc import Iterable

# A round in which others used more of the machine than this says little; see `by_cell`.
OTHERS_CORES_MAX = 0.2
ROUNDS_NEEDED = 3


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value which that many percent of all values do not exceed."""
    ranked = sorted(values)
    place = min(len(ranked) - 1, max(0, -(-len(ranked) * percent // 100) - 1))
    return ranked[int(place)]


def disturbed(sample: dict) -> bool:
    """Whether other processes, or a hypervisor, took a share of the machine that shows in the figures."""
    return sample["others_cores"] + sample["stolen_cores"] > OTHERS_CORES_MAX


class Cells:
    """The samples of one run, by cell and target.

    Where enough undisturbed rounds of a cell are left for a median, the disturbed ones do not count.
    """

    def __init__(self, samples: list[dict]):
        self._rounds: dict[tuple, dict[str, dict[int, dict]]] = {}
        for sample in samples:
            cell = (sample["command"], sample["connections"], sample["depth"])
            self._rounds.setdefault(cell, {}).setdefault(sample["target"], {})[sample["round"]] = sample

    def __iter__(self):
        return iter(self._rounds)

    def value(self, cell: tuple, target: str, figure: str) -> float | None:
        """The median of the rounds; None where that target was not measured."""
        rounds = self._quiet(cell, [target])
        return median(self._rounds[cell][target][number][figure] for number in rounds) if rounds else None

    def ratio(self, cell: tuple, target: str, against: str, figure: str) -> float | None:
        """The median of the ratios within each round, which what drifts from round to round does not touch."""
        rounds = self._quiet(cell, [target, against])
        if not rounds:
            return None
        of = self._rounds[cell]
        return median(of[target][number][figure] / of[against][number][figure] for number in rounds)

    def _quiet(self, cell: tuple, targets: list[str]) -> list[int]:
        of = self._rounds.get(cell, {})
        if any(target not in of for target in targets):
            return []
        common = [number for number in of[targets[0]] if all(number in of[target] for target in targets)]
        quiet = [number for number in common if not any(disturbed(of[target][number]) for target in targets)]
        return quiet if len(quiet) >= ROUNDS_NEEDED else common

    def spread(self, figure: str) -> float:
        """How far the rounds of a cell lie apart: (highest − lowest) / median, and of that the median over all cells."""
        spreads = []
        for cell, targets in self._rounds.items():
            for target in targets:
                values = [targets[target][number][figure] for number in self._quiet(cell, [target])]
                if len(values) > 1 and median(values) > 0:
                    spreads.append((max(values) - min(values)) / median(values))
        return median(spreads) if spreads else 0.0
