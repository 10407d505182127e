"""How far two judges agree: percent, and Cohen's kappa."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from vrshq.pipelines.label.tables.reviews import Judgement, Key


@dataclass(frozen=True)
class Agreement:
    """Two judges over the instructions that both have judged; of each judge the latest verdict counts.

    Attributes:
        both: number of those instructions.
        percent: share of them with the same verdict, 0 to 100.
        kappa: Cohen's kappa over the three verdicts, -1 to 1; None where chance alone would agree always.
    """

    first: str
    second: str
    both: int
    percent: float
    kappa: float | None


def agreements(latest: Mapping[Key, Mapping[str, Judgement]]) -> list[Agreement]:
    """Every pair of judges with an instruction in common, those with the most first."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for judges in latest.values():
        for first, second in combinations(sorted(judges), 2):
            pairs.setdefault((first, second), []).append((judges[first].verdict, judges[second].verdict))
    found = [_agreement(first, second, verdicts) for (first, second), verdicts in pairs.items()]
    return sorted(found, key=lambda one: (-one.both, one.first, one.second))


def _agreement(first: str, second: str, verdicts: list[tuple[str, str]]) -> Agreement:
    count = len(verdicts)
    same = sum(one == other for one, other in verdicts) / count
    ones, others = Counter(one for one, _ in verdicts), Counter(other for _, other in verdicts)
    chance = sum(ones[verdict] * others[verdict] for verdict in ones) / count**2
    kappa = None if chance == 1 else (same - chance) / (1 - chance)
    return Agreement(first, second, count, 100 * same, kappa)
