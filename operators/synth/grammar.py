"""Sentences: the wordings of a rule, filled with the names that the rule is asked with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrshq.operators.synth.colours import COLOURS
from vrshq.operators.synth.shapes import SHAPES
from vrshq.operators.synth.wordings import ATTRIBUTE, COMMANDS, REFERRING, Wordings
from vrshq.operators.synth.wordings_motion import MOTION, PLURAL
from vrshq.operators.synth.wordings_varied import COMMANDS_VARIED, NOUNS_VARIED, SHAPES_VARIED, VARIED
from vrshq.operators.synth.wordings_varied_motion import VARIED_MOTION

Words = dict[str, tuple[str, ...]]

WORDINGS: dict[str, Wordings] = {**REFERRING, **ATTRIBUTE, **MOTION}
ALL_VARIED: dict[str, tuple[str, ...]] = {**VARIED, **VARIED_MOTION}
NOUNS = ("one", "object", "shape", "thing")
COMMAND_SHARE = 0.3
OTHER_NOUN_SHARE = 0.35  # probability of a word of `wordings_varied` in place of a usual one
OTHER_WORD_SHARE = 0.15  # probability of a synonym: "violet" for purple, "disc" for circle
CAPITAL_SHARE = 0.2
FULL_STOP_SHARE = 0.05

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\ba (?=[aeiou](?!ne\b))")  # "an orange one", but "a one"

# Texts of the slots that express a direction. The first text of each is the most frequent one.
_TO: Words = {
    "left": ("to the left", "left", "leftward", "leftwards", "towards the left", "toward the left", "to the left side"),
    "right": (
        "to the right",
        "right",
        "rightward",
        "rightwards",
        "towards the right",
        "toward the right",
        "to the right side",
    ),
    "up": ("up", "upward", "upwards", "to the top", "towards the top", "toward the top"),
    "down": ("down", "downward", "downwards", "to the bottom", "towards the bottom", "toward the bottom"),
}
_TO_ADJECTIVE = {heading: words[2 if heading in ("left", "right") else 1 : 3][0] for heading, words in _TO.items()}
_FROM_TO: Words = {
    "left": ("from right to left", "from the right to the left"),
    "right": ("from left to right", "from the left to the right"),
    "up": ("from bottom to top", "from the bottom to the top"),
    "down": ("from top to bottom", "from the top to the bottom"),
}
_BESIDE: Words = {
    "left": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right of", "on the right side of"),
    "up": ("above", "over", "higher than"),
    "down": ("below", "under", "beneath", "lower than"),
}
_AT_SIDE: Words = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "up": ("at the top", "on the top"),
    "down": ("at the bottom", "on the bottom"),
}
_MOST: Words = {
    "left": ("leftmost", "left-most"),
    "right": ("rightmost", "right-most"),
    "up": ("topmost", "uppermost", "highest"),
    "down": ("lowest", "bottommost", "lowermost"),
}
_FURTHEST_TO: Words = {
    "left": ("furthest to the left", "farthest to the left", "furthest left"),
    "right": ("furthest to the right", "farthest to the right", "furthest right"),
    "up": ("furthest up", "closest to the top", "nearest to the top"),
    "down": ("furthest down", "closest to the bottom", "nearest to the bottom"),
}
_BY_HEADING: dict[str, Words] = {
    "to": _TO,
    "from_to": _FROM_TO,
    "beside": _BESIDE,
    "at_side": _AT_SIDE,
    "most": _MOST,
    "furthest_to": _FURTHEST_TO,
}
_SIZES: Words = {"small": ("small", "little", "tiny"), "large": ("big", "large", "huge")}
_NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six"}


def expand(pattern: str) -> list[str]:
    """All patterns without choices that result from a pattern, one for each combination of its choices."""
    match = _CHOICE.search(pattern)
    if match is None:
        return [_tidy(pattern)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [text for choice in match[1].split("|") for text in expand(before + choice + after)]


def all_wordings(unseen: bool) -> set[str]:
    """All wordings that instructions may have: those of test_unseen if `unseen`, else those of the other splits."""
    phrases = {
        wording
        for table in (*WORDINGS.values(), *PLURAL.values())
        for pattern in (table.unseen if unseen else table.train)
        for wording in expand(pattern)
    }
    commands = [command for pattern in _patterns(COMMANDS, unseen) for command in expand(pattern)]
    commanded = {
        command.replace("{phrase}", phrase) for phrase in phrases if phrase.startswith("the ") for command in commands
    }
    return phrases | commanded


def vocabulary() -> set[str]:
    """All words that can fill a slot."""
    groups: list[Sequence[str]] = [
        NOUNS,
        tuple(f"{noun}s" for noun in NOUNS),
        ("a", "an"),
        tuple(_NUMBERS.values()),
        tuple(_TO_ADJECTIVE.values()),
    ]
    groups += [words for table in (*_BY_HEADING.values(), _SIZES) for words in table.values()]
    groups += [(*colour.words, *colour.like) for colour in COLOURS.values()]
    groups += [(*shape.words, shape.plural, *shape.like) for shape in SHAPES.values()]
    return {word for group in groups for phrase in group for word in phrase.split()}


def say(
    random: np.random.Generator,
    subtype: str,
    names: Mapping[str, Any],
    *,
    plural: bool = False,
    unseen: bool = False,
    varied: bool = False,
) -> tuple[str, str]:
    """Draws a sentence for a rule.

    Args:
        random: source of all random numbers.
        subtype: the rule, a key of `WORDINGS`.
        names: the names that the rule is asked with, as in `rules.Ask`.
        plural: whether the instruction means several objects.
        unseen: whether the wordings are those of test_unseen.
        varied: whether the words are those of `wordings_varied`, and the wordings, too, if the instruction means one object.

    Returns:
        The sentence, and its wording: the pattern after its choices, before its slots are filled.
    """
    patterns = _sayings(subtype, plural, unseen, varied)
    narrowed = any(names.get(key) for key in ("colour", "shape")) and subtype not in ("colour", "shape", "colour_shape")
    if narrowed:  # a pattern without a noun phrase would drop the colour or shape, and so change the question
        patterns = [pattern for pattern in patterns if "{np" in pattern]
    if names.get("shape") not in (None, *SHAPES):  # things that no video shows have no plurals here
        patterns = [pattern for pattern in patterns if "{nps}" not in pattern]
    pattern = patterns[random.integers(len(patterns))]
    if pattern.startswith("the ") and random.random() < COMMAND_SHARE:
        commands = [*_patterns(COMMANDS, unseen), *(COMMANDS_VARIED if varied else ())]
        pattern = commands[random.integers(len(commands))].replace("{phrase}", pattern)
    wording = _decide(random, pattern)
    filled: dict[str, str] = {}
    text = _SLOT.sub(lambda match: filled.setdefault(match[1], _fill(random, match[1], names, varied)), wording)
    text = _ARTICLE.sub("an ", text)
    if random.random() < CAPITAL_SHARE:
        text = text[0].upper() + text[1:]
    if not text.endswith("?") and random.random() < FULL_STOP_SHARE:
        text += "."
    return text, wording


def can_say(subtype: str, names: Mapping[str, Any], plural: bool, unseen: bool) -> bool:
    """Whether the split has a wording of the rule that expresses all of the names."""
    patterns = _sayings(subtype, plural, unseen, varied=False)
    narrowed = any(names.get(key) for key in ("colour", "shape")) and subtype not in ("colour", "shape", "colour_shape")
    return not narrowed or any("{np" in pattern for pattern in patterns)


def _sayings(subtype: str, plural: bool, unseen: bool, varied: bool) -> list[str]:
    """The patterns of a rule. A rule of `VARIED_RULES` has varied ones alone."""
    if subtype not in WORDINGS or (varied and not plural):
        return list(ALL_VARIED[subtype])
    return _patterns((PLURAL if plural else WORDINGS)[subtype], unseen)


def _patterns(wordings: Wordings, unseen: bool) -> list[str]:
    return list(wordings.unseen if unseen else wordings.train)


def _decide(random: np.random.Generator, pattern: str) -> str:
    """A wording of a pattern: each choice is drawn, all alternatives with equal probability."""

    def choose(match: re.Match[str]) -> str:
        choices = match[1].split("|")
        return choices[random.integers(len(choices))]

    while _CHOICE.search(pattern):
        pattern = _CHOICE.sub(choose, pattern)
    return _tidy(pattern)


def _tidy(pattern: str) -> str:
    return " ".join(pattern.split()).replace(" ?", "?")


def _pick(random: np.random.Generator, words: Sequence[str], first: float) -> str:
    """The first word with probability `first`, else one of the others."""
    if len(words) == 1 or random.random() < first:
        return words[0]
    return words[int(random.integers(1, len(words)))]


def _colour(random: np.random.Generator, name: str) -> str:
    return _pick(random, COLOURS[name].words, 1 - OTHER_WORD_SHARE)


def _shape(random: np.random.Generator, name: str, varied: bool) -> str:
    if name not in SHAPES:  # a thing that no video shows
        return name
    if varied and name in SHAPES_VARIED and random.random() < OTHER_NOUN_SHARE:
        return str(random.choice(SHAPES_VARIED[name]))
    return _pick(random, SHAPES[name].words, 1 - OTHER_WORD_SHARE)


def _noun_phrase(random: np.random.Generator, names: Mapping[str, Any], varied: bool) -> str:
    words = [_colour(random, names["colour"])] if names.get("colour") else []
    return " ".join([*words, _noun(random, names, varied, (0.46, 0.26, 0.16, 0.12))])


def _plural_phrase(random: np.random.Generator, names: Mapping[str, Any], varied: bool) -> str:
    words = [_colour(random, names["colour"])] if names.get("colour") else []
    if names.get("shape"):
        return " ".join([*words, SHAPES[names["shape"]].plural])
    return " ".join([*words, _noun(random, names, varied, (0.3, 0.4, 0.2, 0.1)) + "s"])


def _noun(random: np.random.Generator, names: Mapping[str, Any], varied: bool, shares: Sequence[float]) -> str:
    """The name of the shape, else one of `NOUNS` with the probabilities `shares`."""
    if names.get("shape"):
        return _shape(random, names["shape"], varied)
    if varied and random.random() < OTHER_NOUN_SHARE:
        return str(random.choice(NOUNS_VARIED))
    return NOUNS[random.choice(4, p=shares)]


def _fill(random: np.random.Generator, slot: str, names: Mapping[str, Any], varied: bool) -> str:
    """The text for a slot of a wording. Raises KeyError for an unknown slot."""
    if slot in _BY_HEADING:
        return _pick(random, _BY_HEADING[slot][names["heading"]], 0.5)
    phrase = _phrase(random, slot, names, varied)
    if phrase is not None:
        return phrase
    if slot == "colour":
        return _colour(random, names["colour"])
    if slot == "size":
        return _pick(random, _SIZES[names["size"]], 0.6)
    if slot == "sides":
        return _NUMBERS[names["sides"]]
    if slot == "to_adjective":
        return _TO_ADJECTIVE[names["heading"]]
    if slot == "thing":
        return str(names["thing"])
    raise KeyError(slot)


def _phrase(random: np.random.Generator, slot: str, names: Mapping[str, Any], varied: bool) -> str | None:
    """The noun or noun phrase for a slot; None for a slot of another kind."""
    if slot == "np":
        return _noun_phrase(random, names, varied)
    if slot == "nps":
        return _plural_phrase(random, names, varied)
    if slot == "a_np":
        phrase = _noun_phrase(random, names, varied)
        return f"a {'object' if phrase == 'one' else phrase}"
    if slot == "ref":
        return "the " + _noun_phrase(random, names["reference"], varied)
    if slot in ("shape", "a_shape"):
        return ("a " if slot == "a_shape" else "") + _shape(random, names["shape"], varied)
    return None
