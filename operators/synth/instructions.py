"""Choice of a video's instructions: some of each kind, each with one undisputed answer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from vrshq.operators.synth.grammar import can_say, say
from vrshq.operators.synth.judging import MAYBE, NO, YES
from vrshq.operators.synth.motion import DIRECTIONS
from vrshq.operators.synth.records import KINDS, Expression
from vrshq.operators.synth.rules import Ask, View
from vrshq.operators.synth.wordings_motion import PLURAL
from vrshq.operators.synth.wordings_varied import STRANGE

PLURAL_SHARE = 0.12  # probability of trying an instruction that means several objects
# Weights of rules in absent instructions, where they differ from those in `RULES`. Rules that apply to every video would
# otherwise crowd out the others. A rule without absent instructions would reveal that the wanted object exists.
ABSENT_WEIGHTS = {
    "heading": 7.0,
    "still": 3.5,
    "enters": 2.5,
    "leaves": 2.5,
    "hidden": 2.5,
    "rolls": 3.0,
    "no_corners": 3.0,
}

# Rules whose wordings name the object that is asked for, for instructions about things that no video shows
STRANGE_SUBTYPES = ("heading", "still", "moving", "leaves", "enters", "fastest", "largest", "place")

Chosen = tuple[str, str, str, Ask]  # kind of the instruction, kind of its rule in `RULES`, subtype, ask


def write_expressions(
    random: np.random.Generator, view: View, most: int, absent: tuple[float, float, float]
) -> tuple[Expression, ...]:
    """Draws up to `most` instructions of each kind; fewer where the video allows fewer.

    Args:
        random: source of all random numbers.
        view: the video's facts and the names that may be used.
        most: the most instructions of each kind.
        absent: probabilities that an absent instruction is worded like a referring, attribute and motion instruction.

    Returns:
        The instructions, in the order of `KINDS`.
    """
    asks = _Asks(view)
    chosen: list[Chosen] = []
    for kind in KINDS[:3]:
        taken: set[int] = set()
        for _ in range(most):
            answers = "several" if kind != "absent" and random.random() < PLURAL_SHARE else "one"
            one = _choose(random, asks, kind, answers, taken) or _choose(random, asks, kind, "one", taken)
            if one is not None:
                chosen.append((kind, kind, *one))
    taken = set()
    for _ in range(most):
        asked = str(random.choice(KINDS[:3], p=absent))
        if view.strange and random.random() < view.strange:
            chosen.append(_strange(random, view))
            continue
        one = _choose(random, asks, asked, "none", taken)
        if one is not None:
            chosen.append(("absent", asked, *one))
    return _written(random, view, chosen)


def answer(verdicts: np.ndarray) -> str | None:
    """How many objects the verdicts mean: `one`, `several` or `none`; None if any verdict is MAYBE."""
    values = verdicts.tolist()
    if MAYBE in values:
        return None
    return ("none", "one", "several")[min(2, values.count(YES))]


class _Asks:
    """All questions that a video allows, computed at their first use: kind -> subtype -> answer -> asks."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._made: dict[tuple[str, str], dict[str, list[Ask]]] = {}

    def of(self, kind: str, subtype: str) -> dict[str, list[Ask]]:
        """The usable asks of a rule, by the number of objects that they mean: `one`, `several` or `none`."""
        if (kind, subtype) not in self._made:
            groups: dict[str, list[Ask]] = defaultdict(list)
            for ask in self.view.rules(kind)[subtype][0](self.view):
                found = answer(ask.verdicts)
                if found is None or (found == "several" and subtype not in PLURAL):
                    continue
                if not self._is_sayable(subtype, ask, found == "several"):
                    continue
                if found == "one" and kind != "referring" and self._identifies_by_name(ask):
                    if not self.view.joined:
                        continue
                    ask = replace(ask, weight=ask.weight * self.view.joined)
                groups[found].append(ask)
            self._made[kind, subtype] = groups
        return self._made[kind, subtype]

    def _identifies_by_name(self, ask: Ask) -> bool:
        """Whether colour and shape alone identify the object, so that its motion or attribute would be redundant."""
        names = {key: ask.names[key] for key in ("colour", "shape") if key in ask.names}
        return bool(names) and self.view.match(**names).sum() == 1

    def _is_sayable(self, subtype: str, ask: Ask, plural: bool) -> bool:
        """Whether the split may name the pairs of colour and shape, and has a wording for the names."""
        pairs = [ask.names, ask.names.get("reference", {})]
        allowed = all(self.view.is_allowed(p["colour"], p["shape"]) for p in pairs if "colour" in p and "shape" in p)
        return allowed and can_say(subtype, ask.names, plural, self.view.unseen)


def _choose(
    random: np.random.Generator, asks: _Asks, kind: str, answers: str, taken: set[int]
) -> tuple[str, Ask] | None:
    """Draws a subtype by its weight, among the subtypes with a suitable ask, and then one of its asks.

    Asks whose id is in `taken` are left out; the id of the chosen ask is added to it. None if no ask is left.
    """
    rules = asks.view.rules(kind)
    subtypes = list(rules)
    # a weighted random order (Efraimidis and Spirakis, 2006): only the rules that are tried have to be evaluated
    weights = [rules[name][1] for name in subtypes]
    if answers == "none":
        weights = [ABSENT_WEIGHTS.get(name, weight) for name, weight in zip(subtypes, weights, strict=True)]
    order = np.argsort(random.exponential(size=len(subtypes)) / weights)
    for place in order:
        subtype = subtypes[place]
        found = [ask for ask in asks.of(kind, subtype)[answers] if id(ask) not in taken]
        if found:
            chances = np.array([ask.weight for ask in found])
            ask = found[random.choice(len(found), p=chances / chances.sum())]
            taken.add(id(ask))
            return subtype, ask
    return None


def _strange(random: np.random.Generator, view: View) -> Chosen:
    """An instruction about a thing that no video shows, with or without a colour, a side or a deed."""
    thing = STRANGE[random.integers(len(STRANGE))]
    names: dict[str, Any] = {"shape": thing}
    if random.random() < 0.3:
        names["colour"] = view.colours[random.integers(len(view.colours))]
    subtype = "colour_shape" if "colour" in names else "shape"
    if random.random() < 0.4:
        subtype = STRANGE_SUBTYPES[random.integers(len(STRANGE_SUBTYPES))]
        names["heading"] = list(DIRECTIONS)[random.integers(len(DIRECTIONS))]
    kind = next(kind for kind in KINDS[:3] if subtype in view.rules(kind))
    return "absent", kind, subtype, Ask(names, np.full(len(view.facts), NO, np.int8))


def _written(random: np.random.Generator, view: View, chosen: list[Chosen]) -> tuple[Expression, ...]:
    """The chosen asks as sentences; an instruction whose text exists already is dropped."""
    expressions: list[Expression] = []
    texts: set[str] = set()
    for kind, asks, subtype, ask in chosen:
        numbers = tuple(int(number) for number in np.flatnonzero(ask.verdicts == YES))
        varied = bool(view.varied) and random.random() < view.varied
        text, wording = say(random, subtype, ask.names, plural=len(numbers) > 1, unseen=view.unseen, varied=varied)
        if text.lower().rstrip(".") in texts:
            continue
        texts.add(text.lower().rstrip("."))
        number = str(len(expressions))
        expressions.append(Expression(number, text, kind, subtype, asks, wording, numbers, ask.names))
    return tuple(expressions)
