"""Where likeness is a matter of opinion: other shapes and colours that a thing may remind people of."""

from __future__ import annotations

# What else a thing looks like, so much that people would argue.
ALSO_LIKE: dict[str, set[str]] = {
    "a ball": {"ring", "ellipse"},
    "a coin": {"ring", "ellipse"},
    "a box": {"rectangle", "diamond"},
    "a tile": {"rectangle", "diamond", "hexagon"},
    "a hoop": {"circle"},
    "a tire": {"circle"},
    "a kite": {"square"},
    "a door": {"square"},
    "a brick": {"square"},
    "an egg": {"circle"},
    "a honeycomb cell": {"pentagon"},
    "something that shows the way": {"triangle"},
    "the moon": {"circle"},
    "a tent": {"pentagon"},
    "a starfish": {"cross"},
}


# Colours that people may find in a thing of another colour.
ALSO_COLOURED: dict[str, set[str]] = {
    "the sea": {"cyan", "green"},
    "a grape": {"green", "black"},
    "the night": {"blue", "purple"},
    "a flamingo": {"red", "orange"},
    "a carrot": {"red"},
    "wood": {"orange", "yellow"},
    "blood": {"brown"},
    "ash": {"white", "black"},
    "an eggplant": {"black"},
}
