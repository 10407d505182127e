"""Rules that decide the answers of instructions: for each subtype, all questions that a video allows, with their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vrshq.operators.synth.colours import COLOURS
from vrshq.operators.synth.facts import Facts
from vrshq.operators.synth.judging import MAYBE, NO, YES, Verdicts, known
from vrshq.operators.synth.likeness import ALSO_COLOURED, ALSO_LIKE
from vrshq.operators.synth.motion import DIRECTIONS
from vrshq.operators.synth.shapes import SHAPES, UNSEEN_PAIRS


@dataclass(frozen=True, eq=False)
class Ask:
    """One question about a video.

    Attributes:
        names: any of colour and shape (of the wanted object), reference (colour and shape of another object), heading,
            size, sides, thing.
        verdicts: (n,) int8, the verdict on each object.
        weight: relative frequency of this ask among those of its rule.
    """

    names: dict[str, Any]
    verdicts: Verdicts
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class View:
    """The inputs of the rules.

    Attributes:
        facts: the facts about the video's objects.
        colours, shapes: the names that instructions may use.
        unseen: whether instructions may use the held-out pairs and wordings.
        joined, varied, strange: as in `SynthConfig`.
    """

    facts: Facts
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    unseen: bool
    joined: float = 0.0
    varied: float = 0.0
    strange: float = 0.0

    def rules(self, kind: str) -> dict[str, tuple[Rule, float]]:
        """The rules of a kind that instructions may use, each with its relative frequency."""
        return RULES[kind] | VARIED_RULES.get(kind, {}) if self.varied else RULES[kind]

    def is_allowed(self, colour: str, shape: str) -> bool:
        """Whether instructions of this split may name the pair."""
        return self.unseen or (colour, shape) not in UNSEEN_PAIRS

    def match(self, colour: str | None = None, shape: str | None = None) -> np.ndarray:
        """(n,) bool: which objects have the given colour and the given shape; None fits every object."""
        return np.array([colour in (None, item.colour) and shape in (None, item.shape) for item in self.facts.objects])

    @cached_property
    def names(self) -> list[tuple[dict[str, str], np.ndarray, float]]:
        """Ways to narrow a question: the names, the objects (n,) bool that fit them, and the relative frequency."""
        objects = self.facts.objects
        shapes, colours = (sorted({getattr(item, trait) for item in objects}) for trait in ("shape", "colour"))
        pairs = sorted({(item.colour, item.shape) for item in objects})
        return [
            ({}, self.match(), 4.0),
            *(({"shape": shape}, self.match(shape=shape), 0.5) for shape in shapes),
            *(({"colour": colour}, self.match(colour), 0.5) for colour in colours),
            *(({"colour": colour, "shape": shape}, self.match(colour, shape), 0.25) for colour, shape in pairs),
        ]

    def others(self, reference: int) -> Iterator[tuple[dict[str, str], np.ndarray, float]]:
        """`names` without the object with the number `reference`; names that fit no other object are left out."""
        for names, which, often in self.names:
            rest = which.copy()
            rest[reference] = False
            if rest.any():
                yield names, rest, often

    def references(self) -> Iterator[tuple[dict[str, str], int]]:
        """All names that fit exactly one object, with the number of that object."""
        for names, which, _ in self.names:
            if names and which.sum() == 1:
                yield names, int(which.argmax())


Rule = Callable[[View], Iterator[Ask]]


def _narrow(which: np.ndarray, verdicts: Verdicts) -> Verdicts:
    """The verdicts on the objects of `which` (n,) bool, and NO on all others."""
    return np.where(which, verdicts, NO).astype(np.int8)


def _all(judge: Callable[[Facts], Verdicts], weight: float = 1.0) -> Rule:
    """A rule that asks for one fact, narrowed in every way of `View.names`."""

    def rule(view: View) -> Iterator[Ask]:
        verdicts = judge(view.facts)
        for names, which, often in view.names:
            yield Ask(names, _narrow(which, verdicts), often * weight)

    return rule


def _only(judge: Callable[[Facts], Verdicts]) -> Rule:
    """A rule with a single question, which is not narrowed."""

    def rule(view: View) -> Iterator[Ask]:
        yield Ask({}, judge(view.facts))

    return rule


def _among(judge: Callable[[Facts, np.ndarray], Verdicts]) -> Rule:
    """A rule that compares objects with each other, within each group of `View.names`."""

    def rule(view: View) -> Iterator[Ask]:
        for names, which, often in view.names:
            if which.sum() >= 2:
                yield Ask(names, judge(view.facts, which), often)

    return rule


def _shape_fact(name: str) -> Callable[[Facts], Verdicts]:
    return lambda facts: known([getattr(SHAPES[item.shape], name) for item in facts.objects])


def _colour(view: View) -> Iterator[Ask]:
    for colour in view.colours:
        yield Ask({"colour": colour}, known(view.match(colour).tolist()))


def _shape(view: View) -> Iterator[Ask]:
    for shape in view.shapes:
        yield Ask({"shape": shape}, known(view.match(shape=shape).tolist()), 2.0 if SHAPES[shape].core else 1.0)


def _colour_shape(view: View) -> Iterator[Ask]:
    colours, shapes = ({getattr(item, name) for item in view.facts.objects} for name in ("colour", "shape"))
    for colour in view.colours:
        for shape in view.shapes:
            if view.is_allowed(colour, shape):
                # an absent pair is hard if other objects have its colour and its shape
                weight = (
                    1.0
                    if colour in colours and shape in shapes
                    else 0.06
                    if {colour, shape} & (colours | shapes)
                    else 0.01
                )
                yield Ask({"colour": colour, "shape": shape}, known(view.match(colour, shape).tolist()), weight)


def _size(view: View) -> Iterator[Ask]:
    facts = view.facts
    middle = np.median(facts.whole_area)
    for names, which, _ in view.names:
        if not names:
            continue
        for size in ("small", "large"):
            if which.sum() >= 2:
                verdicts = facts.extreme_size(which, smallest=size == "small")
                # the object must also be small or large among all objects
                chosen = facts.whole_area[verdicts == YES]
                fits = (chosen < middle).all() if size == "small" else (chosen > middle).all()
                yield Ask({**names, "size": size}, verdicts if fits else np.full(len(facts), MAYBE, np.int8), 2.0)
            else:
                extreme = facts.extreme_size(np.ones(len(facts), bool), smallest=size == "small")
                yield Ask({**names, "size": size}, np.where(which, np.where(extreme == YES, YES, MAYBE), NO))


def _place(view: View) -> Iterator[Ask]:
    for names, which, _ in view.names:
        if names and which.sum() >= 2:
            for heading in DIRECTIONS:
                yield Ask({**names, "heading": heading}, view.facts.outermost(heading, which))


def _sides(view: View) -> Iterator[Ask]:
    for sides in (3, 4, 5, 6):
        values = [SHAPES[item.shape].sides for item in view.facts.objects]
        verdicts = known([value == sides for value in values])
        # people may also count the corners of stars, of crosses and of shapes with disputed corners
        argued = np.array(
            [
                value is None and SHAPES[item.shape].corners is not False
                for item, value in zip(view.facts.objects, values, strict=True)
            ]
        )
        harmless = sides in (3, 4)
        yield Ask(
            {"sides": sides}, verdicts if harmless else np.where(argued, MAYBE, verdicts), 2.0 if sides == 3 else 1.0
        )


def _like_thing(view: View) -> Iterator[Ask]:
    for shape in view.shapes:
        for thing in SHAPES[shape].like:
            yield Ask({"thing": thing}, _alike([item.shape for item in view.facts.objects], shape, thing))


def _alike(shapes: list[str], shape: str, thing: str) -> Verdicts:
    argued = ALSO_LIKE.get(thing, set())
    return known([True if name == shape else None if name in argued else False for name in shapes])


def _colour_of(view: View) -> Iterator[Ask]:
    for colour in view.colours:
        for thing in COLOURS[colour].like:
            argued = ALSO_COLOURED.get(thing, set())
            yield Ask(
                {"thing": thing},
                known(
                    [
                        True if item.colour == colour else None if item.colour in argued else False
                        for item in view.facts.objects
                    ]
                ),
            )


def _beside(view: View) -> Iterator[Ask]:
    for reference, number in view.references():
        for heading in DIRECTIONS:
            verdicts = view.facts.beside(number, heading)
            for names, which, often in view.others(number):
                yield Ask({**names, "reference": reference, "heading": heading}, _narrow(which, verdicts), often)


def _extreme_beside(smallest: bool) -> Rule:
    def rule(view: View) -> Iterator[Ask]:
        for reference, number in view.references():
            for heading in DIRECTIONS:
                beside = view.facts.beside(number, heading)
                names = {"reference": reference, "heading": heading}
                if (beside == MAYBE).any():
                    continue
                if (beside == YES).sum() >= 2:
                    yield Ask(names, view.facts.extreme_size(beside == YES, smallest), 6.0)
                else:  # a single object there is also the largest and the smallest one
                    yield Ask(names, beside, 0.5)

    return rule


def _nearest(far: bool) -> Rule:
    def rule(view: View) -> Iterator[Ask]:
        for reference, number in view.references():
            for names, which, often in view.others(number):
                if which.sum() >= 2:
                    yield Ask({**names, "reference": reference}, view.facts.nearest(number, which, far), often)

    return rule


def _compared(smaller: bool) -> Rule:
    def rule(view: View) -> Iterator[Ask]:
        for reference, number in view.references():
            verdicts = view.facts.larger_than(number, smaller)
            for names, which, often in view.others(number):
                yield Ask({**names, "reference": reference}, _narrow(which, verdicts), often)

    return rule


def _outermost(view: View) -> Iterator[Ask]:
    for heading in DIRECTIONS:
        yield Ask({"heading": heading}, view.facts.outermost(heading, view.match()))


def _same(trait: str) -> Rule:
    def rule(view: View) -> Iterator[Ask]:
        for reference, number in view.references():
            if trait in reference:
                continue  # a reference like "the red one" would give the answer away
            wanted = getattr(view.facts.objects[number], trait)
            values = [getattr(item, trait) == wanted and item.object_id != number for item in view.facts.objects]
            yield Ask({"reference": reference}, known(values))

    return rule


def _odd(trait: str) -> Rule:
    def rule(view: View) -> Iterator[Ask]:
        values = [getattr(item, trait) for item in view.facts.objects]
        if len(values) >= 3 and len(set(values)) <= 2:
            counts = [values.count(value) for value in values]
            fits = max(counts) == len(values) - 1
            yield Ask({}, known([count == 1 if fits else None for count in counts]), 1.0)

    return rule


def _hides(view: View) -> Iterator[Ask]:
    for reference, number in view.references():
        yield Ask({"reference": reference}, view.facts.hiding_it(number))


def _heading(view: View) -> Iterator[Ask]:
    for heading in DIRECTIONS:
        verdicts = view.facts.heading(heading)
        for names, which, often in view.names:
            yield Ask({**names, "heading": heading}, _narrow(which, verdicts), often)


_CALM = frozenset({"still", "line", "grow", "shrink", "enter", "leave"})

# kind -> subtype -> (rule, relative frequency within its kind)
RULES: dict[str, dict[str, tuple[Rule, float]]] = {
    "referring": {
        "colour": (_colour, 1.2),
        "shape": (_shape, 1.5),
        "colour_shape": (_colour_shape, 2.2),
        "size": (_size, 1.0),
        "place": (_place, 1.2),
    },
    "attribute": {
        "largest": (_among(lambda facts, which: facts.extreme_size(which)), 1.8),
        "smallest": (_among(lambda facts, which: facts.extreme_size(which, smallest=True)), 1.8),
        "second_largest": (_only(lambda facts: facts.extreme_size(np.ones(len(facts), bool), rank=1)), 0.4),
        "larger_than": (_compared(smaller=False), 0.4),
        "smaller_than": (_compared(smaller=True), 0.4),
        "no_corners": (
            _only(
                lambda facts: known(
                    [None if s is None else not s for s in (SHAPES[item.shape].corners for item in facts.objects)]
                )
            ),
            1.4,
        ),
        "rolls": (_only(_shape_fact("rolls")), 1.4),
        "round": (_only(_shape_fact("round")), 0.8),
        "hole": (_only(_shape_fact("hole")), 0.8),
        "sides": (_sides, 1.5),
        "points": (_only(_shape_fact("points")), 0.6),
        "like_thing": (_like_thing, 0.7),
        "colour_of": (_colour_of, 0.6),
        "warm": (_only(lambda facts: known([COLOURS[item.colour].warm for item in facts.objects])), 0.3),
        "beside": (_beside, 1.5),
        "largest_beside": (_extreme_beside(smallest=False), 1.2),
        "smallest_beside": (_extreme_beside(smallest=True), 0.7),
        "nearest": (_nearest(far=False), 0.7),
        "furthest": (_nearest(far=True), 0.5),
        "outermost": (_outermost, 0.8),
        "same_colour": (_same("colour"), 0.6),
        "same_shape": (_same("shape"), 0.6),
        "odd_colour": (_odd("colour"), 0.8),
        "odd_shape": (_odd("shape"), 0.8),
    },
    "motion": {
        "fastest": (_among(lambda facts, which: facts.fastest(which)), 1.6),
        "slowest": (_among(lambda facts, which: facts.slowest(which)), 0.7),
        "still": (_all(lambda facts: facts.still), 2.0),
        "moving": (_all(lambda facts: facts.moving), 0.25),
        "heading": (_heading, 2.0),
        "hidden": (_all(lambda facts: facts.hidden), 5.0),
        "goes_behind": (_all(lambda facts: facts.going_behind), 1.5),
        "hiding": (_all(lambda facts: facts.hiding), 0.5),
        "goes_in_front": (_all(lambda facts: facts.going_in_front), 0.4),
        "enters": (_all(lambda facts: facts.entering), 5.0),
        "enters_last": (_only(lambda facts: facts.last_to_enter()), 0.8),
        "leaves": (_all(lambda facts: facts.leaving), 5.0),
        "leaves_first": (_only(lambda facts: facts.first_to_leave()), 0.7),
        "grows": (_all(lambda facts: facts.grown()), 0.7),
        "shrinks": (_all(lambda facts: facts.grown(smaller=True)), 0.7),
        "turns": (_all(lambda facts: facts.turning), 0.7),
        "bounces": (_all(lambda facts: facts.doing("bounce", _CALM | {"stop", "start"})), 0.5),
        "circles": (_all(lambda facts: facts.doing("orbit", _CALM | {"stop", "start", "bounce"})), 0.5),
        "stops": (_all(lambda facts: facts.doing("stop", (_CALM - {"still"}) | {"start", "bounce", "orbit"})), 0.5),
        "starts": (_all(lambda facts: facts.doing("start", (_CALM - {"enter"}) | {"stop", "bounce", "orbit"})), 0.5),
    },
}
# rules that only instructions with varied wordings have
VARIED_RULES: dict[str, dict[str, tuple[Rule, float]]] = {"motion": {"hides": (_hides, 1.5)}}
