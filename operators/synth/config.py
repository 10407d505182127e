"""Settings of synthetic videos: the ranges from which the values of each video are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from vrshq.operators.synth.colours import COLOURS
from vrshq.operators.synth.shapes import SHAPES

SPLITS = ("train", "valid", "test", "test_unseen")


def _all_colours() -> tuple[str, ...]:
    return tuple(COLOURS)


def _all_shapes() -> tuple[str, ...]:
    return tuple(SHAPES)


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Ranges are (least, most), both included. Lengths in *short sides* are relative to a frame's shorter side.

    Raises:
        ValueError: a value that no video can be made with; one line that names the setting.
    """

    objects: tuple[int, int] = (2, 6)
    """Number of planned objects. Objects that are never clearly visible are left out, so a video may have fewer, but at
    least one."""
    frames: tuple[int, int] = (8, 64)
    """Number of frames of a video."""
    short_sides: tuple[int, ...] = (128, 128, 160, 192, 240, 360, 480)
    """Possible shorter sides of a frame, in pixels, all equally likely; a value that is listed twice is twice as likely."""
    aspects: tuple[float, ...] = (1.0, 4 / 3, 16 / 9, 3 / 4)
    """Possible ratios of a frame's width to its height, all equally likely."""
    radius: tuple[float, float] = (0.09, 0.24)
    """Radius of an object, in short sides: the radius of a disc of the same area; shapes with gaps or spikes have less area."""
    shapes: tuple[str, ...] = field(default_factory=_all_shapes)
    """Shapes of the objects: names in `shapes.SHAPES`."""
    colours: tuple[str, ...] = field(default_factory=_all_colours)
    """Colours of the objects: names in `colours.COLOURS`."""
    effects: float = 1.0
    """Factor, 0 to 1, on the probabilities of camera motion, light changes, noise and blur; 0: none of them."""
    expressions: int = 3
    """The most expressions of each of the four kinds in a video."""
    banded: float = 0.0
    """Share of the objects, 0 to 1, with a white or black band across them. Instructions still name such an object by its
    own colour, which people may dispute; so this texture is for training alone."""
    absent: tuple[float, float, float] = (0.4, 0.25, 0.35)
    """Shares of the absent instructions that are worded like referring, attribute and motion instructions; they sum to 1."""
    joined: float = 0.0
    """Weight, 0 or more, of instructions that give an attribute or a deed of an object beside a name that it alone has
    ("the yellow star that comes in"), relative to the others of their rule; 0: none of them."""
    varied: float = 0.0
    """Share of the instructions, 0 to 1, with the wordings and the words of `wordings_varied`. Above 0, there are also
    instructions about the object that hides another one ("what hides the ball?"). The split test_unseen has none of both."""
    strange: float = 0.0
    """Share of the absent instructions, 0 to 1, that name a thing which no video shows ("the red bicycle")."""

    def __post_init__(self) -> None:
        # the rules need an object that shows in at least three frames
        for name, least in (("objects", 1), ("frames", 3)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ValueError(f"{name} = {(low, high)}: expected (least, most) with {least} <= least <= most")
        if not 0.05 <= self.radius[0] <= self.radius[1] <= 0.4:
            raise ValueError(f"radius = {self.radius}: expected (least, most) within 0.05 .. 0.4")
        if not self.short_sides or min(self.short_sides) < 32:
            raise ValueError(f"short_sides = {self.short_sides}: expected pixels, at least 32")
        if not self.aspects or not all(0.4 <= aspect <= 2.5 for aspect in self.aspects):
            raise ValueError(f"aspects = {self.aspects}: expected width / height within 0.4 .. 2.5")
        for name, known in (("shapes", SHAPES), ("colours", COLOURS)):
            unknown = [item for item in getattr(self, name) if item not in known]
            if unknown or not getattr(self, name):
                raise ValueError(f"{name} = {getattr(self, name)}: expected some of {', '.join(known)}")
        for name in ("effects", "banded", "varied", "strange"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 .. 1")
        if not 0 <= self.joined < float("inf"):
            raise ValueError(f"joined = {self.joined}: expected 0 or more")
        if len(self.absent) != 3 or min(self.absent) < 0 or abs(sum(self.absent) - 1) > 1e-6:
            raise ValueError(f"absent = {self.absent}: expected three shares that sum to 1")
        if self.expressions < 1:
            raise ValueError(f"expressions = {self.expressions}: expected at least 1")
