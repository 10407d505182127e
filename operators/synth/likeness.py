"""Disputable likeness: further shapes and colours that people may see in a thing."""

from __future__ import annotations

# Thing -> further shapes that it resembles so much that people could disagree.
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


# Thing -> further colours that it may have.
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
