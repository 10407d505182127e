"""Wordings of the rules: patterns for training, and held-out patterns that only the split test_unseen has.

`(a|b|)` is a choice; an empty alternative stands for no text. `{np}` is the noun phrase of the wanted object ("one",
"red one", "square", "red square"), `{nps}` its plural, and `{ref}` another object ("the blue star"). `grammar` fills these
and the other slots. A pattern that begins with "the " is a noun phrase, which a command of `COMMANDS` may enclose. Held-out
patterns combine the words of the training patterns in ways that training never shows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wordings:
    """Patterns of one rule: `train` for the splits train, valid and test, `unseen` for test_unseen."""

    train: tuple[str, ...]
    unseen: tuple[str, ...]


COMMANDS = Wordings(
    train=(
        "(find|segment|track|show|show me|mark|select|highlight|point to|look for|follow|give me|i want|i mean) {phrase}",
        "(please|) (find|segment|track|show me|mark|select|highlight) {phrase}( in the video|)",
        "(can|could) you (find|segment|track|show me|see) {phrase}?",
        "(where is|which is|what is) {phrase}?",
    ),
    unseen=(
        "i want you to (find|track|mark|highlight) {phrase}",
        "(please|can you) point to {phrase} in the video",
        "look for {phrase} and (mark|select) it",
        "where in the video is {phrase}?",
    ),
)

REFERRING: dict[str, Wordings] = {
    "colour": Wordings(
        train=(
            "the {np}",
            "(a|that) {np}",
            "the {np} (in|of) the (video|scene|picture)",
            "the (object|shape|thing|one) that is {colour}",
            "the (object|shape|thing|one) (with|in|of) the colour {colour}",
            "the {colour} (coloured|colored) (object|shape|thing|one)",
            "the (object|shape|thing|one) whose (colour|color) is {colour}",
            "which (object|shape|thing|one|) is {colour}?",
            "what is {colour}( here| in the video|)?",
        ),
        unseen=(
            "the (object|shape|thing) here that is {colour}",
            "(which|what) (object|shape|thing) has the (colour|color) {colour}?",
            "the {colour} one of the (objects|shapes|things)",
            "it is {colour}: which one is it?",
        ),
    ),
    "shape": Wordings(
        train=(
            "the {np}",
            "(a|that) {np}",
            "the {np} (in|of) the (video|scene|picture)",
            "the (object|thing|one) that is {a_shape}",
            "the (object|thing|one) (shaped|that looks) like {a_shape}",
            "the (object|thing|one) (with|in) the shape of {a_shape}",
            "the {shape} shape",
            "the {shape} shaped (object|thing|one)",
            "which (object|shape|thing|one|) is (a|the) {shape}?",
            "what is shaped like {a_shape}?",
        ),
        unseen=(
            "the (object|thing) here that is {a_shape}",
            "(which|what) (object|thing) has the shape of {a_shape}?",
            "it is {a_shape}: which one is it?",
            "what looks like {a_shape} in the (video|picture)?",
        ),
    ),
    "colour_shape": Wordings(
        train=(
            "the {np}",
            "(a|that) {np}",
            "the {np} (in|of) the (video|scene|picture)",
            "the {shape} that is {colour}",
            "the {shape} (with|in|of) the colour {colour}",
            "the {colour} (coloured|colored) {shape}",
            "the {shape} whose (colour|color) is {colour}",
            "the {colour} (object|thing|one) shaped like {a_shape}",
            "the {colour} (object|thing|one) that is {a_shape}",
            "which {shape} is {colour}?",
            "which (object|shape|thing|one) is (a|the) {np}?",
        ),
        unseen=(
            "the {shape} here that is {colour}",
            "(which|what) {shape} has the (colour|color) {colour}?",
            "the {colour} one that looks like {a_shape}",
            "it is {colour} and {a_shape}: which one is it?",
        ),
    ),
    "size": Wordings(
        train=(
            "the {size} {np}",
            "(a|that) {size} {np}",
            "the {np} that is {size}",
            "the {size} {np} in the (video|scene|picture)",
            "which {np} is {size}?",
            "which (object|shape|thing|one) is the {size} {np}?",
        ),
        unseen=("the {np} here that is {size}", "what {np} is the {size} one?"),
    ),
    "place": Wordings(
        train=(
            "the {np} {at_side}",
            "(a|that) {np} {at_side}",
            "the {np} that is {at_side}",
            "the {np} {at_side} of the (video|scene|picture)",
            "which {np} is {at_side}?",
        ),
        unseen=("what {np} is {at_side}?", "{at_side} there is {a_np}: mark it"),
    ),
}

ATTRIBUTE: dict[str, Wordings] = {
    "largest": Wordings(
        train=(
            "the (largest|biggest) {np}",
            "the (largest|biggest) {np} (of all|of them all|in the video|in the scene)",
            "the (largest|biggest) of (all|) the {nps}",
            "the {np} (that is|which is|) (larger|bigger) than (all|) the others",
            "the {np} (with the largest area|of the largest size|that takes up the most space)",
            "which {np} is (the |)(largest|biggest)?",
            "(what|which one) is the (largest|biggest) {np}?",
            "which of the {nps} is (the |)(largest|biggest)?",
            "this {np} is (larger|bigger) than (all|) the others",
        ),
        unseen=(
            "the {np} (larger|bigger) than every other {np}",
            "which {np} takes up the most space?",
            "no {np} is (larger|bigger) than this one",
        ),
    ),
    "smallest": Wordings(
        train=(
            "the (smallest|littlest|tiniest) {np}",
            "the smallest {np} (of all|of them all|in the video|in the scene)",
            "the smallest of (all|) the {nps}",
            "the {np} (that is|which is|) smaller than (all|) the others",
            "the {np} (with the smallest area|of the smallest size|that takes up the least space)",
            "which {np} is (the |)smallest?",
            "(what|which one) is the smallest {np}?",
            "which of the {nps} is (the |)smallest?",
        ),
        unseen=(
            "the {np} smaller than every other {np}",
            "which {np} takes up the least space?",
            "no {np} is smaller than this one",
        ),
    ),
    "second_largest": Wordings(
        train=(
            "the second (largest|biggest) {np}",
            "which {np} is the second (largest|biggest)?",
            "the {np} that is second in size",
        ),
        unseen=("the {np} that is smaller than only one other {np}",),
    ),
    "larger_than": Wordings(
        train=(
            "the {np} (that is|) (larger|bigger) than {ref}",
            "which {np} is (larger|bigger) than {ref}?",
            "the only {np} (larger|bigger) than {ref}",
        ),
        unseen=("what {np} is there that is (larger|bigger) than {ref}?",),
    ),
    "smaller_than": Wordings(
        train=(
            "the {np} (that is|) smaller than {ref}",
            "which {np} is smaller than {ref}?",
            "the only {np} smaller than {ref}",
        ),
        unseen=("what {np} is there that is smaller than {ref}?",),
    ),
    "no_corners": Wordings(
        train=(
            "the (shape|object|thing|one) (with no|without|without any|that has no|which has no) (corners|corner|angles)",
            "which (shape|object|thing|one) has no (corners|corner|angles)?",
            "which (shape|object|thing|one) does not have (any |)corners?",
            "(what|which) has no corners?",
        ),
        unseen=("what (shape|object|thing) is there without (corners|angles)?", "it has no corners: which one is it?"),
    ),
    "rolls": Wordings(
        train=(
            "the (thing|object|shape|one) that (would|could|can|will) roll( away| down a hill| on the ground|)",
            "which (thing|object|shape|one) (would|could|can|will) roll( away| down a hill| on the ground|)?",
            "what (would|could|can|will) roll( away| down a hill| on the ground|)?",
            "the (thing|object|shape|one) (that is able to|able to) roll",
            "the (thing|object|shape|one) that would not stay on a hill",
            "the (thing|object|shape|one) that would roll if they were all on a hill",
        ),
        unseen=(
            "if they were on a hill, which one would roll( away|)?",
            "which (thing|object|shape|one) is able to roll down?",
        ),
    ),
    "round": Wordings(
        train=(
            "the round (one|object|shape|thing)",
            "the (one|object|shape|thing) that is round",
            "which (one|object|shape|thing|) is round?",
            "what is round( here|)?",
            "the (one|object|shape|thing) with a round outline",
        ),
        unseen=("what (object|shape|thing) has a round outline?",),
    ),
    "hole": Wordings(
        train=(
            "the (one|object|shape|thing) (with|that has) a hole( in it| in the middle|)",
            "which (one|object|shape|thing) has a hole( in it| in the middle|)?",
            "what has a hole( in it| in the middle|)?",
            "the (one|object|shape|thing) you can (see|look) through",
            "the hollow (one|object|shape|thing)",
        ),
        unseen=(
            "which (one|object|shape|thing) can you see through?",
            "which of the (objects|shapes|things) is hollow?",
        ),
    ),
    "sides": Wordings(
        train=(
            "the (shape|object|thing|one) (with|that has|which has) {sides} (straight |)sides",
            "which (shape|object|thing|one) has {sides} (straight |)sides?",
            "the {sides} sided (shape|object|thing|one)",
            "(what|which) has {sides} sides?",
            "the (shape|object|thing|one) (with|that has) {sides} (corners|angles)",
            "which (shape|object|thing|one) has {sides} (corners|angles)?",
        ),
        unseen=(
            "what (shape|object|thing) is there with {sides} sides?",
            "it has {sides} corners: which one is it?",
            "which (one|shape) has sides, and {sides} of them?",
        ),
    ),
    "points": Wordings(
        train=(
            "the (shape|object|thing|one) with (five |)(points|spikes)",
            "the (pointed|pointy|spiky) (shape|object|thing|one)",
            "which (shape|object|thing|one) has (five |)(points|spikes)?",
        ),
        unseen=("what (shape|object|thing) is there with (five |)points?",),
    ),
    "like_thing": Wordings(
        train=(
            "the (shape|object|thing|one) (that looks|which looks|) like {thing}",
            "which (shape|object|thing|one) looks like {thing}?",
            "what looks like {thing}?",
            "the (shape|object|thing|one) (that|which) (reminds you|reminds me) of {thing}",
            "the (shape|object|thing|one) that could be {thing}",
        ),
        unseen=(
            "what (shape|object|thing) could be {thing}?",
            "which (shape|object|thing|one) reminds you of {thing}?",
        ),
    ),
    "colour_of": Wordings(
        train=(
            "the (one|object|shape|thing) (with|that has) the (colour|color) of {thing}",
            "which (one|object|shape|thing) has the (colour|color) of {thing}?",
            "the (one|object|shape|thing) (coloured|colored) like {thing}",
            "what has the same (colour|color) as {thing}?",
        ),
        unseen=("which (one|object|shape|thing) is (coloured|colored) like {thing}?",),
    ),
    "warm": Wordings(
        train=(
            "the (one|object|shape|thing) (with|in|that has) a warm (colour|color)",
            "which (one|object|shape|thing) has a warm (colour|color)?",
        ),
        unseen=("what (object|shape|thing) is there in a warm (colour|color)?",),
    ),
    "beside": Wordings(
        train=(
            "the {np} {beside} {ref}",
            "the {np} that is {beside} {ref}",
            "which {np} is {beside} {ref}?",
            "what is {beside} {ref}?",
            "the only {np} {beside} {ref}",
        ),
        unseen=("{beside} {ref} there is {a_np}: mark it", "what {np} is there {beside} {ref}?"),
    ),
    "largest_beside": Wordings(
        train=(
            "the (largest|biggest) (one|object|shape|thing) {beside} {ref}",
            "the (largest|biggest) (one|object|shape|thing) (that is|of those) {beside} {ref}",
            "which (one|object|shape|thing) {beside} {ref} is (the |)(largest|biggest)?",
            "the (largest|biggest) of (the (objects|shapes|things|ones)|those) {beside} {ref}",
        ),
        unseen=("of the (objects|shapes|things) {beside} {ref}, the (largest|biggest) one",),
    ),
    "smallest_beside": Wordings(
        train=(
            "the smallest (one|object|shape|thing) {beside} {ref}",
            "the smallest (one|object|shape|thing) (that is|of those) {beside} {ref}",
            "which (one|object|shape|thing) {beside} {ref} is (the |)smallest?",
            "the smallest of (the (objects|shapes|things|ones)|those) {beside} {ref}",
        ),
        unseen=("of the (objects|shapes|things) {beside} {ref}, the smallest one",),
    ),
    "nearest": Wordings(
        train=(
            "the {np} (closest|nearest) to {ref}",
            "the {np} (that is|) (closest|nearest) to {ref}",
            "which {np} is (closest|nearest) to {ref}?",
            "the {np} (next to|beside) {ref}",
        ),
        unseen=("which of the {nps} is (closest|nearest) to {ref}?",),
    ),
    "furthest": Wordings(
        train=(
            "the {np} (furthest|farthest) (away |)from {ref}",
            "the {np} that is (furthest|farthest) (away |)from {ref}",
            "which {np} is (furthest|farthest) (away |)from {ref}?",
        ),
        unseen=("which of the {nps} is (furthest|farthest) from {ref}?",),
    ),
    "outermost": Wordings(
        train=(
            "the {most} {np}",
            "the {np} (that is|) {furthest_to}",
            "which {np} is {furthest_to}?",
            "which {np} is the {most} one?",
        ),
        unseen=("which of the {nps} is {furthest_to}?", "of the {nps}, the {most} one"),
    ),
    "same_colour": Wordings(
        train=(
            "the {np} (with|that has|of) the same (colour|color) as {ref}",
            "which {np} has the same (colour|color) as {ref}?",
            "the other {np} (with|that has|of) the (colour|color) of {ref}",
        ),
        unseen=("what {np} has the (colour|color) of {ref}?",),
    ),
    "same_shape": Wordings(
        train=(
            "the (object|thing|one) (with|that has|of) the same shape as {ref}",
            "which (object|thing|one) has the same shape as {ref}?",
            "the other (object|thing|one) (with|that has|of) the shape of {ref}",
        ),
        unseen=("what (object|thing) has the shape of {ref}?",),
    ),
    "odd_colour": Wordings(
        train=(
            "the (object|shape|thing|one) (with|that has|of) a different (colour|color) (than|from) (all |)the others",
            "which (object|shape|thing|one) has a different (colour|color) than the others?",
            "the (object|shape|thing|one) whose (colour|color) is different",
        ),
        unseen=("what is the only (object|shape|thing) of another (colour|color)?",),
    ),
    "odd_shape": Wordings(
        train=(
            "the (object|thing|one) (with|that has|of) a different shape (than|from) (all |)the others",
            "which (object|thing|one) has a different shape than the others?",
            "the (object|thing|one) whose shape is different",
        ),
        unseen=("what is the only (object|thing) of another shape?",),
    ),
}
