"""Makes a synthetic video from its seed, split and index."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from vrshq.operators.synth.colours import called
from vrshq.operators.synth.config import SPLITS, SynthConfig
from vrshq.operators.synth.coverage import Layers, layer
from vrshq.operators.synth.drawing import Lens, Look, draw_lens, draw_look, draw_patches, paint, place
from vrshq.operators.synth.facts import Facts, is_well_visible
from vrshq.operators.synth.instructions import write_expressions
from vrshq.operators.synth.records import SynthObject, SynthVideo
from vrshq.operators.synth.rules import View
from vrshq.operators.synth.scene import Scene, draw_scene

T = TypeVar("T")

# Increased whenever the same arguments give another video than before.
VERSION = 1
MOST_SCENES = 200  # attempts before the settings are rejected as impossible; most videos need one or two


def make_video(seed: int, index: int, split: str = "train", config: SynthConfig | None = None) -> SynthVideo:
    """Makes video `index` of a split. The result depends on the four arguments and `VERSION` only.

    A scene is planned, and the coverage of its objects is computed. Objects that are never clearly visible are left out.
    Then the frames are drawn, and instructions are made from the facts about the remaining objects. NumPy and OpenCV may
    differ in the last bits between processors or versions; on one machine, the same call gives the same bytes.

    Args:
        seed: 0 or more.
        index: 0 or more. Videos of different splits differ.
        split: `train`, `valid`, `test`, or `test_unseen`, which has wordings and pairs of colour and shape of its own.
        config: ranges of the values; default: those of `SynthConfig`.

    Raises:
        ValueError: an unknown split, a negative number, or a config whose objects are never clearly visible.
    """
    config = config or SynthConfig()
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed {seed} and index {index}: expected 0 or more")
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))))
    scene, looks, lens, layers = _drawn(random, config, split)
    frames, background = paint(random, scene, looks, layers.patches, lens)
    objects = _objects(scene, looks, layers)
    unseen = split == "test_unseen"
    # an absent instruction must not name the colour of the background: "what is green?" would mean the background
    behind = called(frames[0][~layers.masks[:, 0].any(axis=0)].mean(axis=0)) - {item.colour for item in objects}
    colours = tuple(name for name in config.colours if name not in behind)
    facts = Facts(objects, scene.height, scene.width)
    varied = 0.0 if unseen else config.varied  # that split has wordings of its own
    view = View(facts, colours, config.shapes, unseen, config.joined, varied, config.strange)
    effects = [name for name, on in (("blur", lens.blur), ("motion blur", lens.shutter), ("noise", lens.noise)) if on]
    return SynthVideo(
        video_id=f"{split}_{index:06d}",
        split=split,
        frames=frames,
        masks=layers.masks,
        objects=objects,
        expressions=write_expressions(random, view, config.expressions, config.absent),
        background=background,
        camera=scene.camera.kind,
        light=lens.light,
        theme=scene.theme,
        effects=tuple(effects),
    )


def _drawn(random: np.random.Generator, config: SynthConfig, split: str) -> tuple[Scene, list[Look], Lens, Layers]:
    """Draws a scene in which every object is clearly visible, with the objects' looks and layers."""
    for _ in range(MOST_SCENES):
        scene = draw_scene(random, config, split)
        looks = [draw_look(random, actor, config.banded) for actor in scene.actors]
        lens = draw_lens(random, config.effects)
        patches = draw_patches(scene, looks, lens)
        while looks:
            layers = layer(patches, scene.height, scene.width)
            good = [is_well_visible(item) for item in _objects(scene, looks, layers)]
            if all(good):
                break
            # without this object, others may become visible, so all are checked again
            dropped = good.index(False)
            scene = replace(scene, actors=_without(scene.actors, dropped))
            looks = list(_without(tuple(looks), dropped))
            patches = [list(_without(tuple(row), dropped)) for row in patches]
        if len(looks) >= min(2, config.objects[0]):
            return scene, looks, lens, layers
    raise ValueError(
        f"none of {MOST_SCENES} scenes shows its objects well enough: expected larger objects (radius = {config.radius}) or "
        f"frames (short_sides = {config.short_sides})"
    )


def _without(items: tuple[T, ...], number: int) -> tuple[T, ...]:
    return (*items[:number], *items[number + 1 :])


def _objects(scene: Scene, looks: list[Look], layers: Layers) -> tuple[SynthObject, ...]:
    """The records of a scene's objects."""
    short = min(scene.height, scene.width)
    objects = []
    for number, (actor, look) in enumerate(zip(scene.actors, looks, strict=True)):
        centre, radius = place(scene, actor)
        objects.append(
            SynthObject(
                object_id=number,
                colour=actor.colour,
                shape=actor.shape,
                texture=look.texture,
                program=actor.path.program,
                centre=centre,
                world=actor.path.place,
                radius=radius,
                scale=actor.path.scale,
                angle=np.degrees(actor.path.angle),
                area=_outline_area(look) * radius**2,
                inside=layers.inside[number],
                visible=layers.visible[number],
                hidden_by=layers.hidden_by[number],
            )
        )
    assert all(item.radius.max() < short for item in objects)
    return tuple(objects)


def _outline_area(look: Look) -> float:
    """Area of an outline at radius 1: the area of the outer contour minus the area of its holes."""
    areas = []
    for contour in look.contours:
        x, y = contour.T
        areas.append(abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2)
    return areas[0] - sum(areas[1:])
