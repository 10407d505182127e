"""More wordings of the rules, for training: other verbs, other order, short forms; patterns as in `wordings`.

A video has them only where `SynthConfig.varied` asks for them; videos of test_unseen never have. The usual wordings, and so the
sets that a model is evaluated on, stay as they are. No wording is a usual or a held-out one.
"""

from __future__ import annotations

COMMANDS_VARIED = (
    "(please|now|) (outline|cut out|mask|locate|identify|get|pick|pick out|choose|label|return|take) {phrase}",
    "(find|segment|mark|show|outline|locate) {phrase}(,| ) please",
    "(i need|i would like|i am looking for|i am searching for|we need|let us see|let me see) {phrase}",
    "(could|can|would|will) you (please |)(outline|locate|identify|pick out|highlight|select|get|mark) {phrase}(?| for me?)",
    "(in this video|in this clip|in this scene|here)(,|) (find|segment|show|mark|track|locate) {phrase}",
    "(tell me|show me) (where|which one) {phrase} is",
    "(do you see|can you see|have you seen|did you see|is there) {phrase}?",
    "(mask|segmentation|outline|position) of {phrase}",
    "(where has|what about|how about) {phrase}( gone|)?",
    "(draw|put|make|give) (a mask|an outline|a box) (on|around|over|for) {phrase}",
    "keep (an eye|your eye) on {phrase}",
    "(watch|keep|trace|follow along with) {phrase}",
    "all (pixels|parts) of {phrase}",
)

# nouns for an object whose shape is not said
NOUNS_VARIED = ("item", "figure", "element")
# shape -> nouns that mean it and no other shape
SHAPES_VARIED = {
    "circle": ("ball", "disk", "dot"),
    "square": ("tile",),
    "star": ("starfish",),
    "ring": ("hoop", "loop", "tire"),
    "diamond": ("kite",),
    "ellipse": ("egg",),
    "rectangle": ("brick", "door"),
}
# Things that no video shows, without those that have no plain singular.
STRANGE = """
    airplane animal ant apple baby backpack bag banana basket bear bed bee bench bicycle bike bird boat book bottle
    bowl boy bridge broom bucket bus butterfly cake camel camera candle cap car carpet carrot cat chair chicken child
    church clock cloud coat computer couch cow crab crocodile crowd cup curtain deer desk dog doll dolphin dragon
    dress drum duck eagle elephant fan farmer fence fish flag flower fly fork fox frog fruit giraffe girl glass glove
    goat goose guitar hammer hand hat helicopter hen hill horse house insect jacket jar keyboard kitchen knife ladder
    lady lake lamp leaf leopard lion lizard lorry machine man monkey motorbike mountain mouse mushroom nose notebook
    orchestra owl panda parrot pen pencil penguin person phone piano picnic pig pigeon pillow pirate plane plant plate
    player pot potato rabbit racket radio rat river road robot rocket roof rope sailor sandwich scarf seal shark sheep
    ship shirt shoe skateboard skirt snail snake sofa soldier spider spoon squirrel statue stone street suitcase
    surfboard swan table taxi teacher television tiger toothbrush towel tower toy tractor train tree truck tulip
    turtle umbrella vase violin waiter wall watch whale window wolf woman worm zebra
""".split()  # noqa: SIM905 (a list of 190 quoted words would be 190 lines)

VARIED: dict[str, tuple[str, ...]] = {
    "colour": (
        "{np}",
        "{colour}",
        "(find|segment|mark) (everything|anything|something) {colour}",
        "(something|anything) {colour}",
        "one of them is {colour}( and i want that one|, take it|)",
        "the (item|figure|element) (painted|drawn|filled|shown) in {colour}",
        "the (item|figure|element|object) (that is painted|which is|that looks|that appears) {colour}",
        "the one in {colour}",
        "(is there|do you see|can you see) (anything|something) {colour}?",
        "i see (something|an object|a thing) that is {colour}",
        "there is {a_np} (here|in the video|in the scene|somewhere)",
        "(its|the) (colour|color) is {colour}",
        "(colour|color): {colour}",
        "{colour} (item|figure|element|object|thing)",
    ),
    "shape": (
        "{np}",
        "{shape}",
        "{a_shape}",
        "(find|segment|mark) (a|any|some) {shape}",
        "one of them is {a_shape}( and i want that one|, take it|)",
        "the (item|figure|element) (that is|which is|that forms|formed like|built like|drawn as) {a_shape}",
        "the {shape} (you can see|that is shown|that is visible|over there)",
        "the thing that (has|takes) the (form|shape|outline) of {a_shape}",
        "(is there|do you see|can you see) {a_shape}?",
        "i see {a_shape}",
        "there is {a_shape} (here|in the video|in the scene|somewhere)",
        "(its|the) (shape|form) is {a_shape}",
        "(shape|form): {shape}",
        "(something|an object|an item) (like|shaped like|in the form of) {a_shape}",
    ),
    "colour_shape": (
        "{np}",
        "{a_np}",
        "(find|segment|mark) (a|any|some) {np}",
        "one of them is {a_np}( and i want that one|, take it|)",
        "the {shape} (painted|drawn|filled|shown) in {colour}",
        "the {shape}, (the|that) {colour} one",
        "the {shape} in {colour}",
        "the {np} (you can see|that is shown|that is visible|over there)",
        "the {colour} (item|figure|element|thing) (in the form of|that forms|formed like|drawn as) {a_shape}",
        "the (item|figure|thing|object) that is both {colour} and {a_shape}",
        "the (item|figure|thing|object) that is {a_shape} and (is |){colour}",
        "(is there|do you see|can you see) {a_np}?",
        "i see {a_np}",
        "there is {a_np} (here|in the video|in the scene|somewhere)",
        "{shape}, {colour}",
        "{colour} and {a_shape}",
    ),
    "size": (
        "{size} {np}",
        "the {np}, the {size} one",
        "the {np} of {size} size",
        "the {np} that looks {size}",
        "of the {nps}, the {size} one",
        "the {size} one (of|among) the {nps}",
        "there are {nps}: the {size} one",
    ),
    "place": (
        "{np} {at_side}",
        "the {np}, the one {at_side}",
        "of the {nps}, the one {at_side}",
        "the one {at_side} among the {nps}",
        "{at_side}, the {np}",
        "the {np} which (is|lies|sits|can be seen) {at_side}",
        "the {np} you (see|find) {at_side}",
        "look {at_side}: the {np}",
    ),
    "largest": (
        "(largest|biggest) {np}",
        "the {np} of the (biggest|greatest) size",
        "the {np} with the (biggest|greatest) area",
        "the {np} (that covers|covering) the most (area|space|pixels)",
        "of the {nps}, the (largest|biggest)( one|)",
        "the (largest|biggest) one (among|of) the {nps}",
        "the {np} that is the (largest|biggest)",
        "the {np} that takes more space than (any other|all the others)",
        "which {np} (covers|fills) the most (area|space)?",
        "among the {nps}, which (one |)is the (largest|biggest)?",
        "the {np} (all the others are smaller than|with only smaller ones around)",
    ),
    "smallest": (
        "(smallest|tiniest|littlest) {np}",
        "the {np} of the least size",
        "the {np} with the least area",
        "the {np} (that covers|covering) the least (area|space|pixels)",
        "of the {nps}, the (smallest|tiniest)( one|)",
        "the (smallest|tiniest) one (among|of) the {nps}",
        "the {np} that is the (smallest|tiniest)",
        "the {np} that takes less space than (any other|all the others)",
        "which {np} (covers|fills) the least (area|space)?",
        "among the {nps}, which (one |)is the (smallest|tiniest)?",
        "the {np} (all the others are larger than|with only larger ones around)",
    ),
    "second_largest": (
        "second (largest|biggest) {np}",
        "the {np} that comes second in size",
        "the {np} with the second (largest|biggest) area",
        "the (largest|biggest) {np} but one",
        "only one {np} is larger than this one",
    ),
    "larger_than": (
        "{np} (larger|bigger) than {ref}",
        "the {np} whose size is (larger|greater) than that of {ref}",
        "the {np} that takes more space than {ref}",
        "compared with {ref}, the (larger|bigger) {np}",
        "{ref} is smaller than this {np}",
    ),
    "smaller_than": (
        "{np} smaller than {ref}",
        "the {np} whose size is (smaller|less) than that of {ref}",
        "the {np} that takes less space than {ref}",
        "compared with {ref}, the smaller {np}",
        "{ref} is (larger|bigger) than this {np}",
    ),
    "no_corners": (
        "(no|without|zero) corners",
        "the (figure|item|element|form) (without|with no|that lacks|lacking|free of) (corners|angles|any corner)",
        "the (one|shape|object|thing) (that has|with) not a single corner",
        "the (one|shape|object|thing) whose outline has no (corners|angles)",
        "(is there|do you see) (a shape|something|an object|anything) (without|with no) corners?",
        "the (one|shape|object|thing) (with a smooth|with an even) (outline|border|edge)",
    ),
    "rolls": (
        "the (item|figure|element) that (could|can|would|will) roll( easily| along| downhill|)",
        "the (one|shape|object|thing) that rolls( best| down a slope| downhill|)",
        "the (one|shape|object|thing) (you could|you can|one could) roll( along the floor| like a wheel|)",
        "on a slope, (which one|which shape|what) (would|will) (roll|start to roll|roll down)?",
        "(which|what) (one|shape|object|thing) (could|can) be rolled?",
        "the (one|shape|object|thing) that moves like a wheel when pushed",
        "push them: (which one|what) rolls?",
    ),
    "round": (
        "round (one|object|shape|thing|figure)",
        "the (item|figure|element) (that is|which looks|that looks) round",
        "the (one|shape|object|thing) (with a circular|of a round|of circular) (outline|form|shape)",
        "(is there|do you see) (something|anything) round?",
        "(something|anything) round",
        "the rounded (one|object|shape|thing)",
    ),
    "hole": (
        "the (item|figure|element) (with|that has|having) (a hole|an opening|an empty middle|a gap in the middle)",
        (
            "the (one|shape|object|thing) (with an opening|that is open|that is empty|that is hollow) in (the|its) "
            "(middle|centre)"
        ),
        "the (one|shape|object|thing) (through which you|that lets you) (see|look) (the background|)",
        "(is there|do you see) (something|anything|a shape) with a hole( in it|)?",
        "the (one|shape|object|thing) (you could|you can) put a finger through",
        "(what|which one) is (hollow|empty in the middle|open in the middle)?",
    ),
    "sides": (
        "the (item|figure|element) (with|that has|having) (exactly |){sides} sides",
        "the (one|shape|object|thing) (whose|of which the) outline has {sides} (sides|corners|edges)",
        "count the sides: (which one|what) has {sides}?",
        "(is there|do you see) (something|anything|a shape) with {sides} (sides|corners)?",
        "{sides} (sides|corners)",
        "the (one|shape|object|thing) (made of|bounded by|formed by) {sides} (lines|sides|straight lines)",
        "the (one|shape|object|thing) with {sides} (edges|vertices)",
        "the {sides} cornered (one|object|shape|thing)",
    ),
    "points": (
        "the (item|figure|element) (with|that has) (points|spikes|tips)",
        "the (one|shape|object|thing) (with|that has) sharp (points|spikes|tips)( all around| on all sides|)",
        "(what|which one) is (spiky|pointed|pointy)?",
        "the (one|shape|object|thing) that would (sting|prick)",
    ),
    "like_thing": (
        "{thing}",
        "the (item|figure|element) (that looks like|resembling|similar to|that could pass for) {thing}",
        "the (one|shape|object|thing) (similar to|resembling|that resembles|that is similar to|most like) {thing}",
        "(is there|do you see|can you see) (something|anything) like {thing}?",
        "(something|a thing|an object) like {thing}",
        "(what|which one) (resembles|is similar to|might be|is like) {thing}?",
        "it looks like {thing}",
    ),
    "colour_of": (
        "the (item|figure|element) (with|that has|in) the (colour|color) of {thing}",
        "the (one|shape|object|thing) (that is as|as) (coloured|colored) as {thing}",
        "the (one|shape|object|thing) whose (colour|color) is (like that of|that of|the same as that of) {thing}",
        "(what|which one) shares the (colour|color) of {thing}?",
        "the (one|shape|object|thing) that matches the (colour|color) of {thing}",
        "{thing} has the (colour|color) of this one",
    ),
    "warm": (
        "the (item|figure|element) (with|in) a warm (colour|color)",
        "the warm (coloured|colored) (one|object|shape|thing)",
        "what has a warm (colour|color)?",
        "the (one|shape|object|thing) whose (colour|color) is warm",
    ),
    "beside": (
        "{np} {beside} {ref}",
        "the {np}, {beside} {ref}",
        "{beside} {ref}, the {np}",
        "the {np} which (is|lies|sits|can be seen|is found) {beside} {ref}",
        "the {np} you (see|find) {beside} {ref}",
        "(look|go) {beside} {ref}: the {np}",
        "the one of the {nps} that is {beside} {ref}",
        "starting from {ref}, the {np} {beside} it",
        "(is there|do you see) (a|some) {np} {beside} {ref}?",
    ),
    "largest_beside": (
        "(largest|biggest) (one|object|shape|thing) {beside} {ref}",
        "{beside} {ref}, the (largest|biggest) (one|object|shape|thing)",
        "among (those|the ones|the objects|the things) {beside} {ref}, which is the (largest|biggest)?",
        "of (all |)those {beside} {ref}, the (largest|biggest)( one|)",
        "the (one|object|shape|thing) {beside} {ref} that is (larger|bigger) than the others there",
    ),
    "smallest_beside": (
        "(smallest|tiniest) (one|object|shape|thing) {beside} {ref}",
        "{beside} {ref}, the (smallest|tiniest) (one|object|shape|thing)",
        "among (those|the ones|the objects|the things) {beside} {ref}, which is the (smallest|tiniest)?",
        "of (all |)those {beside} {ref}, the (smallest|tiniest)( one|)",
        "the (one|object|shape|thing) {beside} {ref} that is smaller than the others there",
    ),
    "nearest": (
        "{np} (closest|nearest|next) to {ref}",
        "the {np} with the (least|smallest|shortest) distance to {ref}",
        "the (closest|nearest) {np} to {ref}",
        "{ref}: which {np} is (nearest|closest)( to it|)?",
        "the {np} that (lies|sits|stays|is found) (closest|nearest|next) to {ref}",
        "of the {nps}, the one (closest|nearest) to {ref}",
        "the {np} (near|close to|by|at the side of) {ref}",
    ),
    "furthest": (
        "{np} (furthest|farthest) from {ref}",
        "the {np} with the (largest|greatest|longest) distance to {ref}",
        "the {np} (most distant|most remote) from {ref}",
        "{ref}: which {np} is (furthest|farthest)( from it|)?",
        "the {np} that (lies|sits|stays|is found) (furthest|farthest) (away |)from {ref}",
        "of the {nps}, the one (furthest|farthest) from {ref}",
    ),
    "outermost": (
        "{most} {np}",
        "the {np} (that lies|which lies|lying|that is found) {furthest_to}",
        "the {most} (one |)(of|among) the {nps}",
        "the {np} no other is {beside}",
        "go {furthest_to}: the {np}",
    ),
    "same_colour": (
        "the {np} (that matches|matching|sharing) the (colour|color) of {ref}",
        "the {np} (coloured|colored) like {ref}",
        "the {np} that is as (coloured|colored) as {ref}",
        "{ref} and this {np} have the same (colour|color)",
        "which {np} (matches|shares) the (colour|color) of {ref}?",
    ),
    "same_shape": (
        "the (object|thing|one|item) (that matches|matching|sharing) the (shape|form) of {ref}",
        "the (object|thing|one|item) (shaped|formed|that looks) like {ref}",
        "{ref} and this (object|thing|one) have the same (shape|form)",
        "which (object|thing|one) (matches|shares) the (shape|form) of {ref}?",
    ),
    "odd_colour": (
        "the (object|shape|thing|one) (whose|of which the) (colour|color) no other has",
        "the odd one( out|) (by|in) (colour|color)",
        "the (object|shape|thing|one) that does not match the others in (colour|color)",
        "all (have|share) one (colour|color) but this (object|shape|thing|one)",
        "the (object|shape|thing|one) in another (colour|color)",
    ),
    "odd_shape": (
        "the (object|thing|one) (whose|of which the) (shape|form) no other has",
        "the odd one( out|) (by|in) shape",
        "the (object|thing|one) that does not match the others in (shape|form)",
        "all (have|share) one (shape|form) but this (object|thing|one)",
        "the (object|thing|one) in another (shape|form)",
    ),
}
